"""What a running rollout does next: facts from pages and the monitor to the judge, reports to the rollout machine.

Invariant: nothing is decided here; `monitor/verdict.py` judges and `monitor/rollout.py` says the next step. Called by
the controller for each model with a rollout, under its lock and the monitor's.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gateway.control import gather, store
from gateway.control.facts import facts_of
from gateway.control.fleet import ModelState
from gateway.control.ledger import Ledger
from gateway.control.loads import readiness
from gateway.control.measure import MEASURED_STATES, Measurer, measured_event
from gateway.control.table import RouteTable
from gateway.control.versions import Versions
from gateway.control.watch import Watch
from gateway.data.keys import KeySnapshot, read_keys
from gateway.data.page_reader import PageSnapshot
from monitor import rollout
from monitor.facts import RolloutFacts
from monitor.rollout import Moment, RolloutRecord, Transition
from monitor.verdict import judge
from registry.catalog import Catalog


class Judging:
    """All models' rollouts."""

    def __init__(
        self,
        run: Path,
        watch: Watch,
        measurer: Measurer | None,
        versions: Versions,
        ledger: Ledger,
        catalog: Catalog,
        table: RouteTable,
    ) -> None:
        self._run = run
        self._watch = watch
        self._measurer = measurer
        self._versions = versions
        self._ledger = ledger
        self._catalog = catalog
        self._table = table

    def next_step(
        self, state: ModelState, pages: list[PageSnapshot], workers: list[PageSnapshot], moment: Moment, now_s: float
    ) -> Transition:
        """Judge a model's rollout; what follows is the caller's to do."""
        record = state.record
        assert record is not None
        keys = read_keys(self._run) if record.is_serving else []
        facts = self._facts(state, record, pages, keys, now_s)
        reports = judge(record.plan, facts)
        ready, why = readiness(workers, state.name, record.candidate)
        return rollout.next_step(record, reports, facts, moment, ready, why)

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
        both = (record.champion, record.candidate)
        return facts_of(
            state,
            record,
            pages,
            seen=self._watch.watched(record) if is_watched else None,
            has_profile=all(self._versions.has_profile(state, version) for version in both),
            measuring=self._is_measuring(state, record),
            now_s=now_s,
        )

    def _begin_watching(self, state: ModelState, record: RolloutRecord) -> None:
        if state.watching == record.id:
            return
        if self._versions.are_prepared(state.name, (record.champion, record.candidate)):
            self._watch.begin(record)
            state.watching = record.id

    def end_watching(self, state: ModelState) -> None:
        """Let the monitor go of a rollout that does not serve any more."""
        if state.watching is not None and (state.record is None or not state.record.is_serving):
            self._watch.end(state.name)
            state.watching = None

    def _is_measuring(self, state: ModelState, record: RolloutRecord) -> bool:
        return self._measurer is not None and state.measured is None and record.state in MEASURED_STATES

    def measure(self, state: ModelState, record: RolloutRecord, moment: Moment) -> None:
        """Compare the candidate with the champion on its reference rows: once a rollout, beside everything else."""
        if self._measurer is None or not self._is_measuring(state, record):
            return
        champion, candidate = (
            self._versions.row(state.name, version) for version in (record.champion, record.candidate)
        )
        found = self._measurer.get(record.id, champion, candidate, state.profiles.get(record.champion))
        if found is None:
            return
        told = replace(
            record,
            measured_disagreement=found.disagreement,
            epoch=self._table.epoch,
            revision=record.revision + 1,
            updated_ns=moment.wall_ns,
        )
        with self._ledger.writing():
            store.write_measured(self._catalog, record.id, found)
            store.save(self._catalog, told, (measured_event(record, found),), state.stored_revision, store.ACTOR)
        state.record, state.stored_revision, state.measured = told, told.revision, found

    def close(self) -> None:
        """End what is being measured."""
        if self._measurer is not None:
            self._measurer.close()
