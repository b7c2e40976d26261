from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from monitor.block import ColumnBlocks, Rows
from monitor.lane import TRIES, LaneReader, LaneWriter, lane_path, read_header
from monitor.lane_file import TAIL, capacity_of
from monitor.record import make_log_schema
from registry.errors import FormatTooNew, StateDamaged
from registry.vocabulary import Role, TensorSpec
from tests.support.records import classifier_schema, offer_rows, open_lane, regression_schema

SCHEMA = regression_schema(3)
NAMES = (
    *("wall_ns", "epoch", "flags", "infer_us", "queue_us", "hash0", "hash1", "row", "rows"),
    *("features", "outputs"),
)


def some(n: int, start: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    numbers = np.arange(start, start + n, dtype="f4")
    return np.repeat(numbers[:, None], 3, axis=1), numbers[:, None]


def offer(lane: LaneWriter, n: int, start: int = 0) -> int:
    return offer_rows(lane, *some(n, start), ids=[f"id{i}" for i in range(start, start + n)])


def said(rows: Rows) -> list[int]:
    return [int(value) for value in rows["outputs"][:, 0]]


def test_rows_arrive_as_they_were_offered(tmp_path: Path) -> None:
    lane = open_lane(tmp_path, classifier_schema(3))
    outputs = np.array([[1, 0.25, 0.75], [0, 0.5, 0.5]], lane.header.schema.output_dtype)
    hashes, places = np.array([[1, 2], [3, 4]], np.uint64).tobytes(), np.array([[0, 1], [2, 2]], np.uint32).tobytes()
    times = np.array([98_500, 97_500])
    lane.offer(hashes, 77, 5, 2, 100_000, 9.0, times, places, np.eye(3, dtype="f4")[:2], outputs)
    reader = LaneReader.open(lane.path)
    rows = reader.read(100)
    assert rows["seq"].tolist() == [0, 1]
    assert rows["hash0"].tolist() == [1, 3]
    assert rows["hash1"].tolist() == [2, 4]
    assert rows["row"].tolist() == [0, 1]
    assert rows["rows"].tolist() == [2, 2]
    assert rows["epoch"].tolist() == [5, 5]
    assert rows["role"].tolist() == [0, 0]
    assert rows["flags"].tolist() == [2, 2]
    assert rows["queue_us"].tolist() == [1.5, 2.5]
    assert rows["infer_us"].tolist() == [9.0, 9.0]
    assert rows["features"].tolist() == [[1, 0, 0], [0, 1, 0]]
    assert rows["outputs"].tolist() == outputs.tolist()
    assert rows["wall_ns"].tolist() == [77, 77]


def test_an_offer_that_is_cut_keeps_each_rows_own_values(tmp_path: Path) -> None:
    lane = open_lane(tmp_path, SCHEMA)
    reader = LaneReader.open(lane.path)
    first = lane.capacity - 100
    offer(lane, first)
    while len(reader.read(1000)):
        pass
    reader.release(reader.position)
    n = 500  # over the end of the ring, and more than a block holds
    assert n < lane.capacity
    x, y = some(n)
    hashes = np.arange(2 * n, dtype=np.uint64)
    places = np.concatenate([np.arange(n), np.full(n, n)]).astype(np.uint32)
    times = -1000 * np.arange(n)
    assert lane.offer(hashes.tobytes(), 1, 1, 0, 0, 0.0, times, places.tobytes(), x, y) == n
    seen = 0
    while len(rows := reader.read(10)):
        wanted = np.arange(seen, seen + len(rows))
        assert rows["hash0"].tolist() == (2 * wanted).tolist()
        assert rows["row"].tolist() == wanted.tolist()
        assert set(rows["rows"].tolist()) == {n}
        assert rows["queue_us"].tolist() == wanted.tolist()
        assert rows["features"][:, 1].tolist() == said(rows) == wanted.tolist()
        seen += len(rows)
    assert seen == n


def test_rows_are_chosen_by_a_mask_a_slice_and_positions(tmp_path: Path) -> None:
    lane = open_lane(tmp_path, SCHEMA)
    offer(lane, 5)
    rows = LaneReader.open(lane.path).read(10)
    assert said(rows[rows["outputs"][:, 0] > 2]) == [3, 4]
    assert said(rows[1:3]) == [1, 2]
    assert said(rows[np.array([4, 0])]) == [4, 0]
    assert len(rows[:0]) == 0


def test_a_full_lane_drops_the_newest_rows_and_counts_them(tmp_path: Path) -> None:
    lane = open_lane(tmp_path, SCHEMA)
    assert offer(lane, lane.capacity + 10) == lane.capacity
    assert offer(lane, 3) == 0
    counts = lane.statistics()
    assert (counts.offered, counts.committed, counts.dropped) == (lane.capacity + 13, lane.capacity, 13)
    reader = LaneReader.open(lane.path)
    read: list[int] = []
    while len(rows := reader.read(100)):
        read += said(rows)
    assert read == list(range(lane.capacity))
    assert offer(lane, 1) == 0, "space comes back only when it is released"
    reader.release(reader.position)
    assert offer(lane, 5, 1000) == 5
    assert said(reader.read(100)) == [1000, 1001, 1002, 1003, 1004]


def test_a_block_over_the_end_of_the_ring_arrives_whole(tmp_path: Path) -> None:
    lane = open_lane(tmp_path, SCHEMA)
    reader = LaneReader.open(lane.path)
    start = 0
    for _ in range(7):
        n = lane.capacity - 3
        assert offer(lane, n, start) == n
        read: list[int] = []
        while len(rows := reader.read(64)):
            read += said(rows)
            assert rows["seq"].tolist() == said(rows)
        assert read == list(range(start, start + n))
        reader.release(reader.position)
        start += n


def test_sampled_rows_are_counted_beside_the_offered(tmp_path: Path) -> None:
    lane = open_lane(tmp_path, SCHEMA)
    lane.count_sampled(744)
    assert (lane.statistics().sampled, lane.statistics().offered) == (744, 0)


def test_rows_of_a_wrong_shape_are_dropped_and_counted_and_nothing_is_raised(tmp_path: Path) -> None:
    lane = open_lane(tmp_path, SCHEMA)
    x, y = some(4)
    assert lane.offer(bytes(64), 0, 0, 0, 0, 0.0, None, None, np.ascontiguousarray(x[:, :2]), y) == 0
    assert offer(lane, 2) == 2
    counts = lane.statistics()
    assert (counts.offered, counts.committed, counts.dropped) == (6, 2, 4)
    assert said(LaneReader.open(lane.path).read(9)) == [0, 1]


def corrupt(path: Path, row: int) -> None:
    header = read_header(path)
    lane = LaneReader.open(path)
    with path.open("r+b") as file:
        file.seek(header.rows_at + row * lane.slot_bytes + 72)
        file.write(b"\xff\x00\xff\x00")
    lane.close()


def test_a_torn_block_is_tried_again_then_skipped_and_counted(tmp_path: Path) -> None:
    lane = open_lane(tmp_path, SCHEMA)
    for start in range(0, 12, 4):
        offer(lane, 4, start)
    corrupt(lane.path, 5)
    reader = LaneReader.open(lane.path)
    assert said(reader.read(100)) == [0, 1, 2, 3]
    for _ in range(TRIES):
        assert len(reader.read(100)) == 0
    assert said(reader.read(100)) == [8, 9, 10, 11]
    assert reader.torn == 4
    reader.release(reader.position)
    counts = lane.statistics()
    assert (counts.torn, counts.waiting, counts.consumed) == (4, 0, 12)


def test_a_block_of_another_lap_is_not_taken_for_this_one(tmp_path: Path) -> None:
    lane = open_lane(tmp_path, SCHEMA)
    offer(lane, 4)
    reader = LaneReader.open(lane.path)
    reader.read(10)
    reader.release(reader.position)
    lane.words[TAIL] += lane.capacity  # as if a lap's rows had not reached this CPU yet
    assert len(reader.read(10)) == 0


def test_one_row_blocks_of_another_lap_are_not_taken_for_this_one(tmp_path: Path) -> None:
    lane = open_lane(tmp_path, SCHEMA)
    reader = LaneReader.open(lane.path)
    for row in range(lane.capacity + 30):  # one after another, so that many are read at once
        offer(lane, 1, row)
        if row == lane.capacity - 1:
            assert said(reader.read(lane.capacity)) == list(range(lane.capacity))
            reader.release(reader.position)
    lane.words[TAIL] += 100  # as if these rows had not reached this CPU yet
    assert said(reader.read(1000)) == list(range(lane.capacity, lane.capacity + 30))
    assert len(reader.read(1000)) == 0


def test_a_restarted_writer_goes_on_in_the_same_file(tmp_path: Path) -> None:
    lane = open_lane(tmp_path, SCHEMA)
    offer(lane, 5)
    lane.count_sampled(2)
    lane.close()
    again = open_lane(tmp_path, SCHEMA)
    assert again.path == lane.path
    offer(again, 5, 5)
    counts = again.statistics()
    assert (counts.offered, counts.committed, counts.sampled) == (10, 10, 2)
    assert said(LaneReader.open(again.path).read(100)) == list(range(10))


@pytest.mark.parametrize(
    ("change", "why"),
    [({"lane_bytes": 128 * 1024}, "capacity"), ({"boot_id": "c" * 32}, "boot"), ({"schema": regression_schema(4)}, "")],
)
def test_anything_else_starts_a_new_generation_at_the_old_ones_end(
    tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    lane = open_lane(tmp_path, SCHEMA)
    offer(lane, 5)
    lane.close()
    again = open_lane(tmp_path, change.pop("schema", SCHEMA), **change)
    assert again.path == lane_path(tmp_path, 0, "m", 1, "champion", 1)
    assert (again.header.base, again.header.lineage) == (5, lane.header.lineage)
    assert again.statistics().offered == again.statistics().committed == 5
    old, new = LaneReader.open(lane.path), LaneReader.open(again.path)
    assert (len(old.read(100)), new.position, new.waiting) == (5, 5, 0)


def test_a_lane_grows_in_doublings_to_what_is_asked_for_and_goes_on_where_it_stood(tmp_path: Path) -> None:
    lane = open_lane(tmp_path, SCHEMA)
    offer(lane, 5)
    lane.count_sampled(2)
    assert lane.grown(64 * 1024, lane.capacity) is None
    grown = lane.grown(64 * 1024, 3 * lane.capacity)
    assert grown is not None
    assert (grown.capacity, grown.path) == (4 * lane.capacity, lane_path(tmp_path, 0, "m", 1, "champion", 1))
    lane.close()
    offer(grown, 3, start=5)
    counts = grown.statistics()
    assert (counts.offered, counts.committed, counts.sampled) == (8, 8, 2)
    old, new = LaneReader.open(lane.path), LaneReader.open(grown.path)
    assert old.header.key == new.header.key
    assert said(old.read(100)) + said(new.read(100)) == list(range(8))


@pytest.mark.parametrize("columns", [3, 2000])
def test_a_lane_grows_to_eight_times_its_size_at_most_however_wide_its_rows_are(tmp_path: Path, columns: int) -> None:
    lane = open_lane(tmp_path, regression_schema(columns))
    grown = lane.grown(64 * 1024, 10**9)
    largest = lane if grown is None else grown
    assert 7 * 64 * 1024 < largest.path.stat().st_size <= 9 * 64 * 1024
    assert largest.grown(64 * 1024, 10**9) is None


def test_a_lane_that_cannot_grow_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lane = open_lane(tmp_path, SCHEMA)

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="no space"):
        lane.grown(64 * 1024, 3 * lane.capacity)
    assert offer(lane, 5) == 5
    assert [path.name for path in tmp_path.iterdir()] == [lane.path.name]


def test_two_processes_cannot_write_one_lane(tmp_path: Path) -> None:
    lane = open_lane(tmp_path, SCHEMA)
    with pytest.raises(StateDamaged, match="another process"):
        open_lane(tmp_path, SCHEMA)
    lane.close()
    open_lane(tmp_path, SCHEMA).close()


def test_a_full_disk_is_an_error_at_opening_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        open_lane(tmp_path, SCHEMA)
    assert list(tmp_path.iterdir()) == []


def test_a_lane_of_very_wide_rows_is_longer_than_asked_for(tmp_path: Path) -> None:
    schema = regression_schema(500)
    assert capacity_of(schema, 4096) == 64
    lane = open_lane(tmp_path, schema, lane_bytes=4096)
    assert lane.path.stat().st_size >= 64 * lane.slot_bytes


def test_a_damaged_file_is_refused_by_name_and_the_writer_starts_after_it(tmp_path: Path) -> None:
    lane = open_lane(tmp_path, SCHEMA)
    lane.close()
    with lane.path.open("r+b") as file:
        file.write(b"NOTALANE")
    with pytest.raises(StateDamaged, match=r"0-m-1-champion\.lane"):
        LaneReader.open(lane.path)
    assert open_lane(tmp_path, SCHEMA).path.name == "0-m-1-champion.g1.lane"


def test_a_file_shorter_than_its_header_says_is_refused(tmp_path: Path) -> None:
    lane = open_lane(tmp_path, SCHEMA)
    lane.close()
    os.truncate(lane.path, 20_000)
    with pytest.raises(StateDamaged, match="shorter"):
        read_header(lane.path)


def test_words_that_cannot_be_true_are_refused(tmp_path: Path) -> None:
    lane = open_lane(tmp_path, SCHEMA)
    lane.words[TAIL] = lane.capacity + 1
    with pytest.raises(StateDamaged, match="tail"):
        LaneReader.open(lane.path)


def test_a_newer_format_is_refused_by_name(tmp_path: Path) -> None:
    lane = open_lane(tmp_path, SCHEMA)
    lane.close()
    data = lane.path.read_bytes().replace(b'"v":2', b'"v":9', 1)
    lane.path.write_bytes(data)
    with pytest.raises(FormatTooNew, match="lane v9"):
        LaneReader.open(lane.path)


def test_the_header_is_magic_and_then_json(tmp_path: Path) -> None:
    lane = open_lane(tmp_path, SCHEMA)
    assert lane.path.read_bytes().startswith(b'DGLANE01{"format":"driftgate.lane","v":2,')


def test_history_gives_what_the_ring_still_holds_of_rows_already_read(tmp_path: Path) -> None:
    lane = open_lane(tmp_path, SCHEMA)
    reader = LaneReader.open(lane.path)
    for start in range(0, lane.capacity + 50, 10):
        offer(lane, 10, start)
        reader.read(1000)
        reader.release(reader.position)
    rows = reader.history(100)
    assert said(rows) == list(range(reader.position - len(rows), reader.position))
    assert 90 <= len(rows) <= 100
    assert lane.capacity - 10 <= len(reader.history(10**9)) <= lane.capacity


@pytest.mark.parametrize(("tensors", "times"), [(0, 1.0), (2, 4.0), (8, 8.0)])
def test_a_lane_of_wide_rows_is_larger(tensors: int, times: float) -> None:
    inputs = [TensorSpec(f"x{at}", "FP32", (None, 500)) for at in range(tensors)]
    schema, size = make_log_schema(inputs, [TensorSpec("y", "FP32", (None, 1))], by_rows=True), 4 << 20
    rows = capacity_of(schema, size)
    slot = ColumnBlocks(schema, Role.CHAMPION).slot_bytes
    assert rows * slot == pytest.approx(size * times, rel=0.03)


class Ring(RuleBasedStateMachine):
    """A lane against a deque: order kept, and offered = drained + waiting + dropped."""

    @initialize(first=st.sampled_from([0, 2**32 - 40, 2**63 - 40, 2**63 + 2**32]))
    def begin(self, first: int) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name)
        self.first = first
        self.writer = open_lane(self.path, SCHEMA, lane_bytes=1, first_row=first)
        self.reader = LaneReader.open(self.writer.path)
        self.model: deque[int] = deque()
        self.offered = self.dropped = self.drained = self.unreleased = self.next = 0

    @rule(n=st.integers(0, 90))
    def offer(self, n: int) -> None:
        room = self.writer.capacity - self.unreleased
        assert offer(self.writer, n, self.next) == min(n, room)
        self.model.extend(range(self.next, self.next + min(n, room)))
        self.unreleased += min(n, room)
        self.dropped += n - min(n, room)
        self.offered += n
        self.next += n

    @rule(max_rows=st.integers(1, 100))
    def read(self, max_rows: int) -> None:
        rows = self.reader.read(max_rows)
        assert said(rows) == [self.model.popleft() for _ in range(len(rows))]
        assert len(rows) > 0 or not self.model
        self.drained += len(rows)

    @rule()
    def release(self) -> None:
        self.reader.release(self.reader.position)
        self.unreleased = len(self.model)

    @rule()
    def restart_the_writer(self) -> None:
        self.writer.close()
        self.writer = open_lane(self.path, SCHEMA, lane_bytes=1)

    @rule()
    def restart_the_reader(self) -> None:
        position = self.reader.position
        self.reader.close()
        self.reader = LaneReader.open(self.writer.path)
        self.reader.skip_to(position)

    @invariant()
    def counts_add_up(self) -> None:
        counts = self.writer.statistics()
        assert counts.offered - self.first == self.offered == self.drained + len(self.model) + self.dropped
        assert counts.dropped == self.dropped
        assert counts.committed == counts.consumed + counts.waiting
        assert counts.waiting == self.unreleased
        assert self.reader.waiting == len(self.model)

    def teardown(self) -> None:
        if hasattr(self, "writer"):
            self.writer.close()
            self.reader.close()
            self.folder.cleanup()


