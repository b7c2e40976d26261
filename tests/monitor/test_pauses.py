from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from monitor.counts import BinSet, ColumnBins
from monitor.pauses import PAUSE_S, PIECE_S, pause, take_pauses
from monitor.settings import MonitorSettings
from monitor.store import MonitorStore
from monitor.windows import VersionBins
from monitor.worker import Monitor
from registry.catalog import Catalog
from tests.support.clock import ManualClock
from tests.support.records import offer_rows, open_lane, regression_schema


class Core:
    """A thread's processor time, which passes only by `work`, and its sleeps."""

    def __init__(self) -> None:
        self.spent_s = 0.0
        self.sleeps: list[float] = []  # what had been spent before each

    def sleep(self, seconds: float) -> None:
        assert seconds == PAUSE_S
        self.sleeps.append(self.spent_s)

    def work(self, seconds: float) -> None:
        self.spent_s += seconds
        pause()


def in_a_thread(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()


def test_a_thread_pauses_after_each_piece() -> None:
    core = Core()

    def work() -> None:
        take_pauses(lambda: core.spent_s * PIECE_S / 4, core.sleep)
        for _ in range(10):
            core.work(1)
        core.work(20)

    in_a_thread(work)
    assert core.sleeps == [4, 8, 30]


def test_a_thread_that_takes_none_does_not_pause() -> None:
    core = Core()

    def work() -> None:
        take_pauses(lambda: core.spent_s, core.sleep)
        in_a_thread(lambda: core.work(5 * PIECE_S))

    in_a_thread(work)
    assert core.spent_s == 5 * PIECE_S
    assert core.sleeps == []


def test_a_step_of_the_monitor_is_work_in_pieces(tmp_path: Path) -> None:
    """However little a thread does between two pauses, reading, counting and storing offer some."""
    schema, clock = regression_schema(30), ManualClock()
    sleeps: list[float] = []
    catalog = Catalog.open(f"sqlite:///{tmp_path / 'registry.db'}")
    inputs = BinSet(tuple(ColumnBins(f"x[{at}]", "number", (-1.0, 0.0, 1.0)) for at in range(30)))
    bins = VersionBins(inputs, BinSet((ColumnBins("y", "number", (-1.0, 0.0, 1.0)),)))
    monitor = Monitor(tmp_path, MonitorStore(catalog), MonitorSettings(), clock, lambda model, version: bins)
    monitor.resume()
    lane = open_lane(tmp_path / "lanes", schema, lane_bytes=1 << 21)
    rng = np.random.default_rng(1)
    offer_rows(lane, rng.normal(size=(4000, 30)).astype("f4"), rng.normal(size=(4000, 1)).astype("f4"))

    def step() -> None:
        take_pauses(iter(np.arange(0.0, 10.0, PIECE_S)).__next__, sleeps.append)
        clock.advance(1.0)
        monitor.step(clock.now_s())

    in_a_thread(step)
    assert monitor.records == 4000
    assert lane.statistics().waiting == 0  # stored, too
    assert len(sleeps) >= 8  # after the read, each strip of columns, outputs, joins, what is stored, and the release
    monitor.close()
    catalog.close()
