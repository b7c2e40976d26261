from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

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


def test_the_order_of_rows_does_not_matter_and_inputs_are_untouched() -> None:
    block = np.random.default_rng(2).normal(size=(200, 2)).astype("f4")
    before = block.copy()
    assert (counted(block).counts == counted(block[::-1]).counts).all()
    assert (block == before).all()


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
