"""What callers of the data port asked to be loaded or not: the controller follows it, once for each wish.

A model with a rollout that has not ended is not unloaded: its evidence would end without a verdict. What was refused
is told in the route table, so that the worker that waits can say so. Called in every tick, under the controller's lock,
and only where `gateway.repository_control` is on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gateway.control.fleet import ModelState
from gateway.data.wishes import Wish, read_wishes
from registry.catalog import Catalog

ACTOR = "data port"


def follow(states: Mapping[str, ModelState], run: Path, boot_id: str, catalog: Catalog) -> None:
    """Make the models' states what the newest wishes say."""
    for model, wish in read_wishes(run, boot_id).items():
        state = states.get(model)
        if state is not None and wish.host_ns != state.wish_ns:
            state.wish_ns = wish.host_ns
            if wish.loaded == state.unloaded:
                _change(state, wish, catalog)


def _change(state: ModelState, wish: Wish, catalog: Catalog) -> None:
    if state.record is not None:
        state.refused_wish_ns = wish.host_ns
        return
    state.unloaded = not wish.loaded
    state.is_returning = wish.loaded
    if state.unloaded:
        state.routed = None
    kind = "model.loaded" if wish.loaded else "model.unloaded"
    sentence = f"{state.name} is {'to be' if wish.loaded else 'no longer'} served, as a caller of the data port asked."
    catalog.append_event(kind, model=state.name, version=None, actor=ACTOR, data={"sentence": sentence})
