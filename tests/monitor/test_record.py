from __future__ import annotations

import json

import numpy as np
import pytest

from monitor.record import (
    MAX_ELEMENTS,
    MAX_SUMMED,
    SUMMARY,
    Gatherer,
    LogSchema,
    _places,
    category_code,
    gather,
    make_log_schema,
    request_hash,
    row_dtype,
)
from registry.errors import StateDamaged
from registry.onnx import NUMPY_DTYPES
from registry.vocabulary import TensorSpec

X4 = TensorSpec("x", "FP32", (None, 4))
Y = TensorSpec("y", "FP32", (None, 1))


def test_the_columns_of_one_2d_input_carry_the_names_given() -> None:
    named = make_log_schema([X4], [Y], True, columns=["a", "b", "c", "d"])
    assert [column.name for column in named.inputs] == ["a", "b", "c", "d"]
    assert [column.name for column in make_log_schema([X4], [Y], True).inputs] == ["x[0]", "x[1]", "x[2]", "x[3]"]


def test_a_single_float_tensor_is_gathered_without_a_copy() -> None:
    schema = make_log_schema([X4], [Y], True)
    x = np.ones((3, 4), np.float32)
    assert gather(schema, "inputs", {"x": x}, 3) is x


def test_many_inputs_become_a_column_each() -> None:
    specs = [TensorSpec("age", "FP32", (None, 1)), TensorSpec("count", "INT64", (None,))]
    schema = make_log_schema(specs, [Y], True)
    assert [(c.name, c.kind) for c in schema.inputs] == [("age", "number"), ("count", "number")]
    assert schema.input_dtype == "f8"
    rows = gather(schema, "inputs", {"age": np.array([[1.5], [2.5]], "f4"), "count": np.array([2**40, 3])}, 2)
    assert rows.tolist() == [[1.5, 2.0**40], [2.5, 3.0]]


def test_strings_are_logged_as_the_same_exact_number_in_every_process() -> None:
    schema = make_log_schema([TensorSpec("carrier", "BYTES", (None, 1))], [Y], True)
    rows = gather(schema, "inputs", {"carrier": np.array([["UA"], ["AA"], ["UA"]], object)}, 3)
    assert rows[:, 0].tolist() == [category_code("UA"), category_code("AA"), category_code("UA")]
    assert category_code("UA") == category_code(b"UA") == 147670283652064.0
    assert schema.inputs[0].kind == "category"


def test_a_label_is_a_category_and_probabilities_are_scores() -> None:
    schema = make_log_schema(
        [X4],
        [TensorSpec("label", "INT64", (None,)), TensorSpec("p", "FP32", None)],
        True,
        output_examples={"label": np.array([0, 1]), "p": np.array([[0.2, 0.8], [0.5, 0.5]], "f4")},
    )
    assert [(c.name, c.kind) for c in schema.outputs] == [("label", "category"), ("p[0]", "number"), ("p[1]", "number")]
    assert schema.scores == ("p",)


def test_an_output_of_maps_has_columns_named_by_class() -> None:
    specs = [TensorSpec("x", "BF16", (None, 2))], [TensorSpec("p", "FP32", (None, 2), ("größe 1/ü", "数"))]
    schema = make_log_schema(*specs, by_rows=True)
    assert [column.name for column in schema.outputs] == ["p[größe 1/ü]", "p[数]"]
    assert (schema.input_dtype, schema.output_dtype) == ("f4", "f4")
    single = make_log_schema([], [TensorSpec("p", "FP32", (None, 1), ("7",))], by_rows=True)
    assert [column.name for column in single.outputs] == ["p[7]"]


def test_bfloat16_is_logged_exactly() -> None:
    bits = np.array([[1.5, -3.0e38], [0.0078125, 2.0]], NUMPY_DTYPES["BF16"])
    schema = make_log_schema([TensorSpec("x", "BF16", (None, 2))], [], by_rows=True)
    assert gather(schema, "inputs", {"x": bits}, 2).tolist() == bits.astype(np.float64).tolist()


def test_the_width_of_an_output_is_what_examples_show_not_what_the_model_declares() -> None:
    schema = make_log_schema([X4], [Y], True, output_examples={"y": np.zeros((5, 3), "f4")})
    assert len(schema.outputs) == 3


