"""Requests that wait at the same moment for the same version are joined into one run.

Invariants. Each waiter's fate is its own: a cancelled or expired caller is skipped, a released one is left alone, a
request that makes a joined run fail fails alone. Rows come back to the request that brought them, in order. Only what
the probe proved is joined (`Servable.joining`); nothing is split by a declared shape.

There is no timer. A turn of the event loop takes everything that has come in since the last one. A run that is
predicted to be short happens there and then; any other waits for a slot of the scheduler, and requests go on joining
its queue until the slot takes it. Who could not be answered in time any more is told so then, instead of being run. A
run in a slot is ended early only when nobody in it waits any more. Event loop only; the pool's threads touch nothing
but the session.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from time import perf_counter_ns
from typing import Any, Generic, TypeVar

from gateway.data.run_times import RunTimes
from gateway.data.runs import Batch, Rows, run_group
from gateway.data.scheduler import PRIORITY, Scheduler
from gateway.data.servable import Servable
from registry.errors import DeadlineExceeded, InferenceFailed, ServingError
from registry.vocabulary import Role

logger = logging.getLogger(__name__)

_LEARNING = 0.1  # weight of the newest run in the pace
_TRUSTED = 10.0  # a prediction is acted on for so many times its own length, from the last run on that came to its end
_SLOWEST, _FASTEST = 50.0, 0.02  # bounds of a single measurement of it
_PACE_LASTS_NS = 1_000_000_000  # it is believed for so long; then each run that nobody waits behind forgets some of it


class Waiter(Rows):
    """A request whose caller waits. It is released once, by `succeed` or `fail`, and only while it `is_waiting`."""

    __slots__ = ()

    def is_waiting(self) -> bool:
        """Whether somebody still wants the answer: not released, not late, not left by its caller."""
        raise NotImplementedError

    def left_s(self) -> float:
        """How long its caller still waits; infinite when it gave no deadline."""
        raise NotImplementedError

    def succeed(self, answer: Any) -> None:
        """Give the answer."""
        raise NotImplementedError

    def fail(self, error: ServingError) -> None:
        """Give an error instead."""
        raise NotImplementedError


W = TypeVar("W", bound=Waiter)


class Batcher(Generic[W]):
    """Joins the waiting requests of one servable.

    `answer` is called once a run, on the event loop, with every waiter still in it; it releases the waiters.
    """

    def __init__(
        self,
        servable: Servable,
        answer: Callable[[Batch[W]], None],
        scheduler: Scheduler,
        inline_below_us: float,
        times: RunTimes | None = None,
    ) -> None:
        self.servable = servable
        self.priority = PRIORITY[Role.CHAMPION]
        self.away = 0
        self.times = times or RunTimes()
        self._answer = answer
        self._scheduler = scheduler
        self._inline_below_us = inline_below_us
        self._waiting: list[W] = []
        self._waiting_rows = 0  # theirs, kept so that a prediction costs the same however many wait
        self._is_scheduled = False  # a turn will come
        self._wants_slot = False
        self.runs: set[_Run[W]] = set()  # in slots
        # From one run's beginning to the next one's while requests wait, by what a run takes: more than 1 where the
        # event loop or other models need the core between them, less where several run at once.
        self._pace = 1.0
        self._paced_ns = 0  # when that was last measured
        self._is_behind = False  # requests waited when the last run left its slot
        self._began_ns = 0  # the last run in a slot
        self._measured_ns = 0  # the end of the last one that told how long it takes: it came to its end
        self._began_us = 0.0  # and what it was expected to take

    @property
    def waiting(self) -> int:
        """Requests that no run has taken yet."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Nothing waits and nothing runs."""
        return not self._waiting and not self.away

    def submit(self, waiter: W, *, alone: bool = False) -> None:
        """Queue a request; it is released in some later turn of the loop. Never waits.

        alone: the caller knows that no other request can be joined in the next turn, so a short run starts at once
        and the request is released on return.
        """
        if alone and not self._waiting and not self.away and self._expected_us([waiter]) <= self._inline_below_us:
            self._run_here([waiter])
            return
        self._waiting.append(waiter)
        self._waiting_rows += waiter.rows
        if not self._is_scheduled and not self._wants_slot:
            self._is_scheduled = True
            self._scheduler.soon(self)

    def wait_us(self) -> float:
        """How long a request that came now would wait for its run to begin, by the pace of runs so far."""
        servable, ahead = self.servable, 0.0
        if self._waiting:
            first = self._waiting[0]
            bucket = servable.shape_bucket(first.feeds, first.rows)
            if servable.joinable:
                whole, rest = divmod(self._waiting_rows, servable.max_rows)
                ahead = whole * self.times.expected_us(servable.max_rows, bucket)
                ahead += self.times.expected_us(rest, bucket) if rest else 0.0
            else:
                ahead = len(self._waiting) * self.times.expected_us(first.rows, bucket)
        next_us = 0.0
        if self.runs:
            next_us = max(0.0, self._pace * self._began_us - (perf_counter_ns() - self._began_ns) / 1000.0)
        return next_us + self._pace * ahead

    def run_us(self, waiter: W) -> float:
        """How long this request's run would take alone."""
        return self._expected_us([waiter])

    def drop_abandoned(self) -> None:
        """End the runs in slots in which nobody waits any more."""
        for run in self.runs:
            run.end_if_abandoned()

    # ---- turns and slots

    def turn(self) -> None:
        """Run what waits and is short; ask for a slot for the rest."""
        self._is_scheduled = False
        taken = self._waiting
        self._wait_on([])
        try:
            groups = self._groups([waiter for waiter in taken if waiter.is_waiting()])
        except Exception as error:  # a bug of ours: nobody waits for ever
            fail(taken, InferenceFailed(f"the requests could not be joined: {error}"))
            raise
        for position, group in enumerate(groups):
            if self._expected_us(group) > self._inline_below_us:
                # Back to the front of the queue with what is left: it may be joined with what comes meanwhile.
                self._wait_on([waiter for later in groups[position:] for waiter in later] + self._waiting)
                self._wants_slot = True
                self._scheduler.want(self)
                return
            self._run_here(group)

    def take(self) -> _Run[W] | None:
        """The next run, now that there is a slot for it."""
        self._wants_slot = False
        waiting = [waiter for waiter in self._waiting if waiter.is_waiting()]
        groups = self._groups(waiting)
        late = self._drop_late(groups) if groups and self._is_trusted(groups[0]) else []
        self._wait_on([waiter for group in groups[1:] for waiter in group])
        run = self._begin(groups[0]) if groups else None
        self._look_again()
        if late:
            error = DeadlineExceeded("its turn came too late for an answer within the deadline")
            now_ns = perf_counter_ns()
            self._finish([Batch(late, late[0].feeds, (), sum(w.rows for w in late), now_ns, now_ns, error)])
        return run

    def _is_trusted(self, group: Sequence[W]) -> bool:
        """Whether the predicted time of a run may cost somebody an answer: not when none has been measured for long.

        Else a time that was measured badly once, at a busy start for instance, would have all callers with deadlines
        refused for ever, as nothing runs that could correct it.
        """
        return perf_counter_ns() - self._measured_ns < _TRUSTED * 1000.0 * self._expected_us(group)

    def _drop_late(self, groups: list[list[W]]) -> list[W]:
        """Take out of the next group whoever's time ends before its run would, and groups of which nobody is left."""
        late: list[W] = []
        while groups:
            until_s = self._expected_us(groups[0]) / 1e6
            in_time = [waiter for waiter in groups[0] if waiter.left_s() > until_s]
            if len(in_time) == len(groups[0]):
                break
            late += [waiter for waiter in groups[0] if waiter not in in_time]
            groups[0] = in_time
            if in_time:
                break
            groups.pop(0)
        return late

    def _begin(self, group: list[W]) -> _Run[W]:
        self.servable.leases += 1
        run = _Run(self, group, self._bucket(group))
        self.runs.add(run)
        now_ns = perf_counter_ns()
        if self._is_behind and self._began_us > 0.0:
            pace = (now_ns - self._began_ns) / 1000.0 / self._began_us
            self._pace += _LEARNING * (min(_SLOWEST, max(_FASTEST, pace)) - self._pace)
            self._paced_ns = now_ns
        elif now_ns - self._paced_ns > _PACE_LASTS_NS:
            self._pace += _LEARNING * (1.0 - self._pace)  # else who is refused for it never waits, and so corrects it
        self._began_ns, self._began_us = now_ns, self._expected_us(group)
        return run

    def back(self, run: _Run[W]) -> None:
        """A run has left its slot."""
        self.runs.discard(run)
        self.servable.leases -= 1
        self._is_behind = bool(self._waiting)
        self._look_again()
        self._learn(run.batches, run.bucket)
        if run.batches and run.batches[0].error is None:
            self._measured_ns = run.batches[0].ended_ns
        self._finish(run.batches)

    def _wait_on(self, waiters: list[W]) -> None:
        self._waiting = waiters
        self._waiting_rows = sum(waiter.rows for waiter in waiters)

    def _look_again(self) -> None:
        if self._waiting and not self._is_scheduled and not self._wants_slot:
            self._is_scheduled = True
            self._scheduler.soon(self)

    def _expected_us(self, group: Sequence[W]) -> float:
        rows = group[0].rows if len(group) == 1 else sum(waiter.rows for waiter in group)
        return self.times.expected_us(rows, self._bucket(group))

    def _bucket(self, group: Sequence[W]) -> int:
        return self.servable.shape_bucket(group[0].feeds, group[0].rows)

    def _groups(self, waiters: list[W]) -> list[list[W]]:
        """Requests that may share a run, in the order in which the first of each came."""
        servable = self.servable
        if not servable.joinable:
            return [[waiter] for waiter in waiters]
        groups: list[list[W]] = []
        open_groups: dict[Hashable, tuple[list[W], int]] = {}  # by bucket: the group that still has room, its rows
        joining = servable.joining
        for waiter in waiters:
            own = waiter.rows if joining.are_rows else joining.extent(waiter.feeds) or 0
            bucket = joining.bucket(waiter.feeds) if own else None  # a request of no rows runs alone
            if bucket is not None:
                group, rows = open_groups.get(bucket, (None, 0))
                if group is not None and rows + own <= servable.max_rows:
                    group.append(waiter)
                    open_groups[bucket] = group, rows + own
                    continue
            groups.append([waiter])
            if bucket is not None:
                open_groups[bucket] = groups[-1], own
        return groups

    def _learn(self, batches: Sequence[Batch[W]], bucket: int) -> None:
        if batches and batches[0].error is None:
            first = batches[0]
            rows = sum(batch.rows for batch in batches) if batches[-1].started_ns == first.started_ns else first.rows
            self.times.learn(rows, (first.ended_ns - first.started_ns) / 1000.0, bucket)

    def _run_here(self, group: Sequence[W]) -> None:
        bucket = self._bucket(group)
        batches = run_group(self.servable, group)
        self._learn(batches, bucket)
        self._finish(batches)

    def _finish(self, batches: Sequence[Batch[W]]) -> None:
        for batch in batches:
            try:
                self._answer(batch)
            except Exception as error:
                logger.exception("an answer could not be made")
                fail(batch.waiters, InferenceFailed(f"the answer could not be made: {error}"))


