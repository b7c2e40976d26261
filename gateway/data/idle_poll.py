"""Looks for the next request for some microseconds before the event loop sleeps, where that has paid lately.

Why: a caller that asks again as soon as it is answered finds the loop asleep each time, and falling asleep and being
woken (system calls, an idle core, cold caches) cost a third of what such a request takes. Looking in vain costs the
window; each time twice as many answers go by until the next try. So callers that are farther away than the window, or
many at once, whose requests are better joined than picked up one by one, cost next to nothing; and while runs are away
in slots, which want the core too, there is no looking. (Seastar's reactor has the same: `--idle-poll-time-us`.) Called
by connections; event loop only.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Callable
from time import perf_counter_ns

MOST_PASSED = 1000  # answers that go by at most until it is tried again


class IdlePoll:
    """Of one event loop."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        window_us: float,
        runs_away: Callable[[], int],
        now_ns: Callable[[], int] = perf_counter_ns,
    ) -> None:
        """window_us: how long to look; 0: never. runs_away: how many there are in slots."""
        self._loop = loop
        self._runs_away = runs_away
        self._window_ns = round(window_us * 1000.0)
        self._now_ns = now_ns
        self._is_off = self._window_ns <= 0  # or looking already: there is nothing to begin
        self._pass_over = self._passed = 0  # answers that go by until the next try, and that have gone by
        self._answers = self._seen = 0
        self._until_ns = self._looked_ns = 0
        self.idle_ns = 0  # spent in looking, ever

    def answered(self) -> None:
        """A request has its answer: its caller may send the next one soon."""
        self._answers += 1
        if self._is_off:
            return
        if self._passed < self._pass_over:
            self._passed += 1
            return
        self._is_off, self._passed, self._seen = True, 0, self._answers
        self._looked_ns = self._now_ns()
        self._until_ns = self._looked_ns + self._window_ns
        self._loop.call_soon(self._look)

    def _look(self) -> None:
        """Once in each turn of the loop, which does not sleep before it has called this again."""
        now_ns, new = self._now_ns(), self._answers - self._seen
        if new == 1 and not self._runs_away():
            self._seen, self._until_ns = self._answers, now_ns + self._window_ns
            self._pass_over //= 2
        else:
            # A turn that took longer than the window had other work in it: another protocol's, a large body's.
            self.idle_ns += min(now_ns - self._looked_ns, self._window_ns) if new == 0 else 0
            if new or now_ns >= self._until_ns:
                self._is_off, self._pass_over = False, min(2 * self._pass_over + 1, MOST_PASSED)
                return
        self._looked_ns = now_ns
        self._loop.call_soon(self._look)
