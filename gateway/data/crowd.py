"""When to give memory back: a crowd of callers has left, and nobody asks for anything.

Why: a thousand connections leave megabytes of free blocks between those that stay, which glibc keeps (measured: 3,000
that come and go again leave .5 to 1 MiB more each time, for ten times and more), and returning them takes milliseconds
in which nobody is answered. Invariant: `has_left` is true at most once for each crowd, and only after `CALM_LOOKS` in a
row without a request. Asked by the worker at each heartbeat.
"""

from __future__ import annotations

CROWD = 64  # connections fewer than there were; a pool of some dozens that comes again finds its memory as it was
CALM_LOOKS = 5  # half a second


class Crowd:
    """Of one worker's callers.

    >>> crowd = Crowd()
    >>> [crowd.has_left(callers, inflight) for callers, inflight in ((300, 9), (3, 1), *[(3, 0)] * CALM_LOOKS, (3, 0))]
    [False, False, False, False, False, False, True, False]
    """

    def __init__(self) -> None:
        self._most = 0  # since the last one left
        self._calm = 0

    def has_left(self, callers: int, inflight: int) -> bool:
        """Whether now is the time: callers, connections that are open; inflight, requests without an answer."""
        self._most = max(self._most, callers)
        self._calm = 0 if inflight else self._calm + 1
        if self._calm < CALM_LOOKS or self._most - callers < CROWD:
            return False
        self._most = callers
        return True
