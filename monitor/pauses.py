"""Long work in small pieces: a thread that takes pauses sleeps for a moment after each millisecond of its core.

Why: on a core that a server's event loop fills, a thread that runs keeps the core until a tick of the kernel's clock,
every 4 ms, whatever its priority: requests wait for all of a monitor's step. Who sleeps hands the core over at once,
and gets it back when it is due again. So code that may run for long calls `pause` between its pieces; it does nothing
in a thread that has not called `take_pauses`, and little in one whose millisecond is not over.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

PIECE_S = 0.001  # of processor time, after which a thread pauses
PAUSE_S = 0.0001


class _Mine(threading.local):
    pauses: Pauses | None = None


_mine = _Mine()


class Pauses:
    """One thread's."""

    def __init__(self, spent_s: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._spent_s = spent_s
        self._sleep = sleep
        self._since_s = spent_s()

    def pause(self) -> None:
        """Sleep if a piece has been done since the last sleep."""
        if self._spent_s() - self._since_s >= PIECE_S:
            self._sleep(PAUSE_S)
            self._since_s = self._spent_s()


def take_pauses(spent_s: Callable[[], float] = time.thread_time, sleep: Callable[[float], None] = time.sleep) -> None:
    """The calling thread takes pauses from now on. spent_s: the processor time that it has had."""
    _mine.pauses = Pauses(spent_s, sleep)


def pause() -> None:
    """A piece of work is done: the calling thread pauses, if it takes pauses and it is time."""
    if _mine.pauses is not None:
        _mine.pauses.pause()
