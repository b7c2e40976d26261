"""Open Inference V2 over REST: every type both ways, NaN by option, and bodies meant to do harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gateway.data.codecs import v2
from gateway.data.servable import Servable
from registry import onnx
from registry.errors import CallerError, MalformedRequest, PayloadTooLarge, TensorMismatch, Unimplemented
from registry.manifest import Manifest
from tests.support import models
from tests.support.serving import aspire
from tests.support.v2 import KINDS, LIMITS, answered, body_of, echo, opened, raw, stated, two


@pytest.fixture(scope="module", params=["BF16", "BYTES"])
def every(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Servable:
    """Every datatype but one, of any shape: onnxruntime gives no bfloat16 to Python beside text."""
    kinds = [kind for kind in KINDS if kind != request.param]
    return echo(tmp_path_factory.mktemp("m") / "a.onnx", kinds)


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> Servable:
    return echo(tmp_path_factory.mktemp("m") / "a.onnx", ["FP32", "INT64"], ["N", 2])


@pytest.fixture(scope="module")
def generous(tmp_path_factory: pytest.TempPathFactory) -> Servable:
    """A version whose options allow NaN."""
    return echo(tmp_path_factory.mktemp("m") / "a.onnx", ["FP32"], None, nan="allow")


def arrays(kind: str) -> st.SearchStrategy[Any]:
    shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
    if kind == "BYTES":
        return shapes.flatmap(lambda shape: hnp.arrays(object, shape, elements=st.text(max_size=5)))
    if kind == "BF16":
        bits = shapes.flatmap(lambda shape: hnp.arrays(np.uint16, shape))
        return bits.map(lambda array: np.frombuffer(array.tobytes(), onnx.NUMPY_DTYPES[kind]).reshape(array.shape))
    return shapes.flatmap(lambda shape: hnp.arrays(onnx.NUMPY_DTYPES[kind], shape))


def finite(array: Any) -> Any:
    if array.dtype.kind not in "fV":
        return array
    return np.where(np.isfinite(array.astype(np.float64)), array, np.zeros((), array.dtype))


@given(st.fixed_dictionaries({kind: arrays(kind) for kind in KINDS}), st.sets(st.sampled_from(list(KINDS))), st.data())
@settings(deadline=None, max_examples=6)
def test_every_type_in_any_mix_of_forms_comes_back_bitwise(
    every: Servable, given_: dict[str, Any], in_json: set[str], data: Any
) -> None:
    kinds = every.input_names
    values = {kind: finite(given_[kind]) if kind in in_json else given_[kind] for kind in kinds}
    names = data.draw(st.permutations(kinds))
    document = {
        "inputs": [stated(kind, values[kind], binary=kind not in in_json) for kind in names],
        "parameters": {"binary_data_output": True},
    }
    body, headers = body_of(document, *(raw(values[kind]) for kind in names if kind not in in_json))
    told, buffers = opened(answered(every, body, headers))
    assert [output["name"] for output in told["outputs"]] == [f"{kind} out" for kind in kinds]
    for kind, output in zip(kinds, told["outputs"], strict=True):
        assert output["shape"] == list(values[kind].shape)
        assert buffers.get(f"{kind} out", b"") == raw(values[kind])


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["FP32", "INT64", "x"]) | anything,
        "shape": st.lists(st.integers(-1, 3), max_size=3) | anything,
        "datatype": st.sampled_from(["FP32", "INT64"]) | anything,
        "data": st.lists(st.floats() | st.integers(), max_size=4) | anything,
        "parameters": st.dictionaries(st.sampled_from(["binary_data_size", "binary_data", "x"]), anything) | anything,
    },
)
documents = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, max_size=3) | anything},
    optional={
        "id": anything,
        "outputs": st.lists(st.fixed_dictionaries({"name": st.sampled_from(["FP32 out", "x"])}) | anything, max_size=3),
        "parameters": st.dictionaries(st.sampled_from(["binary_data_output", "timeout", "x"]), anything) | anything,
        "more": anything,
    },
)


@given(documents)
@settings(deadline=None, max_examples=40)
def test_no_document_makes_anything_but_tensors_or_a_callers_error(floats: Servable, document: Any) -> None:
    try:
        text = orjson.dumps(document)
    except TypeError:  # an integer beyond 64 bits, or half of a pair
        return
    try:
        feeds, call = v2.read(text, {}, floats, LIMITS)
    except (CallerError, Unimplemented):
        return
    opened(call.write(v2.Writer(floats), floats.run(feeds), 1))


@pytest.mark.parametrize(
    "text", [b"[" * 5000, b'{"inputs":' * 2000, b'{"inputs":[],"x":' + b"[" * 50 + b"]" * 50 + b"}"]
)
def test_deep_bodies_are_refused(floats: Servable, text: bytes) -> None:
    with pytest.raises(MalformedRequest):
        v2.read(text, {}, floats, LIMITS)
    name: Any = "x"
    for _ in range(19):
        name = [name]
    with pytest.raises((MalformedRequest, TensorMismatch)):
        v2.read(orjson.dumps({"inputs": [{"name": name}]}), {}, floats, LIMITS)


def test_an_unread_field_nests_no_deeper_than_the_limit_even_beside_the_short_way(tmp_path: Path) -> None:
    path = models.linear(tmp_path / "a.onnx")
    manifest = Manifest.from_json(Path(aspire(path).manifest_path).read_text())
    servable = Servable("m", 3, onnx.open_session(path), manifest, 64)
    row = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
    deep: Any = 1
    for _ in range(30):
        deep = [deep]
    v2.read(orjson.dumps({"inputs": [row], "more": [[1]]}), {}, servable, LIMITS)
    for document in ({"inputs": [row], "more": deep}, {"inputs": [{**row, "more": deep}]}):
        with pytest.raises(MalformedRequest, match="20 levels"):
            v2.read(orjson.dumps(document), {}, servable, LIMITS)


def nan_body(data: str) -> bytes:
    return b'{"inputs":[{"name":"FP32","shape":[3],"datatype":"FP32","data":%b}]}' % data.encode()


@pytest.mark.parametrize("value", ["null", "NaN", "Infinity", "-Infinity", "1e39", "1e999"])
def test_numbers_that_are_not_finite_are_refused_by_default(tmp_path: Path, value: str) -> None:
    servable = echo(tmp_path / "a.onnx", ["FP32"])
    with pytest.raises((MalformedRequest, TensorMismatch)):
        v2.read(nan_body(f"[1,{value},2]"), {}, servable, LIMITS)


@pytest.mark.parametrize(
    ("data", "read"),
    [
        ("[1,null,2]", [1, np.nan, 2]),
        ("[1,NaN,2]", [1, np.nan, 2]),
        ("[Infinity,-Infinity,2]", [np.inf, -np.inf, 2]),
        ("[1,1e39,2]", TensorMismatch),
        ("[NaN,1e39,2]", TensorMismatch),
        ("[1,1e999,2]", MalformedRequest),
        ('[1,"NaN",2]', TensorMismatch),
        ("[1,nan,2]", MalformedRequest),
        ('[1,NaN,"\\ud800"]', MalformedRequest),
        ("[1,NaN," + "9" * 5000 + "]", MalformedRequest),
        ("[" * 900 + "NaN" + "]" * 900, MalformedRequest),
    ],
)
def test_where_options_allow_nan_null_is_nan_and_goes_out_as_null(generous: Servable, data: str, read: Any) -> None:
    if isinstance(read, type):
        with pytest.raises(read):
            v2.read(nan_body(data), {}, generous, LIMITS)
        return
    (feed,), _ = v2.read(nan_body(data), {}, generous, LIMITS)
    assert np.array_equal(feed, np.array(read, np.float32), equal_nan=True)
    told, _ = opened(answered(generous, nan_body(data), {}))
    assert told["outputs"][0]["data"] == [value if np.isfinite(value) else None for value in read]


def test_nan_travels_in_a_buffer_as_it_is(generous: Servable) -> None:
    bits = np.array([0x7FC00001, 0xFF800000, 0x7F800000], np.uint32).tobytes()
    tensor = {"name": "FP32", "shape": [3], "datatype": "FP32", "parameters": {"binary_data_size": 12}}
    body, headers = body_of({"inputs": [tensor], "parameters": {"binary_data_output": True}}, bits)
    assert opened(answered(generous, body, headers))[1]["FP32 out"] == bits


@pytest.mark.parametrize("kind", ["FP16", "BF16"])
def test_half_floats_are_numbers_in_json_both_ways(tmp_path: Path, kind: str) -> None:
    servable = echo(tmp_path / "a.onnx", [kind])
    for count in (3, 100):
        data = [1.5, -0.25, 3] + [0.0] * (count - 3)
        document = {"inputs": [{"name": kind, "shape": [count], "datatype": kind, "data": data}]}
        told, _ = opened(answered(servable, orjson.dumps(document), {}))
        assert told["outputs"][0]["data"] == data
        document["inputs"][0]["data"] = [1e39] * count
        with pytest.raises(TensorMismatch):
            v2.read(orjson.dumps(document), {}, servable, LIMITS)


def test_a_shape_is_counted_before_the_data_is_looked_at(floats: Servable) -> None:
    document = two()
    document["inputs"][0].update(shape=[2**30, 2], data=["never", "looked", "at"])
    with pytest.raises(PayloadTooLarge):
        v2.read(orjson.dumps(document), {}, floats, LIMITS)