def test_a_large_tensor_is_logged_as_a_summary() -> None:
    width = MAX_ELEMENTS + 1
    schema = make_log_schema([TensorSpec("image", "FP32", (None, width))], [Y], True)
    assert [c.name for c in schema.inputs] == [f"image.{part}" for part in SUMMARY]
    rng = np.random.default_rng(1)
    x = rng.normal(2.0, 3.0, (4, width)).astype("f4")
    x[1, :10] = np.nan
    x[2, :5] = 0.0
    x[3] = np.nan
    rows = gather(schema, "inputs", {"image": x}, 4)
    np.testing.assert_allclose(rows[0, :4], [x[0].mean(), x[0].std(), x[0].min(), x[0].max()], rtol=1e-4)
    np.testing.assert_allclose(rows[1, 0], np.nanmean(x[1]), rtol=1e-4)
    assert rows[2, 4] == pytest.approx(5 / width)
    assert rows[1, 5] == pytest.approx(10 / width)
    assert np.isnan(rows[3, :4]).all()
    assert rows[3, 5] == 1.0


@pytest.mark.parametrize(
    ("centre", "spread"),
    [(0.0, 1.0), (1e4, 1e-2), (0.1, 0.0), (0.0, 0.0), (1e30, 1e29), (3e38, 0.0), (0.0, 1e-30), (-5.0, 40.0)],
)
def test_the_moments_of_a_summary_hold_whatever_the_scale(centre: float, spread: float) -> None:
    width = MAX_SUMMED - 100
    schema = make_log_schema([TensorSpec("image", "FP32", (None, width))], [Y], True)
    rng = np.random.default_rng(2)
    x = np.stack([rng.normal(centre, spread, width), rng.normal(size=width)]).astype("f4")
    rows = Gatherer(schema.inputs, True, "f8")({"image": x}, 2)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(rows[:, 0], exact.mean(axis=1), rtol=2e-6, atol=2e-6 * np.abs(exact).mean())
    np.testing.assert_allclose(rows[:, 1], exact.std(axis=1), rtol=1e-3, atol=1e-7 * np.abs(exact).max())
    np.testing.assert_array_equal(rows[:, 2:4], np.stack([x.min(axis=1), x.max(axis=1)], axis=1))
    np.testing.assert_allclose(rows[:, 4], (x == 0).mean(axis=1), rtol=1e-12)


def test_random_projections_do_not_depend_on_library_or_process() -> None:
    schema = make_log_schema([TensorSpec("image", "FP32", (None, 1000))], [Y], True)
    rows = gather(schema, "inputs", {"image": np.arange(1000, dtype="f4")[None]}, 1)
    np.testing.assert_allclose(rows[0, 6:], PROJECTIONS, rtol=1e-5)


def test_of_a_very_wide_row_extremes_and_missing_are_of_all_numbers_and_sums_of_a_spread_sample() -> None:
    width = 150_528
    schema = make_log_schema([TensorSpec("image", "FP32", (None, width))], [Y], True)
    place = {part: at for at, part in enumerate(SUMMARY)}
    x = np.random.default_rng(3).normal(1.0, 2.0, size=(200, width)).astype("f4")
    gatherer = Gatherer(schema.inputs, True, "f4")
    rows = gatherer({"image": x}, 200).copy()
    error = 2.0 / np.sqrt(MAX_SUMMED)  # standard error of a mean
    np.testing.assert_allclose(rows[:, place["mean"]], 1.0, atol=5 * error)
    np.testing.assert_allclose(rows[:, place["sd"]], 2.0, atol=5 * error)
    np.testing.assert_allclose(rows[:, place["projection0"]].std(), 2.0, atol=0.5)  # five times its standard error
    np.testing.assert_array_equal(rows[:, place["max"]], x.max(axis=1))
    np.testing.assert_array_equal(Gatherer(schema.inputs, True, "f4")({"image": x}, 200), rows)
    x[0], x[1], x[2, 100], x[3, 100] = np.nan, 0.0, np.nan, 1e9
    rows = gatherer({"image": x}, 200)
    assert np.isnan(rows[0, :4]).all()
    assert rows[1, place["zeros"]] == 1.0
    assert rows[2, place["missing"]] == pytest.approx(1 / width)
    assert rows[3, place["max"]] == 1e9
    assert np.isfinite(rows[1:]).all()


