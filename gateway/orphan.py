"""How a child of `driftgate serve` notices that its supervisor is gone, however it went.

Two independent ways, because each has a hole: the kernel's parent-death signal (lost when the parent died before the
child asked for it), and a pipe whose only writing end the supervisor holds (its end of file cannot be missed). Both
lead to one call of `on_gone`. Called once by a worker and by the controller, from their running event loop, on the
main thread. Standard library only.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping

SUPERVISOR_FD = "DRIFTGATE_SUPERVISOR_FD"
BOOT_ID = "DRIFTGATE_BOOT_ID"
CHILD_SETTINGS = "DRIFTGATE_CHILD_SETTINGS"
ENDED_BY = "DRIFTGATE_ENDED_BY"  # the signal by which the child before this one ended, where it was by its own fault

_PR_SET_PDEATHSIG = 1


def watch_supervisor(on_gone: Callable[[], None], environ: Mapping[str, str] = os.environ) -> None:
    """Call on_gone once, from the running loop, when the supervisor has ended; and ignore SIGINT from now on.

    A Ctrl-C reaches the supervisor alone, which then drains its children in order. Without DRIFTGATE_SUPERVISOR_FD in
    environ (a child started by hand, or by a test) only SIGHUP is heard.
    """
    loop = asyncio.get_running_loop()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    told = False

    def tell() -> None:
        nonlocal told
        if not told:
            told = True
            on_gone()

    if hasattr(signal, "SIGHUP"):
        loop.add_signal_handler(signal.SIGHUP, tell)
    text = environ.get(SUPERVISOR_FD, "")
    if not text:
        return
    descriptor = int(text)
    die_with_parent()

    def read() -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            if os.read(descriptor, 1):
                return  # nothing is ever written; a byte means nothing
            loop.remove_reader(descriptor)
            tell()

    os.set_blocking(descriptor, False)
    os.set_inheritable(descriptor, False)  # a child's own children must not hold it, nor read it
    loop.add_reader(descriptor, read)


def die_with_parent() -> None:
    """Ask the kernel for SIGHUP when the thread that started this process ends. Elsewhere than Linux the pipe does."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGHUP, 0, 0, 0)
