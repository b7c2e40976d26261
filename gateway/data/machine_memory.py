"""How much memory there is, as the kernel tells it: the machine's, or less where a container has a limit."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # cgroups v2, v1
_LEAST_FOR_RUNS = 256 * 1024 * 1024


def machine_bytes(limits: Iterable[Path] = _LIMITS) -> int:
    """Bytes. limits: files that hold a container's limit in bytes, or a word for none; they may be absent."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in limits:
        try:
            found.append(int(path.read_bytes()))
        except (OSError, ValueError):  # absent, or "max"
            continue
    return min(found)


def for_runs(asked_bytes: int, workers: int, memory_bytes: int) -> int:
    """What runs of one worker may take: what was asked for, else its share of half the memory there is.

    >>> for_runs(0, 2, 16 << 30) >> 30
    4
    """
    return asked_bytes or max(_LEAST_FOR_RUNS, memory_bytes // 2 // workers)
