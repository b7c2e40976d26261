"""Says in the worker page that something is being run or loaded, so that what ends the process can be told of.

Of a rollout's candidate always; of any version in a worker whose predecessor ended so (`fatal_runs.py`). The word is
the mark's own until it is closed. Made by `page.py`; entered on whatever thread a run is on.
"""

from __future__ import annotations

import threading


class RunMark:
    """How many runs of one version are under way, in one word of the page."""

    def __init__(self, words: memoryview, place: int) -> None:
        self._words = words
        self._place = place
        self._lock = threading.Lock()
        self._runs = 0
        self._is_open = True

    def __enter__(self) -> None:
        self._count(1)

    def __exit__(self, *_error: object) -> None:
        self._count(-1)

    def _count(self, more: int) -> None:
        with self._lock:
            self._runs += more
            if self._is_open:
                self._words[self._place] = self._runs

    def close(self) -> None:
        """Write nothing more: the rollout has ended, and its place may be another's."""
        with self._lock:
            self._is_open = False
