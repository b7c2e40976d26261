"""The controller's tick: what it publishes, in which order, and what it knows after it was killed."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.data.memory import ProcessMemory
from gateway.data.page import WorkerPage
from registry.errors import AliasMoved, Draining, IllegalTransition, LoadFailed, RolloutActive, ServingError
from registry.vocabulary import LoadState, RolloutState
from tests.gateway.control.world import BOOT, QUICK_PLAN, Worker, World


def served(world: World, *workers: Worker) -> None:
    world.add("one")
    world.add("two")
    world.champion(1)
    world.settle(*workers)


def in_canary(world: World, worker: Worker) -> None:
    """A rollout of version 2 that has reached its first weighted step."""
    served(world, worker)
    world.commands.start("m", 2, QUICK_PLAN, world.act)
    world.settle(worker)
    worker.shadow(50)
    worker.answer("champion", 50)
    world.tick(0.25, 3)
    assert world.record.state is RolloutState.CANARY


def test_a_new_champion_is_routed_with_its_files_aspired(world: World, worker: Worker) -> None:
    served(world, worker)
    entry = worker.entry()
    assert entry.champion == 1
    assert entry.aliases == {"champion": 1}
    assert Path(entry.aspired[1].model_path).read_bytes() == b"one"
    assert Path(entry.aspired[1].manifest_path).is_file()


def test_versions_are_taken_up_where_large_blocks_lie_apart_and_one_that_leaves_gives_its_memory_back(
    world: World, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Apart(ProcessMemory):
        is_on = False
        given_back = 0

        def give_back(self) -> None:
            self.given_back += 1

        @contextmanager
        def apart(self, from_bytes: int = 0) -> Iterator[None]:
            self.is_on = True
            yield
            self.is_on = False

    memory, followed = Apart(), list[tuple[int, bool]]()

    def follow(versions: Mapping[tuple[str, int], str | None]) -> None:
        followed.append((len(versions), memory.is_on))

    monkeypatch.setattr(world.controller, "_memory", memory)
    monkeypatch.setattr(world.watch, "follow", follow)
    served(world, worker)
    world.commands.start("m", 2, QUICK_PLAN, world.act)
    world.settle(worker)
    assert [known for known, _ in followed] == [1, 2]
    assert memory.given_back == 0
    world.commands.abort("m", world.act)
    world.settle(worker)
    assert followed == [(1, True), (2, True), (1, True)]
    assert (memory.is_on, memory.given_back) == (False, 1)


def test_the_lease_is_renewed_only_by_ticks_that_finish(world: World) -> None:
    world.tick()
    world.tick(1.0)
    assert world.controller.table.lease_age_s(3.0) == 0.0
    world.watch.fails = True
    for _ in range(5):
        world.clock.advance(1.0)
        assert not world.controller.tick()
    assert world.controller.table.lease_age_s(3.0) == pytest.approx(5.0)
    assert world.controller.health.failures == 5
    assert "disk is full" in world.controller.health.last_error
    world.watch.fails = False
    world.tick(1.0)
    assert world.controller.table.lease_age_s(3.0) == 0.0


def test_looks_between_ticks_that_fail_do_not_renew_the_lease(world: World) -> None:
    world.tick(1.0)
    world.watch.fails = True
    for _ in range(5):
        world.clock.advance(0.5)
        assert not world.controller.tick()
        world.clock.advance(0.5)
        assert world.controller.tick(watching=False, judging=False)
    assert world.controller.table.lease_age_s(3.0) == pytest.approx(5.0)
    world.watch.fails = False
    world.clock.advance(0.5)
    assert world.controller.tick(judging=False)  # lanes are read again, and nobody has judged yet
    assert world.controller.table.lease_age_s(3.0) == pytest.approx(5.5)
    world.tick(0.5)
    assert world.controller.table.lease_age_s(3.0) == 0.0


def test_a_fault_that_stays_is_logged_once_a_minute(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.watch.fails = True
    for _ in range(150):
        world.clock.advance(1.0)
        assert not world.controller.tick()
    assert world.controller.health.failures == 150
    assert [record.getMessage() for record in caplog.records] == ["a tick of the controller failed"] * 3
    assert all(record.exc_info for record in caplog.records)


def test_a_champion_moved_by_another_process_is_loaded_first_and_routed_then(world: World, worker: Worker) -> None:
    served(world, worker)
    world.champion(2)
    world.settle()
    assert 2 in worker.entry().aspired
    assert worker.entry().champion == 1
    worker.obey()
    world.tick()
    assert worker.entry().champion == 2
    assert "all at once" in world.told("rollout.succeeded")[0]["sentence"]
    document = world.catalog.latest_rollout("m")
    assert document is not None
    assert (document["champion"], document["candidate"], document["state"]) == (1, 2, "succeeded")


def test_a_champion_that_cannot_be_loaded_leaves_the_old_one_answering(world: World, worker: Worker) -> None:
    served(world, worker)
    world.champion(2)
    world.settle()
    worker.page.set_load("m", 2, LoadState.FAILED, "no such operator")
    world.tick(0.25, 3)
    assert worker.entry().champion == 1
    told = world.told("version.load_failed")
    assert len(told) == 1
    assert "no such operator" in told[0]["sentence"]


def test_a_version_is_unaspired_only_after_every_worker_has_acknowledged(world: World, worker: Worker) -> None:
    other = Worker(world.home.run, slot=1)
    served(world, worker, other)
    world.champion(2)
    world.settle()
    worker.obey()
    other.obey()
    world.tick()
    epoch = world.controller.table.epoch
    assert worker.entry().champion == 2
    worker.page.acknowledge(epoch)
    world.tick(0.25, 3)
    assert 1 in worker.entry().aspired
    other.page.acknowledge(epoch)
    world.tick(0.25, 2)
    assert set(worker.entry().aspired) == {2}


def test_a_rollout_gives_nothing_before_every_worker_is_ready(world: World, worker: Worker) -> None:
    other = Worker(world.home.run, slot=1)
    served(world, worker, other)
    document = world.commands.start("m", 2, QUICK_PLAN, world.act)
    assert document["state"] == "warming"
    world.settle(worker)
    assert world.record.state == "warming"
    assert worker.entry().candidate is None
    assert worker.entry().aliases["canary"] == 2
    other.obey()
    world.tick()
    assert world.record.state is RolloutState.SHADOW
    entry = worker.entry()
    assert (entry.candidate, entry.weight, entry.shadow) == (2, 0.0, True)
    assert len(bytes.fromhex(entry.salt)) == 16


def test_a_healthy_canary_is_promoted_and_the_old_champion_stays_loaded(world: World, worker: Worker) -> None:
    in_canary(world, worker)
    assert (worker.entry().weight, worker.entry().previous) == (0.05, None)
    worker.answer("champion", 400)
    worker.answer("canary", 20)
    world.tick(0.25, 2)
    assert worker.entry().weight == 0.5
    for _ in range(40):
        worker.answer("champion", 200)
        worker.answer("canary", 200)
        world.tick()
        if world.record.state is RolloutState.SOAK:
            break
    assert world.record.state is RolloutState.SOAK
    entry = worker.entry()
    assert (entry.champion, entry.weight, entry.candidate) == (2, 0.0, None)
    assert set(entry.aspired) == {1, 2}
    assert entry.previous == 1  # it may stand in for the new one
    assert world.catalog.aliases("m")["champion"].version == 2
    assert "canary" not in world.catalog.aliases("m")
    assert world.told("rollout.promoted")[0]["sentence"]
    assert world.watch.begun
    world.tick()
    assert world.watch.ended == ["m"]
    world.tick(2000.0, 2)
    assert world.state.record is None
    assert world.catalog.latest_rollout("m")["state"] == "succeeded"  # type: ignore[index]
    worker.obey()
    world.tick(0.25, 2)
    assert set(worker.entry().aspired) == {2}


def test_a_steps_floor_counts_answers_and_not_new_keys(world: World, worker: Worker) -> None:
    served(world, worker)
    worker.answer("champion", 500)  # before the rollout
    world.commands.start("m", 2, QUICK_PLAN, world.act)
    world.settle(worker)
    worker.shadow(50)
    worker.answer("champion", 50)
    world.tick(0.25, 3)
    assert worker.entry().weight == 0.05
    worker.answer("champion", 400, new=9)
    worker.answer("canary", 9, new=1)
    world.tick(0.25, 2)
    assert worker.entry().weight == 0.05
    worker.answer("canary", 1, new=0)
    world.restart()
    world.settle(worker)
    assert worker.entry().weight == 0.5
    assert (world.record.requests.champion, world.record.requests.canary) == (450, 10)
    assert world.record.guardrails[0].canary.requests == 1


def test_a_failing_canary_is_rolled_back_with_evidence_over_its_limit(world: World, worker: Worker) -> None:
    in_canary(world, worker)
    worker.answer("champion", 4000, errors=9)
    worker.answer("canary", 200, errors=40)
    world.tick()
    assert world.state.record is None
    assert worker.entry().weight == 0.0
    document = world.commands.rollout("m")
    assert document["state"] == "rolled_back"
    errors = document["guardrails"][0]
    assert errors["evidence_log10"] >= errors["limit_log10"]
    assert errors["canary"] == {"events": 40, "requests": 200}
    assert world.told("rollout.rolled_back")[0]["sentence"]
    assert world.state.rollbacks["errors"] == 1


def test_a_rollback_is_in_the_route_table_before_it_is_written_down(
    world: World, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_canary(world, worker)
    worker.page.heartbeat(0, 7)

    def refuse(*_: object, **__: object) -> None:
        raise OSError("the database is gone")

    with monkeypatch.context() as broken:
        broken.setattr(world.catalog, "save_rollout", refuse)
        with pytest.raises(OSError, match="database is gone"):
            world.commands.roll_back("m", world.act)
        assert worker.entry().weight == 0.0
        assert world.catalog.latest_rollout("m")["state"] == "canary"  # type: ignore[index]
    world.tick()
    assert world.catalog.latest_rollout("m")["state"] == "rolled_back"  # type: ignore[index]
    assert world.told("rollout.rolled_back")


def test_a_rollback_that_could_not_be_published_is_finished_by_the_next_tick(
    world: World, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_canary(world, worker)

    def refuse(*_: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(world.controller.table, "publish", refuse)
        for _ in range(2):  # who asks again is told again
            with pytest.raises(OSError, match="disk is full"):
                world.commands.roll_back("m", world.act)
    world.tick()
    assert worker.entry().weight == 0.0
    assert world.catalog.latest_rollout("m")["state"] == "rolled_back"  # type: ignore[index]
    assert world.state.record is None
    assert world.commands.start("m", 2, QUICK_PLAN, world.act)["state"] == "warming"


def test_a_rollback_answers_with_its_epoch_and_what_was_in_flight(world: World, worker: Worker) -> None:
    in_canary(world, worker)
    worker.page.heartbeat(0, 7)
    answer = world.commands.roll_back("m", world.act)
    assert answer["state"] == "rolled_back"
    assert answer["in_flight"] == 7
    assert answer["epoch"] == world.controller.table.epoch
    assert worker.entry().weight == 0.0
    with pytest.raises(IllegalTransition):
        world.commands.roll_back("m", world.act)


def test_a_soaking_champion_is_rolled_back_to_the_old_one_at_once(world: World, worker: Worker) -> None:
    in_canary(world, worker)
    world.commands.promote("m", world.act)
    assert world.record.state is RolloutState.SOAK
    assert worker.entry().champion == 2
    answer = world.commands.roll_back("m", world.act)
    assert answer["state"] == "rolled_back"
    assert (worker.entry().champion, worker.entry().previous) == (1, None)
    assert world.catalog.aliases("m")["champion"].version == 1


def test_a_new_controller_goes_on_where_the_killed_one_was(world: World, worker: Worker) -> None:
    in_canary(world, worker)
    worker.answer("champion", 100, errors=1)
    worker.answer("canary", 5)
    world.tick(1.1, 2)
    before, rollout_id = world.record, world.record.id
    assert before.requests.canary == 5
    worker.answer("canary", 2)
    epoch = world.controller.table.epoch
    world.restart()
    world.settle(worker)
    after = world.record
    assert (after.id, after.state, after.step, after.salt) == (rollout_id, before.state, before.step, before.salt)
    assert after.requests.canary == 7
    assert after.requests.shadow == before.requests.shadow
    assert world.controller.table.epoch > epoch
    assert worker.entry().weight == 0.05
    assert world.watch.begun == [rollout_id]


def test_a_rollout_that_was_killed_between_its_two_rollback_states_is_finished(world: World, worker: Worker) -> None:
    in_canary(world, worker)
    from monitor import rollout

    half = rollout.roll_back(world.record, world.controller.moment(), "ana").record
    world.catalog.save_rollout(half.to_json(), expected_revision=world.state.stored_revision)
    world.restart()
    world.settle(worker)
    assert world.catalog.latest_rollout("m")["state"] == "rolled_back"  # type: ignore[index]
    assert worker.entry().weight == 0.0


def test_a_workers_veto_ends_the_rollout(world: World, worker: Worker) -> None:
    in_canary(world, worker)
    worker.page.veto("m", "another rollout")
    world.tick()
    assert world.record.state is RolloutState.CANARY
    worker.page.veto("m", world.record.id)
    world.tick()
    assert world.commands.rollout("m")["state"] == "rolled_back"


def test_a_candidate_in_whose_run_a_worker_ended_by_its_own_fault_is_rolled_back(world: World, worker: Worker) -> None:
    in_canary(world, worker)
    for ended_by, state in ((0, "canary"), (signal.SIGFPE, "rolled_back")):
        mark = worker.page.run_mark("m", world.record.id)
        assert mark is not None
        mark.__enter__()
        worker.page = WorkerPage(worker.page.path, 0, BOOT, ended_by)
        worker.page.set_state(ready=True, draining=False)
        worker.obey()
        world.tick()
        assert world.commands.rollout("m")["state"] == state
    assert "worker 0 was ended by SIGFPE while it ran version 2" in world.commands.rollout("m")["reason"]


def test_a_rollout_whose_judging_fails_loses_its_weight_after_a_lease(
    world: World, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_canary(world, worker)

    def broken(*_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("gateway.control.judging.judge", broken)
    world.tick(1.0, 2)
    assert worker.entry().weight == 0.05
    world.tick(1.0, 4)
    assert worker.entry().weight == 0.0
    assert "a bug" in world.controller.health.last_error
    monkeypatch.undo()
    world.tick(0.25, 2)
    assert worker.entry().weight == 0.05


def test_the_champions_p99_is_published_after_its_window_has_closed(world: World, worker: Worker) -> None:
    served(world, worker)
    world.tick()
    worker.answer("champion", 1000, latency_us=1000.0)
    world.tick(61.0, 2)
    world.commands.start("m", 2, QUICK_PLAN, world.act)
    world.settle(worker)
    assert worker.entry().latency_threshold_us == 1000.0
    worker.answer("champion", 50)
    world.tick(61.0)
    assert worker.entry().latency_threshold_us == 1000.0  # too few to be a quantile: the window goes on


def test_starting_is_refused_with_the_reason(world: World, worker: Worker) -> None:
    world.add("one")
    world.settle(worker)
    with pytest.raises(IllegalTransition, match="no champion"):
        world.commands.start("m", 1, None, world.act)
    served(world, worker)
    with pytest.raises(IllegalTransition, match="champion already"):
        world.commands.start("m", 1, None, world.act)
    unproven = world.add("three", run="unproven").version
    without_shadow = {"step": [{"weight_pct": 5.0}]}
    with pytest.raises(IllegalTransition, match="shadow = true"):
        world.commands.start("m", unproven, without_shadow, world.act)
    stranger = world.add("four", name="other").version
    with pytest.raises(IllegalTransition, match="inputs"):
        world.commands.start("m", stranger, None, world.act)
    world.commands.start("m", 2, None, world.act)
    with pytest.raises(RolloutActive):
        world.commands.start("m", 2, None, world.act)
    with pytest.raises(RolloutActive):
        world.commands.set_alias("m", "champion", 2, None, world.act)


def test_an_operators_champion_waits_for_every_worker(world: World, worker: Worker) -> None:
    served(world, worker)
    stop = threading.Event()

    def play() -> None:
        while not stop.is_set():
            world.clock.advance(0.6)
            world.controller.tick()
            worker.obey()
            time.sleep(0.01)

    playing = threading.Thread(target=play)
    playing.start()
    try:
        row = world.commands.set_alias("m", "champion", 2, 1, world.act)
    finally:
        stop.set()
        playing.join()
    assert row is not None
    assert row.version == 2
    assert worker.entry().champion == 2
    assert len(world.told("rollout.succeeded")) == 1


def test_who_waits_for_a_load_does_not_keep_a_controller_from_stopping(world: World, worker: Worker) -> None:
    served(world, worker)
    told: list[ServingError] = []

    def move() -> None:
        try:
            world.commands.set_alias("m", "champion", 2, 1, world.act)
        except ServingError as error:
            told.append(error)

    mover = threading.Thread(target=move)
    mover.start()
    while mover.is_alive() and not world.state.pending:
        time.sleep(0.001)
    world.controller.stopping.set()
    mover.join(10)
    assert [type(error) for error in told] == [Draining]
    assert not world.state.pending
    assert world.catalog.aliases("m")["champion"].version == 1


def test_of_two_operators_who_expect_the_same_champion_the_second_is_told_at_once(world: World, worker: Worker) -> None:
    served(world, worker)
    world.add("three")
    told: list[str] = []

    def move(version: int) -> None:
        try:
            row = world.commands.set_alias("m", "champion", version, 1, world.act)
            told.append(f"moved {row.version if row else None}")
        except ServingError as error:
            told.append(type(error).__name__)

    movers = [threading.Thread(target=move, args=(version,)) for version in (2, 3)]
    for mover in movers:
        mover.start()
    for _ in range(500):
        if not any(mover.is_alive() for mover in movers):
            break
        if set(world.state.pending) == {2, 3} or told:
            world.clock.advance(0.05)
            world.controller.tick()
            worker.obey()
        time.sleep(0.01)
    for mover in movers:
        mover.join(10)
    assert sorted(told) in (["AliasMoved", "moved 2"], ["AliasMoved", "moved 3"])
    assert not world.state.pending
    with pytest.raises(AliasMoved):
        world.commands.set_alias("m", "champion", 1, 1, world.act)


def test_an_operators_champion_that_fails_to_load_changes_nothing(world: World, worker: Worker) -> None:
    served(world, worker)
    worker.page.set_load("m", 2, LoadState.FAILED, "bad file")
    with pytest.raises(LoadFailed, match="bad file"):
        world.commands.set_alias("m", "champion", 2, 1, world.act)
    assert world.catalog.aliases("m")["champion"].version == 1


def test_a_rollout_that_soaks_is_superseded_by_the_next(world: World, worker: Worker) -> None:
    in_canary(world, worker)
    world.commands.promote("m", world.act)
    worker.obey()
    world.add("three")
    world.commands.start("m", 3, QUICK_PLAN, world.act)
    states = [document["state"] for document in world.catalog.rollouts("m")]
    assert states[:2] == ["warming", "superseded"]
    assert world.record.champion == 2


def test_an_idle_tick_is_cheap(world: World, worker: Worker) -> None:
    served(world, worker)
    spent = []
    for _ in range(20):
        world.clock.advance(0.25)
        began = time.thread_time()
        world.controller.tick()
        spent.append(time.thread_time() - began)
    assert sorted(spent)[10] < 0.02  # measured: under 3 ms; a loaded machine gets room


def test_who_must_be_in_memory_is_a_rollouts_two_and_a_champion_that_takes_over(world: World, worker: Worker) -> None:
    def resident() -> set[int]:
        return {version for version, spec in worker.entry().aspired.items() if spec.resident}

    served(world, worker)
    assert (set(worker.entry().aspired), resident()) == ({1}, set())
    assert worker.entry().aspired[1].file_bytes == 3
    world.champion(2)
    world.settle()
    assert (worker.entry().champion, resident()) == (1, {2})
    worker.obey()
    world.tick(0.25, 2)
    assert (worker.entry().champion, resident()) == (2, set())
    world.commands.start("m", 1, QUICK_PLAN, world.act)
    world.settle(worker)
    assert resident() == {1, 2}
    world.commands.abort("m", world.act)
    world.tick(0.25, 3)
    assert resident() == set()


def test_a_model_with_nothing_to_do_is_left_alone_until_something_changes(world: World, worker: Worker) -> None:
    def settled() -> bool:
        return world.state.is_settled

    served(world, worker)
    worker.obey()
    world.tick(0.25, 3)
    assert settled()
    epoch, entry = world.controller.table.epoch, world.state.entry
    world.tick(0.25, 3)
    assert (world.controller.table.epoch, world.state.entry) == (epoch, entry)
    world.champion(2)
    world.tick(1.1)
    assert not settled()
    world.settle(worker)
    worker.obey()
    world.tick(0.25, 3)
    assert settled()
    assert worker.entry().champion == 2
    world.commands.start("m", 1, QUICK_PLAN, world.act)
    assert not settled()
