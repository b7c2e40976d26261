"""A sentence names what moved and which way, and nothing that chance explains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from monitor.counts import ColumnBins, Counter, Counts
from monitor.explain import Direction, Explanation, Sample, bin_names, explain, names_of, quantile
from monitor.profile import ColumnProfile, ReferenceProfile
from tests.support.profiles import fitted

RNG = np.random.default_rng(0)
NORMAL = RNG.normal(size=20_000)


def told(reference: NDArray[np.float64], current: NDArray[np.float64], *, exact: bool = False) -> Explanation:
    profile = fitted(reference)
    counts = counted(profile, current)
    column = profile.inputs[0]
    return explain(column.bins, Sample.expected(column, profile.rows), Sample.of(counts, 0), exact=exact)


def counted(profile: ReferenceProfile, *columns: NDArray[np.float64]) -> Counts:
    counts = Counts.empty(profile.input_bins())
    Counter(profile.input_bins(), "f8").add(counts, np.column_stack(columns))
    return counts


@pytest.mark.parametrize(
    ("current", "direction", "words"),
    [
        (NORMAL + 0.5, Direction.UP, "higher"),
        (NORMAL - 0.5, Direction.DOWN, "lower"),
        (NORMAL * 1.5, Direction.WIDER, "wider"),
        (NORMAL * 0.6, Direction.NARROWER, "narrower"),
        (np.where(NORMAL < 1.5, NORMAL, NORMAL + 3), Direction.UP, "above"),
        (np.where(RNG.random(20_000) < 0.1, np.nan, NORMAL), Direction.MISSING, "Missing values went from 0 % to 10 %"),
    ],
)
def test_each_kind_of_shift_is_named(current: NDArray[np.float64], direction: Direction, words: str) -> None:
    found = told(NORMAL, current)
    assert found.direction is direction
    assert words in found.sentence
    assert found.moved


def test_a_median_is_told_within_a_bin_of_the_true_one() -> None:
    found = told(NORMAL, NORMAL + 1.0)
    middle = quantile(fitted(NORMAL).inputs[0].bins, np.array(fitted(NORMAL).inputs[0].counts), 0.5)
    assert middle == pytest.approx(np.median(NORMAL), abs=0.05)
    assert "the median is about" in found.sentence


def test_rows_of_the_same_kind_are_not_talked_about() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        found = told(rng.normal(size=2000), rng.normal(size=2000))
        assert (found.direction, found.moved) == (Direction.NONE, ())


def test_rows_that_come_in_runs_must_move_further_to_be_named() -> None:
    column = fitted(NORMAL).inputs[0]
    now = Sample.of(counted(fitted(NORMAL), NORMAL[:2000] + 0.2), 0)
    before = Sample.expected(column, 20_000)
    assert explain(column.bins, before, now).moved
    assert not explain(column.bins, before, now, deff=100.0).moved


def test_a_constant_that_begins_to_move_says_so() -> None:
    found = told(np.full(5000, 7.0), np.where(np.arange(5000) % 50 == 0, 9.0, 7.0), exact=True)
    assert found.direction is Direction.UP
    assert found.sentence.startswith("The reference was 7 in nearly every row; 2 % of rows now differ.")


def test_whole_numbers_are_named_as_whole_numbers() -> None:
    rng = np.random.default_rng(0)
    reference = rng.integers(0, 100, 20_000).astype(np.float64)
    names = bin_names(fitted(reference).inputs[0].bins)
    assert names[0] == "below 0"
    assert names[-1] == "above 99"
    assert all("." not in name for name in names)


def test_fractions_among_whole_numbers_are_told_though_no_bin_moves() -> None:
    whole = RNG.integers(0, 100, 20_000).astype(np.float64)
    found = told(whole, np.where(whole % 10 < 3, whole + 0.3, whole))
    assert [item.what for item in found.moved] == ["not whole"]
    assert found.sentence == "30 % of values have a fraction; the reference has whole numbers only."
    assert told(whole, whole).moved == ()


def test_one_value_of_single_precision_is_named_once() -> None:
    after = float(np.nextafter(np.float32(3.0), np.float32(4.0)))
    bins = ColumnBins("x", "number", edges=(1.5, 3.0, after, 4.2))
    assert bin_names(bins) == ["below 1.5", "1.5 to 3", "3", "3 to 4.2", "4.2 and above"]


def test_two_medians_that_look_the_same_are_not_told() -> None:
    reference = 2.0**53 + np.arange(4000.0) % 1000
    found = told(reference, reference + 1e9)
    assert found.direction is Direction.UP
    assert found.sentence.startswith("Values are higher. ")


def category(values: tuple[float, ...], counts: tuple[int, ...]) -> ColumnProfile:
    bins = ColumnBins("c", "category", values=values)
    return ColumnProfile(bins, counts, 0, 0, None, None, None, None, True, 1.0, False)


def test_categories_are_named_with_their_shares() -> None:
    column = category((0.0, 1.0, 2.0), (500, 300, 200, 0))
    names = {0.0: "red", 1.0: "green", 2.0: "blue"}
    now = Sample(np.array([250, 300, 400, 50]), 0, 1000)
    found = explain(column.bins, Sample.expected(column, 1000), now, name=names.__getitem__, unseen=["pink"])
    assert found.direction is Direction.MIX
    assert "“red” fell from 50 % to 25 %" in found.sentence
    assert "“blue” rose from 20 % to 40 %" in found.sentence
    assert "5 % of rows hold categories that the reference never had, most often “pink”." in found.sentence
    assert [item.what for item in found.moved] == ["“red”", "“blue”", "other categories"]


def test_a_live_category_of_texts_goes_by_its_place_in_the_reference() -> None:
    """Workers log a hash of it, which says nothing to anybody."""
    column = replace(category((11654553130925.0, 60556165500345.0), (300, 700, 0)), hashed=True)
    now = Sample(np.array([600, 400, 0]), 0, 1000)
    found = explain(column.bins, Sample.expected(column, 1000), now, name=names_of(column))
    assert found.sentence == "“no. 1 in frequency” fell from 70 % to 40 %."
    assert names_of(fitted(NORMAL).inputs[0])(2.5) == "2.5"


@pytest.mark.parametrize("rows", [(0, 0), (0, 10), (10, 0), (1, 1)])
def test_no_rows_are_no_reason_to_fail(rows: tuple[int, int]) -> None:
    column = fitted(np.arange(100.0)).inputs[0]
    sides = [Sample(np.bincount([5] * n, minlength=column.bins.bins), 0, n) for n in rows]
    assert explain(column.bins, *sides).sentence


@pytest.mark.parametrize("lowest", [-np.finfo(np.float64).max, -1e308])
def test_the_lowest_numbers_of_all_are_told_like_any_others(lowest: float) -> None:
    """What some programs write for "unknown": nothing finite lies below, and bins are wider than the largest number."""
    values = np.where(np.arange(4000) % 4 == 0, lowest, np.linspace(0.0, 1e308, 4000))
    reference = fitted(values)
    column, bins = reference.inputs[0], reference.input_bins()
    live = Counter(bins, "f8").count(np.maximum(values, 0.0)[:, None])
    told = explain(column.bins, Sample.expected(column, column.rows), Sample.of(live, 0))
    assert told.direction is Direction.UP
    middle = quantile(column.bins, np.array(column.counts), 0.2)
    assert middle is not None
    assert lowest <= middle <= 1e308
