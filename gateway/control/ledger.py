"""What the controller writes to the registry of its rollouts, in its order, and how it tells others' changes.

Invariants: what was done in the data plane and could not be written is written before anything newer of its model; a
record, its alias and its events are one transaction; what the controller itself changes is not taken for somebody
else's change. Owned by the controller; under its lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from gateway.control import store
from gateway.control.fleet import ModelState
from gateway.control.table import RouteTable
from monitor import rollout
from monitor.rollout import Moment, RolloutRecord, Transition
from registry.catalog import Catalog
from registry.clock import Clock
from registry.vocabulary import RolloutState

SAVE_EVERY_S = 5.0  # a running rollout's counts, for those who read the database; evidence is kept elsewhere
SAVE_SOAK_EVERY_S = 10.0


class Ledger:
    """All models' records."""

    def __init__(self, catalog: Catalog, table: RouteTable, clock: Clock) -> None:
        self._catalog = catalog
        self._table = table
        self._clock = clock
        self.seen: str | None = None  # the registry's change token when it was last read as a whole

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction of ours; what it changes is not taken for somebody else's change."""
        with self._catalog.transaction():
            others = self._catalog.change_token() != self.seen
            yield
            token = self._catalog.change_token()
        if not others:
            self.seen = token

    def save_counts(self, state: ModelState) -> None:
        """Store a running rollout's counts, now and then."""
        now_s, record = self._clock.now_s(), state.record
        if record is None or state.stored_revision is None:
            return
        if now_s - state.saved_s < (SAVE_SOAK_EVERY_S if record.state is RolloutState.SOAK else SAVE_EVERY_S):
            return
        state.saved_s = now_s
        with self.writing():
            self._catalog.save_rollout(
                replace(record, epoch=self._table.epoch).to_json(), expected_revision=state.stored_revision
            )

    def write_unstored(self, state: ModelState) -> None:
        """Write what is done and not yet written, in its order: what is written late must not undo what came after."""
        while state.unstored:
            self.write(state, *state.unstored[0])
            state.unstored.pop(0)

    def write(self, state: ModelState, transition: Transition, actor: str) -> None:
        """Write a transition, and finish what it began: alias, record and events in one transaction."""
        record = replace(transition.record, epoch=self._table.epoch)
        moment = Moment(wall_ns=self._clock.wall_ns())
        with self.writing():
            revision = store.save(self._catalog, record, transition.events, state.stored_revision, actor)
            if record.state is RolloutState.PROMOTING:
                store.move_champion(self._catalog, record, record.champion, record.candidate, actor)
                done = rollout.finish_promotion(record, moment)
            elif record.state is RolloutState.ROLLING_BACK:
                store.move_champion(self._catalog, record, record.candidate, record.champion, actor)
                done = rollout.finish_rollback(record, moment)
            else:
                done = None
            if done is not None:
                record = done.record
                revision = store.save(self._catalog, record, done.events, revision, actor)
            store.point_canary(self._catalog, record, actor)
            aliases = {alias: found.version for alias, found in self._catalog.aliases(state.name).items()}
        state.aliases = aliases
        state.stored_revision = revision
        _count(state, record)
        if len(state.unstored) > 1:
            return  # a newer record is in use already
        if record.is_final:
            state.record, state.last_record = None, record
        else:
            state.record = record


def _count(state: ModelState, record: RolloutRecord) -> None:
    if record.state is RolloutState.ROLLED_BACK:
        reason = store.rollback_reason(record)
        state.rollbacks[reason] = state.rollbacks.get(reason, 0) + 1
    elif record.state is RolloutState.SOAK:
        state.promotions += 1
