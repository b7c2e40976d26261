"""Copies of answered requests for shadow versions: after the answer, bounded, and only as fast as it costs nobody.

A worker that is busy gives shadows a small share of its time, so that evidence still trickles in; one that is not
runs them all. Copies wait a few milliseconds and are joined: a caller's next request does not wait for the copy of the
last, and a run has its fixed costs once for many. What does not fit is dropped and counted. Event loop only; long runs
take a slot.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from weakref import WeakKeyDictionary

import numpy as np

from gateway.data.accounts import Accounts
from gateway.data.curve import run_times
from gateway.data.run_times import RunTimes
from gateway.data.runs import Batch, Rows, run_group
from gateway.data.scheduler import PRIORITY, Scheduler
from gateway.data.servable import Tensor
from gateway.data.tap import Tap
from gateway.data.traffic import Loaded
from gateway.settings import ShadowSettings
from registry.vocabulary import Role

logger = logging.getLogger(__name__)

_WAIT_S = 0.005  # for more copies to join
_MOST_BYTES = 1 << 28  # of tensors that wait, however few rows they are; one copy may always wait


@dataclass(slots=True)
class Copy:
    """The requests of one answered run, for one shadow version."""

    loaded: Loaded
    epoch: int
    feeds: Sequence[Tensor]  # joined
    hashes: Sequence[bytes]
    counts: Sequence[int]  # rows a request
    rows: int


class Shadows:
    """The queue of copies of one worker."""

    def __init__(
        self,
        settings: ShadowSettings,
        accounts: Accounts,
        tap: Tap,
        loop: asyncio.AbstractEventLoop,
        scheduler: Scheduler,
        inline_below_us: float,
    ) -> None:
        self._settings = settings
        self._accounts = accounts
        self._tap = tap
        self._loop = loop
        self._scheduler = scheduler
        self._inline_below_us = inline_below_us
        self.priority = PRIORITY[Role.SHADOW]
        self.away = 0
        self._queue: deque[Copy] = deque()
        self._waiting_rows = self._waiting_bytes = 0
        self._scheduled = False
        self._busy = False
        self._not_before_ns = 0
        self._times: WeakKeyDictionary[Loaded, RunTimes] = WeakKeyDictionary()

    @property
    def waiting_rows(self) -> int:
        """Rows that wait for a shadow run."""
        return self._waiting_rows

    def set_busy(self, busy: bool) -> None:
        """Whether the worker has no time to spare; told by its heartbeat."""
        self._busy = busy

    def offer(self, copy: Copy) -> None:
        """Take a copy, or drop and count it. Never waits."""
        servable = copy.loaded.servable
        full = self._waiting_rows + copy.rows > self._settings.waiting_rows
        if self._queue and not full:
            full = self._waiting_bytes + _bytes(copy) > _MOST_BYTES
        if full or (self._busy and perf_counter_ns() < self._not_before_ns):
            self._accounts.shadow_dropped(servable.model, servable.version, copy.rows)
            return
        servable.leases += 1  # until it has run
        self._queue.append(copy)
        self._waiting_rows += copy.rows
        self._waiting_bytes += _bytes(copy)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_later(_WAIT_S, self._turn)

    def _schedule(self) -> None:
        if not self._scheduled and self._queue:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        rows, loaded = sum(copy.rows for copy in self._next()), self._queue[0].loaded
        has_loops = loaded.servable.manifest.probe.loops  # see Fleet
        if has_loops or self._times_of(loaded).expected_us(rows) > self._inline_below_us:
            self._scheduler.want(self)
        else:
            job = self.take()
            job.run()
            job.finish()

    def take(self) -> _Job:
        """The run of the next copies."""
        copies = self._next()
        for copy in copies:
            self._queue.popleft()
            self._waiting_rows -= copy.rows
            self._waiting_bytes -= _bytes(copy)
        return _Job(copies, self._done)

    def _next(self) -> list[Copy]:
        """The first copies in the queue that one run may have."""
        first, rows = self._queue[0], 0
        shapes = _row_shapes(first)
        copies: list[Copy] = []
        servable = first.loaded.servable
        most = servable.max_rows if servable.joinable and servable.joining.are_rows and servable.fixed_row_shape else 0
        for copy in self._queue:
            rows += copy.rows
            if copies and (
                copy.loaded is not first.loaded
                or copy.epoch != first.epoch
                or rows > most
                or shapes is None
                or _row_shapes(copy) != shapes  # the champion may take what this version does not
            ):
                break
            copies.append(copy)
        return copies

    def _times_of(self, loaded: Loaded) -> RunTimes:
        times = self._times.get(loaded)
        if times is None:
            times = self._times[loaded] = run_times(loaded.servable.curve, 2.0 * self._inline_below_us)
        return times

    def _done(self, loaded: Loaded, count: int, copy: Copy | None, batches: list[Batch[Rows]]) -> None:
        self._scheduled = False
        loaded.servable.leases -= count
        if copy is not None and batches:
            try:
                self._record(copy, batches)
            except Exception:
                logger.exception("a shadow run could not be recorded")
        self._schedule()

    def _record(self, copy: Copy, batches: list[Batch[Rows]]) -> None:
        loaded, servable = copy.loaded, copy.loaded.servable
        spent_ns = batches[-1].ended_ns - batches[0].started_ns
        self._times_of(loaded).learn(copy.rows, spent_ns / 1000.0)
        self._not_before_ns = perf_counter_ns() + int(spent_ns / self._settings.busy_share)
        self._accounts.shadowed(servable.model, servable.version, copy.rows, spent_ns)
        whole = len(batches) == 1
        for position, batch in enumerate(batches):
            hashes = copy.hashes if whole else copy.hashes[position : position + 1]
            counts = copy.counts if whole else copy.counts[position : position + 1]
            if batch.error is not None:
                for request_hash in hashes:
                    self._tap.record_error(loaded, Role.SHADOW, copy.epoch, request_hash)
            elif loaded.schema is not None:
                features = loaded.features(batch.feeds, batch.rows)
                outputs = loaded.outputs(batch.outputs, batch.rows)
                infer_us = (batch.ended_ns - batch.started_ns) / 1000.0
                self._tap.record(
                    loaded, Role.SHADOW, copy.epoch, hashes, counts, features, outputs, None, batch.started_ns, infer_us
                )


def _joined(copies: Sequence[Copy]) -> Copy:
    """Copies for one version as one."""
    if len(copies) == 1:
        return copies[0]
    first = copies[0]
    return Copy(
        first.loaded,
        first.epoch,
        [np.concatenate(feeds) for feeds in zip(*(copy.feeds for copy in copies), strict=True)],
        [request_hash for copy in copies for request_hash in copy.hashes],
        [count for copy in copies for count in copy.counts],
        sum(copy.rows for copy in copies),
    )


def _row_shapes(copy: Copy) -> list[tuple[int, ...]] | None:
    """What copies must have in common to be joined; None: its tensors do not all hold its rows on axis 0."""
    if any(not feed.ndim or len(feed) != copy.rows for feed in copy.feeds):
        return None
    return [feed.shape[1:] for feed in copy.feeds]


def _bytes(copy: Copy) -> int:
    return sum(feed.nbytes for feed in copy.feeds)


class _Job:
    """The runs of some copies."""

    def __init__(
        self, copies: Sequence[Copy], done: Callable[[Loaded, int, Copy | None, list[Batch[Rows]]], None]
    ) -> None:
        self._copies = copies
        self._done = done
        self._copy: Copy | None = None
        self._batches: list[Batch[Rows]] = []

    def run(self) -> None:
        """Where it fails, that is a bug of ours, which must not end all later copies."""
        try:
            self._copy = _joined(self._copies)
            self._batches = _runs(self._copy)
        except Exception:
            logger.exception("a shadow run of %s failed", self._copies[0].loaded.servable.model)

    def finish(self) -> None:
        self._done(self._copies[0].loaded, len(self._copies), self._copy, self._batches)


def _runs(copy: Copy) -> list[Batch[Rows]]:
    """One run of all rows where the shadow version may be joined, else a run a request. Runs on any thread."""
    servable = copy.loaded.servable
    if servable.joinable or len(copy.counts) == 1:
        batches = run_group(servable, [Rows(copy.feeds, copy.rows)])
        if batches[0].error is None or len(copy.counts) == 1:
            return batches
    cuts = np.cumsum(copy.counts)[:-1]
    parts = zip(*(np.split(feed, cuts) for feed in copy.feeds), strict=True)
    requests = [Rows(part, count) for part, count in zip(parts, copy.counts, strict=True)]
    return [batch for request in requests for batch in run_group(servable, [request])]
