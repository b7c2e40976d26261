"""Questions about rows: shares against closed forms and an SVD; a stored reference; merging; hostile values."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from monitor.profile import ReferenceProfile
from monitor.together import BINS, METHOD, MOST_PAIRS, OF_MANY, Tally, Together
from monitor.together_fit import LEAST_ROWS
from registry.errors import StateDamaged
from tests.support.together import Floats, correlated, profiled

N = 20_000
SIMPLE = correlated(N, 0.6, np.random.default_rng(0), columns=4)


@pytest.fixture(scope="module")
def simple() -> Together:
    found = profiled(SIMPLE).together
    assert found is not None
    return found


def shares(together: Together, tally: Tally, first: int, second: int) -> dict[tuple[str, str], float]:
    """(kind, kind) → share of rows in which two columns' splits answer alike."""
    found: dict[tuple[str, str], float] = {}
    for at in range(together.questions.of("pairs").stop):
        a, b = together.questions.pair(at)
        if (a.column, b.column) == (first, second):
            found[a.kind, b.kind] = float(tally.happened[at] / tally.of[at])
    return found


def test_two_normal_columns_lie_on_the_same_side_as_often_as_sheppard_says(simple: Together) -> None:
    """Sheppard (1899): P = 1/2 + asin(ρ)/π; of both far out, the bivariate normal's own integral."""
    told = shares(simple, simple.tally, 0, 1)
    assert told["high", "high"] == pytest.approx(0.5 + np.arcsin(0.6) / np.pi, abs=0.02)
    law = stats.multivariate_normal(cov=[[1.0, 0.6], [0.6, 1.0]])
    q = stats.norm.ppf(0.75)
    inner = law.cdf([q, q]) - 2.0 * law.cdf([-q, q]) + law.cdf([-q, -q])
    assert told["outer", "outer"] == pytest.approx(1.0 - 2.0 * (0.5 - inner), abs=0.03)
    assert told["high", "outer"] == pytest.approx(0.5, abs=0.02)
    assert shares(simple, simple.tally, 2, 3)["high", "high"] == pytest.approx(0.5, abs=0.02)


def test_the_error_is_what_an_svd_leaves(
    simple: Together,
) -> None:
    asked = simple.questions
    block = SIMPLE[:2000]
    points = asked.layout.points(asked.layout.places(block))
    scores, rest = asked.scores(asked.layout.places(block))
    _, _, turned = np.linalg.svd(asked.layout.points(asked.layout.places(SIMPLE)), full_matrices=False)
    kept = asked.basis.components.shape[1]
    left = points - points @ turned[:kept].T @ turned[:kept]
    assert np.corrcoef(np.square(left).sum(axis=1), scores[:, 0])[0, 1] > 0.99
    assert rest.sum(axis=1) == pytest.approx(scores[:, 0])
    assert scores[:, 0].mean() == pytest.approx(np.square(left).sum(axis=1).mean() / asked.basis.variance, rel=0.05)


def test_the_references_own_shares_are_those_of_quantiles(simple: Together) -> None:
    for name in ("reconstruction", "mmd"):
        here = simple.questions.of(name)
        scores = (simple.tally.happened[here] / simple.tally.of[here]).reshape(-1, 2 * BINS - 1)
        assert scores[:, :BINS].sum(axis=1) == pytest.approx(1.0)
        assert np.abs(scores[:, :BINS] - 1.0 / BINS).max() < 0.03  # of other rows than those that chose the bins
        assert scores[:, BINS:] == pytest.approx(np.cumsum(scores[:, : BINS - 1], axis=1))


