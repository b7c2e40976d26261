"""Models as the registry has them: read as a whole when somebody changed something, and at the start.

Invariant: what this controller wrote itself is no reason to read again; a rollout that a former controller began is
taken up where its record stands. Owned by the controller; under its lock.
"""

from __future__ import annotations

from gateway.control import store
from gateway.control.fleet import ModelState
from gateway.control.ledger import Ledger
from gateway.control.routing import Routing
from gateway.control.versions import wanted
from monitor.rollout import RolloutRecord
from registry.catalog import Catalog
from registry.survey import survey

LOOK_EVERY_S = 1.0  # for changes that others made in the registry


class Registered:
    """All models, by name."""

    def __init__(self, catalog: Catalog, ledger: Ledger, routing: Routing) -> None:
        self._catalog = catalog
        self._ledger = ledger
        self._routing = routing
        self._looked_s = float("-inf")
        self.models: dict[str, ModelState] = {}

    def look(self, now_s: float) -> None:
        """Read the registry if somebody else changed it since it was last read."""
        if now_s - self._looked_s < LOOK_EVERY_S and self._ledger.seen is not None:
            return
        self._looked_s = now_s
        token = self._catalog.change_token()
        if token != self._ledger.seen:
            self.reload()
            self._ledger.seen = token

    def reload(self) -> None:
        """Read models, aliases, profiles and running rollouts from the registry."""
        documents = {document["model"]: document for document in self._catalog.active_rollouts()}
        found = survey(self._catalog)
        for row in self._catalog.models():
            state = self.models.get(row.model)
            if state is None:
                state = self.models[row.model] = ModelState(row.model)
                self._routing.restore(state)
                if row.model in found.rolled_out:
                    rollbacks, state.promotions = store.ended(self._catalog, row.model)
                    state.rollbacks.update(rollbacks)
            state.aliases = dict(found.aliases.get(row.model, {}))
            if state.record is None and row.model in documents:
                self._resume(state, RolloutRecord.from_json(documents[row.model]))
            if state.record is None and state.last_record is None and row.model in found.rolled_out:
                ended = self._catalog.latest_rollout(row.model)
                state.last_record = None if ended is None else RolloutRecord.from_json(ended)
            for version in wanted(state):
                state.profiles[version] = found.profiles.get((row.model, version))

    def _resume(self, state: ModelState, record: RolloutRecord) -> None:
        measured = store.read_measured(self._catalog, record.id)
        state.begin(record, store.read_baseline(self._catalog, record.id), measured)
        state.stored_revision = record.revision