@pytest.mark.parametrize("width", [MAX_SUMMED + 1, 150_528, 512 * 512 * 3])
def test_the_sample_of_a_very_wide_row_reaches_all_of_it(width: int) -> None:
    places = _places("image", width)
    assert len(np.unique(places)) == MAX_SUMMED
    assert places.min() >= 0
    assert places.max() < width
    assert np.diff(np.sort(places)).max() < 2 * width / (MAX_SUMMED // 32)
    side = 512 if width == 512 * 512 * 3 else 224
    per_column = np.bincount(places % side, minlength=side)
    assert per_column.min() > 0  # no column of an image is left out


PROJECTIONS = [-568.1980590820312, -252.72923278808594]


def test_a_summarised_output_keeps_its_top_class() -> None:
    schema = make_log_schema([X4], [TensorSpec("logits", "FP32", (None, 1000))], True)
    assert (schema.outputs[-1].name, schema.outputs[-1].kind) == ("logits.top", "category")
    logits = np.zeros((2, 1000), "f4")
    logits[0, 7], logits[1, 999] = 1, 1
    assert gather(schema, "outputs", {"logits": logits}, 2)[:, -1].tolist() == [7.0, 999.0]


def test_a_model_that_does_not_take_rows_logs_a_request_as_one_row() -> None:
    schema = make_log_schema([TensorSpec("x", "FP32", (2, 3))], [Y], False)
    assert len(schema.inputs) == 6
    assert gather(schema, "inputs", {"x": np.arange(6, dtype="f4").reshape(2, 3)}, 1).tolist() == [[0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize(
    "tensors",
    [{}, {"x": np.zeros((3, 5), "f4")}, {"x": np.zeros((2, 4), "f4")}, {"x": np.zeros((), "f4")}],
    ids=["absent", "too wide", "too few rows", "a scalar"],
)
def test_a_tensor_of_another_shape_is_missing_and_never_an_error(tensors: dict[str, np.ndarray]) -> None:
    schema = make_log_schema([X4], [Y], True)
    rows = gather(schema, "inputs", tensors, 3)
    assert rows.shape == (3, 4)
    assert np.isnan(rows).all()


def test_a_schema_survives_json_and_has_the_digest_of_its_content() -> None:
    schema = make_log_schema([X4], [TensorSpec("label", "INT64", (None,)), Y], True)
    again = LogSchema.from_dict(json.loads(json.dumps(schema.to_dict())))
    assert again == schema
    assert again.digest == schema.digest != make_log_schema([X4], [Y], True).digest


@pytest.mark.parametrize("broken", [{}, {"inputs": [[1]]}, {"by_rows": True, "inputs": 3, "outputs": []}])
def test_a_broken_schema_is_refused_by_name(broken: dict[str, object]) -> None:
    with pytest.raises(StateDamaged):
        LogSchema.from_dict(broken)


def test_rows_are_aligned_and_the_sum_comes_first() -> None:
    dtype = row_dtype(make_log_schema([X4], [TensorSpec("label", "INT64", (None,)), Y], True))
    assert dtype.itemsize % 8 == 0
    assert dtype.fields is not None
    assert dtype.fields["block_crc"][1] == 0
    assert dtype.fields["outputs"][1] % 8 == 0


def test_request_hashes_are_sixteen_stable_bytes() -> None:
    assert request_hash("a").hex() == "27c35e6e9373877f29e562464e46497e"


def test_a_gatherer_can_be_used_again_and_again() -> None:
    schema = make_log_schema([TensorSpec("image", "FP32", (None, 600)), TensorSpec("b", "BOOL", (None,))], [Y], True)
    gatherer = Gatherer(schema.inputs, True, schema.input_dtype)
    for rows in (1, 5):
        block = gatherer({"image": np.ones((rows, 600), "f4"), "b": np.ones(rows, bool)}, rows)
        assert block[:, 0].tolist() == [1.0] * rows
        assert block[:, -1].tolist() == [1.0] * rows