TestRing = Ring.TestCase
TestRing.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)


CHILD = """
import struct, sys
from pathlib import Path
import numpy as np
from tests.support.records import offer_rows, open_lane, regression_schema
lane = open_lane(Path(sys.argv[1]), regression_schema(3), lane_bytes=256 * 1024)
n, sent = 0, open(sys.argv[2], "ab", buffering=0)
rng = np.random.default_rng(int(sys.argv[3]))
while True:
    k = int(rng.integers(1, 40))
    x = np.full((k, 3), n, "f4")
    offer_rows(lane, x, x[:, :1], ids=[f"{sys.argv[3]}-{n}-{i}" for i in range(k)])
    sent.write(struct.pack("<I", k))  # the answer leaves after its rows are committed or dropped
    n += 1
"""


def test_kill_9_of_a_writer_at_any_moment_keeps_every_count(tmp_path: Path) -> None:
    """(1) committed + dropped covers every answer; (3) offered differs from it by at most one turn a kill."""
    sent = tmp_path / "sent"
    rng = np.random.default_rng(3)
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    drained, kills, turn = 0, 4, 40
    reader: LaneReader | None = None
    for seed in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path / "l"), str(sent), str(seed)], env=environ
        )
        size = sent.stat().st_size if sent.exists() else 0
        end = time.monotonic() + 20
        while time.monotonic() < end and (not sent.exists() or sent.stat().st_size <= size):
            time.sleep(0.002)
        stop = time.monotonic() + rng.uniform(0.01, 0.08)
        path = next((tmp_path / "l").glob("*.lane"))
        reader = reader or LaneReader.open(path)
        while time.monotonic() < stop:
            rows = reader.read(500)
            drained += len(rows)
            assert (rows["features"][:, 0] == rows["outputs"][:, 0]).all(), "no half rows"
            if rng.random() < 0.5:
                reader.release(reader.position)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert reader is not None
    while len(rows := reader.read(1000)):
        drained += len(rows)
    reader.release(reader.position)
    data = sent.read_bytes()
    answered = sum(value for (value,) in struct.iter_unpack("<I", data[: len(data) // 4 * 4]))
    counts = reader.statistics()
    assert answered > 100
    assert 0 <= counts.committed + counts.dropped - answered <= turn * kills
    assert 0 <= counts.offered - counts.committed - counts.dropped <= turn * kills
    assert counts.committed == counts.consumed == drained
    assert (counts.waiting, counts.torn) == (0, 0)
    assert len(list((tmp_path / "l").glob("*.lane"))) == 1, "the successor went on in the same file"


@st.composite
def offers(draw: st.DrawFn) -> list[tuple[int, bool, bool]]:
    """Rows, whether they waited, and whether they are of requests of several rows: mostly calm traffic."""
    spells = draw(
        st.lists(
            st.tuples(st.integers(1, 60), st.sampled_from([1, 1, 1, 2, 7]), st.booleans(), st.booleans()), max_size=8
        )
    )
    return [(rows, waited, placed) for times, rows, waited, placed in spells for _ in range(times)]


@settings(max_examples=60)
@given(made=offers(), most=st.integers(1, 400), seed=st.integers(0, 2**31), is_damaged=st.booleans())
def test_calm_and_busy_traffic_in_any_order_arrives_as_it_was_offered(
    made: list[tuple[int, bool, bool]], most: int, seed: int, *, is_damaged: bool
) -> None:
    rng = np.random.default_rng(seed)
    with TemporaryDirectory() as folder:
        lane = open_lane(Path(folder), SCHEMA, lane_bytes=1 << 20)
        offered: dict[str, list[Any]] = {name: [] for name in NAMES}
        for at, (n, waited, placed) in enumerate(made):
            x, y = rng.normal(size=(n, 3)).astype("f4"), rng.normal(size=(n, 1)).astype("f4")
            hashes, row = rng.integers(0, 2**63, (n, 2)).astype(np.uint64), rng.integers(0, 9, (2, n)).astype(np.uint32)
            times = 10_000 - 1000 * rng.integers(0, 9, n)
            assert n == lane.offer(
                hashes.tobytes(),
                at,
                at % 5,
                at % 3,
                10_000,
                float(at),
                times if waited else None,
                row.tobytes() if placed else None,
                x,
                y,
            )
            offered["wall_ns"] += [at] * n
            offered["epoch"] += [at % 5] * n
            offered["flags"] += [at % 3] * n
            offered["infer_us"] += [at] * n
            offered["queue_us"] += ((10_000 - times) / 1000).tolist() if waited else [0.0] * n
            offered["hash0"] += hashes[:, 0].tolist()
            offered["hash1"] += hashes[:, 1].tolist()
            offered["row"] += row[0].tolist() if placed else [0] * n
            offered["rows"] += row[1].tolist() if placed else [1] * n
            offered["features"] += x.tolist()
            offered["outputs"] += y.tolist()
        total = whole = len(offered["epoch"])
        if is_damaged and total:  # a byte of some block's sum, or of what it is the sum of
            starts = np.cumsum([0, *(n for n, _, _ in made)])
            whole = int(starts[rng.integers(len(made))])
            lane.ring.reshape(-1)[whole * lane.slot_bytes + rng.integers(0, 40)] ^= 1
        reader = LaneReader.open(lane.path)
        seen: dict[str, list[Any]] = {name: [] for name in NAMES}
        while len(rows := reader.read(most)):
            assert len(set(map(len, (rows[name] for name in NAMES)))) == 1
            for name in NAMES:
                seen[name] += rows[name].tolist()
        assert reader.position == whole
        for name in NAMES:
            assert seen[name] == offered[name][:whole], name
        reader.close()
        lane.close()
