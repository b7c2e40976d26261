"""Versions whose runs have ended this worker slot's process: who did it, and that it is not done again and again.

A worker that the supervisor started because the one before it ended by its own fault marks all runs and loads in its
page, and its own successor reads there what was under way. So as long as no worker has ended nothing is written, and
the first end names nobody. What `blame.py` makes of the marks lies in the page too: a version that is blocked has an
open breaker from its load on, and one that ended the process in its load is not loaded meanwhile. A server that is
started anew holds nothing against any. Event loop only, but for `opening`, which the load thread enters.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

from gateway.data import page_layout as layout
from gateway.data.blame import Blame, after_end
from gateway.data.page import WorkerPage
from gateway.data.residency import Key
from gateway.data.run_mark import RunMark
from registry.clock import Clock
from registry.errors import LoadFailed
from registry.vocabulary import Role

logger = logging.getLogger(__name__)


class FatalRuns:
    """Of one worker. ended_by: as `WorkerPage` has it."""

    def __init__(self, worker_page: WorkerPage, clock: Clock, ended_by: int) -> None:
        self._page = worker_page
        self._clock = clock
        now_ns = clock.host_ns()
        known = worker_page.blames()
        self._blames = {key: blame for key, blame in known.items() if blame.points_left(now_ns)}
        for key in known.keys() - self._blames.keys():
            worker_page.set_blame(key, None)
        if ended_by:
            self._blame(after_end(self._blames, worker_page.ended_in, ended_by, now_ns), ended_by)
        self._is_marking = bool(ended_by or self._blames)

    def _blame(self, fresh: Mapping[Key, Blame], ended_by: int) -> None:
        name = signal.Signals(ended_by).name
        if not fresh:
            logger.error("the worker before this one was ended by %s; what runs is marked from now on", name)
        for key, blame in fresh.items():
            model, version = key
            self._blames[key] = blame
            self._page.set_blame(key, blame)
            totals = self._page.totals(model, version, Role.CHAMPION)
            for word in (layout.FATAL, layout.BREAKER_OPENED) if blame.block_ns else ():
                self._page.words[totals + word] += 1
            logger.error(
                "the worker before this one was ended by %s while it %s %s:%d%s; %s",
                name,
                "loaded" if blame.in_load else "ran",
                model,
                version,
                "" if blame.is_alone else " among others",
                f"it is not tried for {blame.block_ns / 1e9:g} s" if blame.block_ns else "it is tried on",
            )

    def blame(self, key: Key) -> Blame | None:
        """What keeps the version from being run until it has been tried; None: nothing."""
        blame = self._blames.get(key)
        return None if blame is None or not blame.block_ns else blame

    def mark(self, key: Key) -> RunMark | None:
        """What is to be entered for each run of a version that was loaded; None: none need be."""
        return self._page.load_mark(key, layout.RUNNING) if self._is_marking else None

    @contextmanager
    def opening(self, key: Key) -> Iterator[None]:
        """To be entered while a version is loaded. Raises LoadFailed where that has ended the process lately."""
        blame = self.blame(key)
        left_s = 0.0 if blame is None or not blame.in_load else blame.left_s(self._clock.host_ns())
        if blame is not None and left_s > 0:
            name = signal.Signals(blame.ended_by).name
            raise LoadFailed(f"the load ended the worker ({name}): not tried for {left_s:.0f} s", kind="ended_worker")
        mark = self._page.load_mark(key, layout.OPENING) if self._is_marking else None
        with nullcontext() if mark is None else mark:
            yield

    def answered(self, key: Key) -> None:
        """The version was run, or loaded, and did not end the process: it is not blocked any more."""
        blame = self.blame(key)
        if blame is not None:
            self._blames[key] = blame.answered()
            self._page.set_blame(key, self._blames[key])
