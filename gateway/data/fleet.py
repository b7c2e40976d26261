"""The versions that this worker holds, and the traffic made of them and of the route table.

Invariant: `traffic(model)` obeys the newest epoch that can be read, at every call; and an epoch is acknowledged in the
page only when no later call can be routed by an older one. A version is READY after it can be leased and DRAINING
before it stops; it leaves the page when nothing uses it any more. Event loop only; sessions open in a thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gateway.data.batcher import Batch, Batcher
from gateway.data.keys import KeyTable
from gateway.data.page import WorkerPage
from gateway.data.routes import AspiredVersion, RouteEntry, RouteReader, RouteSnapshot
from gateway.data.servable import Servable, load
from gateway.data.traffic import Evidence, Loaded, Traffic, build
from registry.errors import ModelNotFound, ServingError
from registry.vocabulary import LoadState

logger = logging.getLogger(__name__)

Key = tuple[str, int]


class Fleet:
    """What is loaded here, and who gets which request."""

    def __init__(
        self,
        run: Path,
        slot: int,
        page: WorkerPage,
        routes: RouteReader,
        loop: asyncio.AbstractEventLoop,
        pool: Executor,
        *,
        threads: int,
        max_rows: int,
    ) -> None:
        self.page = page
        self.epoch = 0
        self._run = run
        self._slot = slot
        self._routes = routes
        self._loop = loop
        self._pool = pool
        self._loads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="load")
        self._threads = threads
        self._max_rows = max_rows
        self._snapshot: RouteSnapshot | None = None
        self._loaded: dict[str, dict[int, Loaded]] = {}
        self._states: dict[Key, LoadState] = {}
        self._leaving: dict[Key, Loaded] = {}
        self._traffic: dict[str, Traffic] = {}
        self._evidence: dict[str, Evidence] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.on_batch: Callable[[Loaded, Batch[Any]], None]  # set once, by the composition root
        self.on_gone: Callable[[str, int], None] = lambda _model, _version: None

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

    def key_table(self, traffic: Traffic) -> KeyTable | None:
        """The running rollout's table of routing keys, made at its first keyed request; None where it cannot be made.

        A full disk costs evidence, which the page then says is incomplete, and never an answer.
        """
        state = traffic.evidence
        if state is None or state.keys_failed:
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
        """The loaded servable of a version, or of the champion; None when it is not ready here."""
        number = self.entry(model).champion if version is None else version
        loaded = self._loaded.get(model, {}).get(number) if number is not None else None
        return None if loaded is None else loaded.servable

    def models(self) -> list[str]:
        """Every model that the route table names, sorted."""
        return sorted(self._snapshot.models) if self._snapshot is not None else []

    def settled(self) -> bool:
        """Whether a route table has been read and each champion in it is READY or FAILED here."""
        snapshot = self._snapshot
        if snapshot is None or snapshot.epoch == 0:
            return False
        final = (LoadState.READY, LoadState.FAILED)
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
        for key, loaded in list(self._leaving.items()):
            if loaded.servable.leases == 0 and loaded.batcher.waiting == 0:
                del self._leaving[key]
                self.on_gone(*key)
                self.page.clear_load(*key)

    def sync(self, snapshot: RouteSnapshot) -> None:
        """Obey a new snapshot: start loading what it wants, stop leasing what it does not, then acknowledge it."""
        self._snapshot = snapshot
        self._traffic = {}
        self.epoch = snapshot.epoch
        wanted = {(m, v): spec for m, entry in snapshot.models.items() for v, spec in entry.aspired.items()}
        for key in [key for key in self._states if key not in wanted]:
            self._leave(key)
        for key, spec in wanted.items():
            if key not in self._states:
                self._states[key] = LoadState.LOADING
                self.page.set_load(*key, LoadState.LOADING)
                task = self._loop.create_task(self._load(key, spec))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        if snapshot.trusted:  # an unreadable table says nothing about which rollouts have ended
            self._follow_rollouts(snapshot)
            self.page.make_room({*wanted, *self._leaving})
        self.page.acknowledge(snapshot.epoch)

    def _follow_rollouts(self, snapshot: RouteSnapshot) -> None:
        running = {model: entry for model, entry in snapshot.models.items() if entry.rollout_id}
        for model in [m for m, state in self._evidence.items() if self._ended(m, state, running)]:
            ended = self._evidence.pop(model)
            if ended.keys is not None:
                ended.keys.close()
        self.page.keep_segments({entry.rollout_id for entry in running.values()})
        for model, entry in running.items():
            if model not in self._evidence:
                self._evidence[model] = Evidence(entry.rollout_id, entry.burn_in)

    @staticmethod
    def _ended(model: str, state: Evidence, running: dict[str, RouteEntry]) -> bool:
        return model not in running or running[model].rollout_id != state.rollout_id

    def _build(self, model: str) -> Traffic:
        snapshot = self._snapshot
        entry = snapshot.models.get(model) if snapshot is not None else None
        if snapshot is None or entry is None:
            raise ModelNotFound(f"no model {model!r} is served here", model=model)
        loaded = self._loaded.get(model, {})
        state = self._evidence.get(model)
        traffic = build(model, entry, loaded, self.page, snapshot.epoch, state, trusted=snapshot.trusted)
        self._traffic[model] = traffic
        return traffic

    async def _load(self, key: Key, spec: AspiredVersion) -> None:
        model, version = key
        paths = (Path(spec.model_path), Path(spec.manifest_path))
        try:
            servable = await self._loop.run_in_executor(
                self._loads, load, model, version, *paths, self._threads, self._max_rows
            )
            loaded = Loaded(servable, spec.output_limits)
        except (ServingError, OSError, ValueError, KeyError) as error:
            logger.error("%s:%d cannot be loaded: %s", model, version, error)
            if self._states.get(key) is LoadState.LOADING:
                self._states[key] = LoadState.FAILED
                self.page.set_load(model, version, LoadState.FAILED, str(error))
            return
        if self._states.get(key) is not LoadState.LOADING:
            return  # no longer wanted
        loaded.batcher = Batcher(servable, lambda batch: self.on_batch(loaded, batch), self._loop, self._pool)
        self._loaded.setdefault(model, {})[version] = loaded
        self._states[key] = LoadState.READY
        self._traffic.pop(model, None)
        self.page.set_load(model, version, LoadState.READY)
        logger.info("%s:%d is ready", model, version)

    def _leave(self, key: Key) -> None:
        model, version = key
        self._states.pop(key)
        self.page.set_load(model, version, LoadState.DRAINING)
        loaded = self._loaded.get(model, {}).pop(version, None)
        if loaded is None:
            self.page.clear_load(model, version)
        else:
            self._leaving[key] = loaded

    def close(self) -> None:
        """Stop loading. Sessions go with the process."""
        self._loads.shutdown(wait=False, cancel_futures=True)
