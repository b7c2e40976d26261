"""Time as an argument. Four clocks, because four things are meant by time.

Elapsed time is `now_s` (its origin means nothing). Whatever another process reads is `host_ns`. Records and logs carry
`wall_ns`, which may jump, and nothing is decided by it. What work costs is `spent_s`.
"""

from __future__ import annotations

import asyncio
import random
import time
from datetime import UTC, datetime
from typing import Protocol

_CLOCK_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    """What every part that knows time is given."""

    def now_s(self) -> float:
        """Monotonic seconds; the origin means nothing."""
        ...

    def host_ns(self) -> int:
        """Nanoseconds since the host booted, sleep included: the same in every process of this host."""
        ...

    def wall_ns(self) -> int:
        """Nanoseconds since 1970, UTC: for records and logs."""
        ...

    def spent_s(self) -> float:
        """Seconds of processor time that this thread has had; the origin means nothing."""
        ...

    async def sleep_until(self, deadline_s: float) -> None:
        """Return when `now_s()` has reached deadline_s."""
        ...


class SystemClock:
    """The machine's own clocks. `now_s` has a random origin, so that mixing clocks shows at once (Trio's idea)."""

    def __init__(self) -> None:
        self._offset_s = random.uniform(1e4, 1e6)

    def now_s(self) -> float:
        return time.monotonic() + self._offset_s

    def host_ns(self) -> int:
        return time.clock_gettime_ns(_CLOCK_BOOTTIME)

    def wall_ns(self) -> int:
        return time.time_ns()

    def spent_s(self) -> float:
        return time.thread_time()

    async def sleep_until(self, deadline_s: float) -> None:
        await asyncio.sleep(max(0.0, deadline_s - self.now_s()))


def rfc3339(wall_ns: int) -> str:
    """A wall time as every API answer shows it.

    >>> rfc3339(0)
    '1970-01-01T00:00:00.000000Z'
    """
    seconds, rest_ns = divmod(wall_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest_ns // 1000)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
