"""Profiles of traffic: what tiles can tell, what they cannot, and rows that lanes still hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from monitor.counts import Counter
from monitor.profile import ReferenceProfile, fit
from monitor.profile_traffic import LEAST_ROWS, free_texts, profile_of_lanes, profile_of_tiles
from monitor.record import ERROR
from monitor.windows import Tile, VersionBins
from registry.errors import ArtifactRejected
from tests.support.profiles import schema
from tests.support.records import offer_rows, open_lane, regression_schema

NOW_S = 1_700_000_000


def profiled(values: NDArray[np.float64]) -> ReferenceProfile:
    return fit(schema("number"), values[:, None], values[:, None])


def tiles_of(used: ReferenceProfile, blocks: list[NDArray[np.float64]], width_s: int = 10) -> list[Tile]:
    bins = VersionBins(used.input_bins(), used.output_bins())
    tiles = []
    for at, block in enumerate(blocks):
        tile = Tile.empty(("m", 1, "champion"), NOW_S + at * width_s, width_s, bins, bins.edges)
        Counter(bins.inputs, "f8").add(tile.inputs, block[:, None])
        Counter(bins.outputs, "f8").add(tile.outputs, block[:, None])
        tiles.append(tile)
    return tiles


def test_tiles_give_counts_moments_and_times_in_the_bins_in_use() -> None:
    rng = np.random.default_rng(0)
    used = profiled(rng.normal(size=4000))
    blocks = [np.clip(rng.normal(size=200), -2.5, 2.5) for _ in range(30)]
    made, notes = profile_of_tiles(used, tiles_of(used, blocks))
    whole, column = np.concatenate(blocks), made.inputs[0]
    assert column.bins == used.inputs[0].bins
    assert (made.rows, made.ordered, made.since_s, made.until_s) == (6000, True, NOW_S, NOW_S + 300)
    assert column.rows == 6000
    assert column.mean == pytest.approx(whole.mean())
    assert column.sd == pytest.approx(whole.std())
    place = np.searchsorted(column.bins.edges, whole, side="right")
    assert list(column.counts) == np.bincount(place, minlength=column.bins.bins).tolist()
    assert (column.deff, column.block_rows) == (1.0, 1)
    assert column.low is not None
    assert column.high is not None
    assert column.low <= whole.min() <= whole.max() <= column.high
    assert len(notes) == 1
    assert ReferenceProfile.from_bytes(made.to_bytes()) == made


def test_tiles_that_differ_more_than_independent_rows_have_a_design_effect() -> None:
    rng = np.random.default_rng(1)
    used = profiled(rng.normal(size=4000))
    drifting = [np.clip(rng.normal(rng.normal() * 0.7, 0.7, size=200), -2.5, 2.5) for _ in range(60)]
    column = profile_of_tiles(used, tiles_of(used, drifting))[0].inputs[0]
    # Between tiles lies half of the variance: of the share of the median, near 1 + 199 * corr of signs (1/3).
    assert 40.0 < column.edge_deffs[8] < 140.0
    assert column.block_rows is not None
    assert column.block_rows >= 200


def test_values_beyond_the_bins_leave_the_range_unknown_and_are_told() -> None:
    rng = np.random.default_rng(2)
    used = profiled(rng.normal(size=4000))
    made, notes = profile_of_tiles(used, tiles_of(used, [rng.normal(5.0, 1.0, size=200) for _ in range(30)]))
    assert (made.inputs[0].low, made.inputs[0].high, made.inputs[0].limits()) == (None, None, None)
    assert any("x0, y0: over 1%" in note for note in notes)


def test_few_tiles_say_nothing_of_dependence() -> None:
    used = profiled(np.random.default_rng(3).normal(size=4000))
    made, notes = profile_of_tiles(used, tiles_of(used, [np.zeros(600)] * 3))
    assert (made.inputs[0].deff, made.inputs[0].block_rows) == (1.0, None)
    assert any("unknown" in note for note in notes)


def test_roles_are_added_up_but_direct_calls_are_not_traffic() -> None:
    used = profiled(np.random.default_rng(4).normal(size=4000))
    tiles = tiles_of(used, [np.zeros(700)] * 2)
    tiles[1].role, tiles[1].start_s = "canary", tiles[0].start_s
    assert profile_of_tiles(used, tiles)[0].rows == 1400
    tiles[1].role = "direct"
    with pytest.raises(ArtifactRejected, match="700 rows"):
        profile_of_tiles(used, tiles)


def test_rows_that_lanes_still_hold_are_fitted_as_any_reference(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    logged = regression_schema(2)
    lane = open_lane(tmp_path, logged, lane_bytes=1 << 20)
    for at in range(12):
        block = rng.normal(size=(100, 2)).astype(np.float32)
        offer_rows(lane, block, block[:, :1] * 2, wall_ns=(NOW_S + at) * 10**9)
    offer_rows(lane, np.full((100, 2), 99, np.float32), None, wall_ns=(NOW_S + 50) * 10**9, flags=ERROR)
    made = profile_of_lanes(tmp_path, "m", 1, logged, NOW_S)
    assert (made.rows, made.ordered, made.since_s, made.until_s) == (1200, True, NOW_S, NOW_S + 11)
    assert made.inputs[0].high is not None
    assert made.inputs[0].high < 99
    with pytest.raises(ArtifactRejected, match="200 rows"):
        profile_of_lanes(tmp_path, "m", 1, logged, NOW_S + 10)
    with pytest.raises(ArtifactRejected, match="0 rows"):
        profile_of_lanes(tmp_path, "m", 2, logged, NOW_S)
    assert LEAST_ROWS == 1000
    lane.close()


def test_free_text_that_is_logged_as_categories_is_noted() -> None:
    codes = np.arange(2000.0)
    made = fit(schema("text", "text"), np.column_stack([codes, codes % 3]), codes[:, None])
    (note,) = free_texts(made)
    assert note.startswith("x0: 97% of its rows hold other texts than the 64 most frequent")
