from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from gateway.data.tap import REOPEN_AFTER_S, Tap
from monitor.lane import LaneReader
from monitor.settings import LaneSettings
from registry.vocabulary import Role
from tests.support.clock import ManualClock
from tests.support.records import regression_schema

LANE_BYTES = 64 * 1024


class Logged:
    """A tap, and one version that answers at some rate."""

    def __init__(self, run: Path) -> None:
        self.clock = ManualClock()
        settings = LaneSettings(lane_bytes=LANE_BYTES, lane_seconds=4.0)
        nobody = cast(Any, None)
        self.tap = Tap(run, 0, "b" * 32, settings, nobody, nobody, self.clock, np.random.default_rng(0))
        self.loaded = cast(
            Any, SimpleNamespace(servable=SimpleNamespace(model="m", version=1), schema=regression_schema(3))
        )
        self.folder, self.rows = run / "lanes", 0

    def answer(self, rows: int) -> None:
        """A second's rows."""
        for _ in range(rows):
            x, y = np.zeros((1, 3), "f4"), np.full((1, 1), self.rows, "f4")
            self.tap.record(self.loaded, Role.CHAMPION, 1, [bytes(16)], [1], x, y, None, 0, 1.0)
            self.rows += 1
        self.clock.advance(1.0)
        self.tap.look()

    def sizes(self) -> list[int]:
        """Of the lane's files, the oldest first, in multiples of what is set."""
        return [
            round(path.stat().st_size / LANE_BYTES) for path in sorted(self.folder.iterdir(), key=lambda p: len(p.name))
        ]


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
    for path in sorted(logged.folder.iterdir(), key=lambda p: len(p.name)):
        reader = LaneReader.open(path)
        while reader.waiting:
            found += reader.read(1000)["outputs"][:, 0].tolist()
    assert found == [float(row) for row in range(logged.rows)]
    logged.tap.close()


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
