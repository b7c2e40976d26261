"""Tiles, as they grow and as they are kept."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monitor.bins import BinSet, ColumnBins
from monitor.counts import Counter, Counts
from monitor.tile import Tile, VersionBins

KEY = ("m", 1, "champion")
NUMBER, CATEGORY = ColumnBins("x", "number", (-1.0, 0.0, 1.0)), ColumnBins("y", "category", values=(1.0, 2.0))
BINS = VersionBins(BinSet((NUMBER, CATEGORY)), BinSet((NUMBER,)))
VALUES = st.sampled_from([-np.inf, -5.5, -1.0, -0.0, 0.0, 0.5, 1.0, 2.0, np.inf, np.nan])


def same(left: Counts, right: Counts) -> bool:
    arrays = [field.name for field in fields(Counts) if field.name not in ("bins", "rows")]
    pairs = [(getattr(left, name), getattr(right, name)) for name in arrays]
    return left.rows == right.rows and all(
        a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True) for a, b in pairs
    )


@given(st.lists(VALUES, max_size=20), st.sampled_from([1, 200, 70_000, 2**33]), st.integers(0, 3))
def test_packing_changes_no_number(values: list[float], times: int, errors: int) -> None:
    tile = Tile.empty(KEY, 600, 60, BINS, BINS.edges)
    block = np.array([values, values], "f4").reshape(2, -1).T
    Counter(BINS.inputs, "f4").add(tile.inputs, block)
    Counter(BINS.outputs, "f4").add(tile.outputs, block[:, :1])
    tile.inputs.counts *= times
    tile.errors = errors
    packed = tile.packed()
    again = packed.open(KEY, BINS, BINS.edges)
    assert same(again.inputs, tile.inputs)
    assert same(again.outputs, tile.outputs)
    assert (again.start_s, again.end_s, again.rows) == (packed.start_s, packed.end_s, tile.rows)


def test_an_opened_tile_grows_and_its_packed_one_does_not() -> None:
    packed = Tile.empty(KEY, 0, 10, BINS, BINS.edges).packed()
    opened = packed.open(KEY, BINS, BINS.edges)
    Counter(BINS.inputs, "f4").add(opened.inputs, np.ones((3, 2), "f4"))
    assert (opened.rows, packed.open(KEY, BINS, BINS.edges).rows) == (3, 0)


def test_a_packed_tile_takes_a_quarter_of_the_memory() -> None:
    bins = VersionBins(
        BinSet(tuple(ColumnBins(f"x{at}", "number", tuple(range(40))) for at in range(30))), BINS.outputs
    )
    tile = Tile.empty(KEY, 0, 10, bins, bins.edges)
    rng = np.random.default_rng(3)
    Counter(bins.inputs, "f4").add(tile.inputs, rng.uniform(-1.0, 41.0, (3000, 30)).astype("f4"))
    assert tile.packed().nbytes < tile.nbytes / 3
    assert Tile.empty(KEY, 0, 10, bins, bins.edges).packed().nbytes < 1000
