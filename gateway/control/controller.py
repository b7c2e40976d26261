"""The controller's one loop: pages and lanes in, verdicts, next steps, the route table out.

Invariants: the canary lease is renewed only while ticks that judge get through; a weight is lowered in the data plane
before it is written down and raised only after it was; one process writes the table. `tick()` runs on one thread;
operators' commands (`commands.py`) come from the HTTP server's threads and take the same lock, which no tick holds
while it drains lanes, so a rollback waits for milliseconds. What a tick does has files of its own: `registered.py`
reads the registry, `versions.py` has files fetched, `judging.py` asks for the next step, `ledger.py` writes it down and
`routing.py` makes the table of it.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gateway.control import gather, repository
from gateway.control.champion import follow_champion
from gateway.control.fleet import ModelState
from gateway.control.judging import Judging
from gateway.control.latency import LatencyWindow
from gateway.control.ledger import Ledger
from gateway.control.loads import Preparer, describe, elsewhere, held_against, live
from gateway.control.measure import Measurer
from gateway.control.registered import Registered
from gateway.control.routing import Routing
from gateway.control.store import ACTOR
from gateway.control.table import RouteTable
from gateway.control.versions import Versions, wanted
from gateway.control.watch import Watch
from gateway.data.memory import Memory
from gateway.data.page_layout import LATENCY_EDGES_US
from gateway.data.page_reader import PageSnapshot, read_pages
from gateway.data.routes import RouteEntry
from gateway.settings import Settings
from monitor.pauses import pause
from monitor.rollout import Moment, Transition
from registry.catalog import Catalog
from registry.clock import Clock
from registry.vocabulary import Role, RolloutState

logger = logging.getLogger(__name__)

RENEW_EVERY_S = 0.5
FIRST_TABLE_S = 10.0  # the longest that files of the registry's champions are waited for
WATCH_EVERY_S = 1.0
LOG_EVERY_S = 60.0  # a fault that stays
GIVE_BACK_EVERY_S = 60.0  # memory that blocks of rows, bodies and profiles left free between what stays: some ms
# Of blocks while versions are taken up: profiles and states are read, parsed and unpacked, and nothing of that stays.
# In the heap it would be split by what stays, and each rollout would want more. zlib's own blocks are of this size.
APART_FROM_BYTES = 64 * 1024
SETTLED_TURNS = 10  # of models for which there is nothing to do, one in so many is looked at in a tick


@dataclass(frozen=True, slots=True)
class Health:
    """How the loop does; `/readyz` and metrics read it."""

    ticks: int = 0
    failures: int = 0
    last_s: float = float("-inf")  # when a tick last finished
    last_error: str = ""
    spent_s: float = 0.0  # by the last tick


class Controller:
    """All models of one server. Made by `controller_process.py`, or by a test with clocks and pages of its own."""

    def __init__(
        self,
        *,
        run: Path,
        settings: Settings,
        catalog: Catalog,
        preparer: Preparer,
        watch: Watch,
        table: RouteTable,
        clock: Clock,
        boot_id: str,
        measurer: Measurer | None = None,
        memory: Memory | None = None,
    ) -> None:
        self.run_folder = run
        self.settings = settings
        self.catalog = catalog
        self.watch = watch
        self.table = table
        self.clock = clock
        self.boot_id = boot_id
        self.lock = threading.RLock()  # models, table and rollouts
        self.watch_lock = threading.RLock()  # the monitor; may be taken inside `lock`, never the other way round
        self.versions = Versions(catalog, preparer)
        self.ledger = Ledger(catalog, table, clock)
        self._routing = Routing(run, boot_id, table, self.versions, clock, settings.gateway.lease_s)
        self._registered = Registered(catalog, self.ledger, self._routing)
        self._judging = Judging(run, watch, measurer, self.versions, self.ledger, catalog, table)
        self.models = self._registered.models
        self.health = Health()
        self.poke = threading.Event()  # set: tick now
        self.stopping = threading.Event()  # set: who waits for a tick or a worker waits in vain
        self._memory = memory
        self._renewed_s = float("-inf")
        self._first_s: float | None = None
        self._turn = 0
        self._is_judging = True  # in this tick
        self._is_blind = False  # a tick failed, and since then none that judges has got as far as judging
        self._logged_s: dict[str, float] = {}  # what failed, and how → when its trace was last logged
        self._elsewhere: set[tuple[str, int]] = set()
        self._ends: set[tuple[int, str, int, int]] = set()  # of workers: slot, model, version, when
        self._began_ns = clock.host_ns()  # what ended before was told by the controller before this one
        self._followed: dict[tuple[str, int], str | None] = {}
        self._has_left = False  # in this tick a version that was followed left
        self._told: dict[str, RouteEntry] | None = None  # the table that the monitor was told of

    # --- the loop -----------------------------------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> None:
        """Tick until told to stop; a tick that fails is counted, logged and tried again.

        Lanes are read and rollouts judged once in WATCH_EVERY_S, sooner when a lane fills or a command comes: each time
        costs the same however few rows there are. Everything else is looked at once in `monitor.tick_ms`: steps of the
        monitor that follow each other do not look at a thousand models each time.
        """
        pause_s = self.settings.monitor.tick_ms / 1000.0
        watch_at_s, judge_at_s, look_at_s, is_poked = -math.inf, -math.inf, -math.inf, False
        give_back_at_s = self.clock.now_s() + GIVE_BACK_EVERY_S
        while not stop.is_set():
            now_s = self.clock.now_s()
            judging = is_poked or now_s >= judge_at_s
            watching = judging or now_s >= watch_at_s
            looking = judging or now_s >= look_at_s
            self.tick(watching=watching, looking=looking, judging=judging)
            if judging:
                judge_at_s = now_s + WATCH_EVERY_S
            if watching:
                watch_at_s = now_s + min(WATCH_EVERY_S, self.watch.pause_s)
            if looking:
                look_at_s = self.clock.now_s() + pause_s
            if self._memory is not None and now_s >= give_back_at_s:
                give_back_at_s = now_s + GIVE_BACK_EVERY_S
                self._memory.give_back()
            is_poked = self.poke.wait(max(0.0, min(look_at_s, watch_at_s) - self.clock.now_s()))
            self.poke.clear()

    def tick(self, *, watching: bool = True, looking: bool = True, judging: bool = True) -> bool:
        """One look at everything. False when it failed, and then the lease is not renewed.

        watching: read the lanes. looking: at the registry, workers and models. judging: the rollouts that serve, too.
        """
        began_s = self.clock.now_s()
        self._is_judging = judging
        try:
            if watching:
                with self.watch_lock:
                    self.watch.step(began_s)
            self._is_blind = self._is_blind and not judging
            if looking:
                with self.lock:
                    self._look(began_s)
                if self._has_left and self._memory is not None:
                    self._memory.give_back()  # detectors are megabytes, in the heap as far as they are small
                self._has_left = False
        except Exception as error:
            self._failed("a tick of the controller", error)
            self._is_blind = True
            return False
        now_s = self.clock.now_s()
        self.health = replace(self.health, ticks=self.health.ticks + 1, last_s=now_s, spent_s=now_s - began_s)
        return True

    def _failed(self, what: str, error: Exception) -> None:
        """Count it. The same again is logged once a minute: a log on a full disk must not be what fills it."""
        told, now_s = describe(error), self.clock.now_s()
        self.health = replace(self.health, failures=self.health.failures + 1, last_error=told)
        self._logged_s = {key: at_s for key, at_s in self._logged_s.items() if now_s - at_s < LOG_EVERY_S}
        key = f"{what}: {told.partition(chr(10))[0]}"
        if key not in self._logged_s:
            self._logged_s[key] = now_s
            logger.error("%s failed", what, exc_info=error)

    def _look(self, now_s: float) -> None:
        self._registered.look(now_s)
        if self.settings.gateway.repository_control:
            repository.follow(self.models, self.run_folder, self.boot_id, self.catalog)
        pause()
        pages = read_pages(self.run_folder)
        with self.watch_lock:
            self._step_models(pages, now_s)
        pause()
        if self._is_settled(now_s):
            self.publish(pages)
            pause()
        self._tell_monitor()
        self._tell_fallbacks(pages)
        self._tell_fatal_runs(pages)
        if not self._is_blind and self.clock.now_s() - self._renewed_s >= RENEW_EVERY_S:
            self.table.renew(self.settings.gateway.lease_s)
            self._renewed_s = self.clock.now_s()

    def _is_settled(self, now_s: float) -> bool:
        """Whether the first table may be published: workers that start wait for it with every champion in it."""
        if self._routing.entries is not None:
            return True
        if self._first_s is None:
            self._first_s = now_s
        is_ready = all(self.versions.are_prepared(state.name, wanted(state)) for state in self.models.values())
        return is_ready or now_s - self._first_s > FIRST_TABLE_S

    def finish(self) -> None:
        """One last tick, then store what the monitor has."""
        self.tick()
        with self.watch_lock:
            self.watch.close()
        self.versions.close()
        self._judging.close()

    def moment(self, state: ModelState | None = None) -> Moment:
        """Now, for the rollout machine."""
        now_s = self.clock.now_s()
        elapsed_s = 0.0 if state is None or state.judged_s is None else now_s - state.judged_s
        return Moment(wall_ns=self.clock.wall_ns(), elapsed_s=elapsed_s)

    def workers(self, pages: Iterable[PageSnapshot] | None = None) -> list[PageSnapshot]:
        """Pages of this server's living workers."""
        return live(read_pages(self.run_folder) if pages is None else pages, self.boot_id)

    def reload(self) -> None:
        """Read the registry anew, whoever changed it."""
        self._registered.reload()

    # --- one model, one tick ------------------------------------------------------------------------------------------

    def _step_models(self, pages: list[PageSnapshot], now_s: float) -> None:
        workers = self.workers(pages)
        self._turn = (self._turn + 1) % SETTLED_TURNS
        for place, state in enumerate(list(self.models.values())):
            pause()
            if not state.is_settled:
                self._step_model(state, pages, workers, now_s)
            elif place % SETTLED_TURNS == self._turn:  # a window of a minute may close some seconds late
                self._watch_latency(state, pages, now_s)

    def _step_model(
        self, state: ModelState, pages: list[PageSnapshot], workers: list[PageSnapshot], now_s: float
    ) -> None:
        self._judging.end_watching(state)
        if self.versions.prepare(state):
            self._told = None  # a profile may be another
        follow_champion(state, workers, self.catalog, self.moment())
        self._watch_latency(state, pages, now_s)
        if state.record is None and not state.unstored:
            return
        try:
            if state.unstored:
                self.publish(pages)
            self.ledger.write_unstored(state)
            if state.record is not None:
                self._judging.measure(state, state.record, self.moment())
                if self._is_judging or not state.record.is_serving:
                    transition = self._judging.next_step(state, pages, workers, self.moment(state), now_s)
                    state.judged_s = now_s
                    self.apply(state, transition, ACTOR, pages)
            state.failing_since_s = None
        except Exception as error:
            self._failed(f"the judging of the rollout of {state.name}", error)
            if state.failing_since_s is None:
                state.failing_since_s = now_s

    def _watch_latency(self, state: ModelState, pages: list[PageSnapshot], now_s: float) -> None:
        if state.routed is None:
            return
        if state.window is None or state.window.version != state.routed:
            state.window = LatencyWindow(state.routed)
        counts = gather.answered(pages, state.name, state.routed, Role.CHAMPION)
        if counts is None:
            if state.window.is_empty:
                return  # and still nobody was
            counts = np.zeros(len(LATENCY_EDGES_US) + 1, dtype=np.int64)
        state.window.observe(counts, now_s, self.settings.monitor.latency_window_s)

    # --- what follows -------------------------------------------------------------------------------------------------

    def apply(
        self, state: ModelState, transition: Transition, actor: str, pages: list[PageSnapshot] | None = None
    ) -> None:
        """Do what a transition says. Lower first and write then; write first and raise then."""
        before, record = state.record, transition.record
        if not transition.events and record.state not in (RolloutState.PROMOTING, RolloutState.ROLLING_BACK):
            state.record = record
            self.ledger.save_counts(state)
            return
        lowers = before is not None and (record.weight < before.weight or record.is_final or not record.is_serving)
        if lowers:
            state.record = record
            if record.state is RolloutState.ROLLING_BACK:
                state.routed = record.default_version
            state.unstored.append((transition, actor))  # first: what follows may fail, and is tried again then
            self.publish(pages)
            self.ledger.write_unstored(state)
        else:
            self.ledger.write_unstored(state)
            self.ledger.write(state, transition, actor)
            follow_champion(state, self.workers(pages), self.catalog, self.moment())
        self.publish(pages)

    def publish(self, pages: list[PageSnapshot] | None = None) -> int:
        """Make the table say what the models' states say; returns the epoch. Does nothing when it says it already."""
        return self._routing.publish(self.models, self.workers(pages))

    def _tell_monitor(self) -> None:
        """Tell the monitor which versions are aspired, and with which profiles, when that has changed."""
        entries = self._routing.entries or {}
        if entries is self._told:
            return
        aspired = {
            (name, version): prepared.profile_sha256
            for name, entry in entries.items()
            for version in entry.aspired
            if (prepared := self.versions.prepared(name, version)) is not None
        }
        if aspired != self._followed:
            apart = nullcontext() if self._memory is None else self._memory.apart(APART_FROM_BYTES)
            with self.watch_lock, apart:
                self.watch.follow(aspired)
            self._has_left = not self._followed.keys() <= aspired.keys()
            self._followed = aspired
        self._told = entries

    def _tell_fallbacks(self, pages: list[PageSnapshot]) -> None:
        """An event when a version begins to run on another provider than the one it was registered for."""
        now = elsewhere(self.workers(pages))
        for (model, version), why in sorted(now.items()):
            if (model, version) not in self._elsewhere:
                sentence = f"Version {version} of {model}: {why}."
                data = {"reason": why, "sentence": sentence}
                self.catalog.append_event(
                    "version.provider_fallback", model=model, version=version, actor=ACTOR, data=data
                )
        self._elsewhere = set(now)

    def _tell_fatal_runs(self, pages: list[PageSnapshot]) -> None:
        """An event when a worker has ended while it ran or loaded a version, which is held to have done it."""
        now = {
            (page.slot, model, version, blame.at_ns): blame
            for page in pages
            if page.boot_id == self.boot_id
            for (model, version), blame in page.blames.items()
        }
        for (slot, model, version, at_ns), blame in sorted(now.items()):
            if (slot, model, version, at_ns) not in self._ends and at_ns > self._began_ns:
                sentence = f"Version {version} of {model}: {held_against(slot, blame)}."
                data = {"worker": slot, "block_s": blame.block_ns / 1e9, "sentence": sentence}
                self.catalog.append_event("version.ended_worker", model=model, version=version, actor=ACTOR, data=data)
        self._ends = set(now)
