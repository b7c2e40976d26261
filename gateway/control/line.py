"""A short line before work that few may have done at once: `/metrics`, which takes seconds with a thousand models, and
all that is only read.

Why: callers that give up sooner than the work takes, and ask again, would wait here by the thousand, each with a
connection, and everybody's turn would come after all of theirs: also that of an operator who rolls back.
Invariant: of all who are in the line `at_once` work and at most `most` wait; who leaves gives the place up at once.
Nobody's work is stopped once it has begun. Called by `api.py`, `operation.py` and `stream.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread
from starlette.requests import Request

from registry.errors import Cancelled, Overloaded

T = TypeVar("T")
logger = logging.getLogger(__name__)


class Line:
    """Work on threads, so many at once."""

    def __init__(self, most: int, retry_after_s: float, at_once: int = 1) -> None:
        self._most = most
        self._retry_after_s = retry_after_s
        self._at_once = at_once
        self._turn = anyio.CapacityLimiter(at_once)
        self._inside = 0  # those that work and those that wait

    async def run(self, request: Request, work: Callable[[], T]) -> T:
        """What `work` returns, when its turn has come. The request's body must have been read, or not matter.

        Raises Overloaded when too many wait already, and Cancelled when the caller left before its turn.
        """
        if self._inside >= self._at_once + self._most:
            raise Overloaded(f"{self._most} callers wait for this already", retry_after_s=self._retry_after_s)
        scope = anyio.CancelScope()

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            scope.cancel()

        self._inside += 1
        watching = asyncio.create_task(watch())
        watching.add_done_callback(_tell)
        try:
            with scope:
                return await anyio.to_thread.run_sync(work, limiter=self._turn)
        finally:
            self._inside -= 1
            watching.cancel()
        raise Cancelled("the caller left before its turn")


def _tell(watching: asyncio.Task[None]) -> None:
    """The caller is answered all the same; only nobody would notice that it left."""
    if not watching.cancelled() and (error := watching.exception()) is not None:
        logger.error("a caller in the line is not watched any more", exc_info=error)
