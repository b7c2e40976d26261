"""A few threads for work on columns and blocks: numpy and Arrow let go of the interpreter while they work.

Why: fitting a profile and comparing files treat every column, or every block of rows, alike and apart. Invariants:
results come in the order of the items, so nothing depends on how many threads there are; one item more
than there are threads is held. Called by the profile's fit and the offline comparison, never by the live monitor, whose
share of the machine is bounded.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_MOST_THREADS = 4  # more of them wait for memory

In = TypeVar("In")
Out = TypeVar("Out")


def threads() -> int:
    """How many there are: one for each core that this process may use, within reason."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_THREADS)


def in_threads(work: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
    """What `work` makes of each item, in order. An item is fetched while others are worked on.

    >>> list(in_threads(abs, [-1, 2, -3]))
    [1, 2, 3]
    """
    count = threads()
    if count == 1:
        yield from map(work, items)
        return
    waiting: deque[Future[Out]] = deque()
    with ThreadPoolExecutor(count, "columns") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
