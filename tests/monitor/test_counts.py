from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from monitor.counts import BinSet, ColumnBins, Counter, Counts
from registry.errors import StateDamaged

EDGES = (-1.1, 0.1, 0.7)
BINS = BinSet((ColumnBins("a", "number", EDGES), ColumnBins("b", "category", values=(1.0, 2.0, 5.0))))


def counted(block: np.ndarray, bins: BinSet = BINS, dtype: str = "f4") -> Counts:
    counts = Counts.empty(bins)
    Counter(bins, dtype).add(counts, block)
    return counts


def slowly(values: list[float], edges: tuple[float, ...]) -> list[int]:
    bins = [0] * (len(edges) + 1)
    for value in values:
        if value == value:
            bins[sum(value >= edge for edge in edges)] += 1
    return bins


FLOATS = st.one_of(
    st.floats(width=32), st.sampled_from([*(float(np.float32(e)) for e in EDGES), float("inf"), float("-inf")])
)


def slowly_in_numpy(block: NDArray[Any], bins: BinSet) -> list[list[int]]:
    """What each column's bins hold, by np.searchsorted and np.bincount."""
    found = []
    for column, values in zip(bins.columns, block.T.astype(np.float64), strict=True):
        present = values[~np.isnan(values)]
        if column.kind == "number":
            place = np.searchsorted(np.array(column.edges), present, side="right")
        else:
            known = np.array(column.values)
            left = np.searchsorted(known, present)
            hit = np.isin(present, known)
            place = np.where(hit, left, len(known))
        found.append(np.bincount(place, minlength=column.bins).tolist())
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(FLOATS, min_size=1, max_size=40))
def test_bins_are_those_of_counting_one_value_at_a_time(values: list[float]) -> None:
    block = np.array([values, [1.0] * len(values)], "f4").T
    counts = counted(block)
    assert counts.of(0).tolist() == slowly([float(v) for v in block[:, 0]], EDGES)
    assert counts.missing[0] == np.isnan(block[:, 0]).sum()
    assert counts.infinite[0] == np.isinf(block[:, 0]).sum()
    assert counts.of(0).sum() + counts.missing[0] == counts.rows == len(values)
    assert counts.finite[0] == np.isfinite(block[:, 0]).sum()


@st.composite
def blocks(draw: st.DrawFn) -> tuple[NDArray[Any], BinSet, str]:
    """A block of rows as some lane carries it, bins, and the lane's dtype."""
    source, lane = draw(st.sampled_from([("f4", "f4"), ("f8", "f8"), ("i2", "f4"), ("i8", "f8"), ("u1", "f4")]))
    grid = [-3.0, -1.1, -0.5, 0.0, 0.1, 0.7, 1.0, 2.0, 5.0, 1e30]
    pick = st.lists(st.sampled_from(grid), max_size=len(grid), unique=True).map(lambda marks: tuple(sorted(marks)))
    columns = []
    for at in range(draw(st.integers(1, 4))):
        marks = draw(pick)
        if draw(st.booleans()):
            columns.append(ColumnBins(str(at), "number", marks, whole=draw(st.booleans())))
        else:
            columns.append(ColumnBins(str(at), "category", values=marks))
    shape = draw(st.tuples(st.integers(0, 50), st.just(len(columns))))
    elements: Any = None
    if source.startswith("f"):
        known = [float(np.dtype(source).type(mark)) for mark in (*grid, np.finfo(source).max, np.finfo(source).tiny)]
        odd = st.sampled_from([*known, np.inf, -np.inf, np.nan, -0.0, float(np.finfo(source).min)])
        elements = st.one_of(odd, st.floats(width=32) if source == "f4" else st.floats())
    return draw(hnp.arrays(source, shape, elements=elements)), BinSet(tuple(columns)), lane


def test_infinities_are_in_the_only_bin_of_columns_without_edges() -> None:
    bins = BinSet((ColumnBins("a", "number"), ColumnBins("b", "number")))
    counts = Counter(bins, "f4").count(np.array([[np.inf, -np.inf], [1.0, np.nan], [np.inf, 2.0]], "f4"))
    assert counts.counts.tolist() == [[3], [2]]
    assert (counts.infinite.tolist(), counts.missing.tolist()) == ([2, 1], [0, 1])


