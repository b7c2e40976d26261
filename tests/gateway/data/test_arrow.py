"""Arrow requests: the same tensors as JSON gives, the types of JSON, and no body that breaks pyarrow or us."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.data.codecs import arrow, arrow_columns
from gateway.data.codecs.arrow_answer import FILE, STREAM, ArrowCall
from gateway.data.codecs.arrow_columns import Columns
from gateway.data.codecs.v2 import Writer
from gateway.data.codecs.v2_calls import Call
from gateway.data.servable import InputSlot, Servable
from gateway.settings import LimitSettings
from registry import onnx
from registry.errors import MalformedRequest, PayloadTooLarge, ServingError, TensorMismatch
from registry.manifest import Manifest, ServingOptions
from registry.vocabulary import TensorSpec
from tests.gateway.data.test_arrow_claims import written
from tests.support import models
from tests.support.serving import aspire

LIMITS = LimitSettings(tensor_elements=100_000)


def served(path: Path, **options: Any) -> Servable:
    manifest = Manifest.from_json(Path(aspire(path, **options).manifest_path).read_text())
    return Servable("m", 3, onnx.open_session(path), manifest, 64)


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Servable:
    return served(models.linear(tmp_path_factory.mktemp("m") / "a.onnx"))


@pytest.fixture(scope="module")
def columns(tmp_path_factory: pytest.TempPathFactory) -> Servable:
    return served(models.columns(tmp_path_factory.mktemp("m") / "a.onnx"))


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Servable:
    return served(models.state_on_axis_one(tmp_path_factory.mktemp("m") / "a.onnx"), by_rows=False)


def read(table: Any, servable: Servable, **options: Any) -> list[Any]:
    return list(arrow.read(written(table, **options), {}, servable, LIMITS)[0])


def slot(datatype: str, *shape: int | None) -> InputSlot:
    return InputSlot(TensorSpec("x", datatype, shape or None), onnx.NUMPY_DTYPES[datatype])


def tensor(array: Any, to: InputSlot, *, nan: bool = False, limits: LimitSettings = LIMITS) -> Any:
    """A column as a tensor, after a way through IPC."""
    table = arrow.open_table(memoryview(written(pa.table({"x": array}))))
    return Columns(table, limits).array(to, 0, nan=nan)


ROWS = np.random.default_rng(5).normal(size=(4, 3)).astype(np.float32)


def lists(rows: Any) -> Any:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])


def test_a_matrix_comes_as_lists_as_columns_in_any_order_as_a_tensor_or_in_batches(matrix: Servable) -> None:
    named = {f"x[{i}]": ROWS[:, i] for i in (2, 0, 1)}
    tables = [
        pa.table({"x": lists(ROWS)}),
        pa.table({"x": pa.array(ROWS.tolist(), pa.list_(pa.float32()))}),
        pa.table({"x": pa.array(ROWS.tolist(), pa.large_list(pa.float64()))}),
        pa.table({"x": pa.FixedShapeTensorArray.from_numpy_ndarray(ROWS)}),
        pa.table(named),
        pa.table({name: values.astype(np.float64) for name, values in named.items()}),
    ]
    for table in tables:
        for options in ({}, {"rows": 2}, {"as_file": True}):
            (feed,) = read(table, matrix, **options)
            assert feed.tobytes() == ROWS.tobytes()
            assert (feed.shape, feed.dtype, feed.flags.c_contiguous) == ((4, 3), np.float32, True)


def test_inputs_are_columns_by_name_and_a_flat_column_fits_an_input_of_one_column(columns: Servable) -> None:
    city = pa.array(["a", "東", "a"])
    for text in (city, city.cast(pa.large_string()), city.cast(pa.string_view()), city.cast(pa.binary())):
        table = pa.table({"city": text, "age": [1, 2, 3], "visits": np.array([4, 5, 6], np.uint8)})
        age, visits, named = read(table, columns)
        assert (age.tolist(), age.dtype) == ([[1], [2], [3]], np.float32)
        assert (visits.tolist(), visits.dtype) == ([[4], [5], [6]], np.int64)
        assert named.tolist() == [["a"], ["東"], ["a"]]
    category = pa.table({"city": city.dictionary_encode(), "age": [1.0, 2.0, 3.0], "visits": [4, 5, 6]})
    for rows in (None, 1):
        assert read(category, columns, rows=rows)[2].tolist() == [["a"], ["東"], ["a"]]


def test_values_of_the_model_s_own_type_are_not_copied(matrix: Servable) -> None:
    body = written(pa.table({"x": lists(ROWS)}))
    (feed,), _ = arrow.read(body, {}, matrix, LIMITS)
    start = np.frombuffer(body, np.uint8).__array_interface__["data"][0]
    assert 0 < feed.__array_interface__["data"][0] - start < len(body)


DTYPES = {
    "BOOL": pa.bool_(),
    "INT8": pa.int8(),
    "INT64": pa.int64(),
    "UINT8": pa.uint8(),
    "UINT64": pa.uint64(),
    "FP16": pa.float16(),
    "FP32": pa.float32(),
    "FP64": pa.float64(),
    "BYTES": pa.string(),
}


@pytest.mark.parametrize(
    ("array", "datatype", "want"),
    [
        (pa.array([1, -128, 127]), "INT8", [1, -128, 127]),
        (pa.array([128]), "INT8", None),
        (pa.array([-1]), "UINT8", None),
        (pa.array([2**64 - 1], pa.uint64()), "INT64", None),
        (pa.array([2**63 - 1], pa.uint64()), "INT64", [2**63 - 1]),
        (pa.array([1.0]), "INT64", None),
        (pa.array([True]), "INT64", None),
        (pa.array([1]), "BOOL", None),
        (pa.array([True, False]), "BOOL", [True, False]),
        (pa.array([1, 2], pa.int8()), "FP64", [1.0, 2.0]),
        (pa.array([1e39]), "FP32", None),
        (pa.array([np.inf, 0.5]), "FP32", [np.inf, 0.5]),
        (pa.array([70000.0], pa.float32()), "FP16", None),
        (pa.array([0.5], pa.float16()), "FP32", [0.5]),
        (pa.array(["1"]), "FP32", None),
        (pa.array([1]), "BYTES", None),
        (pa.array([b"\xff"]), "BYTES", None),
        (pa.array([b"ab"], pa.binary(2)), "BYTES", None),
        (pa.array([1.0, None]), "FP32", None),
        (pa.array([1, None]), "INT64", None),
        (pa.array([True, None]), "BOOL", None),
        (pa.array(["a", None]), "BYTES", None),
        (pa.array([[1.0], None], pa.list_(pa.float64(), 1)), "FP32", None),
        (pa.array([[1.0], [1.0, 2.0]]), "FP32", None),
        (pa.array(["a", None]).dictionary_encode(), "BYTES", None),
        (pa.array([5, 6, 5]).dictionary_encode(), "INT64", [5, 6, 5]),
        (pa.array([], pa.int64()), "INT64", []),
    ],
)
def test_values_have_the_types_of_json(array: Any, datatype: str, want: list[Any] | None) -> None:
    if want is None:
        with pytest.raises(TensorMismatch, match='input "x"'):
            tensor(array, slot(datatype))
        return
    got = tensor(array, slot(datatype))
    assert got.dtype == onnx.NUMPY_DTYPES[datatype]
    assert got.tolist() == want


@pytest.mark.parametrize("array", [pa.array([1.5, None]), pa.array([2, None])])
def test_a_null_is_nan_only_where_the_version_allows_nan(array: Any) -> None:
    got = tensor(array, slot("FP32"), nan=True)
    assert np.isnan(got).tolist() == [False, True]
    with pytest.raises(TensorMismatch, match="does not allow NaN"):
        tensor(array, slot("FP32"))
    with pytest.raises(TensorMismatch, match="no missing value"):
        tensor(pa.array([1, None]), slot("INT64"), nan=True)


def test_bfloat16_is_two_bytes_or_a_number() -> None:
    values = np.array([1.5, -2.0, 3.25], ml_dtypes.bfloat16)
    octets = pa.array([value.tobytes() for value in values], pa.binary(2))
    for array in (octets, pa.array(values.astype(np.float32)), octets.slice(0)):
        got = tensor(array, slot("BF16"))
        assert (got.dtype, got.tobytes()) == (values.dtype, values.tobytes())


def test_axes_come_from_lists_and_from_tensors_in_whatever_order_they_are_stored() -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    plain = pa.FixedShapeTensorArray.from_numpy_ndarray(array)
    turned = pa.FixedShapeTensorArray.from_numpy_ndarray(array.transpose(0, 2, 1))  # stored so that strides differ
    kind = pa.fixed_shape_tensor(pa.float32(), [4, 3], permutation=[1, 0])
    stored = pa.ExtensionArray.from_storage(kind, plain.storage.cast(pa.list_(pa.float32(), 12)))
    nested = pa.array(array.tolist(), pa.list_(pa.list_(pa.float32(), 4), 3))
    loose = pa.array(array.tolist(), pa.list_(pa.list_(pa.float32())))
    for given_ in (plain, nested, loose):
        assert np.array_equal(tensor(given_, slot("FP32")), array)
    assert np.array_equal(tensor(turned, slot("FP32")), array.transpose(0, 2, 1))
    assert np.array_equal(tensor(stored, slot("FP32")), stored.to_numpy_ndarray())
    texts = pa.array([[["a", "b"]], [["c", "d"]]], pa.list_(pa.list_(pa.string(), 2), 1))
    assert tensor(texts, slot("BYTES")).tolist() == [[["a", "b"]], [["c", "d"]]]


@pytest.mark.parametrize(
    ("kind", "datatype", "shape"),
    [
        (pa.fixed_shape_tensor(pa.float32(), [3, 4], permutation=[1, 0]), "FP32", (0, 4, 3)),
        (pa.list_(pa.float32(), 2), "FP32", (0, 2)),
        (pa.dictionary(pa.int8(), pa.string()), "BYTES", (0,)),
        (pa.string_view(), "BYTES", (0,)),
        (pa.binary(2), "BF16", (0,)),
        (pa.bool_(), "BOOL", (0,)),
    ],
)
def test_a_table_without_batches_has_no_rows(kind: Any, datatype: str, shape: tuple[int, ...]) -> None:
    sink = pa.BufferOutputStream()
    pa.ipc.new_stream(sink, pa.schema({"x": kind})).close()
    table = arrow.open_table(memoryview(sink.getvalue().to_pybytes()))
    assert table.column("x").num_chunks == 0
    got = Columns(table, LIMITS).array(slot(datatype), 0, nan=False)
    assert (got.shape, got.dtype) == (shape, onnx.NUMPY_DTYPES[datatype])


def test_views_that_all_show_one_long_text_and_lists_of_nothing_are_bounded() -> None:
    sink = pa.array(["x" * 1000] * 3, pa.string_view())
    shared = pa.Array.from_buffers(
        pa.string_view(), 200, [None, pa.py_buffer(sink.buffers()[1].to_pybytes()[:16] * 200), sink.buffers()[2]]
    )
    with pytest.raises(PayloadTooLarge, match="bytes of text"):
        tensor(shared, slot("BYTES"), limits=LimitSettings(body_bytes=10_000))
    assert tensor(shared, slot("BYTES")).tolist() == ["x" * 1000] * 200
    with pytest.raises(PayloadTooLarge, match="elements"):
        tensor(
            pa.array([[1.0, 2.0]] * 6, pa.list_(pa.float64(), 2)),
            slot("FP32"),
            limits=LimitSettings(tensor_elements=10),
        )


def test_very_many_texts_are_refused_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_columns, "MOST_TEXTS", 5)
    assert len(tensor(pa.array(["a"] * 5), slot("BYTES"))) == 5
    with pytest.raises(PayloadTooLarge, match="6 elements, the limit is 5"):
        tensor(pa.array(["a"] * 6), slot("BYTES"))
    assert len(tensor(pa.array([1.0] * 6), slot("FP32"))) == 6


def test_whole_tensors_lie_in_one_row(states: Servable) -> None:
    x, state = np.ones((5, 4), np.float32), np.arange(40, dtype=np.float32).reshape(2, 5, 4)
    request = {"driftgate.request": json.dumps({"layout": "whole"})}
    table = pa.table(
        {"state": pa.FixedShapeTensorArray.from_numpy_ndarray(state.reshape(1, 2, 5, 4)), "x": pa.array([x.tolist()])}
    ).replace_schema_metadata(request)
    feeds = read(table, states)
    assert [feed.tobytes() for feed in feeds] == [x.tobytes(), state.tobytes()]
    with pytest.raises(TensorMismatch, match="one row"):
        read(pa.concat_tables([table, table]), states)
    with pytest.raises(TensorMismatch, match="columns"):
        read(table.drop_columns("x"), states)
    with pytest.raises(MalformedRequest, match="layout"):
        read(table.replace_schema_metadata({"driftgate.request": '{"layout": 3}'}), states)


def test_the_id_and_the_outputs_wanted_stand_in_the_schema(columns: Servable) -> None:
    table = pa.table({"age": [1.0], "visits": [2], "city": ["a"]})
    asked = {"id": "ü", "outputs": [{"name": "named"}], "parameters": {"timeout": 100}}
    body = written(table.replace_schema_metadata({"driftgate.request": json.dumps(asked)}))
    _, call = arrow.read(body, {}, columns, LIMITS)
    assert (call.id, call.outputs) == ("ü", [1])
    for text in ("[]", "{", '{"id": 1}', '{"outputs": [{"name": "q"}]}', "[" * 5000):
        with pytest.raises((MalformedRequest, TensorMismatch)):
            read(table.replace_schema_metadata({"driftgate.request": text}), columns)


def test_columns_that_do_not_fit_are_refused_in_words(columns: Servable, matrix: Servable) -> None:
    with pytest.raises(TensorMismatch, match="visits"):
        read(pa.table({"age": [1.0], "city": ["a"]}), columns)
    with pytest.raises(TensorMismatch, match="model wants"):
        read(pa.table({"x": lists(ROWS[:, :2])}), matrix)
    with pytest.raises(TensorMismatch, match="lists"):
        read(pa.table({f"x[{i}]": lists(ROWS) for i in range(3)}), matrix)
    with pytest.raises(TensorMismatch):
        read(pa.table({"x": lists(ROWS), "more": lists(ROWS)}).rename_columns(["x", "x"]), matrix)


OUTPUTS: dict[str, Any] = {
    "flat": np.array([1, 2, 3], np.int64),
    "matrix": np.array([[np.nan, 1], [2, np.inf], [4, 5]], np.float32),
    "cube": np.arange(12, dtype=np.float64).reshape(3, 2, 2),
    "texts": np.array([["a"], ["b"], [b"c\xff"]], object),
    "flags": np.array([[[True]], [[False]], [[True]]]),
    "half": np.array([1.5, 2, 3], np.float16),
    "brain": np.array([[1.5], [2], [3]], ml_dtypes.bfloat16),
    "none": np.zeros((3, 0), np.float32),
}
TYPES = {
    np.dtype(np.int64): "INT64",
    np.dtype(np.float32): "FP32",
    np.dtype(np.float64): "FP64",
    np.dtype(object): "BYTES",
    np.dtype(bool): "BOOL",
    np.dtype(np.float16): "FP16",
    np.dtype(ml_dtypes.bfloat16): "BF16",
}


class Answering:
    """A servable that only names its outputs."""

    def __init__(self, outputs: dict[str, Any]) -> None:
        specs = tuple(TensorSpec(name, TYPES[array.dtype], None) for name, array in outputs.items())
        self.model, self.version = "m", 3
        self.manifest = models.manifest_of("a", outputs=specs)


def answered(outputs: dict[str, Any], call: ArrowCall) -> Any:
    """The table of an answer."""
    writer = Writer.__new__(Writer)
    writer.servable = Answering(outputs)  # type: ignore[assignment]
    answer = call.write(writer, list(outputs.values()), 3)
    assert answer.headers == ((b"content-type", call.media_type.encode()),)
    opened = pa.ipc.open_file(answer.body) if call.media_type == FILE else pa.ipc.open_stream(answer.body)
    table = opened.read_all()
    table.validate(full=True)
    return table


@pytest.mark.parametrize("media_type", [STREAM, FILE])
def test_answers_read_back_bitwise_by_the_codec_itself(media_type: str) -> None:
    table = answered(OUTPUTS, ArrowCall(Call("α", None), media_type))
    assert json.loads(table.schema.metadata[b"driftgate.response"]) == {
        "model_name": "m",
        "model_version": "3",
        "id": "α",
    }
    assert table.column_names == list(OUTPUTS)
    for index, (name, array) in enumerate(OUTPUTS.items()):
        datatype = TYPES[array.dtype]
        got = Columns(table, LIMITS).array(slot(datatype), index, nan=False)
        assert got.shape == array.shape, name
        if array.dtype == object:
            assert got.ravel().tolist() == ["a", "b", "c\ufffd"]
        else:
            assert np.ascontiguousarray(got).tobytes() == array.tobytes(), name
    assert isinstance(table.schema.field("cube").type, pa.FixedShapeTensorType)


def test_outputs_without_common_rows_are_answered_whole() -> None:
    outputs = {"scalar": np.array(2.5, np.float32), "rows": np.zeros((4, 2), np.float32)}
    table = answered(outputs, ArrowCall(Call(None, None), STREAM))
    assert json.loads(table.schema.metadata[b"driftgate.response"])["layout"] == "whole"
    assert table.num_rows == 1
    back = [Columns(table, LIMITS).array(slot("FP32"), index, nan=False)[0, ...] for index in range(2)]
    assert [array.shape for array in back] == [(), (4, 2)]
    assert back[0] == 2.5
    only = answered(outputs, ArrowCall(Call(None, [1]), STREAM))
    assert (only.column_names, only.num_rows) == (["rows"], 4)


GOOD = [
    written(table)
    for table in (
        pa.table({"x": lists(ROWS)}).replace_schema_metadata({"driftgate.request": '{"id": "1"}'}),
        pa.table({f"x[{i}]": pa.array([1.0, 2.0, None]) for i in range(3)}),
        pa.table({"x": pa.FixedShapeTensorArray.from_numpy_ndarray(ROWS)}),
    )
]
MIXED = [
    written(pa.table({"age": [1.0, 2.0], "visits": [3, 4], "city": pa.array(["a", "b"], kind)}))
    for kind in (pa.string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string()), pa.large_binary())
]
damage = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=5)


@given(st.sampled_from(GOOD + MIXED), damage, st.integers(0, 64))
@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_body_gives_tensors_that_fit_or_a_refusal(
    matrix: Servable, columns: Servable, body: bytes, changes: list[tuple[int, int]], cut: int
) -> None:
    damaged = bytearray(body)
    for at, octet in changes:
        damaged[at % len(body)] = octet
    servable = matrix if body in GOOD else columns
    try:
        feeds, _ = arrow.read(bytes(damaged[: len(body) - cut]), {}, servable, LIMITS)
    except ServingError:
        return
    for feed, one in zip(feeds, servable.slots, strict=True):
        assert feed.dtype == one.dtype
        one.check_shape(feed.shape)


def test_a_version_that_allows_nan_takes_nulls_in_columns(tmp_path: Path) -> None:
    free = served(models.linear(tmp_path / "a.onnx"), options=ServingOptions(nan="allow"))
    table = pa.table({f"x[{i}]": pa.array([1.0, None]) for i in range(3)})
    assert np.isnan(read(table, free)[0][1]).all()
