"""A caller of the data port unloads and loads: what the controller makes of it, and what it does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.data.wishes import Wishes
from gateway.settings import GatewaySettings, Settings
from registry.errors import IllegalTransition
from registry.vocabulary import LoadState
from tests.gateway.control.world import BOOT, QUICK_PLAN, Worker, World

ALLOWED = Settings(gateway=GatewaySettings(repository_control=True))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, ALLOWED)
    yield made
    made.close()


@pytest.fixture
def worker(world: World) -> Worker:
    made = Worker(world.home.run)
    world.add("one")
    world.add("two")
    world.champion(1)
    world.settle(made)
    return made


def wish(world: World, *, loaded: bool) -> int:
    now_ns = world.clock.host_ns()
    Wishes(world.home.run, 0, BOOT).wish("m", loaded, now_ns)
    return now_ns


def unload(world: World, worker: Worker) -> None:
    wish(world, loaded=False)
    world.settle(worker)


def test_an_unloaded_model_has_no_champion_and_nothing_aspired_and_keeps_its_aliases(
    world: World, worker: Worker
) -> None:
    wish(world, loaded=False)
    world.tick()
    first = worker.entry()
    assert (first.champion, first.unloaded) == (None, True)
    assert 1 in first.aspired, "no worker has acknowledged yet that nothing routes to it"
    world.settle(worker)
    entry = worker.entry()
    assert (entry.champion, entry.unloaded, entry.aspired) == (None, True, {})
    assert entry.aliases == {"champion": 1}
    assert len(world.told("model.unloaded")) == 1


def test_a_loaded_model_is_routed_to_only_when_every_worker_holds_it(world: World, worker: Worker) -> None:
    unload(world, worker)
    wish(world, loaded=True)
    world.tick(times=2)
    entry = worker.entry()
    assert (entry.champion, entry.unloaded, list(entry.aspired)) == (None, False, [1])
    worker.obey(LoadState.LOADING)
    world.tick()
    assert worker.entry().champion is None
    worker.obey()
    world.tick()
    assert worker.entry().champion == 1
    assert len(world.told("model.loaded")) == 1


def test_a_model_that_cannot_be_loaded_again_answers_nobody_and_says_why(world: World, worker: Worker) -> None:
    unload(world, worker)
    wish(world, loaded=True)
    world.tick(times=2)
    worker.obey(LoadState.FAILED, "the disk is gone")
    world.tick(times=2)
    assert worker.entry().champion is None
    (told,) = world.told("version.load_failed")
    assert "the disk is gone" in told["sentence"]
    assert "nothing answers" in told["sentence"]


def test_without_the_setting_a_wish_is_not_looked_at(tmp_path: Path) -> None:
    closed = World(tmp_path / "closed")
    worker = Worker(closed.home.run)
    closed.add("one")
    closed.champion(1)
    closed.settle(worker)
    wish(closed, loaded=False)
    closed.settle(worker)
    assert (worker.entry().champion, worker.entry().unloaded) == (1, False)
    closed.close()


def test_while_a_rollout_runs_an_unload_is_refused_and_not_done_later(world: World, worker: Worker) -> None:
    world.commands.start("m", 2, QUICK_PLAN, world.act)
    asked_ns = wish(world, loaded=False)
    world.tick()
    entry = worker.entry()
    assert (entry.unloaded, entry.refused_wish_ns) == (False, asked_ns)
    world.commands.abort("m", world.act)
    world.settle(worker)
    assert (worker.entry().champion, worker.entry().unloaded) == (1, False)


def test_an_unloaded_model_gets_no_rollout_and_no_other_champion(world: World, worker: Worker) -> None:
    unload(world, worker)
    with pytest.raises(IllegalTransition, match="was unloaded by a caller of the data port"):
        world.commands.start("m", 2, QUICK_PLAN, world.act)
    with pytest.raises(IllegalTransition, match="was unloaded by a caller of the data port"):
        world.commands.set_alias("m", "champion", 2, 1, world.act)


def test_a_controller_that_starts_anew_goes_on_with_it_and_tells_it_once(world: World, worker: Worker) -> None:
    unload(world, worker)
    world.restart()
    world.settle(worker)
    assert (worker.entry().unloaded, worker.entry().aspired) == (True, {})
    assert len(world.told("model.unloaded")) == 1
    wish(world, loaded=True)
    world.settle(worker)
    assert worker.entry().champion == 1


def test_an_unload_that_was_refused_is_not_done_by_the_next_controller(world: World, worker: Worker) -> None:
    world.commands.start("m", 2, QUICK_PLAN, world.act)
    asked_ns = wish(world, loaded=False)
    world.tick()
    assert worker.entry().refused_wish_ns == asked_ns
    world.commands.abort("m", world.act)
    world.settle(worker)
    world.restart()
    world.settle(worker)
    assert (worker.entry().champion, worker.entry().unloaded) == (1, False)
