from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from monitor.block import Rows
from monitor.counts import BinSet, ColumnBins
from monitor.join_counts import RolloutWatch
from monitor.lane import LaneReader, LaneWriter, read_header
from monitor.record import ERROR, LogSchema, make_log_schema
from monitor.settings import MonitorSettings
from monitor.store import MonitorStore, StateKey, Told
from monitor.windows import VersionBins
from monitor.worker import PRUNE_S, Monitor
from registry.catalog import Catalog
from registry.clock import SystemClock
from registry.errors import MalformedRequest
from registry.vocabulary import TensorSpec
from tests.support.clock import ManualClock
from tests.support.records import offer_rows, open_lane, regression_schema

SCHEMA = regression_schema(2)
EDGES = (-1.0, 0.0, 1.0)
BINS = VersionBins(
    BinSet((ColumnBins("x[0]", "number", EDGES), ColumnBins("x[1]", "number", EDGES))),
    BinSet((ColumnBins("y", "number", EDGES),)),
)
WATCH = RolloutWatch("r1", "m", 1, 2, {"y": 0.5})


class World:
    """A run folder with lanes, a database, and the monitor of one controller after another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock()
        self.catalog = Catalog.open(f"sqlite:///{folder / 'registry.db'}")
        self.store = MonitorStore(self.catalog)
        self.profile: VersionBins | None = BINS
        self.monitor = self.controller()

    def controller(self) -> Monitor:
        monitor = Monitor(self.folder, self.store, MonitorSettings(), self.clock, lambda model, version: self.profile)
        monitor.resume()
        return monitor

    def die(self) -> None:
        """kill -9: what was not stored is lost, and another controller starts."""
        self.monitor._drains.close()
        self.monitor = self.controller()

    def lane(self, role: str = "champion", version: int = 1, schema: LogSchema = SCHEMA, **more: object) -> LaneWriter:
        return open_lane(self.folder / "lanes", schema, role=role, version=version, **more)

    def offer(self, lane: LaneWriter, ids: list[str], value: float = 0.5, flags: int = 0) -> None:
        y = np.full((len(ids), 1), value, "f4")
        x = np.full((len(ids), len(lane.header.schema.inputs)), value, "f4")
        offer_rows(lane, x, y, ids=ids, wall_ns=self.clock.wall_ns(), flags=flags)

    def step(self, seconds: float = 0.0) -> None:
        self.clock.advance(seconds)
        self.monitor.step(self.clock.now_s())

    def rows(self, version: int = 1, roles: list[str] | None = None) -> int:
        window = self.monitor.window("m", version, 600, roles)
        return 0 if window is None else window.rows


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.monitor.close()
    world.catalog.close()


def ids(n: int, prefix: str = "r") -> list[str]:
    return [f"{prefix}{i}" for i in range(n)]


def test_rows_of_all_workers_are_counted_into_the_versions_window(world: World) -> None:
    one, two = world.lane(), world.lane(slot=1)
    world.offer(one, ids(10))
    world.offer(two, ids(5, "s"), 2.0)
    world.offer(one, ids(2, "e"), flags=ERROR)
    world.step()
    window = world.monitor.window("m", 1, 60)
    assert window is not None
    assert window.inputs.of(1).tolist() == [0, 0, 10, 5]
    assert window.outputs.of(0).tolist() == [0, 0, 10, 5]
    assert (window.rows, window.errors, world.monitor.records) == (15, 2, 17)


def test_space_is_given_back_only_by_a_checkpoint_once_a_second(world: World) -> None:
    lane = world.lane()
    world.offer(lane, ids(10))
    world.step(0.1)
    assert lane.statistics().waiting == 10
    world.step(1.0)
    assert (lane.statistics().waiting, lane.statistics().consumed) == (0, 10)


def test_a_lane_that_fills_within_a_second_is_checkpointed_earlier(world: World) -> None:
    lane = world.lane()
    for turn in range(20):
        world.offer(lane, ids(lane.capacity // 2, f"{turn}-"))
        world.step(0.01)
    assert lane.statistics().dropped == 0
    assert world.monitor.records == 20 * (lane.capacity // 2)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_killed_controller_loses_nothing_and_counts_nothing_twice(world: World, checkpointed: bool) -> None:
    lane = world.lane()
    for turn in range(6):
        world.offer(lane, ids(10, f"{turn}-"))
        world.step(0.1)
        if turn == 2 and checkpointed:
            world.monitor.checkpoint()
        world.die()
    world.step(1.0)
    assert world.rows() == 60
    assert lane.statistics().consumed == 60


def test_a_kill_between_the_commit_and_the_release_counts_nothing_twice(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = world.lane()
    world.offer(lane, ids(10))
    world.step()
    monkeypatch.setattr(world.monitor._drains, "release", lambda: None)
    world.monitor.checkpoint()
    assert lane.statistics().waiting == 10
    world.die()
    world.step(2.0)
    assert (world.rows(), lane.statistics().waiting) == (10, 0)


def test_a_failed_checkpoint_is_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    lane = world.lane()
    world.offer(lane, ids(10))
    world.step()
    with monkeypatch.context() as patch:

        def fail(*_: object) -> None:
            raise RuntimeError("database is locked")

        patch.setattr(world.store, "save", fail)
        with pytest.raises(RuntimeError):
            world.monitor.checkpoint()
        assert lane.statistics().waiting == 10
    world.monitor.checkpoint()
    assert lane.statistics().waiting == 0
    world.die()
    assert world.rows() == 10


def test_an_old_generation_is_drained_first_then_removed(world: World) -> None:
    old = world.lane()
    world.offer(old, ids(10))
    old.close()
    new = world.lane(lane_bytes=128 * 1024)
    world.offer(new, ids(5, "n"))
    world.step()
    assert old.path.exists()
    world.die()
    world.step(1.0)
    assert not old.path.exists()
    assert world.rows() == 15
    counts = world.monitor.snapshot().lanes["m", 1, "champion"]
    assert (counts.offered, counts.committed, counts.consumed, counts.waiting) == (15, 15, 15, 0)
    world.offer(new, ids(1, "x"))
    world.die()
    world.step(1.0)
    assert world.rows() == 16


def test_a_lane_that_grows_under_its_rows_loses_none_and_counts_none_twice(world: World) -> None:
    lane = world.lane()
    for turn in range(3):
        world.offer(lane, ids(20, f"{turn}a"))
        grown = lane.grown(64 * 1024, 2 * lane.capacity)
        assert grown is not None
        lane.close()
        lane = grown
        world.offer(lane, ids(20, f"{turn}b"))
        if turn == 1:
            world.die()
        world.step(1.0)
    assert world.rows() == 120
    counts = world.monitor.snapshot().lanes["m", 1, "champion"]
    assert (counts.offered, counts.committed, counts.consumed, counts.waiting) == (120, 120, 120, 0)
    world.step(1.0)
    assert [path.name for path in (world.folder / "lanes").iterdir()] == [lane.path.name]


def test_a_damaged_lane_is_set_aside_and_counted(world: World) -> None:
    lane = world.lane()
    lane.close()
    with lane.path.open("r+b") as file:
        file.write(b"garbage!")
    good = world.lane(slot=1)
    world.offer(good, ids(3))
    world.step()
    assert world.monitor.snapshot().damaged_lanes == 1
    assert world.rows() == 3
    assert [path.suffix for path in sorted(lane.path.parent.iterdir())] == [".damaged", ".lane"]


def test_the_lanes_of_a_retired_version_go_when_nobody_writes_and_keep_their_counts(world: World) -> None:
    lane = world.lane()
    world.offer(lane, ids(4))
    world.monitor.retire("m", 1)
    world.step(1.0)
    assert lane.path.exists()
    lane.close()
    world.step(1.0)
    assert not lane.path.exists()
    assert world.monitor.snapshot().lanes["m", 1, "champion"].consumed == 4


def test_of_a_version_that_is_gone_nothing_stays_in_memory_and_all_in_the_store(world: World) -> None:
    for version in range(1, 20):  # one after the other, and one that stays
        lane = world.lane(version=version)
        world.offer(lane, ids(4))
        world.step(1.0)
        if version > 1:
            world.monitor.retire("m", version)
            lane.close()
    world.step(PRUNE_S)
    world.step(1.0)
    windows = world.monitor.windows
    assert list(world.monitor._versions) == list(windows._edges) == list(windows._complete_from_s) == [("m", 1)]
    assert {key[:2] for key in (*windows._tiles, *windows._shelved)} == {("m", 1)}
    assert len(world.monitor._positions) == len(world.store.positions()) == 1  # each load has lanes of its own
    found = world.monitor.window("m", 7, 3600)
    assert found is not None
    assert found.rows == 4
    world.offer(world.lane(version=7), ids(3))  # it is back
    world.monitor.refresh("m", 7)
    world.step(1.0)
    found = world.monitor.window("m", 7, 3600)
    assert found is not None
    assert found.rows == 7


def test_without_a_profile_rows_are_still_counted(world: World) -> None:
    world.profile = None
    world.offer(world.lane(), ids(4), float("nan"))
    world.step()
    window = world.monitor.window("m", 1, 60)
    assert window is not None
    assert window.inputs.missing.tolist() == [4, 4]


def test_a_profile_of_other_columns_is_not_used(world: World) -> None:
    lane = world.lane(schema=regression_schema(5))
    world.offer(lane, ids(4))
    world.step()
    bins = world.monitor.bins("m", 1)
    assert bins is not None
    assert not bins.has_profile
    assert len(bins.inputs.columns) == 5


def test_a_rollout_sees_pairs_labels_and_outputs_and_goes_on_after_a_kill(world: World) -> None:
    champion, shadow, canary = world.lane(), world.lane("shadow", 2), world.lane("canary", 2)
    world.monitor.begin_rollout(WATCH, BINS.outputs)
    world.offer(shadow, ids(10), 2.0)
    world.offer(champion, ids(10), 0.5)
    world.offer(canary, ids(3, "c"), 0.7)
    world.step()
    labels = [{"request_id": "r1", "values": [0.6]}, {"request_id": "later", "values": [1.0]}]
    assert world.monitor.feedback("m", labels) == {"joined": 1, "waiting": 1, "ambiguous": 0, "expired": 0}
    world.step(1.0)
    world.die()
    world.monitor.begin_rollout(WATCH, BINS.outputs)
    seen = world.monitor.snapshot().rollouts["m"]
    assert (seen.pairs.rows, seen.pairs.disagreements, seen.pairs.farther) == (10, 10, 1)
    assert {arm: counts.of(0).tolist() for arm, counts in seen.outputs.items()} == {
        "champion": [0, 0, 10, 0],
        "canary": [0, 0, 3, 0],
        "shadow": [0, 0, 0, 10],
    }
    world.offer(champion, ids(2, "n"), 0.5)
    world.offer(shadow, ids(2, "n"), 0.5)
    world.step(1.0)
    after = world.monitor.rollout("m")
    assert after is not None
    assert (after.pairs.rows, after.pairs.disagreements) == (12, 10)
    world.monitor.end_rollout("m")
    assert world.monitor.rollout("m") is None
    world.monitor.begin_rollout(RolloutWatch("r2", "m", 1, 2), BINS.outputs)
    fresh = world.monitor.rollout("m")
    assert fresh is not None
    assert fresh.pairs.rows == 0


def test_a_running_rollout_is_watched_again_from_the_first_row_after_a_restart(world: World) -> None:
    document = {"id": "r1", "model": "m", "revision": 1, "state": "canary"}
    world.monitor.begin_rollout(WATCH, BINS.outputs)
    world.monitor.checkpoint()
    active = [document]
    world.catalog.active_rollouts = lambda model=None: active  # type: ignore[method-assign]
    world.die()
    world.offer(world.lane(), ids(1))
    world.offer(world.lane("shadow", 2), ids(1))
    world.step()
    seen = world.monitor.rollout("m")
    assert seen is not None
    assert seen.pairs.rows == 1


def test_answers_counted_before_a_kill_can_still_be_labelled(world: World) -> None:
    world.offer(world.lane(), ids(10), 0.5)
    world.step(1.0)
    world.die()
    counts = world.monitor.feedback("m", [{"request_id": "r7", "values": [1.0]}])
    assert counts["joined"] == 1
    error = world.monitor.snapshot().live_error["m", 1, "y"]
    assert (error.n, error.value) == (1, 0.5)


def test_a_broken_label_is_the_callers_error(world: World) -> None:
    with pytest.raises(MalformedRequest):
        world.monitor.feedback("m", [{"request_id": "a"}])


def test_rows_fall_into_the_tiles_of_their_own_time(world: World) -> None:
    lane = world.lane()
    for seconds in (0, 4, 10, 30):
        world.clock.advance(seconds)
        world.offer(lane, ids(seconds + 1, f"{seconds}-"))
    world.step()
    tiles = world.store.tiles("m", 1, BINS, 0, 2**40)
    assert [tile.rows for tile in tiles] == [6, 11, 31]
    assert all(tile.start_s % 10 == 0 for tile in tiles)


def test_failed_rows_fall_into_the_tiles_of_their_own_time_too(world: World) -> None:
    lane = world.lane()
    for rows, seconds in ((1, 0), (2, 20), (4, 1200)):  # the controller was away for twenty minutes
        world.clock.advance(seconds)
        world.offer(lane, ids(rows, f"{rows}-"), flags=ERROR)
    world.step()
    recent = world.monitor.window("m", 1, 300)
    assert recent is not None
    assert recent.errors == 4
    assert [tile.errors for tile in world.store.tiles("m", 1, BINS, 0, 2**40)] == [
        3,
        4,
    ]  # two of them in the same minute


def test_a_wiped_run_folder_starts_lanes_from_nothing(world: World) -> None:
    lane = world.lane()
    world.offer(lane, ids(10))
    world.step(1.0)
    lane.close()
    lane.path.unlink()
    world.die()
    again = world.lane()
    world.offer(again, ids(3, "n"))
    world.step(1.0)
    assert world.rows() == 13
    assert len(world.store.positions()) == 1


CHILD = """
import sys
from pathlib import Path
from monitor.settings import MonitorSettings
from monitor.store import MonitorStore, StateKey, Told
from monitor.worker import PRUNE_S, Monitor
from registry.catalog import Catalog
from registry.clock import SystemClock
from tests.monitor.test_worker import BINS
clock = SystemClock()
folder = Path(sys.argv[1])
store = MonitorStore(Catalog.open(f"sqlite:///{folder / 'registry.db'}"))
monitor = Monitor(folder, store, MonitorSettings(), clock, lambda model, version: BINS)
monitor.resume()
(folder / "up").touch()
while True:
    monitor.step(clock.now_s())
    monitor.checkpoint()
