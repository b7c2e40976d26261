"""Routing follows the champion alias: as soon as every live worker holds its version, and not before."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.control import store
from gateway.control.fleet import ModelState
from gateway.control.loads import readiness
from gateway.data.page_reader import PageSnapshot
from monitor.rollout import Moment, Readiness
from registry.catalog import Catalog
from registry.vocabulary import CHAMPION_ALIAS, RolloutState


def follow_champion(state: ModelState, workers: Sequence[PageSnapshot], catalog: Catalog, moment: Moment) -> None:
    """Route to the version that the alias, or a rollout, names; tell once of one that cannot be loaded.

    At once where nothing was routed to, where there are no workers, and on the way back: the old version is loaded.
    """
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
            store.note_takeover(catalog, state.name, previous, target, moment, store.ACTOR)
    elif ready is Readiness.FAILED and why != state.load_failure:
        state.load_failure = why
        sentence = (
            f"The champion alias of {state.name} points to version {target}, which cannot be loaded ({why}); "
            + ("nothing answers." if state.routed is None else f"version {state.routed} goes on answering.")
        )
        data = {"reason": why, "answering": state.routed, "sentence": sentence}
        catalog.append_event("version.load_failed", model=state.name, version=target, actor=store.ACTOR, data=data)
