from __future__ import annotations

import json

import numpy as np
import pytest

from monitor import windows as module
from monitor.counts import BinSet, ColumnBins, Counter
from monitor.windows import Tile, VersionBins, Windows
from registry.errors import FormatTooNew, StateDamaged

BINS = VersionBins(BinSet((ColumnBins("x", "number", (0.0,)),)), BinSet((ColumnBins("y", "number", (0.0,)),)))
OTHER = VersionBins(BinSet((ColumnBins("x", "number", (1.0,)),)), BINS.outputs)
KEY = ("m", 1, "champion")


class Shelf:
    """A store in memory: what was dirty at each `checkpoint` is what a later process finds."""

    def __init__(self) -> None:
        self.data: dict[tuple[str, int, str, int, str], bytes] = {}
        self.loads = 0

    def load(self, model: str, version: int, bins: VersionBins, since_s: int, until_s: int) -> list[Tile]:
        self.loads += 1
        return [
            Tile.from_bytes(data, bins)
            for (m, v, _, start_s, edges), data in sorted(self.data.items())
            if (m, v, edges) == (model, version, bins.edges) and since_s <= start_s < until_s
        ]

    def checkpoint(self, windows: Windows) -> None:
        for t in windows.dirty():
            self.data[t.model, t.version, t.role, t.start_s, t.edges] = t.to_bytes()
        windows.stored()


def put(windows: Windows, wall_s: int, n: int, role: str = "champion", bins: VersionBins = BINS) -> None:
    tile = windows.tile(("m", 1, role), bins, wall_s)
    block = np.full((n, 1), 1.0, "f4")
    Counter(bins.inputs, "f4").add(tile.inputs, block)
    Counter(bins.outputs, "f4").add(tile.outputs, block)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def test_a_window_is_the_sum_of_its_tiles(shelf: Shelf) -> None:
    windows = Windows(10, shelf.load)
    for wall_s, n in ((100, 1), (109, 2), (110, 4), (125, 8)):
        put(windows, wall_s, n)
    assert windows.window("m", 1, BINS, 100, 130).rows == 15
    assert windows.window("m", 1, BINS, 110, 120).rows == 4
    assert windows.window("m", 1, BINS, 110, 130).inputs.of(0).tolist() == [0, 12]


def test_roles_can_be_chosen_or_summed(shelf: Shelf) -> None:
    windows = Windows(10, shelf.load)
    put(windows, 100, 1)
    put(windows, 100, 2, "canary")
    assert windows.window("m", 1, BINS, 100, 110).rows == 3
    assert windows.window("m", 1, BINS, 100, 110, ["canary"]).rows == 2
    assert windows.roles("m", 1) == ["canary", "champion"]


def test_errored_rows_are_beside_the_counted(shelf: Shelf) -> None:
    windows = Windows(10, shelf.load)
    put(windows, 100, 3)
    windows.tile(KEY, BINS, 101).errors += 2
    window = windows.window("m", 1, BINS, 100, 110)
    assert (window.rows, window.errors) == (3, 2)
    assert windows.dirty()[0].rows == 5


def test_after_a_restart_windows_go_on_from_what_was_stored(shelf: Shelf) -> None:
    first = Windows(10, shelf.load)
    put(first, 100, 1)
    put(first, 100, 5, "canary")
    put(first, 110, 2)
    shelf.checkpoint(first)
    second = Windows(10, shelf.load)
    put(second, 115, 4)
    put(second, 120, 8)
    assert second.window("m", 1, BINS, 100, 130).rows == 20
    shelf.checkpoint(second)
    assert Windows(10, shelf.load).window("m", 1, BINS, 100, 130).rows == 20


def test_a_window_that_was_loaded_once_is_not_loaded_each_second(shelf: Shelf) -> None:
    first = Windows(10, shelf.load)
    for start in range(0, 100, 10):
        put(first, start, 1)
    shelf.checkpoint(first)
    second = Windows(10, shelf.load)
    put(second, 100, 1)
    assert second.window("m", 1, BINS, 0, 110).rows == 11
    loads = shelf.loads
    assert second.window("m", 1, BINS, 0, 110).rows == 11
    assert shelf.loads == loads


def test_memory_is_bounded_and_what_left_it_is_still_summed(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TILES", 4)
    windows = Windows(10, shelf.load)
    for start in range(0, 200, 10):
        put(windows, start, 1)
        shelf.checkpoint(windows)
    assert len(windows._tiles[KEY]) <= 5
    assert windows.window("m", 1, BINS, 0, 200).rows == 20


def test_a_late_row_goes_on_in_the_tile_that_was_stored(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TILES", 2)
    windows = Windows(10, shelf.load)
    for start in range(0, 100, 10):
        put(windows, start, 1)
        shelf.checkpoint(windows)
    put(windows, 5, 1)
    shelf.checkpoint(windows)
    assert windows.window("m", 1, BINS, 0, 10).rows == 2


def test_only_tiles_of_equal_bins_are_summed_and_none_is_lost(shelf: Shelf) -> None:
    windows = Windows(10, shelf.load)
    put(windows, 100, 1)
    put(windows, 110, 2, bins=OTHER)
    assert windows.window("m", 1, OTHER, 100, 120).rows == 2
    shelf.checkpoint(windows)
    assert len(shelf.data) == 2
    assert Windows(10, shelf.load).window("m", 1, BINS, 100, 120).rows == 1


def test_a_tile_is_a_stamped_document(shelf: Shelf) -> None:
    windows = Windows(10, shelf.load)
    put(windows, 100, 3)
    data = windows.dirty()[0].to_bytes()
    assert data.startswith(b'{"format":"driftgate.tile","v":1,')
    assert Tile.from_bytes(data, BINS).rows == 3
    with pytest.raises(FormatTooNew):
        Tile.from_bytes(json.dumps({**json.loads(data), "v": 2}).encode(), BINS)
    with pytest.raises(StateDamaged):
        Tile.from_bytes(data, OTHER)
    with pytest.raises(StateDamaged):
        Tile.from_bytes(b"{", BINS)
