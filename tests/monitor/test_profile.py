"""The reference profile: bins that hold what was seen, limits, and the same bytes from the same rows."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from monitor.counts import Counter, Counts
from monitor.feature_bins import BINS, feature_bins
from monitor.profile import Order, ReferenceProfile, fit
from monitor.record import Column
from registry.errors import FormatTooNew, StateDamaged
from tests.support.profiles import fitted, schema


def test_a_continuous_column_has_even_bins_and_empty_overflow() -> None:
    profile = fitted(np.random.default_rng(0).normal(size=16_000))
    counts = np.array(profile.inputs[0].counts)
    assert counts[0] == counts[-1] == 0
    assert len(counts) == BINS + 2
    assert counts[1:-1] == pytest.approx(np.full(BINS, 1000), abs=2)


@pytest.mark.parametrize("kind", ["f4", "f8"])
@pytest.mark.parametrize("rows", [33, 1000, 4096, 50_001])
def test_edges_lie_where_numpy_has_the_quantiles(kind: str, rows: int) -> None:
    values = np.random.default_rng(rows).lognormal(size=rows).astype(kind)
    edges = feature_bins(Column("x", "x", "number", 0), values, None, True).bins.edges
    quantiles = np.quantile(values, np.linspace(0.0, 1.0, BINS + 1)[:-1], method="higher")
    assert edges[:-1] == tuple(map(float, quantiles))


def test_a_profile_is_the_same_however_its_block_lies_in_memory() -> None:
    block = np.random.default_rng(4).normal(size=(3000, 37))
    block[::7, 5] = np.nan
    made = schema(*["number"] * 37)
    columns = fit(made, np.asfortranarray(block), block[:, :1])
    assert columns.to_bytes() == fit(made, block, block[:, :1]).to_bytes()
    assert [column.missing for column in columns.inputs] == np.isnan(block).sum(axis=0).tolist()


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
    with pytest.raises(FormatTooNew, match=r"driftgate\.profile v4"):
        ReferenceProfile.from_bytes(b'{"format":"driftgate.profile","v":4}')


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


def _walk(rho: float, rows: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """An AR(1), by its definition."""
    noise = rng.normal(size=rows)
    walk = np.zeros(rows)
    for i in range(1, rows):
        walk[i] = rho * walk[i - 1] + noise[i]
    return walk


def test_independent_rows_have_no_design_effect_and_runs_have_theirs() -> None:
    rng = np.random.default_rng(4)
    walk = _walk(0.9, 20_000, rng)
    profile = fitted(rng.normal(size=20_000), walk, rng.permutation(walk))
    independent, runs, shuffled = profile.inputs
    assert independent.deff == shuffled.deff == 1.0
    assert 8.0 < runs.deff < 40.0  # an AR(1) of .9 has 19 for its mean


def test_independence_is_believed_only_of_rows_in_the_order_of_time() -> None:
    values = np.random.default_rng(5).normal(size=(20_000, 1))
    made = schema("number")
    for in_time, block_rows in ((True, 1), (None, None), (False, None)):
        profile = fit(made, values, values, order=Order(in_time))
        assert (profile.ordered, profile.inputs[0].block_rows) == (in_time, block_rows)
        assert any("unknown until live traffic shows it" in said for said in profile.warnings()) is not in_time
        assert ReferenceProfile.from_bytes(profile.to_bytes()) == profile


def test_rows_that_are_said_to_be_in_no_order_have_no_dependence_however_they_lie() -> None:
    walk = _walk(0.9, 5_000, np.random.default_rng(6))[:, None]
    assert fit(schema("number"), walk, walk, order=Order(False)).inputs[0].deff == 1.0


def test_outputs_may_be_of_fewer_rows_than_inputs() -> None:
    values = np.arange(500.0)[:, None]
    profile = fit(schema("number"), values, values[:40])
    assert (profile.rows, profile.inputs[0].rows, profile.outputs[0].rows) == (500, 500, 40)


def test_types_are_inferred_of_inputs_and_may_be_said() -> None:
    columns = ([0.5, 2.0, 1.0] * 5, [1, 2, 7] * 5, [0, 1, 1] * 5, [1, 2, 2] * 5, [1.0] * 15)
    kinds = ("number", "number", "number", "category", "number")
    block = np.column_stack([np.asarray(column, np.float64) for column in columns])
    found = fit(schema(*kinds), block, block[:, 2:3])
    assert [c.type for c in found.inputs] == ["numeric", "integer", "boolean", "categorical", "integer"]
    assert found.inputs[2].bins.values == (0.0, 1.0)
    assert found.outputs[0].type == "integer"  # an output of 0 and 1 may be a rounded score
    said = fit(schema(*kinds), block, block[:, 2:3], types={"x1": "categorical", "x2": "numeric", "x4": "boolean"})
    assert [c.type for c in said.inputs] == ["numeric", "categorical", "numeric", "categorical", "boolean"]
    assert said.inputs[1].bins.values == (1.0, 2.0, 7.0)
    assert said.inputs[4].bins.values == (0.0, 1.0)


def test_a_code_for_missing_in_a_continuous_column_has_a_bin_of_its_own() -> None:
    rng = np.random.default_rng(7)
    values = rng.normal(size=20_000)
    values[rng.random(20_000) < 0.01] = -999.0
    column = fitted(values).inputs[0]
    assert column.bins.edges[:2] == (-999.0, np.nextafter(-999.0, 0.0))
    assert column.counts[:2] == (0, int((values == -999.0).sum()))


def test_a_column_constant_for_most_of_its_rows_keeps_its_constant_apart() -> None:
    rng = np.random.default_rng(8)
    values = np.concatenate([np.full(17_424, 0.003467), rng.normal(0.0035, 0.0004, size=700)])
    column = fitted(values).inputs[0]
    at = np.searchsorted(column.bins.edges, 0.003467, side="right")
    assert column.counts[at] == 17_424
    assert np.all(np.diff(column.bins.edges) > 0)


def test_a_sorted_reference_is_named_in_a_warning() -> None:
    assert "is the file sorted?" in " ".join(fitted(np.sort(np.random.default_rng(0).normal(size=20_000))).warnings())


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_largest_number_there_is_has_no_edge_above_it(kind: type[np.floating]) -> None:
    """Warnings are errors: the next number after it is infinity."""
    largest, rng = np.finfo(kind).max, np.random.default_rng(9)
    column = Column("x", "x", "number", 0)
    for values in ([largest, 1.0, -largest], [*rng.normal(size=500).tolist(), *[float(largest)] * 100]):
        bins = feature_bins(column, np.array(values, kind), None, True).bins
        assert bins.edges[-1] == largest


def test_stored_bins_are_the_fitted_ones_whatever_the_type() -> None:
    rng = np.random.default_rng(10)
    made = fitted(
        rng.integers(0, 90, 400), rng.integers(0, 2, 400), rng.normal(size=400), np.full(400, 7), np.full(400, np.nan)
    )
    assert [column.bins.whole for column in made.inputs] == [True, False, False, True, False]
    stored = ReferenceProfile.from_bytes(made.to_bytes())
    assert stored == made
    assert (stored.input_bins().digest, stored.output_bins().digest) == (
        made.input_bins().digest,
        made.output_bins().digest,
    )
