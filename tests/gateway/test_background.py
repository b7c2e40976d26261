"""Stepping back: the thread that asks, and no other."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
import threading

import pytest

from gateway.background import step_back

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the priority of a single thread is Linux's")


def nice_of(thread: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, thread)


def in_a_thread(found: dict[str, int]) -> None:
    step_back()
    found["nice"] = nice_of(threading.get_native_id())
    number = {"x86_64": 315, "aarch64": 275}.get(platform.machine())
    if number is not None:
        attributes = ctypes.create_string_buffer(56)
        if ctypes.CDLL(None).syscall(number, 0, attributes, len(attributes), 0) == 0:
            found["slice"] = struct.unpack_from("=IIQiIQ", attributes)[5]


def test_a_thread_that_steps_back_leaves_the_others_where_they_were() -> None:
    before = nice_of(threading.get_native_id())
    found: dict[str, int] = {}
    thread = threading.Thread(target=in_a_thread, args=(found,))
    thread.start()
    thread.join()
    assert found["nice"] == max(before, 8)
    assert nice_of(threading.get_native_id()) == before


def test_it_asks_for_a_long_slice_where_the_system_gives_one() -> None:
    release = tuple(int(part) for part in platform.release().split(".")[:2])
    found: dict[str, int] = {}
    thread = threading.Thread(target=in_a_thread, args=(found,))
    thread.start()
    thread.join()
    if release < (6, 12) or "slice" not in found:
        pytest.skip(f"Linux {platform.release()} has slices of one length")
    assert found["slice"] == 20_000_000


def test_stepping_back_twice_or_where_it_is_forbidden_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    def twice() -> None:
        step_back()
        step_back()
        monkeypatch.setattr(os, "setpriority", refuse)
        step_back()
        done.append(nice_of(threading.get_native_id()))

    done: list[int] = []
    thread = threading.Thread(target=twice)
    thread.start()
    thread.join()
    assert done == [max(5, done[0])]
