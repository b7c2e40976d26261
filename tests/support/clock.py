"""A clock that tests move: `advance` wakes sleepers in the order of their deadlines."""

from __future__ import annotations

import asyncio
import heapq
import itertools


class ManualClock:
    """Stands for `registry.clock.SystemClock`. Starts at 1,000 s, so that a 0 is a mistake and not a time."""

    def __init__(self, start_s: float = 1000.0) -> None:
        self._s = start_s
        self.wall_jump_s = 0.0  # how far the wall clock has been set forward, or back
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now_s(self) -> float:
        return self._s

    def host_ns(self) -> int:
        return round(self._s * 1e9)

    def wall_ns(self) -> int:
        return 1_700_000_000_000_000_000 + self.host_ns() + round(self.wall_jump_s * 1e9)

    def spent_s(self) -> float:
        return self._s

    async def sleep_until(self, deadline_s: float) -> None:
        if deadline_s <= self._s:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (deadline_s, next(self._order), future))
        await future

    def advance(self, seconds: float) -> None:
        """Let time pass; sleepers whose deadline has come wake, earliest first."""
        self._s += seconds
        while self._sleepers and self._sleepers[0][0] <= self._s:
            _, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)
