"""Requests that wait at the same moment for the same version are joined into one run.

Invariants. Each waiter's fate is its own: a cancelled or expired caller is skipped, a done future is left alone, a
request that makes a joined run fail fails alone. Rows come back to the request that brought them, in order. Only
versions that the probe proved equal (`Servable.joinable`) are joined; nothing is split by a declared shape.

A turn takes everything that has come in since the last one; there is no timer. While a long run is away in the pool,
requests gather for the next. Used from the worker's event loop only; the pool's threads touch nothing but the session.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any, Generic, TypeVar

import numpy as np

from gateway.data.run_times import RunTimes
from gateway.data.servable import Servable, Tensor
from registry.errors import InferenceFailed, ServingError

logger = logging.getLogger(__name__)

INLINE_BELOW_US = 1500.0  # a longer run would hold up every other request of the worker


class Rows:
    """One request's tensors, in the order of the servable's slots, and how many rows they hold."""

    __slots__ = ("feeds", "rows")

    def __init__(self, feeds: Sequence[Tensor], rows: int) -> None:
        self.feeds = feeds
        self.rows = rows


class Waiter(Rows):
    """A request whose caller waits. It is released once, by `succeed` or `fail`, and only while it `is_waiting`."""

    __slots__ = ()

    def is_waiting(self) -> bool:
        """Whether somebody still wants the answer: not released, not late, not left by its caller."""
        raise NotImplementedError

    def succeed(self, answer: Any) -> None:
        """Give the answer."""
        raise NotImplementedError

    def fail(self, error: ServingError) -> None:
        """Give an error instead."""
        raise NotImplementedError


R = TypeVar("R", bound=Rows)
W = TypeVar("W", bound=Waiter)


@dataclass(slots=True)
class Batch(Generic[R]):
    """One run: who waited, what went in and what came out."""

    waiters: Sequence[R]
    feeds: Sequence[Tensor]  # joined, in the order of the servable's slots
    outputs: Sequence[Tensor]  # joined; empty when error is set
    rows: int
    started_ns: int
    ended_ns: int
    error: ServingError | None = None


class Batcher(Generic[W]):
    """Joins the waiting requests of one servable.

    `answer` is called once a run, on the event loop, with every waiter still in it; it releases the waiters.
    """

    def __init__(
        self,
        servable: Servable,
        answer: Callable[[Batch[W]], None],
        loop: asyncio.AbstractEventLoop,
        pool: Executor,
    ) -> None:
        self.servable = servable
        self._answer = answer
        self._loop = loop
        self._pool = pool
        self._waiting: list[W] = []
        self._scheduled = False
        self._away = False  # a run is in the pool
        self.times = RunTimes()

    @property
    def waiting(self) -> int:
        """Requests that no run has taken yet."""
        return len(self._waiting)

    def submit(self, waiter: W, *, alone: bool = False) -> None:
        """Queue a request; its future is done after some later turn of the loop. Never waits.

        alone: the caller knows that no other request can be joined in the next turn, so a short run starts at once
        and the future is done on return.
        """
        if alone and not self._waiting and not self._away and self.times.expected_us(waiter.rows) <= INLINE_BELOW_US:
            self._finish(run_group(self.servable, [waiter]))
            return
        self._waiting.append(waiter)
        if not self._scheduled and not self._away:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        taken = self._waiting
        self._waiting = []
        groups = self._groups([waiter for waiter in taken if waiter.is_waiting()])
        for position, group in enumerate(groups):
            rows = sum(waiter.rows for waiter in group)
            if self.times.expected_us(rows) > INLINE_BELOW_US:
                # Back to the front of the queue with what is left: it may be joined with what comes meanwhile.
                self._waiting = [waiter for later in groups[position + 1 :] for waiter in later] + self._waiting
                self._send_away(group)
                return
            self._finish(run_group(self.servable, group))

    def _groups(self, waiters: list[W]) -> list[list[W]]:
        servable = self.servable
        if not servable.joinable:
            return [[waiter] for waiter in waiters]
        groups: list[list[W]] = []
        rows, shapes = 0, None  # of the last group; a request of no rows runs alone
        for waiter in waiters:
            own = None if servable.fixed_row_shape else [feed.shape[1:] for feed in waiter.feeds]
            if groups and rows + waiter.rows <= servable.max_rows and own == shapes and rows and waiter.rows:
                groups[-1].append(waiter)
                rows += waiter.rows
            else:
                groups.append([waiter])
                rows, shapes = waiter.rows, own
        return groups

    def _send_away(self, group: list[W]) -> None:
        self._away = True
        self.servable.leases += 1
        run = self._loop.run_in_executor(self._pool, run_group, self.servable, group)
        run.add_done_callback(self._back)

    def _back(self, run: asyncio.Future[list[Batch[W]]]) -> None:
        self._away = False
        self.servable.leases -= 1
        if self._waiting and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)
        if not run.cancelled():
            self._finish(run.result())

    def _finish(self, batches: list[Batch[W]]) -> None:
        for batch in batches:
            if batch.error is None:
                self.times.learn(batch.rows, (batch.ended_ns - batch.started_ns) / 1000.0)
            try:
                self._answer(batch)
            except Exception as error:
                logger.exception("an answer could not be made")
                fail(batch.waiters, InferenceFailed(f"the answer could not be made: {error}"))


def fail(waiters: Sequence[Waiter], error: ServingError) -> None:
    """Release waiters with an error; done ones are left alone."""
    for waiter in waiters:
        if waiter.is_waiting():
            waiter.fail(error)


def run_group(servable: Servable, group: Sequence[R]) -> list[Batch[R]]:
    """Run waiters joined; alone, one by one, when the joined run fails or its outputs are not made of rows.

    Never raises: what failed comes back as a batch with `error`. Runs on any thread.
    """
    started_ns = perf_counter_ns()
    rows = sum(waiter.rows for waiter in group)
    try:
        feeds = group[0].feeds
        if len(group) > 1:
            feeds = [np.concatenate(part) for part in zip(*(waiter.feeds for waiter in group), strict=True)]
        outputs = servable.run(feeds)
    except Exception as error:  # whatever it is, somebody waits for the answer
        if len(group) > 1:
            return [batch for waiter in group for batch in run_group(servable, [waiter])]
        known = error if isinstance(error, ServingError) else InferenceFailed(f"the run failed: {error}")
        return [Batch(group, group[0].feeds, (), rows, started_ns, perf_counter_ns(), known)]
    if len(group) > 1 and any(output.ndim == 0 or len(output) != rows for output in outputs):
        logger.warning("%s:%d: a joined run did not return rows; running alone", servable.model, servable.version)
        servable.joinable = False
        return [batch for waiter in group for batch in run_group(servable, [waiter])]
    return [Batch(group, feeds, outputs, rows, started_ns, perf_counter_ns())]
