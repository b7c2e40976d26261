from __future__ import annotations

import json
from collections.abc import Container
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor import windows as module
from monitor.counts import BinSet, ColumnBins, Counter
from monitor.windows import Place, Slot, Tile, VersionBins, Windows, levels
from registry.errors import FormatTooNew, StateDamaged

BINS = VersionBins(BinSet((ColumnBins("x", "number", (0.0,)),)), BinSet((ColumnBins("y", "number", (0.0,)),)))
OTHER = VersionBins(BinSet((ColumnBins("x", "number", (1.0,)),)), BINS.outputs)
KEY = ("m", 1, "champion")


class Shelf:
    """A store in memory: what was dirty at each `checkpoint` is what a later process finds."""

    def __init__(self) -> None:
        self.data: dict[Place, bytes] = {}
        self.reads = 0

    def load(
        self, model: str, version: int, bins: VersionBins, since_s: int, until_s: int, skip: Container[Slot]
    ) -> list[Tile]:
        found = [
            Tile.from_bytes(data, bins)
            for at, data in sorted(self.data.items())
            if (at.model, at.version, at.edges) == (model, version, bins.edges)
            and at.start_s < until_s
            and at.start_s + at.width_s > since_s
            and at[2:5] not in skip
        ]
        self.reads += len(found)
        return found

    def checkpoint(self, windows: Windows) -> None:
        for at in windows.removed():
            self.data.pop(at, None)
        for t in windows.dirty():
            self.data[Place(t.model, t.version, t.role, t.start_s, t.width_s, t.edges)] = t.to_bytes()
        windows.stored()

    def rows(self) -> int:
        return sum(json.loads(data)["rows"] for data in self.data.values())


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


def test_what_was_loaded_once_is_not_loaded_each_second(shelf: Shelf) -> None:
    first = Windows(10, shelf.load)
    for start in range(0, 100, 10):
        put(first, start, 1)
    shelf.checkpoint(first)
    second = Windows(10, shelf.load)
    put(second, 100, 1)
    assert second.window("m", 1, BINS, 0, 110).rows == 11
    reads = shelf.reads
    assert second.window("m", 1, BINS, 0, 110).rows == 11
    assert shelf.reads == reads


