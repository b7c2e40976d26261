"""Threads whose work can wait a moment let the event loops go first.

Two things make an answer of 0.1 ms wait for a model's run or a step of the monitor. Linux lets a thread finish its
slice, some 3 ms, before one that has woken gets the core; a thread that asks for a long slice gives way at once to
those with the usual one (since Linux 6.12; sched_setattr(2), `sched_runtime`; before, the priority is all there is).
And a thread that wakes gets the core at once only while it is owed time: a loop that has just run for t beside a thread
of weight w is not for the next t·w/1024, and one that is asked again within that waits for a tick of the clock, up to
4 ms. So the weight is small, which leaves these threads a seventh of a core that the loop would fill by itself.
Called by the threads themselves: a worker's pool, the controller's loop.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
import sys
import threading

_NICE = 8  # weight 172
_SLICE_NS = 20_000_000
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # the C library has no function for it
_OTHER = 0  # the usual policy


def step_back() -> None:
    """Put the calling thread behind all usual ones. Does nothing where the system has no such thing."""
    if sys.platform != "linux":  # elsewhere it would be the whole process
        return
    thread = threading.get_native_id()
    nice = max(_NICE, os.getpriority(os.PRIO_PROCESS, thread))
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, thread, nice)
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None:
        return
    # struct sched_attr, version 0: size, policy, flags, nice, priority, runtime, deadline, period
    attributes = struct.pack("=IIQiIQQQ", 48, _OTHER, 0, nice, 0, _SLICE_NS, 0, 0)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).syscall(number, 0, attributes, 0)  # refused by some sandboxes: the priority is set already
