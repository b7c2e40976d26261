"""Who runs next: a bounded number of slots for runs that are too long for the event loop.

A run that is predicted to be short happens on the event loop, where it waits for nobody (`batcher.py`); any other takes
a slot, a thread of the pool: onnxruntime gives up the interpreter's lock while it computes. A slot that falls free
goes to the highest priority that wants one (champion, canary, named by the caller, shadow), and within it to the model
that has waited longest: one run, then its next turn comes after the others'. What a run is made of is decided when its
slot is there, so a batch absorbs requests until then. Invariants: never more runs than slots; a source with a run away
gets another only if that leaves a slot free, so that one slow model cannot hold all of them. Event loop only; the
pool's threads touch nothing but the job they were given.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Protocol

from gateway.background import step_back
from registry.vocabulary import Role

logger = logging.getLogger(__name__)

PRIORITY = {Role.CHAMPION: 0, Role.CANARY: 1, Role.DIRECT: 2, Role.SHADOW: 3}
_JOIN_S = 10.0  # at the end of the process, for each run that has not ended


class Job(Protocol):
    """One run."""

    def run(self) -> None:
        """On a thread of the pool. Never raises."""

    def finish(self) -> None:
        """On the event loop, when it has run or could not."""


class Source(Protocol):
    """What wants slots: the requests of one version, or the copies for shadows."""

    priority: int
    away: int  # its runs in slots; kept by the scheduler

    def take(self) -> Job | None:
        """What to run now that there is a slot; None: nothing any more. One that has more to run asks again."""


class Turns(Protocol):
    """Who takes turns on the event loop."""

    @property
    def waiting(self) -> int:
        """Requests that wait."""

    def turn(self) -> None:
        """Run what is short, ask for slots for the rest."""


class Scheduler:
    """The turns on the event loop, and the slots of one worker."""

    def __init__(self, loop: asyncio.AbstractEventLoop, slots: int) -> None:
        self._loop = loop
        self.slots = slots
        self._threads = _Threads(loop, slots, self._back)
        self._free = slots
        self._queues: list[deque[Source]] = [deque() for _ in PRIORITY]
        self._listed: set[int] = set()  # by id
        self._turns: list[Turns] = []  # whose turn comes in the next round of the loop

    @property
    def running(self) -> int:
        """Slots that are taken."""
        return self.slots - self._free

    @property
    def wanting(self) -> int:
        """Sources that wait for a slot."""
        return len(self._listed)

    def soon(self, one: Turns) -> None:
        """Give `one` its turn when everything that has arrived by now has been read.

        Those with the fewest requests go first. So a canary's few do not wait until the champion's many are run and
        written, which would make the canary look slow; to the many, a run of few is next to nothing.
        """
        self._turns.append(one)
        if len(self._turns) == 1:
            self._loop.call_soon(self._round)

    def _round(self) -> None:
        turns, self._turns = self._turns, []
        if len(turns) > 1:
            turns.sort(key=lambda one: one.waiting)
        for one in turns:
            try:
                one.turn()
            except Exception:
                logger.exception("a turn failed")

    def want(self, source: Source) -> None:
        """Ask for a slot; `take` is called when there is one, at once if one is free. Idempotent until then."""
        self._list(source)
        self._fill()

    def _list(self, source: Source) -> None:
        if id(source) not in self._listed:
            self._listed.add(id(source))
            self._queues[source.priority].append(source)

    def _fill(self) -> None:
        while self._free and (source := self._next()) is not None:
            self._free -= 1  # before `take`, which may ask for the next slot
            source.away += 1
            try:
                job = source.take()
            except Exception:
                logger.exception("no run could be made")
                job = None
            if job is None:
                self._free += 1
                source.away -= 1
                continue
            self._threads.start(source, job)

    def _next(self) -> Source | None:
        for queue in self._queues:
            for _ in range(len(queue)):
                source = queue.popleft()
                if source.away and self._free < 2:
                    queue.append(source)
                    continue
                self._listed.discard(id(source))
                return source
        return None

    def _back(self, source: Source, job: Job, error: BaseException | None) -> None:
        self._free += 1
        source.away -= 1
        if error is not None:
            logger.error("a run ended in an exception", exc_info=error)
        try:
            job.finish()
        except Exception:
            logger.exception("a run could not be finished")
        self._fill()  # not earlier: with one core for both, the next run would stop this one's answers half way

    def close(self) -> None:
        """Start nothing more; what runs ends by itself."""
        self._threads.close()


class _Threads:
    """One thread a slot. They take their jobs themselves, and tell the loop with one call each.

    An executor's future, its future on the loop and their callbacks cost several times as much as the hand-over.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        count: int,
        back: Callable[[Source, Job, BaseException | None], None],
    ) -> None:
        self._loop = loop
        self._most = count
        self._back = back
        self._jobs: SimpleQueue[tuple[Source, Job] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._given = 0  # jobs that have not come back
        self._is_closed = False

    def start(self, source: Source, job: Job) -> None:
        """Run a job on a thread; never more at once than there are threads. `back` is called on the loop."""
        if self._is_closed:
            return
        self._given += 1
        if self._given > len(self._threads) and len(self._threads) < self._most:
            thread = threading.Thread(target=self._work, name=f"run_{len(self._threads)}", daemon=True)
            thread.start()
            self._threads.append(thread)
        self._jobs.put((source, job))

    def _work(self) -> None:
        step_back()
        while (given := self._jobs.get()) is not None:
            source, job = given
            error: BaseException | None = None
            try:
                job.run()
            except BaseException as problem:
                error = problem
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._came_back, source, job, error)
            del given, source, job, error  # the next job may be long in coming

    def _came_back(self, source: Source, job: Job, error: BaseException | None) -> None:
        self._given -= 1
        self._back(source, job, error)

    def close(self) -> None:
        """The threads end when their runs do; the process waits a while for these, as they hold native code."""
        self._is_closed = True
        with contextlib.suppress(Empty):
            while True:
                self._jobs.get_nowait()
        for _ in self._threads:
            self._jobs.put(None)
        atexit.register(self._join)

    def _join(self) -> None:
        for thread in self._threads:
            thread.join(_JOIN_S)


def slots_for(workers: int, asked: int) -> int:
    """How many slots a worker has: what was asked for, else its share of the cores it may use, and at least two."""
    if asked > 0:
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(2, cores // max(1, workers))
