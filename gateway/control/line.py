"""A short line before work that is done one at a time: here `/metrics`, which takes seconds with a thousand models.

Why: callers that give up sooner than the work takes, and ask again, would wait here by the thousand, each with a
connection, and everybody's turn would come after all of theirs.
Invariant: of all who are in the line one works and at most `most` wait; who leaves gives the place up at once. Nobody's
work is stopped once it has begun. Called by `api.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread
from starlette.requests import Request

from registry.errors import Cancelled, Overloaded

T = TypeVar("T")


class Line:
    """Work on a thread, one at a time."""

    def __init__(self, most: int, retry_after_s: float) -> None:
        self._most = most
        self._retry_after_s = retry_after_s
        self._turn = anyio.CapacityLimiter(1)
        self._inside = 0  # the one that works and those that wait

    async def run(self, request: Request, work: Callable[[], T]) -> T:
        """What `work` returns, when its turn has come. The request's body must have been read, or not matter.

        Raises Overloaded when too many wait already, and Cancelled when the caller left before its turn.
        """
        if self._inside > self._most:
            raise Overloaded(f"{self._most} callers wait for this already", retry_after_s=self._retry_after_s)
        scope = anyio.CancelScope()

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            scope.cancel()

        self._inside += 1
        watching = asyncio.create_task(watch())
        try:
            with scope:
                return await anyio.to_thread.run_sync(work, limiter=self._turn)
        finally:
            self._inside -= 1
            watching.cancel()
        raise Cancelled("the caller left before its turn")