@settings(max_examples=60, deadline=None)
@given(made=blocks(), chunk=st.sampled_from([1, 7, 8192]), hot=st.sampled_from([1, 64, 1 << 18]))
def test_counts_of_any_block_are_those_of_searchsorted(
    made: tuple[NDArray[Any], BinSet, str], chunk: int, hot: int
) -> None:
    block, bins, lane = made
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("monitor.counts.CHUNK_ROWS", chunk)
        patch.setattr("monitor.counts._HOT_BYTES", hot)
        counts = Counter(bins, lane).count(block)
    values = block.astype(np.float64)
    finite = np.where(np.isfinite(values), values, 0.0)
    assert [counts.of(at).tolist() for at in range(len(bins.columns))] == slowly_in_numpy(block, bins)
    assert counts.missing.tolist() == np.isnan(values).sum(axis=0).tolist()
    assert counts.infinite.tolist() == np.isinf(values).sum(axis=0).tolist()
    assert counts.negative.tolist() == np.isneginf(values).sum(axis=0).tolist()
    for at, column in enumerate(bins.columns):
        wrong = (finite[:, at] % 1.0 != 0.0).sum() if column.whole else 0
        assert counts.mistyped[at] == wrong
        if column.edges and np.abs(finite).max(initial=0.0) < 1e100:
            tails = [
                finite[:, at][side].sum()
                for side in (values[:, at] < column.edges[0], values[:, at] >= column.edges[-1])
            ]
            assert counts.tails[at] == pytest.approx(tails, rel=1e-6, abs=1e-9)


def test_edges_that_no_float32_equals_put_neighbours_on_their_own_sides() -> None:
    edge = 0.1  # between two float32
    below, above = np.nextafter(np.float32(0.1), np.float32(0)), np.float32(0.1)
    assert float(below) < edge < float(above)
    bins = BinSet((ColumnBins("a", "number", (edge,)),))
    assert counted(np.array([[below], [above]], "f4"), bins).of(0).tolist() == [1, 1]


def test_categories_have_a_bin_each_and_one_for_all_others() -> None:
    block = np.array([[0, v] for v in (1, 2, 2, 5, 7, float("nan"), float("inf"))], "f4")
    counts = counted(block)
    assert counts.of(1).tolist() == [1, 2, 1, 2]
    assert (counts.missing[1], counts.infinite[1]) == (1, 1)


def test_hashed_categories_are_told_apart_in_float64() -> None:
    bins = BinSet((ColumnBins("a", "category", values=(2.0**47, 2.0**47 + 1)),))
    assert counted(np.array([[2.0**47 + 1]]), bins, "f8").of(0).tolist() == [0, 1, 0]


def test_without_a_profile_missing_infinite_and_moments_are_counted() -> None:
    bins = BinSet((ColumnBins("a", "number"),))
    x = np.random.default_rng(1).normal(1e6, 2.0, (1000, 1))
    counts = counted(x, bins, "f8")
    assert counts.of(0).tolist() == [1000]
    np.testing.assert_allclose([counts.mean[0], counts.sd[0]], [x.mean(), x.std()], rtol=1e-9)


def test_moments_skip_what_is_not_finite() -> None:
    x = np.array([[1.0], [3.0], [np.nan], [np.inf], [-np.inf]], "f4")
    counts = counted(x, BinSet((ColumnBins("a", "number"),)))
    assert (counts.mean[0], counts.sd[0], counts.finite[0]) == (2.0, 1.0, 2)
    assert np.isnan(Counts.empty(BINS).sd).all()


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays("f4", st.tuples(st.integers(0, 30), st.just(2)), elements=st.floats(-100, 100, width=32)),
    st.integers(0, 30),
)
def test_split_then_merge_is_the_whole_in_either_order(block: np.ndarray, cut: int) -> None:
    whole = counted(block)
    left, right = counted(block[:cut]), counted(block[cut:])
    for merged in (left.copy().merge(right), right.copy().merge(left)):
        assert merged.rows == whole.rows
        assert (merged.counts == whole.counts).all()
        assert (merged.missing == whole.missing).all()
        np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(merged.m2, whole.m2, rtol=1e-6, atol=1e-6)


def test_moments_of_a_wide_range_and_of_a_constant_lose_no_digits() -> None:
    rng = np.random.default_rng(4)
    far = 1e9 + rng.normal(size=20_000)
    block = np.column_stack([far, np.full(20_000, 0.1), np.where(rng.random(20_000) < 0.3, np.nan, far)])
    counts = counted(block, BinSet(tuple(ColumnBins(name, "number") for name in "abc")), "f8")
    for at, kept in ((0, far), (2, block[:, 2][~np.isnan(block[:, 2])])):
        mean = math.fsum(kept) / len(kept)
        assert counts.mean[at] == pytest.approx(mean, rel=1e-15)
        assert counts.m2[at] == pytest.approx(math.fsum((kept - mean) ** 2), rel=1e-9)
    assert (counts.mean[1], counts.m2[1]) == (0.1, 0.0)


