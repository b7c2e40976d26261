"""The reference profile: bins that hold what was seen, limits, and the same bytes from the same rows."""

from __future__ import annotations

import json

import numpy as np
import pytest

from monitor.counts import Counter, Counts
from monitor.profile import BINS, ReferenceProfile, fit
from registry.errors import FormatTooNew, StateDamaged
from tests.support.profiles import fitted, schema


def test_a_continuous_column_has_even_bins_and_empty_overflow() -> None:
    profile = fitted(np.random.default_rng(0).normal(size=16_000))
    counts = np.array(profile.inputs[0].counts)
    assert counts[0] == counts[-1] == 0
    assert len(counts) == BINS + 2
    assert counts[1:-1] == pytest.approx(np.full(BINS, 1000), abs=2)


def test_a_constant_column_has_a_bin_for_its_value_alone() -> None:
    profile = fitted(np.full(500, 0.422915))
    assert profile.inputs[0].counts == (0, 500, 0)
    live = Counts.empty(profile.input_bins())
    Counter(profile.input_bins(), "f8").add(live, np.array([[0.422915], [0.42], [0.43]]))
    assert live.of(0).tolist() == [1, 1, 1]


def test_a_frequent_value_among_many_is_not_hidden_in_a_quantile() -> None:
    values = np.concatenate([np.zeros(9000), np.random.default_rng(0).exponential(size=1000)])
    counts = fitted(values).inputs[0].counts
    assert counts[:2] == (0, 9000)


def test_few_different_numbers_have_a_bin_each() -> None:
    assert fitted(np.repeat([1.0, 2.0, 5.0], [10, 20, 30])).inputs[0].counts == (0, 10, 20, 30, 0)


def test_missing_and_infinite_values_are_counted_apart() -> None:
    column = fitted([1.0, np.nan, np.inf, -np.inf, 3.0, np.nan]).inputs[0]
    assert (column.missing, column.infinite, column.low, column.high, column.mean) == (2, 2, 1.0, 3.0, 2.0)
    assert (column.counts[0], column.counts[-1]) == (1, 1)


def test_a_column_without_any_value_is_profiled_and_named_in_a_warning() -> None:
    profile = fitted(np.full(40, np.nan))
    column = profile.inputs[0]
    assert (column.missing, column.counts, column.mean) == (40, (0,), None)
    assert "x0: all reference values are missing" in profile.warnings()[0]
    assert ReferenceProfile.from_bytes(profile.to_bytes()) == profile


def test_only_the_most_frequent_of_many_categories_have_bins() -> None:
    values = np.concatenate([np.arange(300), np.repeat([5.0, 7.0], 50)])
    column = fitted(values, kinds=("category",)).inputs[0]
    assert not column.complete
    assert len(column.counts) == 65
    assert {5.0, 7.0} <= set(column.bins.values)
    assert column.counts[-1] == 300 - 64


def test_every_row_is_in_a_bin_or_missing() -> None:
    rng = np.random.default_rng(1)
    values = np.where(rng.random(3000) < 0.1, np.nan, rng.normal(size=3000).round(1))
    column = fitted(values).inputs[0]
    assert sum(column.counts) + column.missing == 3000


def test_the_same_rows_give_the_same_bytes_and_back() -> None:
    values = np.random.default_rng(2).normal(size=1000)
    one, two = fitted(values), fitted(values)
    assert one.to_bytes() == two.to_bytes()
    assert one.digest == two.digest
    assert ReferenceProfile.from_bytes(one.to_bytes()) == one
    assert json.loads(one.to_bytes())["format"] == "driftgate.profile"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"format":"driftgate.profile","v":1}',
        b'{"format":"driftgate.profile","v":1,"rows":1,"inputs":[{}],"outputs":[]}',
    ],
)
def test_what_is_no_profile_is_refused(content: bytes) -> None:
    with pytest.raises(StateDamaged):
        ReferenceProfile.from_bytes(content)


def test_a_newer_profile_is_refused_by_name() -> None:
    with pytest.raises(FormatTooNew, match=r"driftgate\.profile v2"):
        ReferenceProfile.from_bytes(b'{"format":"driftgate.profile","v":2}')


def test_output_limits_widen_the_range_seen_by_a_tenth() -> None:
    made = schema("number", outputs=("number", "category", "text", "number", "number"))
    n = 11
    outputs = np.column_stack(
        [np.linspace(0, 1, n), np.arange(n) % 3, np.arange(n) + 1e12, np.full(n, 4.0), np.full(n, np.nan)]
    )
    limits = fit(made, np.zeros((n, 1)), outputs).output_limits()
    assert limits[0] == pytest.approx((-0.1, 1.1))
    assert limits[1:] == [(0.0, 2.0), None, None, None]  # classes; text; a constant; nothing


def test_blocks_of_another_schema_are_refused() -> None:
    with pytest.raises(ValueError, match="reference rows"):
        fit(schema("number"), np.zeros((5, 2)), np.zeros((5, 1)))


def test_independent_rows_have_no_design_effect_and_runs_have_theirs() -> None:
    rng = np.random.default_rng(4)
    walk = np.zeros(20_000)
    noise = rng.normal(size=20_000)
    for i in range(1, len(walk)):
        walk[i] = 0.9 * walk[i - 1] + noise[i]
    profile = fitted(noise, walk, rng.permutation(walk))
    independent, runs, shuffled = (column.deff for column in profile.inputs)
    assert independent == shuffled == 1.0
    assert 8.0 < runs < 40.0  # an AR(1) of .9 has 19 for its mean


def test_a_sorted_reference_is_named_in_a_warning() -> None:
    assert "is the file sorted?" in " ".join(fitted(np.sort(np.random.default_rng(0).normal(size=20_000))).warnings())
