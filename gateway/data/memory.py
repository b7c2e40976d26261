"""What this process takes of the machine's memory, and how to make it give some back.

Why: a memory budget is kept by what the kernel counts, not by what files weigh. Two habits of glibc stand in the way,
measured with a model of 8 MiB: once a large block has been freed, it takes later ones from a heap that it cannot shrink
(16 to 28 MiB a session, most of it kept after the session went); with blocks of 128 KiB and more in mappings of their
own a session costs 8.0 MiB and gives all of it back. `apart` makes it so while a session opens, and in the controller
while versions are taken up. Elsewhere than Linux with glibc nothing is measured, and sizes are those of files.
Thread-safe.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Protocol

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
APART_FROM_BYTES = 128 * 1024  # glibc's own first threshold
_LARGEST_IN_HEAP = 32 * 1024 * 1024  # the most that glibc moves its threshold to by itself
_KEPT_FREE_BYTES = 2 * _LARGEST_IN_HEAP
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Memory(Protocol):
    """How a worker's memory is read and kept small."""

    def used_bytes(self) -> int:
        """All that is resident now; 0 where that is not known."""
        ...

    def own_bytes(self) -> int:
        """What is resident and no file's: where the cost of a session shows. 0 where that is not known."""
        ...

    def give_back(self) -> None:
        """Return to the system what has been freed."""
        ...

    @contextmanager
    def apart(self, from_bytes: int = APART_FROM_BYTES) -> Iterator[None]:
        """Meanwhile larger blocks lie in mappings of their own, and are given back whole when they are freed."""
        ...


class ProcessMemory:
    """This process's."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None)
        self._trim = getattr(libc, "malloc_trim", None)
        self._mallopt = getattr(libc, "mallopt", None)

    def used_bytes(self) -> int:
        """As in the Protocol."""
        return _statm()[0]

    def own_bytes(self) -> int:
        """As in the Protocol."""
        resident, shared = _statm()
        return resident - shared

    def give_back(self) -> None:
        """As in the Protocol. Took 0.2 to 16 ms."""
        if self._trim is not None:
            self._trim(0)

    def share_heap(self) -> None:
        """Let all threads that will start take from one heap: what one frees serves the others.

        For a process whose threads take turns: glibc would give each a heap of its own, up to eight a core, and each
        keeps what was ever free in it.
        """
        if self._mallopt is not None:
            self._mallopt(_M_ARENA_MAX, 1)

    @contextmanager
    def apart(self, from_bytes: int = APART_FROM_BYTES) -> Iterator[None]:
        """As in the Protocol. One thread at a time; others may allocate meanwhile."""
        if self._mallopt is None:
            yield
            return
        self._mallopt(_M_MMAP_THRESHOLD, from_bytes)
        try:
            yield
        finally:  # a request's arrays go where glibc would have put them after its first large one
            self._mallopt(_M_MMAP_THRESHOLD, _LARGEST_IN_HEAP)
            self._mallopt(_M_TRIM_THRESHOLD, _KEPT_FREE_BYTES)


def _statm() -> tuple[int, int]:
    try:
        fields = os.pread(_statm_file(), 256, 0).split()
    except OSError:
        return 0, 0
    return int(fields[1]) * _PAGE_BYTES, int(fields[2]) * _PAGE_BYTES


@cache
def _statm_file() -> int:
    """Opened once: a worker reads it with each heartbeat. Raises OSError."""
    return os.open("/proc/self/statm", os.O_RDONLY)
