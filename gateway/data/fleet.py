"""The versions that this worker holds, and the traffic made of them and of the route table.

Invariant: `traffic(model)` obeys the newest epoch that can be read, at every call; and an epoch is acknowledged in the
page only when no later call can be routed by an older one. What is in memory is `holdings.py`'s. Event loop only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from gateway.data import constant, curve_files
from gateway.data.batcher import Batcher
from gateway.data.curve import run_times
from gateway.data.fatal_runs import FatalRuns
from gateway.data.holdings import Holding, Holdings
from gateway.data.keys import KeyTable
from gateway.data.load_waits import LoadWait, Then
from gateway.data.memory import Memory, ProcessMemory
from gateway.data.page import WorkerPage
from gateway.data.residency import Key
from gateway.data.routes import AspiredVersion, RouteEntry, RouteReader, RouteSnapshot
from gateway.data.runs import Batch
from gateway.data.scheduler import PRIORITY, Scheduler
from gateway.data.servable import Servable, describe, load
from gateway.data.traffic import Evidence, Inside, Loaded, Traffic, build
from gateway.data.warm_up import still_answers, warm_up
from gateway.settings import BatchSettings, LoadSettings
from registry import onnx
from registry.clock import Clock
from registry.errors import ModelNotFound, NotReady, ServingError
from registry.vocabulary import LoadState

logger = logging.getLogger(__name__)

_MOST_DESCRIBED = 256
_NEVER_US = -1.0


class Fleet:
    """What is loaded here, and who gets which request."""

    def __init__(
        self,
        run: Path,
        slot: int,
        page: WorkerPage,
        fatal_runs: FatalRuns,
        routes: RouteReader,
        loop: asyncio.AbstractEventLoop,
        scheduler: Scheduler,
        inline_below_us: float,
        *,
        threads: int,
        batch: BatchSettings,
        load: LoadSettings,
        answer_bytes: int,
        run_memory_bytes: int,
        clock: Clock,
        memory: Memory | None = None,
    ) -> None:
        self.page = page
        self.epoch = 0
        self._run = run
        self._slot = slot
        self._fatal_runs = fatal_runs
        self._routes = routes
        self._loop = loop
        self._scheduler = scheduler
        self._inline_below_us = inline_below_us
        self._threads = threads
        self._batch = batch
        self._answer_bytes = answer_bytes
        self._run_memory_bytes = run_memory_bytes
        self._clock = clock
        self._snapshot: RouteSnapshot | None = None
        self.holdings = Holdings(page, loop, load, memory or ProcessMemory(), clock, self._open, self._attach)
        self.holdings.on_change = self._changed
        self._loaded = self.holdings.loaded
        self._states = self.holdings.states
        self._described: dict[Key, Servable] = {}  # of versions that are served and not in memory
        self._traffic: dict[str, Traffic] = {}
        self._evidence: dict[str, Evidence] = {}
        self._inside: dict[str, Inside] = {}
        self.on_batch: Callable[[Loaded, Batch[Any]], None]  # both are set once, by the composition root
        self.on_loaded: Callable[[Loaded], None]

    # ---- for requests

    def traffic(self, model: str) -> Traffic:
        """How this model's requests are split now. Raises ModelNotFound."""
        snapshot = self._routes.current()
        if snapshot is not self._snapshot:
            self.sync(snapshot)
        traffic = self._traffic.get(model)
        return traffic if traffic is not None else self._build(model)

    def lease_left_ns(self) -> int:
        """Nanoseconds until canaries fall to 0 unless the controller renews."""
        return self._routes.lease_left_ns()

    def knows(self, model: str) -> bool:
        """Whether the route table names this model."""
        return self._snapshot is not None and model in self._snapshot.models

    def when_loaded(
        self, model: str, version: str | None, timeout_s: float | None, otherwise: NotReady, then: Then
    ) -> LoadWait | None:
        """After `traffic`, or an arm of it, said NotReady (`otherwise`): `then(None)` when the version can answer.

        `then` routes again before anything else happens, or the version may have left again. As Holdings.when_loaded.
        """
        number = self._number(model, version)
        if number is None:
            raise otherwise
        return self.holdings.when_loaded((model, number), timeout_s, otherwise, then)

    def _number(self, model: str, version: str | None) -> int | None:
        entry = self.entry(model)
        if version is None:
            return entry.champion
        return int(version) if version.isdecimal() and len(version) < 10 else entry.aliases.get(version)

    def expected(self, model: str, version: str | None) -> Servable | None:
        """What most likely answers, before a request is routed: whom it names, or the champion; None: nobody.

        Raises ModelNotFound.
        """
        number = self._number(model, version)
        return None if number is None else self.servable(model, number)

    def all_read_like(self, servable: Servable, version: str | None) -> bool:
        """Whether whoever may get a request, for which this one is `expected`, reads it alike. Raises ModelNotFound."""
        canary = self.traffic(servable.model).canary if version is None else None
        return canary is None or canary.loaded.servable.reads_like(servable)

    async def until_loaded(self, model: str, version: str | None, timeout_s: float | None, otherwise: NotReady) -> None:
        """`when_loaded` for a caller that can wait; it routes again before it next waits for anything."""
        loaded: asyncio.Future[None] = self._loop.create_future()

        def then(error: ServingError | None) -> None:
            if loaded.done():
                return
            if error is None:
                loaded.set_result(None)
            else:
                loaded.set_exception(error)

        wait = self.when_loaded(model, version, timeout_s, otherwise, then)
        if wait is None:
            return
        try:
            await loaded
        finally:
            wait.cancel()

    def key_table(self, traffic: Traffic) -> KeyTable | None:
        """The running rollout's table of routing keys, made at its first keyed request; None where it cannot be made.

        A full disk costs evidence, which the page then says is incomplete, and never an answer.
        """
        state = traffic.evidence
        if state is None or state.keys_failed or state.is_over:
            return None
        if state.keys is None:
            try:
                state.keys = KeyTable(self._run, self._slot, traffic.model, state.rollout_id)
            except OSError as error:
                logger.error("keys of %s cannot be counted, its rollout will hold: %s", traffic.model, error)
                state.keys_failed = True
                self.page.count_no_room()
        return state.keys

    # ---- for questions

    def entry(self, model: str) -> RouteEntry:
        """The route of a model. Raises ModelNotFound."""
        snapshot = self._routes.current()
        if snapshot is not self._snapshot:
            self.sync(snapshot)
        entry = snapshot.models.get(model)
        if entry is None:
            raise ModelNotFound(f"no model {model!r} is served here", model=model)
        return entry

    def servable(self, model: str, version: int | None) -> Servable | None:
        """What a version takes and gives, or the champion; None when no request to it can be answered here now.

        A version that is loaded when a request wants it is described from its manifest: it cannot be run.
        """
        number = self.entry(model).champion if version is None else version
        if number is None:
            return None
        loaded = self._loaded.get(model, {}).get(number)
        if loaded is not None:
            return loaded.servable
        return self._describe((model, number)) if self.holdings.is_lazy((model, number)) else None

    def can_answer(self, model: str, version: int | None) -> bool:
        """Whether a request to the version, or to the champion, would be run here now. Raises ModelNotFound.

        Not while its breaker refuses, unless somebody stands in for the champion.
        """
        servable = self.servable(model, version)
        if servable is None:
            return False
        loaded, now_s = self._loaded.get(model, {}).get(servable.version), self._clock.now_s()
        if loaded is None or loaded.breaker is None or loaded.breaker.left_s(now_s) <= 0:
            return True
        arm = self.traffic(model).champion if version is None else None
        while arm is not None and not arm.is_ready(now_s):
            arm = arm.stand_in
        return arm is not None

    def is_loaded(self, model: str, version: int) -> bool:
        """Whether the version is in memory, ready to be leased."""
        return version in self._loaded.get(model, {})

    def _describe(self, key: Key) -> Servable:
        found = self._described.get(key)
        if found is None:
            spec = self.entry(key[0]).aspired[key[1]]
            while len(self._described) >= _MOST_DESCRIBED:
                del self._described[next(iter(self._described))]
            found = self._described[key] = describe(*key, Path(spec.manifest_path), self._batch.max_rows)
        return found

    def models(self) -> list[str]:
        """Every model that the route table names, sorted."""
        return sorted(self._snapshot.models) if self._snapshot is not None else []

    def settled(self) -> bool:
        """Whether a route table has been read and each champion in it is READY, FAILED, or loaded when it is wanted."""
        snapshot = self._snapshot
        if snapshot is None or snapshot.epoch == 0:
            return False
        final = (LoadState.READY, LoadState.FAILED, LoadState.AVAILABLE)
        return all(
            entry.champion is None or self._states.get((model, entry.champion)) in final
            for model, entry in snapshot.models.items()
        )

    # ---- for the heartbeat

    def look(self) -> None:
        """Follow the route table also when no request comes, and let go what nothing uses any more."""
        snapshot = self._routes.current()
        if snapshot is not self._snapshot:
            self.sync(snapshot)
        self.holdings.look()

    def sync(self, snapshot: RouteSnapshot) -> None:
        """Obey a new snapshot: start loading what it wants, stop leasing what it does not, then acknowledge it."""
        self._snapshot = snapshot
        self._traffic = {}
        self._inside = {model: inside for model, inside in self._inside.items() if inside.waiting}
        self.epoch = snapshot.epoch
        wanted = {(m, v): spec for m, entry in snapshot.models.items() for v, spec in entry.aspired.items()}
        for key in [key for key in self._described if key not in wanted]:
            del self._described[key]
        self.holdings.want(wanted)
        if snapshot.trusted:  # an unreadable table says nothing about which rollouts have ended
            self._follow_rollouts(snapshot)
            self.page.make_room(self.holdings.keys())
        self.page.acknowledge(snapshot.epoch)

    def _follow_rollouts(self, snapshot: RouteSnapshot) -> None:
        running = {model: entry for model, entry in snapshot.models.items() if entry.rollout_id}
        for model in [m for m, state in self._evidence.items() if self._ended(m, state, running)]:
            ended = self._evidence.pop(model)
            ended.is_over = True
            if ended.keys is not None:
                ended.keys.close()
            if ended.mark is not None and ended.marked is not None:
                ended.marked.mark_runs(None)
                ended.mark.close()
        self.page.keep_segments({entry.rollout_id for entry in running.values()})
        for model, entry in running.items():
            if model not in self._evidence:
                vetoed = self.page.is_vetoed(model, entry.rollout_id)
                self._evidence[model] = Evidence(entry.rollout_id, entry.burn_in, vetoed=vetoed)

    @staticmethod
    def _ended(model: str, state: Evidence, running: dict[str, RouteEntry]) -> bool:
        return model not in running or running[model].rollout_id != state.rollout_id

    def _build(self, model: str) -> Traffic:
        snapshot = self._snapshot
        entry = snapshot.models.get(model) if snapshot is not None else None
        if snapshot is None or entry is None:
            raise ModelNotFound(f"no model {model!r} is served here", model=model)
        loaded = self._loaded.get(model, {})
        if entry.champion is not None and entry.champion not in loaded:
            self.holdings.load_soon((model, entry.champion))
        state = self._evidence.get(model)
        inside = self._inside.setdefault(model, Inside())
        traffic = build(model, entry, loaded, self.page, snapshot.epoch, state, inside, trusted=snapshot.trusted)
        if state is not None and entry.candidate in loaded:
            self._mark_runs(state, loaded[entry.candidate].servable)
        for version, one in loaded.items():
            one.batcher.priority = PRIORITY[entry.role_of(version)]
        self._traffic[model] = traffic
        return traffic

    def _mark_runs(self, state: Evidence, candidate: Servable) -> None:
        """Let the page say while the candidate of a running rollout is run: such a run may end this process."""
        if state.marked is candidate:
            return
        if state.mark is None:
            state.mark = self.page.run_mark(candidate.model, state.rollout_id)
        candidate.mark_runs(state.mark)
        state.marked = candidate

    def _changed(self, model: str) -> None:
        self._traffic.pop(model, None)

    def _open(self, key: Key, spec: AspiredVersion) -> Loaded:
        """Slow; on the load thread."""
        with self._fatal_runs.opening(key):
            return self._opened(key, spec)

    def _opened(self, key: Key, spec: AspiredVersion) -> Loaded:
        paths = (Path(spec.model_path), Path(spec.manifest_path))
        onnx.limit_runs(self._run_memory_bytes)
        servable = load(*key, *paths, self._threads, self._batch.max_rows)
        servable.answer_bytes = self._answer_bytes
        given = [None if path is None else Path(path) for path in (spec.sample_path, spec.golden_path)]
        curve = warm_up(
            servable, *given, latency_target_ms=self._batch.latency_target_ms, budget_s=self._batch.warm_up_s
        )
        loaded = Loaded(servable, spec.output_limits)
        loaded.still_answers = partial(still_answers, servable, *given)
        if curve is not None:
            servable.tune(curve.chosen_rows)
            servable.curve = curve
            curve_files.write(self._run, self._slot, *key, curve)
        return loaded

    def _attach(self, holding: Holding) -> None:
        loaded, holdings, on_batch = holding.loaded, self.holdings, self.on_batch

        def answer(batch: Batch[Any]) -> None:
            holding.used_s = holdings.now_s
            on_batch(loaded, batch)

        # Nobody knows how long the first run takes of what could not be warmed up: not on the event loop. Nor any run
        # of what has loops: a request could say so many turns that the worker stops, as runs there are never ended.
        scheduler, times = self._scheduler, run_times(loaded.servable.curve, 2.0 * self._inline_below_us)
        inline_below_us = _NEVER_US if loaded.servable.manifest.probe.loops else self._inline_below_us
        loaded.batcher = Batcher(loaded.servable, answer, scheduler, inline_below_us, times)
        loaded.constant = constant.standing_in(loaded, self.page, on_batch)
        self.on_loaded(loaded)

    def close(self) -> None:
        """Stop loading. Sessions go with the process."""
        self.holdings.close()
