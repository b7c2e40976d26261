from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from gateway.data.tap import REOPEN_AFTER_S, Tap
from monitor.lane import LaneReader, generation_of
from monitor.settings import LaneSettings
from registry.vocabulary import Role
from tests.support.clock import ManualClock
from tests.support.records import regression_schema

LANE_BYTES = 64 * 1024


class Logged:
    """A tap, and one version that answers at some rate."""

    def __init__(self, run: Path, lane_seconds: float = 4.0) -> None:
        self.clock = ManualClock()
        settings = LaneSettings(lane_bytes=LANE_BYTES, lane_seconds=lane_seconds)
        nobody = cast(Any, None)
        self.tap = Tap(run, 0, "b" * 32, settings, nobody, nobody, self.clock, np.random.default_rng(0))
        self.loaded = cast(
            Any, SimpleNamespace(servable=SimpleNamespace(model="m", version=1), schema=regression_schema(3))
        )
        self.folder, self.rows = run / "lanes", 0

    def record(self, rows: int) -> None:
        """Rows, at once."""
        for _ in range(rows):
            x, y = np.zeros((1, 3), "f4"), np.full((1, 1), self.rows, "f4")
            self.tap.record(self.loaded, Role.CHAMPION, 1, [bytes(16)], [1], x, y, None, 0, 1.0)
            self.rows += 1

    def answer(self, rows: int) -> None:
        """A second's rows."""
        self.record(rows)
        self.clock.advance(1.0)
        self.tap.look()

    def files(self) -> list[Path]:
        """The lane's, the oldest first."""
        return sorted(self.folder.iterdir(), key=generation_of)

    def sizes(self) -> list[int]:
        """Of the lane's files, in multiples of what is set."""
        return [round(path.stat().st_size / LANE_BYTES) for path in self.files()]

    def readers(self) -> list[LaneReader]:
        """Of the lane's files."""
        return [LaneReader.open(path) for path in self.files()]


@pytest.fixture
def logged(tmp_path: Path) -> Logged:
    return Logged(tmp_path)


def test_a_lane_stays_as_it_is_while_it_has_room_for_seconds_of_rows(logged: Logged) -> None:
    for _ in range(3):
        logged.answer(50)
    assert logged.sizes() == [1]


def test_a_lane_that_fills_within_seconds_grows_and_no_row_is_lost(logged: Logged) -> None:
    logged.answer(10)  # of which nobody knows how fast they came
    logged.answer(250)
    logged.answer(250)
    assert logged.sizes() == [1, 2]
    logged.answer(5)
    found: list[float] = []
    for reader in logged.readers():
        while reader.waiting:
            found += reader.read(1000)["outputs"][:, 0].tolist()
    assert found == [float(row) for row in range(logged.rows)]
    logged.tap.close()


def test_a_lane_that_overflows_within_a_second_grows_at_once_but_never_beyond_eight_times_its_size(
    logged: Logged,
) -> None:
    logged.record(12_000)  # before the first look at how fast they come
    assert logged.sizes() == [1, 2, 4, 7]  # less than eight: a file is more than its rows
    readers = logged.readers()
    assert [reader.waiting for reader in readers] == [reader.capacity for reader in readers]
    kept = sum(reader.capacity for reader in readers)
    assert readers[-1].statistics().dropped == logged.rows - kept > 0
    logged.answer(1000)
    assert logged.sizes() == [1, 2, 4, 7]


def test_a_lane_that_may_not_grow_drops_what_finds_no_room(tmp_path: Path) -> None:
    logged = Logged(tmp_path, lane_seconds=0.0)
    logged.record(1000)
    (reader,) = logged.readers()
    assert reader.statistics().dropped == logged.rows - reader.capacity > 0


def test_a_lane_that_finds_no_disk_to_grow_on_is_told_of_once_in_a_while_and_goes_on(
    logged: Logged, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logged.answer(10)

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.posix_fallocate", full)
        for _ in range(4):
            logged.answer(400)
    assert [record.message for record in caplog.records] == [
        "the lane of m:1 champion stays as it is, though it fills fast: no space left on device"
    ]
    logged.clock.advance(REOPEN_AFTER_S)
    logged.answer(3000)
    assert logged.sizes()[-1] > 1