class _Run(Generic[W]):
    """One run in a slot."""

    def __init__(self, batcher: Batcher[W], group: Sequence[W], bucket: int) -> None:
        self._batcher = batcher
        self._group = group
        # What the thread sees: a caller that leaves takes its tensors with it.
        self._rows = [Rows(waiter.feeds, waiter.rows) for waiter in group]
        self.bucket = bucket  # of shapes
        # A fresh one each: onnxruntime fails every later run with options that were told to terminate.
        self._options = batcher.servable.run_options()
        self.batches: Sequence[Batch[W]] = ()

    def run(self) -> None:
        batches = run_group(self._batcher.servable, self._rows, self._options)
        waiters = dict(zip(map(id, self._rows), self._group, strict=True))
        self.batches = [
            Batch(
                [waiters[id(one)] for one in batch.waiters],
                batch.feeds,
                batch.outputs,
                batch.rows,
                batch.started_ns,
                batch.ended_ns,
                batch.error,
            )
            for batch in batches
        ]

    def finish(self) -> None:
        self._batcher.back(self)

    def end_if_abandoned(self) -> None:
        """It takes effect at the model's next node."""
        if self._options is not None and not any(waiter.is_waiting() for waiter in self._group):
            self._options.terminate = True


def fail(waiters: Sequence[Waiter], error: ServingError) -> None:
    """Release waiters with an error; done ones are left alone."""
    for waiter in waiters:
        if waiter.is_waiting():
            waiter.fail(error)