def test_what_lies_outside_the_range_is_told_apart_by_side_sum_and_sign() -> None:
    values = [-5.0, -2.0, 0.0, 0.7, 10.0, np.inf, -np.inf, -np.inf, np.nan]
    counts = counted(np.column_stack([values, np.full(9, 9.0)]), dtype="f8")
    assert counts.outside.tolist() == [[4, 3], [0, 0]]
    assert (counts.infinite[0], counts.negative[0], counts.missing[0]) == (3, 2, 1)
    assert counts.tails[0].tolist() == [-7.0, 10.7]
    assert counts.unseen.tolist() == [0, 9]


def test_a_fraction_among_whole_numbers_is_of_the_wrong_type() -> None:
    bins = BinSet((ColumnBins("a", "number", (0.0, 9.0), whole=True),))
    counts = counted(np.array([[1.0], [2.5], [np.nan], [np.inf], [-0.0]]), bins, "f8")
    assert counts.mistyped.tolist() == [1]
    assert BinSet.from_list(bins.to_list()) == bins
    assert bins.digest != BinSet((ColumnBins("a", "number", (0.0, 9.0)),)).digest


def test_the_order_of_rows_does_not_matter_and_inputs_are_untouched() -> None:
    block = np.random.default_rng(2).normal(size=(200, 2)).astype("f4")
    before = block.copy()
    assert (counted(block).counts == counted(block[::-1]).counts).all()
    assert (block == before).all()


def test_who_wants_bins_alone_gets_the_same_ones_and_no_moments() -> None:
    block = np.array([[0.0, 1], [np.nan, 2], [np.inf, 9], [-np.inf, 5], [50.0, 1], [-7.0, np.nan]], np.float32)
    whole, bare = counted(block), Counter(BINS, "f4", only_bins=True).count(block)
    assert bare.rows == whole.rows
    for name in ("counts", "missing", "infinite", "negative", "mistyped"):
        assert getattr(bare, name).tolist() == getattr(whole, name).tolist(), name
    assert whole.mean.any()
    for name in ("mean", "m2", "tails"):
        assert not getattr(bare, name).any(), name


def test_counts_of_other_bins_do_not_merge() -> None:
    with pytest.raises(ValueError, match="different bins"):
        Counts.empty(BINS).merge(Counts.empty(BinSet((ColumnBins("a", "number", (0.0,)),))))


def test_counts_survive_json_under_their_own_bins_only() -> None:
    counts = counted(np.random.default_rng(3).normal(size=(50, 2)).astype("f4"))
    document = json.loads(json.dumps(counts.to_dict()))
    again = Counts.from_dict(document, BINS)
    assert (again.counts == counts.counts).all()
    assert (again.mean == counts.mean).all()
    assert again.rows == 50
    assert (again.tails == counts.tails).all()
    again.merge(counts)
    with pytest.raises(StateDamaged):
        Counts.from_dict(document, BinSet((ColumnBins("a", "number"),)))
    with pytest.raises(StateDamaged):
        Counts.from_dict({**document, "counts": "AAAA"}, BINS)


def test_bins_survive_json_and_their_digest_is_of_their_content() -> None:
    again = BinSet.from_list(json.loads(json.dumps(BINS.to_list())))
    assert again == BINS
    assert again.digest == BINS.digest
    assert (
        BinSet((ColumnBins("a", "number", (0.0, 1.0)),)).digest != BinSet((ColumnBins("a", "number", (0.0,)),)).digest
    )
    with pytest.raises(StateDamaged):
        BinSet.from_list([{"name": "a"}])


@pytest.mark.parametrize("edges", [(1.0, 1.0), (2.0, 1.0), (float("nan"),), (float("inf"),)])
def test_edges_that_do_not_rise_are_refused(edges: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="rising"):
        ColumnBins("a", "number", edges)


def test_a_single_column_is_left_as_it_was() -> None:
    block = np.array([[3.0], [1.0], [2.0]], "f4")  # contiguous both ways: a view of it would be sorted in place
    counted(block, BinSet((ColumnBins("a", "number", (1.5,)),)))
    assert block[:, 0].tolist() == [3.0, 1.0, 2.0]
