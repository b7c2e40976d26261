"""Every statistic of the table sees what it should, on any counts, and is never told without limit, size and effect."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from monitor.counts import BinSet, Counter, Counts
from monitor.drift import Measurement, count_of_tests, measure
from monitor.measures import ALL, EFFECTS, LEVEL, Statistic
from monitor.profile import ReferenceProfile
from registry.vocabulary import Verdict
from tests.support.profiles import fitted

SHARES = {"missing", "unseen", "mistyped", "infinite", "out_of_range"}
NUMBER = set(ALL) - {"unseen", "mistyped"}
CATEGORY = set(ALL) - {"ks", "kuiper", "wasserstein", "energy", "infinite", "out_of_range", "mistyped"}


def counted(profile: ReferenceProfile, *columns: object) -> Counts:
    block = np.column_stack([np.asarray(column, np.float64) for column in columns])
    return Counter(profile.input_bins(), "f8").count(block)


def look(profile: ReferenceProfile, live: Counts, level: float = 1e-6) -> dict[str, Measurement]:
    return {m.statistic: m for m in measure(profile, live, None, window="5m", level=level, chosen=ALL)}


def breached(found: dict[str, Measurement]) -> set[str]:
    return {name for name, m in found.items() if m.verdict is Verdict.BREACH}


def times(counts: Counts, factor: int) -> Counts:
    """As if every row had come so many times."""
    arrays = {name: getattr(counts, name) * factor for name in ("counts", "missing", "infinite", "negative")}
    return replace(counts, rows=counts.rows * factor, m2=counts.m2 * factor, tails=counts.tails * factor, **arrays)


def test_a_shift_of_half_a_standard_deviation_is_seen_by_every_distance_and_no_shift_by_none() -> None:
    rng = np.random.default_rng(0)
    profile = fitted(rng.normal(size=50_000))
    assert breached(look(profile, counted(profile, rng.normal(size=5000)))) == set()
    moved = look(profile, counted(profile, rng.normal(0.5, 1, 5000)))
    assert set(moved) == NUMBER
    assert breached(moved) == NUMBER - SHARES


def test_other_shares_of_categories_are_seen_by_every_distance_and_a_new_one_as_unseen_too() -> None:
    rng = np.random.default_rng(1)
    profile = fitted(rng.choice(5, 50_000), kinds=("category",))
    moved = look(profile, counted(profile, rng.choice(5, 5000, p=[0.4, 0.2, 0.2, 0.1, 0.1])))
    assert set(moved) == CATEGORY
    assert breached(moved) == CATEGORY - SHARES
    new = look(profile, counted(profile, np.append(rng.choice(5, 4900), np.full(100, 9.0))))
    assert "unseen" in breached(new)
    assert new["unseen"].value == 0.02


def test_effects_are_in_a_unit_that_does_not_know_the_sample_size() -> None:
    rng = np.random.default_rng(2)
    profile = fitted(rng.normal(10, 3, 200_000))
    few, many = (look(profile, counted(profile, rng.normal(11.5, 3, n))) for n in (2000, 200_000))
    for found in (few, many):
        assert found["wasserstein"].value == pytest.approx(1.5, rel=0.1)
        assert found["wasserstein"].effect == pytest.approx(0.5 / 1.349, rel=0.1)
    for name in ("psi", "kl", "js", "hellinger", "chi_square"):
        if name != "chi_square":  # Cramér's V depends on how the rows divide between the samples
            assert few[name].effect == pytest.approx(many[name].effect, rel=0.2)
        assert 0.0 < few[name].effect < 1.0
    same = look(profile, counted(profile, rng.normal(10, 3, 2000)))
    assert all(same[name].effect <= same[name].value for name in ("psi", "kl", "js", "hellinger"))
    assert same["psi"].effect < 0.01
    assert set(EFFECTS) <= set(ALL)


def test_a_shift_of_a_hundredth_of_a_standard_deviation_is_no_drift_in_a_thousand_million_rows() -> None:
    rng = np.random.default_rng(3)
    profile = fitted(rng.normal(size=200_000))
    edges = np.array(profile.inputs[0].bins.edges)
    shares = np.diff(stats.norm.cdf(edges, 0.01), prepend=0.0, append=1.0)
    live = Counts.empty(profile.input_bins())
    live.counts[0] = np.rint(shares * 1e9).astype(np.int64)
    live.rows = int(live.counts[0].sum())
    assert breached(look(profile, live, 1e-9)) == set()


def test_size_limit_effect_and_both_sample_sizes_are_always_told_together() -> None:
    rng = np.random.default_rng(4)
    profile = fitted(rng.normal(size=5000), rng.choice(3, 5000), kinds=("number", "category"))
    live = counted(profile, rng.normal(size=300), rng.choice(3, 300))
    found = measure(profile, live, None, window="5m", level=1e-4, chosen=ALL)
    assert len(found) == len(NUMBER) + len(CATEGORY)
    for m in found:
        told = m.to_dict()
        assert all(math.isfinite(told[name]) for name in ("value", "threshold", "effect", "rows", "reference_rows"))
        assert (told["rows"], told["reference_rows"]) == (300, 5000)
        assert told["threshold"] > 0


def test_only_the_chosen_statistics_are_tests() -> None:
    profile = fitted(np.arange(1000.0), np.arange(1000.0) % 3, kinds=("number", "category"))
    live = counted(profile, np.arange(1000.0), np.arange(1000.0) % 3)
    for chosen in (("ks",), LEVEL, ALL):
        names: tuple[Statistic, ...] = chosen
        found = measure(profile, live, None, window="5m", level=1e-4, chosen=names)
        outputs = count_of_tests(replace(profile, inputs=()), names)
        assert len(found) == count_of_tests(profile, names) - outputs


NASTY: dict[str, list[float]] = {
    "constant": [2.5] * 400,
    "missing": [math.nan] * 400,
    "infinite": [math.inf, -math.inf] * 200,
    "ties": [0.0] * 399 + [1.0],
    "huge": [1e308, -1e308, 5e-324, 0.0] * 100,
    "usual": [math.sin(i) for i in range(400)],
}


@pytest.mark.parametrize("reference", NASTY)
@pytest.mark.parametrize("live", [*NASTY, "none", "one"])
@pytest.mark.parametrize("factor", [1, 10**9 // 400])
def test_nasty_columns_are_measured_or_said_to_be_unknown(reference: str, live: str, factor: int) -> None:
    profile = fitted(NASTY[reference])
    values = {"none": [], "one": [1.0], **NASTY}[live]
    found = look(profile, times(counted(profile, values), factor))
    for name, m in found.items():
        if m.verdict is not Verdict.UNKNOWN:
            assert math.isfinite(m.value), name
            assert math.isfinite(m.threshold), name
        assert (m.cause is None) == (m.verdict is not Verdict.UNKNOWN)
    if reference == live:
        assert breached(found) == set()
    if live == "missing" and reference != "missing":
        assert "missing" in breached(found)


ANY = st.one_of(st.floats(-1e300, 1e300), st.sampled_from([0.0, 1.0, math.nan, math.inf, -math.inf]))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(ANY, min_size=1, max_size=60),
    st.lists(ANY, max_size=60),
)
def test_whatever_comes_is_measured_without_a_warning(reference: list[float], live: list[float]) -> None:
    profile = fitted(reference)
    for m in look(profile, counted(profile, live)).values():
        assert m.verdict is Verdict.UNKNOWN or math.isfinite(m.value + m.threshold)


def test_a_column_of_whole_numbers_knows_a_fraction() -> None:
    profile = fitted(np.arange(5000.0) % 50)
    whole = replace(profile.inputs[0], bins=replace(profile.inputs[0].bins, whole=True))
    profile = ReferenceProfile(5000, (whole,), ())
    live = counted(profile, np.append(np.arange(900.0) % 50, np.full(100, 7.5)))
    found = look(profile, live)
    assert found["mistyped"].verdict is Verdict.BREACH
    assert found["mistyped"].value == 0.1
    assert BinSet((whole.bins,)).digest == profile.input_bins().digest


@pytest.mark.slow
@pytest.mark.parametrize("rows", [200, 2000])
def test_without_drift_every_statistic_alarms_at_most_at_its_level(rows: int) -> None:
    rng = np.random.default_rng(rows)
    looks, level = 800, 0.01

    def draw(n: int) -> list[NDArray[np.float64]]:
        holes = np.where(rng.random(n) < 0.02, np.nan, rng.lognormal(size=n))
        return [rng.normal(size=n), holes, rng.integers(0, 7, n) * 1.0, np.minimum(rng.zipf(1.6, n), 500.0)]

    profile = fitted(*draw(20_000), kinds=("number", "number", "number", "category"))
    alarms: dict[tuple[str, str], int] = {}
    for _ in range(looks):
        for m in measure(profile, counted(profile, *draw(rows)), None, window="5m", level=level, chosen=ALL):
            alarms[m.feature, m.statistic] = alarms.get((m.feature, m.statistic), 0) + (m.verdict is Verdict.BREACH)
    most = stats.binom.isf(1e-5, looks, 1.3 * level)  # the laws are large-sample ones: 30 % is allowed for that
    assert {key: count for key, count in alarms.items() if count > most} == {}
