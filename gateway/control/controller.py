"""The controller's one loop: pages and lanes in, verdicts, next steps, the route table out.

Invariants: the canary lease is renewed only while ticks that judge get through; a weight is lowered in the data plane
before it is written down and raised only after it was; one process writes the table. `tick()` runs on one thread;
operators' commands (`commands.py`) come from the HTTP server's threads and take the same lock, which no tick holds
while it drains lanes, so a rollback waits for milliseconds.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gateway.control import gather, repository, store
from gateway.control.facts import facts_of
from gateway.control.fleet import ModelState
from gateway.control.latency import LatencyWindow
from gateway.control.loads import Leaving, Prepared, Preparer, describe, elsewhere, held_against, live, readiness
from gateway.control.measure import MEASURED_STATES, Measurer, measured_event
from gateway.control.table import RouteTable
from gateway.control.watch import Watch
from gateway.data.keys import KeySnapshot, read_keys
from gateway.data.memory import Memory
from gateway.data.page_layout import LATENCY_EDGES_US
from gateway.data.page_reader import PageSnapshot, read_pages
from gateway.data.routes import AspiredVersion, RouteEntry, decode, snapshot_path
from gateway.settings import Settings
from monitor import rollout
from monitor.facts import RolloutFacts
from monitor.pauses import pause
from monitor.rollout import Moment, Readiness, RolloutRecord, Transition
from monitor.verdict import judge
from registry.catalog import Catalog, VersionRow
from registry.clock import Clock
from registry.errors import ServingError
from registry.survey import survey
from registry.vocabulary import CHAMPION_ALIAS, Role, RolloutState

logger = logging.getLogger(__name__)

ACTOR = "driftgate"  # of what nobody asked for
RENEW_EVERY_S = 0.5
LOOK_EVERY_S = 1.0  # for changes that others made in the registry
FIRST_TABLE_S = 10.0  # the longest that files of the registry's champions are waited for
WATCH_EVERY_S = 1.0
LOG_EVERY_S = 60.0  # a fault that stays
GIVE_BACK_EVERY_S = 60.0  # memory that blocks of rows, bodies and profiles left free between what stays: some ms
SETTLED_TURNS = 10  # of models for which there is nothing to do, one in so many is looked at in a tick
SAVE_EVERY_S = 5.0  # a running rollout's counts, for those who read the database; evidence is kept elsewhere
SAVE_SOAK_EVERY_S = 10.0


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
        self.models: dict[str, ModelState] = {}
        self.health = Health()
        self.poke = threading.Event()  # set: tick now
        self.stopping = threading.Event()  # set: who waits for a tick or a worker waits in vain
        self._preparer = preparer
        self._measurer = measurer
        self._memory = memory
        self._leaving = Leaving()
        self._rows: dict[tuple[str, int], VersionRow] = {}
        self._prepared: dict[tuple[str, int], Prepared] = {}
        self._token: str | None = None
        self._looked_s = self._renewed_s = float("-inf")
        self._entries: dict[str, RouteEntry] | None = None
        self._first_s: float | None = None
        self._turn = 0
        self._judging = True  # in this tick
        self._is_blind = False  # a tick failed, and since then none that judges has got as far as judging
        self._logged_s: dict[str, float] = {}  # what failed, and how → when its trace was last logged
        self._elsewhere: set[tuple[str, int]] = set()
        self._ends: set[tuple[int, str, int, int]] = set()  # of workers: slot, model, version, when
        self._began_ns = clock.host_ns()  # what ended before was told by the controller before this one
        self._followed: dict[tuple[str, int], str | None] = {}
        self._told: dict[str, RouteEntry] | None = None  # the table that the monitor was told of
        self._restored = self._read_table()

    # --- the loop ------------------------------------------------------------------------------------------------

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
        self._judging = judging
        try:
            if watching:
                with self.watch_lock:
                    self.watch.step(began_s)
            self._is_blind = self._is_blind and not judging
            if looking:
                with self.lock:
                    self._look(began_s)
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
        self._look_for_changes(now_s)
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
        self._follow()
        self._tell_fallbacks(pages)
        self._tell_fatal_runs(pages)
        if not self._is_blind and self.clock.now_s() - self._renewed_s >= RENEW_EVERY_S:
            self.table.renew(self.settings.gateway.lease_s)
            self._renewed_s = self.clock.now_s()

    def _is_settled(self, now_s: float) -> bool:
        """Whether the first table may be published: workers that start wait for it with every champion in it."""
        if self._entries is not None:
            return True
        if self._first_s is None:
            self._first_s = now_s
        waiting = any(
            self.prepared(state.name, version) is None
            for state in self.models.values()
            for version in self._wanted(state)
        )
        return not waiting or now_s - self._first_s > FIRST_TABLE_S

    def finish(self) -> None:
        """One last tick, then store what the monitor has."""
        self.tick()
        with self.watch_lock:
            self.watch.close()
        self._preparer.close()
        if self._measurer is not None:
            self._measurer.close()

    def moment(self, state: ModelState | None = None) -> Moment:
        """Now, for the rollout machine."""
        now_s = self.clock.now_s()
        elapsed_s = 0.0 if state is None or state.judged_s is None else now_s - state.judged_s
        return Moment(wall_ns=self.clock.wall_ns(), elapsed_s=elapsed_s)

    def workers(self, pages: Iterable[PageSnapshot] | None = None) -> list[PageSnapshot]:
        """Pages of this server's living workers."""
        return live(read_pages(self.run_folder) if pages is None else pages, self.boot_id)

    # --- what the registry says ----------------------------------------------------------------------------------

    def _look_for_changes(self, now_s: float) -> None:
        if now_s - self._looked_s < LOOK_EVERY_S and self._token is not None:
            return
        self._looked_s = now_s
        token = self.catalog.change_token()
        if token != self._token:
            self.reload()
            self._token = token

    def reload(self) -> None:
        """Read models, aliases, profiles and running rollouts from the registry."""
        documents = {document["model"]: document for document in self.catalog.active_rollouts()}
        found = survey(self.catalog)
        for row in self.catalog.models():
            state = self.models.get(row.model)
            if state is None:
                state = self.models[row.model] = ModelState(row.model)
                self._restore(state)
                if row.model in found.rolled_out:
                    rollbacks, state.promotions = store.ended(self.catalog, row.model)
                    state.rollbacks.update(rollbacks)
            state.aliases = dict(found.aliases.get(row.model, {}))
            if state.record is None and row.model in documents:
                self._resume(state, RolloutRecord.from_json(documents[row.model]))
            if state.record is None and state.last_record is None and row.model in found.rolled_out:
                ended = self.catalog.latest_rollout(row.model)
                state.last_record = None if ended is None else RolloutRecord.from_json(ended)
            for version in self._wanted(state):
                state.profiles[version] = found.profiles.get((row.model, version))

    def _resume(self, state: ModelState, record: RolloutRecord) -> None:
        measured = store.read_measured(self.catalog, record.id)
        state.begin(record, store.read_baseline(self.catalog, record.id), measured)
        state.stored_revision = record.revision

    def row(self, model: str, version: int) -> VersionRow:
        """One version, read once: it never changes."""
        found = self._rows.get((model, version))
        if found is None:
            found = self._rows[model, version] = self.catalog.version(model, version)
        return found

    def _read_table(self) -> dict[str, RouteEntry]:
        """What a former controller of this same server published: workers obey it now."""
        try:
            data = snapshot_path(self.run_folder, self.table.epoch).read_bytes()
            snapshot = decode(data, self.boot_id)
        except (OSError, ServingError):
            return {}
        return dict(snapshot.models) if snapshot.trusted else {}

    def _restore(self, state: ModelState) -> None:
        entry = self._restored.get(state.name)
        if entry is None:
            return
        state.routed = entry.champion
        state.unloaded, state.refused_wish_ns = entry.unloaded, entry.refused_wish_ns
        state.wish_ns = entry.refused_wish_ns  # looked at, and not to be done later
        self._leaving.restore(state.name, entry.aspired)
        if entry.champion is not None and entry.latency_threshold_us is not None:
            state.window = LatencyWindow(entry.champion, entry.latency_threshold_us)

    # --- one model, one tick -------------------------------------------------------------------------------------

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
        if state.watching is not None and (state.record is None or not state.record.is_serving):
            self.watch.end(state.name)
            state.watching = None
        self._prepare(state)
        self._follow_champion(state, workers)
        self._watch_latency(state, pages, now_s)
        if state.record is None and not state.unstored:
            return
        try:
            if state.unstored:
                self.publish(pages)
            self._write_unstored(state)
            if state.record is not None:
                self._measure(state, state.record)
                if self._judging or not state.record.is_serving:
                    self._step_rollout(state, pages, workers, now_s)
            state.failing_since_s = None
        except Exception as error:
            self._failed(f"the judging of the rollout of {state.name}", error)
            if state.failing_since_s is None:
                state.failing_since_s = now_s

    def _wanted(self, state: ModelState) -> list[int]:
        """Versions that ought to be loaded, the most needed first."""
        if state.unloaded:
            return []
        record = state.record.aspired if state.record is not None else ()
        listed = (state.aliases.get(CHAMPION_ALIAS), state.routed, *record, *state.aliases.values(), *state.pending)
        return list(dict.fromkeys(version for version in listed if version is not None))

    @staticmethod
    def _resident(state: ModelState) -> set[int]:
        """Versions that must be in memory, not only when a request wants them: a rollout's, and who takes over."""
        if state.unloaded:
            return set()
        resident = set(state.pending) | set(state.record.aspired if state.record is not None else ())
        champion = state.aliases.get(CHAMPION_ALIAS)
        if champion is not None and champion != state.routed and (state.routed is not None or state.is_returning):
            resident.add(champion)
        return resident

    def _prepare(self, state: ModelState) -> None:
        for version in self._wanted(state):
            if version not in state.profiles:
                profiles = self.catalog.profiles(state.name, version)
                state.profiles[version] = profiles[-1].sha256 if profiles else None
            profile = state.profiles[version]
            known = self._prepared.get((state.name, version))
            if known is not None and known.profile_sha256 == profile:
                continue
            ready = self._preparer.get(self.row(state.name, version), profile)
            if ready is not None:
                self._prepared[state.name, version] = ready
                self._told = None  # its profile may be another

    def _follow(self) -> None:
        """Tell the monitor which versions are aspired, and with which profiles, when that has changed."""
        entries = self._entries or {}
        if entries is self._told:
            return
        aspired = {
            (name, version): self._prepared[name, version].profile_sha256
            for name, entry in entries.items()
            for version in entry.aspired
            if (name, version) in self._prepared
        }
        if aspired != self._followed:
            with self.watch_lock:
                self.watch.follow(aspired)
            self._followed = aspired
        self._told = entries

    def prepared(self, model: str, version: int) -> Prepared | None:
        """A version's local files and profile, once they are there."""
        return self._prepared.get((model, version))

    def _follow_champion(self, state: ModelState, workers: list[PageSnapshot]) -> None:
        """Route to the champion alias's version as soon as every live worker holds it, and not before."""
        record = state.record
        target = record.default_version if record is not None else state.aliases.get(CHAMPION_ALIAS)
        if target == state.routed or state.unloaded:
            return
        going_back = record is not None and record.state is RolloutState.ROLLING_BACK
        is_first = state.routed is None and not state.is_returning
        if is_first or target is None or going_back or not workers:
            state.routed, state.is_returning = target, False
            return
        ready, why = readiness(workers, state.name, target)
        if ready is Readiness.READY:
            previous, state.routed, state.is_returning = state.routed, target, False
            if record is None and previous is not None:
                store.note_takeover(self.catalog, state.name, previous, target, self.moment(), ACTOR)
        elif ready is Readiness.FAILED and why != state.load_failure:
            state.load_failure = why
            sentence = (
                f"The champion alias of {state.name} points to version {target}, which cannot be loaded ({why}); "
                + ("nothing answers." if state.routed is None else f"version {state.routed} goes on answering.")
            )
            data = {"reason": why, "answering": state.routed, "sentence": sentence}
            self.catalog.append_event("version.load_failed", model=state.name, version=target, actor=ACTOR, data=data)

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

    def _step_rollout(
        self, state: ModelState, pages: list[PageSnapshot], workers: list[PageSnapshot], now_s: float
    ) -> None:
        record = state.record
        assert record is not None
        keys = read_keys(self.run_folder) if record.is_serving else []
        facts = self._facts(state, record, pages, keys, now_s)
        reports = judge(record.plan, facts)
        ready, why = readiness(workers, state.name, record.candidate)
        transition = rollout.next_step(record, reports, facts, self.moment(state), ready, why)
        state.judged_s = now_s
        self.apply(state, transition, ACTOR, pages)

    def _facts(
        self,
        state: ModelState,
        record: RolloutRecord,
        pages: list[PageSnapshot],
        keys: list[KeySnapshot],
        now_s: float,
    ) -> RolloutFacts:
        if record.is_serving:
            self._begin_watching(state, record)
            state.gathered = gather.gather(pages, keys, state.name, record.id)
        is_watched = state.watching == record.id
        return facts_of(
            state,
            record,
            pages,
            seen=self.watch.watched(record) if is_watched else None,
            has_profile=all(self._has_profile(state, version) for version in (record.champion, record.candidate)),
            measuring=self._is_measuring(state, record),
            now_s=now_s,
        )

    def _has_profile(self, state: ModelState, version: int) -> bool:
        """Whether workers know what is good of a version; a controller that has just started asks the registry."""
        found = self.prepared(state.name, version)
        return (state.profiles.get(version) if found is None else found.profile_sha256) is not None

    def _is_measuring(self, state: ModelState, record: RolloutRecord) -> bool:
        return self._measurer is not None and state.measured is None and record.state in MEASURED_STATES

    def _measure(self, state: ModelState, record: RolloutRecord) -> None:
        """Compare the candidate with the champion on its reference rows: once a rollout, beside everything else."""
        if self._measurer is None or not self._is_measuring(state, record):
            return
        champion, candidate = (self.row(state.name, version) for version in (record.champion, record.candidate))
        found = self._measurer.get(record.id, champion, candidate, state.profiles.get(record.champion))
        if found is None:
            return
        moment = self.moment()
        told = replace(
            record,
            measured_disagreement=found.disagreement,
            epoch=self.table.epoch,
            revision=record.revision + 1,
            updated_ns=moment.wall_ns,
        )
        with self.writing():
            store.write_measured(self.catalog, record.id, found)
            store.save(self.catalog, told, (measured_event(record, found),), state.stored_revision, ACTOR)
        state.record, state.stored_revision, state.measured = told, told.revision, found

    def _begin_watching(self, state: ModelState, record: RolloutRecord) -> None:
        if state.watching == record.id:
            return
        if all(self.prepared(state.name, version) is not None for version in (record.champion, record.candidate)):
            self.watch.begin(record)
            state.watching = record.id

    # --- what follows from a transition --------------------------------------------------------------------------

    def apply(
        self, state: ModelState, transition: Transition, actor: str, pages: list[PageSnapshot] | None = None
    ) -> None:
        """Do what a transition says. Lower first and write then; write first and raise then."""
        before, record = state.record, transition.record
        if not transition.events and record.state not in (RolloutState.PROMOTING, RolloutState.ROLLING_BACK):
            state.record = record
            self._save_counts(state)
            return
        lowers = before is not None and (record.weight < before.weight or record.is_final or not record.is_serving)
        if lowers:
            state.record = record
            if record.state is RolloutState.ROLLING_BACK:
                state.routed = record.default_version
            state.unstored.append((transition, actor))  # first: what follows may fail, and is tried again then
            self.publish(pages)
            self._write_unstored(state)
        else:
            self._write_unstored(state)
            self._write(state, transition, actor)
            self._follow_champion(state, self.workers(pages))
        self.publish(pages)

    def _save_counts(self, state: ModelState) -> None:
        now_s, record = self.clock.now_s(), state.record
        if record is None or state.stored_revision is None:
            return
        if now_s - state.saved_s < (SAVE_SOAK_EVERY_S if record.state is RolloutState.SOAK else SAVE_EVERY_S):
            return
        state.saved_s = now_s
        with self.writing():
            self.catalog.save_rollout(
                replace(record, epoch=self.table.epoch).to_json(), expected_revision=state.stored_revision
            )

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction of ours; what it changes is not taken for somebody else's change."""
        with self.catalog.transaction():
            others = self.catalog.change_token() != self._token
            yield
            token = self.catalog.change_token()
        if not others:
            self._token = token

    def _write_unstored(self, state: ModelState) -> None:
        """Write what is done and not yet written, in its order: what is written late must not undo what came after."""
        while state.unstored:
            self._write(state, *state.unstored[0])
            state.unstored.pop(0)

    def _write(self, state: ModelState, transition: Transition, actor: str) -> None:
        """Write a transition, and finish what it began: alias, record and events in one transaction."""
        record = replace(transition.record, epoch=self.table.epoch)
        moment = self.moment()
        with self.writing():
            revision = store.save(self.catalog, record, transition.events, state.stored_revision, actor)
            if record.state is RolloutState.PROMOTING:
                store.move_champion(self.catalog, record, record.champion, record.candidate, actor)
                done = rollout.finish_promotion(record, moment)
            elif record.state is RolloutState.ROLLING_BACK:
                store.move_champion(self.catalog, record, record.candidate, record.champion, actor)
                done = rollout.finish_rollback(record, moment)
            else:
                done = None
            if done is not None:
                record = done.record
                revision = store.save(self.catalog, record, done.events, revision, actor)
            store.point_canary(self.catalog, record, actor)
            aliases = {alias: found.version for alias, found in self.catalog.aliases(state.name).items()}
        state.aliases = aliases
        state.stored_revision = revision
        self._count(state, record)
        if len(state.unstored) > 1:
            return  # a newer record is in use already
        if record.is_final:
            state.record, state.last_record = None, record
        else:
            state.record = record

    @staticmethod
    def _count(state: ModelState, record: RolloutRecord) -> None:
        if record.state is RolloutState.ROLLED_BACK:
            reason = store.rollback_reason(record)
            state.rollbacks[reason] = state.rollbacks.get(reason, 0) + 1
        elif record.state is RolloutState.SOAK:
            state.promotions += 1

    # --- the route table -----------------------------------------------------------------------------------------

    def publish(self, pages: list[PageSnapshot] | None = None) -> int:
        """Make the table say what the models' states say; returns the epoch. Does nothing when it says it already."""
        workers = self.workers(pages)
        settled = {name: state.entry for name, state in self.models.items() if state.is_settled}
        entries = {
            name: settled.get(name) or self._entry(state, workers) for name, state in sorted(self.models.items())
        }
        if entries != self._entries:
            epoch = self.table.publish(entries)
            self._entries = entries
            for name, entry in entries.items():
                state = self.models[name]
                state.entry = entry
                if state.record is not None:
                    state.record = replace(state.record, epoch=epoch)
        for name, entry in entries.items():
            if name not in settled:
                state = self.models[name]
                wanted = self._ready_specs(state)
                self._leaving.published(name, wanted, entry.aspired, self.table.epoch)
                state.settled_as = None
                if self._is_done(state, wanted):
                    state.settle()
        return self.table.epoch

    def _is_done(self, state: ModelState, wanted: Mapping[int, AspiredVersion]) -> bool:
        """Whether nothing is left to do for a model until somebody changes something."""
        is_busy = state.record is not None or state.unstored or state.pending or state.watching is not None
        is_there = state.routed == state.aliases.get(CHAMPION_ALIAS) and not state.is_returning
        is_loaded = list(wanted) == self._wanted(state) and all(
            self._prepared[state.name, version].profile_sha256 == state.profiles.get(version) for version in wanted
        )
        return not is_busy and (is_there or state.unloaded) and is_loaded and not self._leaving.is_waiting(state.name)

    def _ready_specs(self, state: ModelState) -> dict[int, AspiredVersion]:
        found = ((version, self.prepared(state.name, version)) for version in self._wanted(state))
        return {version: prepared.aspired for version, prepared in found if prepared is not None}

    def _entry(self, state: ModelState, workers: list[PageSnapshot]) -> RouteEntry:
        aspired = self._leaving.aspired(state.name, self._ready_specs(state), workers)
        resident = self._resident(state)
        aspired = {version: replace(spec, resident=version in resident) for version, spec in aspired.items()}
        record = state.record
        soaking = record if record is not None and record.state is RolloutState.SOAK else None
        base = RouteEntry(
            champion=state.routed,
            previous=None if soaking is None else soaking.champion,
            unloaded=state.unloaded,
            refused_wish_ns=state.refused_wish_ns,
            aliases=dict(sorted(state.aliases.items())),
            aspired=aspired,
        )
        if record is None or not record.is_serving:
            return base
        failing = state.failing_since_s
        blind = failing is not None and self.clock.now_s() - failing >= self.settings.gateway.lease_s
        latency = record.plan.guardrail("latency")
        return replace(
            base,
            candidate=record.candidate,
            weight=0.0 if blind else record.weight,
            shadow=record.shadow,
            salt=record.salt,
            key=record.plan.key,
            rollout_id=record.id,
            burn_in=record.plan.burn_in_requests,
            latency_threshold_us=state.window.threshold_us if state.window is not None else None,
            slowdown=latency.slowdown if latency is not None else 1.25,
        )