def test_memory_is_bounded_and_what_left_it_is_still_summed(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMORY_BYTES", 20_000)
    windows = Windows(10, shelf.load)
    for start in range(0, 200, 10):
        put(windows, start, 1)
        shelf.checkpoint(windows)
        assert windows.nbytes <= 20_000
    assert windows.window("m", 1, BINS, 0, 200).rows == 20


def test_a_late_row_goes_on_in_the_tile_that_was_stored(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMORY_BYTES", 10_000)
    windows = Windows(10, shelf.load)
    for start in range(0, 100, 10):
        put(windows, start, 1)
        shelf.checkpoint(windows)
    put(windows, 5, 1)
    shelf.checkpoint(windows)
    assert windows.window("m", 1, BINS, 0, 10).rows == 2


DAY = 86_400


def steady(shelf: Shelf, seconds: int, *, crash_every: int = 0) -> Windows:
    """A row every ten seconds, a checkpoint after each, and rolling up; the controller may die now and then."""
    windows = Windows(10, shelf.load)
    for turn, wall_s in enumerate(range(0, seconds, 10)):
        put(windows, wall_s, 1)
        if crash_every and turn % crash_every == 1:
            windows.roll_up(wall_s, 100)  # rolled up, but not stored
            windows = Windows(10, shelf.load)
            put(windows, wall_s, 1)  # the lane gives the row again
        windows.roll_up(wall_s, 100)
        shelf.checkpoint(windows)
    return windows


@pytest.mark.parametrize(("seconds", "crash_every"), [(3000, 0), (2000, 7)])
def test_old_tiles_are_rolled_up_and_no_row_is_lost_or_counted_twice(
    shelf: Shelf, seconds: int, crash_every: int
) -> None:
    windows = steady(shelf, seconds, crash_every=crash_every)
    assert shelf.rows() == seconds // 10
    assert windows.window("m", 1, BINS, 0, seconds).rows == seconds // 10
    assert {10, 60, 300} <= {place.width_s for place in shelf.data}
    assert len(shelf.data) < 100
    assert Windows(10, shelf.load).window("m", 1, BINS, 0, seconds).rows == seconds // 10


def test_recent_windows_are_exact_to_the_narrowest_tile_and_older_ones_begin_with_a_whole_tile(shelf: Shelf) -> None:
    windows = steady(shelf, 3000)
    assert windows.window("m", 1, BINS, 2700, 3000).rows == 30
    longer = windows.window("m", 1, BINS, 640, 3000)
    assert (longer.since_s, longer.rows) == (600, 240)


def test_a_row_that_comes_after_its_time_was_rolled_up_is_added_to_the_wide_tile(shelf: Shelf) -> None:
    windows = steady(shelf, 1200)
    put(windows, 15, 5)
    assert windows.window("m", 1, BINS, 0, 1200).rows == 125
    shelf.checkpoint(windows)
    while windows.roll_up(1200):
        shelf.checkpoint(windows)
    assert shelf.rows() == 125
    assert json.loads(shelf.data[Place("m", 1, "champion", 0, 300, BINS.edges)])["rows"] == 35


def test_a_late_row_in_the_same_second_as_the_roll_up_is_not_counted_twice(shelf: Shelf) -> None:
    windows = steady(shelf, 410)
    assert windows.roll_up(430, 100)
    put(windows, 3, 1)
    assert windows.window("m", 1, BINS, 0, 430).rows == 42
    shelf.checkpoint(windows)
    assert shelf.rows() == 42
    assert Windows(10, shelf.load).window("m", 1, BINS, 0, 430).rows == 42


def test_rolling_up_finds_what_left_memory(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMORY_BYTES", 1)
    windows = steady(shelf, 2000)
    assert windows.nbytes < 20_000
    assert shelf.rows() == 200
    assert {place.width_s for place in shelf.data} == {10, 60, 300}
    assert windows.window("m", 1, BINS, 0, 2000).rows == 200


def test_a_week_is_at_most_156_tiles_and_a_window_of_it_exact_to_a_day(shelf: Shelf) -> None:
    windows = Windows(10, shelf.load)
    for wall_s in range(0, 12 * DAY, 3600):
        put(windows, wall_s, 1)
        windows.roll_up(wall_s, 100)
        windows.stored()
    found = levels(10)
    assert sum((level.keep_s + above.width_s) // level.width_s for level, above in pairwise(found)) + 9 < 157
    assert sorted({width_s for _, width_s in windows._tiles[KEY]}) == [10, 300, 3600, DAY]
    assert len(windows._tiles[KEY]) < 60
    assert windows.window("m", 1, BINS, 5 * DAY, 12 * DAY).rows == 7 * 24


ROWS = st.tuples(st.integers(0, 3000), st.integers(1, 5), st.sampled_from(["champion", "canary"]))


@settings(max_examples=20)
@given(st.lists(ROWS, max_size=20))
def test_tiles_of_several_workers_add_up_in_any_order_to_what_one_would_have_counted(
    rows: list[tuple[int, int, str]],
) -> None:
    whole = Windows(10, lambda *_: ())
    for wall_s, n, role in rows:
        put(whole, wall_s, n, role)
    one = whole.window("m", 1, BINS, 0, 4000)
    parts = [Windows(10, lambda *_: ()) for _ in range(3)]
    for at, (wall_s, n, role) in enumerate(rows):
        put(parts[at % 3], wall_s, n, role)
    for part in parts[:2]:
        part.roll_up(10_000, 1000)
    tiles = [tile for part in parts for tile in part.dirty()]
    for order in (tiles, tiles[::-1]):
        into = Tile.empty(KEY, 0, 4000, BINS, BINS.edges)
        for tile in order:
            into.merge(Tile.from_bytes(tile.to_bytes(), BINS))
        assert into.inputs.counts.tolist() == one.inputs.counts.tolist()
        assert into.rows == one.rows


def test_the_widths_of_tiles_divide_each_other() -> None:
    for width in range(1, 61):
        found = [level.width_s for level in levels(width)]
        assert all(wide % narrow == 0 for narrow, wide in pairwise(found))
        assert found[0] <= width


def test_tiles_that_wait_are_packed_and_counted_into_all_the_same(shelf: Shelf) -> None:
    windows = Windows(10, shelf.load)
    for wall_s in range(0, 100, 10):
        put(windows, wall_s, 1)
    grown = windows.nbytes
    shelf.checkpoint(windows)
    assert windows.nbytes < grown / 3
    put(windows, 15, 5)
    put(windows, 95, 7)
    assert windows.window("m", 1, BINS, 0, 100).rows == 22
    for _ in range(2):  # in the second one nothing has changed: the newest tile is packed too
        shelf.checkpoint(windows)
        assert shelf.rows() == windows.window("m", 1, BINS, 0, 100).rows == 22
    assert not windows.dirty()


def test_a_version_that_comes_again_with_equal_bins_goes_on_with_the_first(shelf: Shelf) -> None:
    windows = Windows(10, shelf.load)
    put(windows, 100, 1)
    for wall_s in (105, 110, 120):
        again = VersionBins(BinSet(BINS.inputs.columns), BinSet(BINS.outputs.columns))
        put(windows, wall_s, 1, bins=again)
        assert windows.tile(KEY, again, wall_s).inputs.bins is BINS.inputs
    assert windows.window("m", 1, BINS, 100, 130).rows == 4


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
