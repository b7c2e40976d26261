"""Where other drift monitors fail, end to end here: fit a profile, count rows, measure.

Each was measured on the named release; what it does is said, and a formula of it is replayed where that is short.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from monitor.counts import Counter
from monitor.drift import Measurement, measure
from monitor.measures import ALL
from registry.vocabulary import Verdict
from tests.support.profiles import fitted

Floats = NDArray[np.float64]
DISTANCES = {"psi", "js", "ks"}


def compare(reference: Floats, current: Floats, *, level: float = 1e-6, kind: str = "number") -> dict[str, Measurement]:
    profile = fitted(reference, kinds=(kind,))
    live = Counter(profile.input_bins(), "f8").count(np.asarray(current, np.float64)[:, None])
    return {m.statistic: m for m in measure(profile, live, None, window="all", level=level, chosen=ALL)}


def alarmed(found: dict[str, Measurement]) -> set[str]:
    return {name for name, m in found.items() if m.verdict is Verdict.BREACH}


def test_one_outlier_hides_no_shift_and_makes_none() -> None:
    """Evidently 0.7 spaces its bins evenly up to the largest current value: one 1e4 takes its PSI from .99 to .02."""
    rng = np.random.default_rng(0)
    reference, shifted = rng.normal(size=20_000), rng.normal(1.0, 1.0, 20_000)
    wild = np.append(shifted[:-1], 1e4)
    edges = np.histogram_bin_edges(np.concatenate([reference, wild]), "sturges")
    theirs = [np.histogram(x, edges)[0] / len(x) + 1e-4 for x in (reference, wild)]
    assert np.sum((theirs[1] - theirs[0]) * np.log(theirs[1] / theirs[0])) < 0.1

    clean, hidden = compare(reference, shifted), compare(reference, wild)
    assert alarmed(hidden) == alarmed(clean) >= DISTANCES | {"wasserstein", "energy", "chi_square", "g"}
    assert hidden["psi"].value == pytest.approx(clean["psi"].value, rel=0.01)
    assert hidden["wasserstein"].value == pytest.approx(clean["wasserstein"].value, rel=0.01)
    assert alarmed(compare(reference, np.append(rng.normal(size=19_999), 1e4))) == set()


@pytest.mark.parametrize("shift", [1.0, -1.0])
def test_shifts_up_and_down_are_seen_alike(shift: float) -> None:
    """Evidently's Mann-Whitney test asks for `less` alone: a downward shift of a standard deviation has p 1.0."""
    rng = np.random.default_rng(1)
    reference, current = rng.normal(size=5000), rng.normal(shift, 1.0, 200)
    found = compare(reference, current, level=1e-5)
    assert alarmed(found) >= DISTANCES
    mirrored = compare(-reference, -current, level=1e-5)
    assert mirrored["ks"].value == pytest.approx(found["ks"].value, abs=0.02)


def test_a_rising_share_of_missing_values_is_seen_and_falling_too() -> None:
    """Evidently and deepchecks drop missing values before the test."""
    rng = np.random.default_rng(2)

    def holes(share: float, n: int) -> Floats:
        return np.where(rng.random(n) < share, np.nan, rng.normal(size=n))

    assert alarmed(compare(holes(0.01, 20_000), holes(0.05, 2000))) == {"missing"}
    assert alarmed(compare(holes(0.30, 20_000), holes(0.20, 2000))) == {"missing"}
    assert alarmed(compare(holes(0.05, 20_000), holes(0.05, 2000))) == set()


def test_an_empty_column_and_samples_of_other_sizes_are_no_error() -> None:
    """Evidently: an empty column ends the whole report; its G-test raises for samples of unequal size."""
    rng = np.random.default_rng(3)
    empty = compare(rng.normal(size=1000), np.full(500, np.nan))
    assert alarmed(empty) == {"missing"}
    unequal = compare(rng.choice(4, 5000).astype(np.float64), rng.choice(4, 700).astype(np.float64), kind="category")
    assert alarmed(unequal) == set()


def test_an_empty_bin_makes_no_psi_of_a_hundred() -> None:
    """frouros divides by sys.float_info.min: its documented example has a PSI of 134.95."""
    rng = np.random.RandomState(31)
    x, y = rng.normal(0, 1, 100), rng.normal(1, 1, 100)
    assert 0.5 < compare(x, y)["psi"].value < 2.5


RUNS, LEVEL = 600, 0.05
BAND = stats.binom.interval(1.0 - 1e-4, RUNS, LEVEL)


@pytest.mark.slow
def test_a_thousand_against_a_thousand_categories_alarm_at_the_nominal_rate_at_most() -> None:
    """Evidently's chi-square takes the reference for exact: half of all such comparisons alarm at a nominal 5 %."""
    rng = np.random.default_rng(4)
    share = rng.dirichlet(np.full(10, 5.0))
    hits = dict.fromkeys(ALL, 0)
    untolerant = dict.fromkeys(("chi_square", "g"), 0)
    theirs = 0
    for _ in range(RUNS):
        reference, current = (rng.choice(10, 1000, p=share).astype(np.float64) for _ in range(2))
        found = compare(reference, current, level=LEVEL, kind="category")
        for name in alarmed(found):
            hits[found[name].statistic] += 1
        r, c = (np.bincount(x.astype(int), minlength=10) for x in (reference, current))
        seen = (r > 0) & (c > 0)
        theirs += stats.chisquare(c[seen], r[seen] * c[seen].sum() / r[seen].sum()).pvalue < LEVEL
        for name in untolerant:
            df = int(((r + c) > 0).sum()) - 1
            untolerant[name] += found[name].value > stats.chi2.isf(LEVEL, df)
    assert all(BAND[0] <= count <= BAND[1] for count in untolerant.values())
    assert max(hits.values()) <= BAND[1]
    assert theirs > 0.4 * RUNS


@pytest.mark.slow
def test_a_thousand_against_a_thousand_numbers_alarm_at_the_nominal_rate_at_most() -> None:
    """NannyML's limit of three deviations of ten chunks alarms in 5 % of chunks where it implies .13 %."""
    rng = np.random.default_rng(5)
    hits = dict.fromkeys(ALL, 0)
    anything = 0
    for _ in range(RUNS):
        found = compare(rng.normal(size=1000), rng.normal(size=1000), level=LEVEL)
        for name in alarmed(found):
            hits[found[name].statistic] += 1
        shared = compare(rng.normal(size=1000), rng.normal(size=1000), level=LEVEL / 4)
        anything += bool(alarmed(shared) & {"psi", "js", "ks", "missing"})
    assert max(hits.values()) <= BAND[1]
    assert anything <= BAND[1]
