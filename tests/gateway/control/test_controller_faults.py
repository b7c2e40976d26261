"""What goes wrong around the controller: writes that fail and are caught up, restarts in mid-rollout, foreign moves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gateway.control.watch import Watched
from monitor.facts import LabelFacts
from registry.catalog import ANY
from registry.errors import AliasMoved
from registry.vocabulary import Cause, RolloutState
from tests.gateway.control.world import QUICK_PLAN, Worker, World

LABELLED_PLAN: dict[str, Any] = {
    "burn_in_requests": 0,
    "step": [{"weight_pct": 5.0, "min_requests": 10}, {"weight_pct": 50.0, "min_requests": 10}],
    "guardrail": [{"name": "errors"}, {"name": "labels"}],
}
UNDECIDED = Watched(labels=LabelFacts(farther=30, closer=25, ties=0))


def begin(world: World, worker: Worker, plan: dict[str, Any]) -> None:
    """Champion 1, and a rollout of version 2 that is being loaded."""
    world.add("one")
    world.add("two")
    world.champion(1)
    world.settle(worker)
    world.commands.start("m", 2, plan, world.act)


@contextmanager
def locked(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A database that takes no rollout."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("database is locked")

    with monkeypatch.context() as broken:
        broken.setattr(world.catalog, "save_rollout", refuse)
        yield


def test_a_write_that_is_caught_up_does_not_undo_an_abort_that_came_after_it(
    world: World, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(world, worker, QUICK_PLAN)
    with locked(world, monkeypatch), pytest.raises(OSError, match="locked"):
        world.commands.pause("m", world.act)
    assert world.commands.abort("m", world.act)["state"] == "aborted"
    world.tick(0.6, 3)
    assert world.state.record is None
    assert world.commands.rollout("m")["state"] == "aborted"
    assert [event.type for event in world.catalog.events(limit=1000) if event.type.startswith("rollout.")] == [
        "rollout.started",
        "rollout.paused",
        "rollout.aborted",
    ]


def test_a_write_that_is_caught_up_does_not_undo_a_rollback_of_a_canary(
    world: World, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(world, worker, {**LABELLED_PLAN, "on_unknown": "step_down"})
    world.settle(worker)
    worker.answer("champion", 200)
    worker.answer("canary", 20)
    world.tick(0.6, 2)
    assert world.record.step == 1
    worker.answer("champion", 20)
    worker.answer("canary", 20)
    world.tick()
    with locked(world, monkeypatch):
        world.tick(301.0)  # nobody answers any more: one step down, which cannot be written
    assert (world.record.step, world.record.cause) == (0, Cause.STALE)
    assert world.state.unstored
    assert world.commands.roll_back("m", world.act)["state"] == "rolled_back"
    world.tick(0.6, 3)
    assert worker.entry().weight == 0.0
    assert world.state.record is None
    assert world.commands.rollout("m")["state"] == "rolled_back"
    assert world.told("rollout.stepped_down")


def test_a_rollback_stays_in_the_data_plane_while_writes_before_it_are_caught_up(
    world: World, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(world, worker, LABELLED_PLAN)
    world.settle(worker)
    assert worker.entry().weight == 0.05
    with locked(world, monkeypatch):
        with pytest.raises(OSError, match="locked"):
            world.commands.roll_back("m", world.act)
        world.tick(0.6, 3)
        assert worker.entry().weight == 0.0
        assert world.commands.roll_back("m", world.act)["state"] == "rolling_back"
    world.tick()
    assert world.commands.rollout("m")["state"] == "rolled_back"


def test_a_new_controller_advances_nothing_before_it_knows_what_the_monitor_had_seen(
    world: World, worker: Worker
) -> None:
    begin(world, worker, LABELLED_PLAN)
    world.settle(worker)
    world.watch.seen = UNDECIDED
    for _ in range(2):
        worker.answer("champion", 2000, errors=1)
        worker.answer("canary", 2000)
        world.tick(0.6, 2)
    assert (world.record.state, world.record.step) == (RolloutState.CANARY, 1)
    assert [report.verdict for report in world.record.guardrails] == ["pass", "unknown"]
    world.restart()
    world.watch.seen = UNDECIDED
    world.settle(worker)
    assert (world.record.state, world.record.step) == (RolloutState.CANARY, 1)
    assert [report.cause for report in world.record.guardrails] == [None, Cause.NOT_ENOUGH]


def test_a_new_controller_rolls_back_on_what_pages_say_before_it_knows_more(world: World, worker: Worker) -> None:
    begin(world, worker, LABELLED_PLAN)
    world.settle(worker)
    worker.answer("champion", 4000)
    worker.answer("canary", 200, errors=60)
    world.restart()
    world.tick()
    assert world.commands.rollout("m")["state"] == "rolled_back"


def test_a_rollout_begins_against_the_champion_that_the_registry_has_now(world: World, worker: Worker) -> None:
    world.add("one")
    world.add("two")
    world.add("three")
    world.champion(1)
    world.settle(worker)
    world.champion(2)  # by another process, and no tick has seen it
    with pytest.raises(AliasMoved):
        world.commands.start("m", 3, QUICK_PLAN, world.act)
    assert world.state.record is None
    world.settle(worker)
    world.commands.start("m", 3, QUICK_PLAN, world.act)
    assert world.record.champion == 2
    with pytest.raises(Exception, match="running"):
        world.catalog.set_alias("m", "champion", 1, expected=ANY, actor="test")
