"""A version's circuit breaker: whether a run is tried, decided from how its last runs went. Pure; time is passed in.

A version whose runs fail one after the other costs its callers the wait for a certain error, and others the processor.
So from a number of failed runs in a row, all within a bounded time, none is tried (open), until a cool-down has passed.
Then one request is let through (half-open): its success closes the breaker, its failure begins the cool-down anew.

A success ends it: whoever owns one drops it, and makes another at the next failure. Invariant: while it is open, at
most one request is let through in a cool-down. Source: M. Nygard, Release It! (2007), "Circuit Breaker". Owned by
`breakers.py`, asked by `predict.py`; event loop only.
"""

from __future__ import annotations

from collections import deque


class Breaker:
    """Of one version in one worker. Moments are seconds of one monotonic clock, and never go back."""

    __slots__ = ("_cool_down_s", "_failed_s", "_retry_at_s", "_within_s", "is_open", "why")

    def __init__(self, failures: int, within_s: float, cool_down_s: float) -> None:
        """failures: ≥ 1, runs that fail in a row within within_s before `failed` says that it is time to open."""
        self._within_s = within_s
        self._cool_down_s = cool_down_s
        self._failed_s: deque[float] = deque(maxlen=failures)
        self._retry_at_s = 0.0
        self.is_open = False
        self.why = "failed"  # what its last runs did

    def left_s(self, now_s: float) -> float:
        """How long requests are refused from now on, in seconds; 0: one may run.

        >>> breaker = Breaker(failures=2, within_s=10, cool_down_s=5)
        >>> breaker.failed(1.0), breaker.failed(2.0)
        (False, True)
        >>> breaker.open(2.0)
        >>> breaker.left_s(3.0), breaker.left_s(7.0)
        (4.0, 0.0)
        """
        return max(0.0, self._retry_at_s - now_s) if self.is_open else 0.0

    def begin_trial(self, now_s: float) -> None:
        """One is let through although it is open; should nothing be heard of it, the next is a cool-down later."""
        if self.is_open:
            self._retry_at_s = now_s + self._cool_down_s

    def failed(self, now_s: float) -> bool:
        """A run failed → whether the version is to be taken for broken: call `open`, unless it is known to be well."""
        self._failed_s.append(now_s)
        if self.is_open:
            self._retry_at_s = now_s + self._cool_down_s
            return True
        return len(self._failed_s) == self._failed_s.maxlen and now_s - self._failed_s[0] <= self._within_s

    def open(self, now_s: float, for_s: float | None = None) -> None:
        """Refuse requests from now on, for a cool-down or for so long."""
        self.is_open = True
        self._retry_at_s = now_s + (self._cool_down_s if for_s is None else for_s)