"""


def test_kill_9_of_a_real_controller_at_any_moment_counts_every_row_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    up = tmp_path / "up"
    Catalog.open(f"sqlite:///{tmp_path / 'registry.db'}").close()
    lane = open_lane(tmp_path / "lanes", SCHEMA)
    offered = 0
    for _ in range(3):
        up.unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], env=environ)
        stop = time.monotonic() + 30
        until: float | None = None
        while time.monotonic() < (stop if until is None else until):
            if until is None and up.exists():
                until = time.monotonic() + rng.uniform(0.05, 0.15)
            if lane.statistics().waiting < lane.capacity // 2:
                n = int(rng.integers(1, 30))
                x = np.full((n, 2), 0.5, "f4")
                offer_rows(lane, x, x[:, :1], wall_ns=time.time_ns())
                offered += n
            time.sleep(0.0005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert until is not None
    catalog = Catalog.open(f"sqlite:///{tmp_path / 'registry.db'}")
    monitor = Monitor(tmp_path, MonitorStore(catalog), MonitorSettings(), SystemClock(), lambda model, version: BINS)
    monitor.resume()
    monitor.step(0.0)
    monitor.checkpoint()
    window = monitor.window("m", 1, 3600)
    counts = lane.statistics()
    assert window is not None
    assert window.rows == counts.consumed == counts.committed == offered > 100
    monitor.close()
    catalog.close()


def test_the_database_remembers_a_lane_by_more_than_its_name(world: World) -> None:
    lane = world.lane()
    world.offer(lane, ids(1))
    world.step(1.0)
    assert list(world.store.positions()) == [read_header(lane.path).key]
    assert LaneReader.open(lane.path).waiting == 0


def test_a_candidate_with_its_classes_in_another_order_is_counted_by_their_names(world: World) -> None:
    def classes(*names: str) -> LogSchema:
        spec = TensorSpec("probabilities", "FP32", (None, 2), classes=names)
        return make_log_schema([TensorSpec("x", "FP32", (None, 2))], [spec], by_rows=True)

    champion, candidate = classes("no", "yes"), classes("yes", "no")
    columns = tuple(ColumnBins(column.name, "number", (0.5,)) for column in champion.outputs)
    world.profile = None
    world.monitor.begin_rollout(WATCH, BinSet(columns))
    x = np.zeros((4, 2), "f4")
    wall_ns = world.clock.wall_ns()
    said = np.array([[0.9, 0.1]] * 4, "f4")
    offer_rows(world.lane(schema=champion), x, said, ids=ids(4), wall_ns=wall_ns)
    offer_rows(world.lane("canary", 2, candidate), x, said[:, ::-1], ids=ids(4, "c"), wall_ns=wall_ns)
    world.step()
    seen = world.monitor.snapshot().rollouts["m"]
    assert seen.outputs["canary"].counts.tolist() == seen.outputs["champion"].counts.tolist() == [[0, 4], [4, 0]]


def test_the_next_step_comes_before_a_lane_is_full(world: World) -> None:
    lane = world.lane()
    world.step(0.5)
    assert world.monitor.pause_s == math.inf
    world.offer(lane, ids(lane.capacity // 2))
    world.step(0.5)
    assert world.monitor.pause_s == pytest.approx(0.25, rel=0.01)  # half of it came in half a second
    world.step(0.5)
    assert world.monitor.pause_s == math.inf


class Listening:
    """Notes when it is asked to evaluate and to look; has so much left to do of either."""

    failures = 0

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.judged_s: list[float] = []
        self.looks = self.left = self.looks_left = self.asked = 0
        self.judge_takes_s = self.ask_takes_s = 0.0

    def counted(self, *_: object) -> None: ...

    def labelled(self, *_: object) -> None: ...

    def ask(self) -> None:
        self.asked += 1
        self.clock.advance(self.ask_takes_s)

    def judge(self, now_s: float) -> bool:
        self.judged_s.append(now_s)
        self.clock.advance(self.judge_takes_s)
        self.left -= 1
        return self.left <= 0

    def look(self) -> bool:
        self.looks += 1
        self.looks_left -= 1
        return self.looks_left <= 0

    def unsaved(self) -> tuple[dict[StateKey, bytes], list[Told]]:
        return {}, []

    def saved(self) -> None: ...


def listening(world: World) -> Listening:
    found = Listening(world.clock)
    world.monitor = Monitor(world.folder, world.store, MonitorSettings(), world.clock, lambda *_: BINS, found)
    world.monitor.resume()
    return found


def test_a_lane_that_is_checkpointed_early_again_and_again_is_evaluated_once_a_second(world: World) -> None:
    listener, lane = listening(world), world.lane()
    for turn in range(30):
        world.offer(lane, ids(lane.capacity // 2, f"{turn}-"))
        world.step(0.11)
    assert lane.statistics().dropped == 0
    assert np.diff(listener.judged_s) == pytest.approx(np.full(2, 1.1))


def test_what_a_step_has_no_time_to_evaluate_is_evaluated_soon_and_delays_no_checkpoint(world: World) -> None:
    listener, lane = listening(world), world.lane()
    world.offer(lane, ids(10))
    listener.left = 3
    world.step(1.0)
    assert (len(listener.judged_s), lane.statistics().waiting, world.monitor.pause_s) == (1, 0, 0.05)
    world.step(0.05)
    world.step(0.05)
    world.step(0.05)
    assert len(listener.judged_s) == 3
    assert world.monitor.pause_s == math.inf


def test_a_step_that_has_read_much_evaluates_and_stores_in_the_next_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener, lane = listening(world), world.lane()
    count = Monitor._count

    def dear(self: Monitor, reader: LaneReader, rows: Rows, now_s: float) -> None:
        count(self, reader, rows, now_s)
        world.clock.advance(0.015)

    monkeypatch.setattr(Monitor, "_count", dear)
    world.offer(lane, ids(10))
    world.step(1.0)
    assert (world.monitor.records, len(listener.judged_s), lane.statistics().waiting) == (10, 0, 10)
    assert world.monitor.pause_s == 0.0
    world.offer(lane, ids(10, "more"))
    world.step()
    assert (world.monitor.records, len(listener.judged_s)) == (10, 1)  # read no further
    assert (lane.statistics().waiting, lane.statistics().consumed) == (10, 10)
    world.step(0.05)
    assert (world.monitor.records, len(listener.judged_s)) == (20, 1)


def test_a_step_that_has_evaluated_for_long_stores_in_the_next_one(world: World) -> None:
    listener, lane = listening(world), world.lane()
    listener.judge_takes_s = 0.02
    world.offer(lane, ids(10))
    world.step(1.0)
    assert (len(listener.judged_s), lane.statistics().waiting, world.monitor.pause_s) == (1, 10, 0.0)
    world.offer(lane, ids(10, "more"))
    world.step()
    assert (len(listener.judged_s), world.monitor.records) == (1, 10)  # it neither read nor evaluated again
    assert (lane.statistics().waiting, lane.statistics().consumed) == (10, 10)
    world.step(0.05)
    assert (len(listener.judged_s), world.monitor.records) == (1, 20)
    world.step(1.0)
    assert len(listener.judged_s) == 2


def test_a_step_that_has_asked_sampled_rows_for_long_evaluates_in_the_next_one(world: World) -> None:
    listener, lane = listening(world), world.lane()
    listener.ask_takes_s = 0.02
    world.offer(lane, ids(10))
    world.step(0.5)
    assert (listener.asked, world.monitor.records) == (0, 10)  # nothing is judged or stored
    world.step(0.5)
    assert (listener.asked, len(listener.judged_s), world.monitor.pause_s) == (1, 0, 0.0)
    world.step()
    assert (listener.asked, len(listener.judged_s), lane.statistics().waiting) == (1, 1, 0)


def test_windows_are_looked_at_soon_where_steps_that_store_have_no_time_for_it(world: World) -> None:
    listener = listening(world)
    world.step(1.0)
    assert listener.looks == 1  # the step was short
    listener.judge_takes_s = 0.02
    world.step(1.0)
    assert (listener.looks, world.monitor.pause_s) == (1, 0.0)
    world.step()  # it stores
    assert (listener.looks, world.monitor.pause_s) == (1, 0.05)
    listener.looks_left = 2
    world.step(0.05)
    assert (listener.looks, world.monitor.pause_s) == (2, 0.05)
    world.step(0.05)
    assert (listener.looks, world.monitor.pause_s) == (3, math.inf)


def test_lanes_that_a_step_has_no_time_for_are_read_first_in_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes = [world.lane(slot=slot) for slot in range(3)]
    for slot, lane in enumerate(lanes):
        world.offer(lane, ids(5, f"{slot}-"))
    count = Monitor._count
    read: list[int] = []

    def dear(self: Monitor, reader: LaneReader, rows: Rows, now_s: float) -> None:
        count(self, reader, rows, now_s)
        read.append(reader.header.slot)
        world.clock.advance(0.03)

    monkeypatch.setattr(Monitor, "_count", dear)
    for turn in range(8):  # one reads, and the next does the rest
        world.offer(lanes[0], ids(5, f"more-{turn}-"))  # the first always has some
        world.step()
    assert read[:4] == [0, 1, 2, 0]


def test_a_listener_that_fails_stops_no_counting_and_is_counted(world: World) -> None:
    class Failing(Listening):
        def judge(self, now_s: float) -> bool:
            raise RuntimeError("out of luck")

    world.monitor = Monitor(
        world.folder, world.store, MonitorSettings(), world.clock, lambda *_: BINS, Failing(world.clock)
    )
    world.monitor.resume()
    lane = world.lane()
    for _ in range(3):
        world.offer(lane, ids(5))
        world.step(2.0)
    assert world.rows() == 15
    assert lane.statistics().waiting == 0
    assert world.monitor.snapshot().failures == 3
