"""The breakers of one worker's versions: made at a version's first failed run, dropped when it is well again.

So a version that does not fail pays for one attribute: `Loaded.breaker` is None. One whose runs have ended the worker
is loaded with an open breaker (`fatal_runs.py`). Whether the failures are the model's or its callers' is found out by
asking it for what it is known to answer: before a breaker opens, and when a trial has failed, the rows that the version
was registered with are run once more, on a thread. If it answers one of them it is well, and its callers send what it
cannot take. Bounded: a version is checked once at a time, and one that was found well not again for a cool-down. Event
loop only.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakKeyDictionary

from gateway.data import page_layout as layout
from gateway.data.breaker import Breaker
from gateway.data.fatal_runs import FatalRuns
from gateway.data.page import WorkerPage
from gateway.data.traffic import Loaded
from gateway.settings import BreakerSettings
from registry.clock import Clock
from registry.vocabulary import Role

logger = logging.getLogger(__name__)


class Breakers:
    """Told of every failed run, and of a success where a version has a breaker."""

    def __init__(
        self,
        settings: BreakerSettings,
        fatal_runs: FatalRuns,
        worker_page: WorkerPage,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._settings = settings
        self._fatal_runs = fatal_runs
        self._page = worker_page
        self._clock = clock
        self._loop = loop
        self._open: set[Loaded] = set()
        self._checked: set[Loaded] = set()  # their rows are being run
        self._well_until_s: WeakKeyDictionary[Loaded, float] = WeakKeyDictionary()
        self._thread: ThreadPoolExecutor | None = None

    @property
    def open_count(self) -> int:
        """Versions that are not tried now."""
        if self._open:
            self._open = {loaded for loaded in self._open if not loaded.is_gone}
        return len(self._open)

    def attach(self, loaded: Loaded) -> None:
        """A version was loaded: it is not tried yet where its runs have ended the worker."""
        servable, settings = loaded.servable, self._settings
        key = servable.model, servable.version
        mark = self._fatal_runs.mark(key)
        if mark is not None:
            servable.mark_all_runs(mark)
        blame = self._fatal_runs.blame(key)
        if blame is not None and blame.in_load:
            self._fatal_runs.answered(key)  # this time it has not
        elif blame is not None:
            breaker = loaded.breaker = Breaker(settings.failures, settings.within_s, settings.cool_down_s)
            breaker.why = f"ended the worker ({signal.Signals(blame.ended_by).name})"
            breaker.open(self._clock.now_s(), blame.left_s(self._clock.host_ns()))
            self._open.add(loaded)

    def failed(self, loaded: Loaded) -> None:
        """A run of this version failed, for somebody who waited for it."""
        if not self._settings.failures:
            return
        if loaded.breaker is None:
            settings = self._settings
            loaded.breaker = Breaker(settings.failures, settings.within_s, settings.cool_down_s)
        now_s = self._clock.now_s()
        if (
            loaded.breaker.failed(now_s)
            and loaded not in self._checked
            and now_s >= self._well_until_s.get(loaded, now_s)
        ):
            self._check(loaded)

    def succeeded(self, loaded: Loaded) -> None:
        """A run of this version succeeded, or it is known to be well."""
        if loaded in self._open:
            self._open.discard(loaded)
            self._fatal_runs.answered((loaded.servable.model, loaded.servable.version))
            logger.info("%s:%d answers again", loaded.servable.model, loaded.servable.version)
        loaded.breaker = None

    def _check(self, loaded: Loaded) -> None:
        """Ask it for what it is known to answer; it is broken if it does not."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="check")
        self._checked.add(loaded)
        loaded.servable.leases += 1
        check = self._loop.run_in_executor(self._thread, loaded.still_answers)
        check.add_done_callback(lambda done: self._came_back(loaded, done))

    def _came_back(self, loaded: Loaded, check: asyncio.Future[bool]) -> None:
        loaded.servable.leases -= 1
        self._checked.discard(loaded)
        if check.cancelled():
            return
        servable = loaded.servable
        error = check.exception()
        if error is not None:
            logger.error("%s:%d could not be checked", servable.model, servable.version, exc_info=error)
        if error is None and check.result():
            if loaded.breaker is not None:
                logger.warning(
                    "runs of %s:%d failed one after the other, and it answers the rows that it was registered with: "
                    "its callers send what it cannot take",
                    servable.model,
                    servable.version,
                )
            self._well_until_s[loaded] = self._clock.now_s() + self._settings.cool_down_s
            self.succeeded(loaded)
        elif loaded.breaker is not None and loaded not in self._open and not loaded.is_gone:
            loaded.breaker.open(self._clock.now_s())
            self._open.add(loaded)
            totals = self._page.totals(servable.model, servable.version, Role.CHAMPION)
            self._page.words[totals + layout.BREAKER_OPENED] += 1
            logger.error(
                "%s:%d is not tried for a while: its last %d runs failed",
                servable.model,
                servable.version,
                self._settings.failures,
            )

    def close(self) -> None:
        """Check nothing more."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
