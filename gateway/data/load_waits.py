"""Requests that wait for a version to be loaded: bounded, each with its own deadline, released together.

Invariant: every waiter is called exactly once, with None or with why not, unless it is cancelled; what one does harms
no other. Callbacks rather than futures, because most requests have no task that could wait. Event loop only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from gateway.data.residency import Key
from registry.errors import DeadlineExceeded, ServingError

logger = logging.getLogger(__name__)

Then = Callable[[ServingError | None], None]


class LoadWait:
    """One request's wait."""

    __slots__ = ("_waits", "key", "then", "timer")

    timer: asyncio.TimerHandle

    def __init__(self, waits: LoadWaits, key: Key, then: Then) -> None:
        self._waits = waits
        self.key = key
        self.then = then

    def cancel(self) -> None:
        """Nobody waits any more. The load goes on: others may want it."""
        self.timer.cancel()
        self._waits.remove(self)


class LoadWaits:
    """All that wait in one worker."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waits: dict[Key, dict[LoadWait, None]] = {}
        self.count = 0

    def __contains__(self, key: Key) -> bool:
        return key in self._waits

    def add(self, key: Key, timeout_s: float, then: Then) -> LoadWait:
        """Call `then` when the version is released, or with DeadlineExceeded."""
        wait = LoadWait(self, key, then)
        wait.timer = self._loop.call_later(max(0.0, timeout_s), self._expire, wait, timeout_s)
        self._waits.setdefault(key, {})[wait] = None
        self.count += 1
        return wait

    def release(self, key: Key, error: ServingError | None) -> None:
        """Call everybody who waits for this version."""
        for wait in list(self._waits.get(key, ())):
            wait.cancel()
            self._call(wait, error)

    def remove(self, wait: LoadWait) -> None:
        """Forget one; used by LoadWait."""
        waits = self._waits.get(wait.key)
        if waits is not None and wait in waits:
            del waits[wait]
            self.count -= 1
            if not waits:
                del self._waits[wait.key]

    def _expire(self, wait: LoadWait, timeout_s: float) -> None:
        self.remove(wait)
        model, version = wait.key
        late = DeadlineExceeded(
            f"version {version} of model {model!r} was not loaded within {timeout_s:g} s", model=model
        )
        self._call(wait, late)

    @staticmethod
    def _call(wait: LoadWait, error: ServingError | None) -> None:
        try:
            wait.then(error)
        except Exception:
            logger.exception("a request that waited for %s:%d could not go on", *wait.key)
