"""Bytes to tensors and back: the short ways give what the long way gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gateway.data.codecs import v2
from gateway.data.codecs.tensors import from_json
from gateway.data.codecs.v2 import Writer, to_json
from gateway.data.codecs.v2_calls import Call
from gateway.data.servable import InputSlot, Servable
from gateway.settings import LimitSettings
from registry import onnx
from registry.errors import TensorMismatch
from registry.manifest import Manifest
from registry.vocabulary import TensorSpec
from tests.support import models
from tests.support.serving import aspire

LIMITS = LimitSettings(tensor_elements=1000)


@pytest.fixture(scope="module")
def servable(tmp_path_factory: pytest.TempPathFactory) -> Servable:
    path = models.linear(tmp_path_factory.mktemp("m") / "a.onnx")
    manifest = Manifest.from_json(Path(aspire(path).manifest_path).read_text())
    return Servable("m", 3, onnx.open_session(path), manifest, 64)


def slot(datatype: str) -> InputSlot:
    return InputSlot(TensorSpec("x", datatype, None), onnx.NUMPY_DTYPES[datatype])


arrays = st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_, np.float16]).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=70))
)


@given(arrays)
@settings(deadline=None)
def test_what_is_written_reads_back_bitwise_and_non_finite_numbers_are_null(array: Any) -> None:
    values = json.loads(to_json(array))  # by another reader than wrote it
    assert len(values) == array.size
    back = np.array([np.nan if value is None else value for value in values], dtype=array.dtype)
    flat = array.ravel()
    if array.dtype.kind == "f":
        finite = np.isfinite(flat)
        assert [value is None for value in values] == (~finite).tolist()
        assert np.array_equal(back[finite], flat[finite])
    else:
        assert np.array_equal(back, flat)


def test_no_length_of_the_longest_numbers_is_written_past_the_end_of_the_buffer() -> None:
    """Under an allocator with guard bytes around each block: a writer that overflows aborts the process."""
    code = """
import numpy as np
from gateway.data.codecs.v2 import to_json
long = (-1.1700369702225776e+255, -1.1700369702225776e-255)
for number in (*long, np.float32(-1.17003697e-20), -(2**63), np.uint64(2**64 - 1)):
    for size in (*range(65, 400), 660, 1330, 2700, 42_000):
        assert to_json(np.full(size, number)).count(b",") == size - 1
"""
    child = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONMALLOC": "debug"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert child.returncode == 0, child.stderr


@given(
    st.integers(1, 5).flatmap(
        lambda n: st.tuples(
            hnp.arrays(np.float32, (n, 2), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
            st.lists(st.one_of(st.none(), st.text(max_size=5)), min_size=n, max_size=n),
        )
    )
)
@settings(deadline=None)
def test_answers_cut_from_one_pass_equal_answers_written_one_by_one(given_: tuple[Any, list[str | None]]) -> None:
    output, ids = given_
    writer = Writer.__new__(Writer)
    writer._head = b'{"model_name":"m","model_version":"1"'
    writer._outputs = [b'{"name":"y","datatype":"FP32","shape":[', b'{"name":"z","datatype":"FP32","shape":[']
    calls = [Call(text, None) for text in ids]
    outputs = [output, output[:, :1]]
    bodies = writer.write_single_rows(outputs, calls)
    assert bodies is not None
    for row, (body, call) in enumerate(zip(bodies, calls, strict=True)):
        alone = writer.write([out[row : row + 1] for out in outputs], call)
        assert orjson.loads(body) == orjson.loads(alone)


def test_the_short_way_reads_the_same_bits_as_the_long_way(servable: Servable) -> None:
    rows = np.random.default_rng(1).normal(size=(50, 3))
    for row in rows:
        short = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": row.tolist()}]}
        long = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [row.tolist()]}]}
        (one,), _ = v2.read(orjson.dumps(short), {}, servable, LIMITS)
        (other,), _ = v2.read(orjson.dumps(long), {}, servable, LIMITS)
        assert one.tobytes() == other.tobytes() == row.astype(np.float32).tobytes()


@pytest.mark.parametrize(
    ("datatype", "data", "fits"),
    [
        ("INT8", [1, -128, 127], True),
        ("INT8", [128], False),
        ("UINT8", [-1], False),
        ("INT64", [2**63 - 1], True),
        ("INT64", [2**63], False),
        ("UINT64", [2**64 - 1], True),
        ("INT32", [1.0], False),
        ("INT32", ["1"], False),
        ("BOOL", [True, False], True),
        ("BOOL", [0, 1], False),
        ("FP32", [1, 2.5], True),
        ("FP32", [1e39], False),
        ("FP32", [3e38, 3e38], True),
        ("FP16", [65504], True),
        ("FP16", [70000], False),
        ("FP64", [1e300], True),
        ("FP32", {"a": 1}, False),
        ("FP32", None, False),
        ("FP32", [], True),
        ("BYTES", ["a", "東"], True),
        ("BYTES", ["a", 1], False),
        ("BYTES", [None], False),
    ],
)
def test_values_keep_their_type_and_range_or_are_refused(datatype: str, data: Any, fits: bool) -> None:
    with np.errstate(all="ignore"):
        if fits:
            assert from_json(slot(datatype), data).dtype == onnx.NUMPY_DTYPES[datatype]
        else:
            with pytest.raises(TensorMismatch, match='input "x"'):
                from_json(slot(datatype), data)


def test_a_number_is_written_alike_in_small_and_in_large_tensors() -> None:
    small, large = (to_json(np.full((n, 2), 0.1, np.float32)) for n in (1, 100))
    assert large[1:-1].split(b",")[:2] == small[1:-1].split(b",") == [b"0.10000000149011612"] * 2


def test_large_unsigned_integers_are_not_taken_for_fractions() -> None:
    assert from_json(slot("UINT64"), [1, 2**63]).tolist() == [1, 2**63]


@pytest.mark.parametrize(
    "data", [[1.0, "x" * 20_000, 2.0], [[1.0], 2.0], [[1.0], [2.0, 3.0]], 7 * [[]] + [[1]], [[[[]]], 1]]
)
def test_ragged_and_mixed_data_is_refused_before_numpy_sees_it(data: Any) -> None:
    with pytest.raises(TensorMismatch, match='input "x"'):
        from_json(slot("FP32"), data)


def test_a_shape_of_very_many_axes_is_refused_at_once(servable: Servable) -> None:
    body = {"inputs": [{"name": "x", "shape": [9] * 200_000, "datatype": "FP32", "data": [1, 2, 3]}]}
    with pytest.raises(TensorMismatch, match="shape"):
        v2.read(orjson.dumps(body), {}, servable, LIMITS)
    deep: Any = 1.0
    for _ in range(40):
        deep = [deep]
    with pytest.raises(TensorMismatch, match="levels"):
        from_json(slot("FP32"), deep)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=12,
)


@given(st.sampled_from(list(onnx.NUMPY_DTYPES)), json_values)
@settings(deadline=None)
def test_no_json_value_makes_anything_but_a_tensor_or_a_tensor_mismatch(datatype: str, data: Any) -> None:
    with np.errstate(all="ignore"):
        try:
            array = from_json(slot(datatype), data)
        except TensorMismatch:
            return
    assert array.dtype == onnx.NUMPY_DTYPES[datatype]
