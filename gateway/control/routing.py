"""From models' states to the route table: what it says of each model, published when it says something new.

Invariants: an entry is a function of the model's state, of the versions that are ready and of what the workers have
acknowledged; the table is written only when an entry differs; a model of which nothing is left to do is settled, and
costs next to nothing until one of its facts changes. What a former controller of this server published holds until this
one knows better. Owned by the controller; under its lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from gateway.control.fleet import ModelState
from gateway.control.latency import LatencyWindow
from gateway.control.loads import Leaving
from gateway.control.table import RouteTable
from gateway.control.versions import Versions, resident, wanted
from gateway.data.page_reader import PageSnapshot
from gateway.data.routes import AspiredVersion, RouteEntry, decode, snapshot_path
from registry.clock import Clock
from registry.errors import ServingError
from registry.vocabulary import CHAMPION_ALIAS, RolloutState


class Routing:
    """All models' entries."""

    def __init__(
        self, run: Path, boot_id: str, table: RouteTable, versions: Versions, clock: Clock, lease_s: float
    ) -> None:
        """lease_s: after so long without a judgement that works a rollout's weight is 0."""
        self._table = table
        self._versions = versions
        self._clock = clock
        self._lease_s = lease_s
        self._leaving = Leaving()
        self._restored = _published(run, boot_id, table.epoch)
        self.entries: dict[str, RouteEntry] | None = None  # as published; None: this controller has not published yet

    def restore(self, state: ModelState) -> None:
        """Take up a model where the table of a former controller of this server left it."""
        entry = self._restored.get(state.name)
        if entry is None:
            return
        state.routed = entry.champion
        state.unloaded, state.refused_wish_ns = entry.unloaded, entry.refused_wish_ns
        state.wish_ns = entry.refused_wish_ns  # looked at, and not to be done later
        self._leaving.restore(state.name, entry.aspired)
        if entry.champion is not None and entry.latency_threshold_us is not None:
            state.window = LatencyWindow(entry.champion, entry.latency_threshold_us)

    def publish(self, models: Mapping[str, ModelState], workers: Sequence[PageSnapshot]) -> int:
        """Make the table say what the models' states say; returns the epoch. Does nothing when it says it already."""
        settled = {name: state.entry for name, state in models.items() if state.is_settled}
        entries = {name: settled.get(name) or self._entry(state, workers) for name, state in sorted(models.items())}
        if entries != self.entries:
            epoch = self._table.publish(entries)
            self.entries = entries
            for name, entry in entries.items():
                state = models[name]
                state.entry = entry
                if state.record is not None:
                    state.record = replace(state.record, epoch=epoch)
        for name, entry in entries.items():
            if name not in settled:
                state = models[name]
                ready = self._versions.ready(state)
                self._leaving.published(name, ready, entry.aspired, self._table.epoch)
                state.settled_as = None
                if self._is_done(state, ready):
                    state.settle()
        return self._table.epoch

    def _is_done(self, state: ModelState, ready: Mapping[int, AspiredVersion]) -> bool:
        """Whether nothing is left to do for a model until somebody changes something."""
        is_busy = state.record is not None or state.unstored or state.pending or state.watching is not None
        is_there = state.routed == state.aliases.get(CHAMPION_ALIAS) and not state.is_returning
        is_loaded = list(ready) == wanted(state) and self._versions.are_current(state)
        return not is_busy and (is_there or state.unloaded) and is_loaded and not self._leaving.is_waiting(state.name)

    def _entry(self, state: ModelState, workers: Sequence[PageSnapshot]) -> RouteEntry:
        aspired = self._leaving.aspired(state.name, self._versions.ready(state), workers)
        in_memory = resident(state)
        aspired = {version: replace(spec, resident=version in in_memory) for version, spec in aspired.items()}
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
        blind = failing is not None and self._clock.now_s() - failing >= self._lease_s
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


def _published(run: Path, boot_id: str, epoch: int) -> dict[str, RouteEntry]:
    """What a former controller of this same server published: workers obey it now."""
    try:
        data = snapshot_path(run, epoch).read_bytes()
        snapshot = decode(data, boot_id)
    except (OSError, ServingError):
        return {}
    return dict(snapshot.models) if snapshot.trusted else {}