def test_independent_rows_have_no_design_effect_and_sessions_have_theirs() -> None:
    rng = np.random.default_rng(3)
    alone = profiled(rng.normal(size=(N, 4))).together
    sessions = profiled(np.repeat(rng.normal(size=(N // 10, 4)), 10, axis=0)).together
    assert alone is not None
    assert sessions is not None
    assert (alone.deffs == 1.0).all()
    assert np.median(sessions.deffs) == pytest.approx(13.0, rel=0.3)  # ten, and a margin of 1.3
    unknown = profiled(rng.normal(size=(N, 4)), None).together
    lost = profiled(np.repeat(rng.normal(size=(N // 10, 4)), 10, axis=0), False).together
    assert unknown is not None
    assert lost is not None
    assert (unknown.block_rows == 0).all()
    assert (lost.deffs == 1.0).all()


def test_tallies_of_two_workers_add_up_exactly_in_any_order(simple: Together) -> None:
    asked = simple.questions
    whole = asked.tally(SIMPLE[:999])
    for parts in ([SIMPLE[:400], SIMPLE[400:999]], [SIMPLE[400:999], SIMPLE[:400]]):
        sum_ = Tally.empty(len(asked), 4)
        for part in parts:
            sum_.merge(asked.tally(part))
        assert (sum_.rows, sum_.happened.tolist(), sum_.of.tolist()) == (
            999,
            whole.happened.tolist(),
            whole.of.tolist(),
        )
        assert sum_.unexplained == pytest.approx(whole.unexplained)
    with pytest.raises(ValueError, match="different"):
        whole.merge(Tally.empty(3, 4))


def test_a_missing_value_answers_no_pair_and_lies_at_the_mean(simple: Together) -> None:
    block = SIMPLE[:1000].copy()
    block[:, 0] = np.nan
    tally = simple.questions.tally(block)
    pairs = [simple.questions.pair(at) for at in range(simple.questions.of("pairs").stop)]
    with_first = np.array([0 in (a.column, b.column) for a, b in pairs])
    of = tally.of[simple.questions.of("pairs")]
    assert (of[with_first] == 0).all()
    assert (of[~with_first] == 1000).all()
    points = simple.questions.layout.points(simple.questions.layout.places(block))
    assert (points[:, 0] == 0.0).all()


def test_infinities_and_outliers_are_as_far_out_as_the_outermost(simple: Together) -> None:
    block = np.tile([[np.inf, -np.inf, 1e300, -1e300]], (10, 1))
    far = np.tile([[9.0, -9.0, 9.0, -9.0]], (10, 1))
    found, expected = simple.questions.tally(block), simple.questions.tally(far)
    assert found.happened.tolist() == expected.happened.tolist()
    assert np.isfinite(found.unexplained).all()


def test_categories_take_part_by_their_most_frequent() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=N)
    block = np.column_stack([np.where(x > 0.5, 2.0, np.where(x < -0.5, 1.0, 0.0)), x, rng.integers(0, 2, N)])
    found = profiled(block, categories=(0,)).together
    assert found is not None
    told = shares(found, found.tally, 0, 1)
    assert ("category", "high") in told
    kinds = {(a.kind, a.bin) for at in range(found.questions.of("pairs").stop) for a in found.questions.pair(at)}
    assert ("category", 2) in kinds
    unseen = found.questions.tally(np.array([[77.0, 0.0, 1.0], [-5.0, 0.0, 1.0]]))
    assert unseen.rows == 2


def test_of_thousands_of_categories_the_rest_is_not_asked_about() -> None:
    """The 64 most frequent of 1,500 equal ones have 14 % of the rows that chose them, and 4 % of any others."""
    rng = np.random.default_rng(6)
    block = np.column_stack([rng.integers(0, 1500, N), rng.normal(size=N), rng.integers(0, 2, N)])
    profile = profiled(block, categories=(0,))
    assert profile.together is not None
    assert profile.together.questions.used == (1, 2)
    document = json.loads(profile.to_bytes())
    assert document["together"]["method"] == OF_MANY
    document["together"]["method"] = METHOD  # as fitted when it was asked about
    assert ReferenceProfile.from_bytes(json.dumps(document).encode()).together is None


@pytest.mark.parametrize(
    "block",
    [
        np.random.default_rng(0).normal(size=(LEAST_ROWS - 1, 3)),
        np.random.default_rng(0).normal(size=(N, 1)),
        np.column_stack([np.arange(N) % 50.0, np.full(N, 3.0), np.full(N, np.nan)]),
        np.empty((0, 3)),
    ],
    ids=["few rows", "one column", "one that varies", "no rows"],
)
def test_without_two_columns_that_vary_or_with_few_rows_there_is_nothing_to_watch(block: Floats) -> None:
    profile = profiled(block)
    assert profile.together is None
    assert json.loads(profile.to_bytes())["v"] == 2
    assert ReferenceProfile.from_bytes(profile.to_bytes()) == profile


@pytest.mark.slow
def test_a_thousand_columns_are_bounded_and_the_strongest_pair_is_among_the_pairs() -> None:
    rng = np.random.default_rng(1)
    found = profiled(correlated(3000, 0.8, rng, columns=1000)).together
    assert found is not None
    assert found.questions.of("pairs").stop == MOST_PAIRS
    assert ("high", "high") in shares(found, found.tally, 0, 1)
    assert found.questions.basis.components.shape[1] <= 32
    assert found.questions.tally(rng.normal(size=(50, 1000))).rows == 50


def test_a_reference_is_stored_with_its_profile_and_asks_the_same_afterwards(simple: Together) -> None:
    profile = profiled(SIMPLE)
    content = profile.to_bytes()
    assert json.loads(content)["v"] == 3
    again = ReferenceProfile.from_bytes(content)
    assert again.to_bytes() == content
    assert again.digest == profile.digest != profiled(SIMPLE, together=False).digest
    assert again.together is not None
    assert again.together.questions.tally(SIMPLE[:500]).happened.tolist() == (
        simple.questions.tally(SIMPLE[:500]).happened.tolist()
    )


def test_another_methods_reference_has_no_detector_and_a_damaged_one_is_refused() -> None:
    document = json.loads(profiled(SIMPLE).to_bytes())
    other = {**document, "together": {**document["together"], "method": METHOD + 1}}
    assert ReferenceProfile.from_bytes(json.dumps(other).encode()).together is None
    for name, value in (("pairs", 10**9), ("pairs", 3), ("edges", "x"), ("variance", -1.0), ("deffs", None)):
        broken = {**document, "together": {**document["together"], name: value}}
        with pytest.raises(StateDamaged):
            ReferenceProfile.from_bytes(json.dumps(broken).encode())
