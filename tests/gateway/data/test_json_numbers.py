"""Large JSON tensors: the same bits as the ordinary way, and the ordinary way's answer to everything unusual."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.data.codecs import json_body, json_numbers, mlflow, tables, v1
from gateway.data.codecs.json_numbers import Numbers
from gateway.data.codecs.tensors import from_json
from gateway.data.servable import InputSlot, Servable, describe
from gateway.settings import LimitSettings
from registry import onnx
from registry.errors import MalformedRequest, PayloadTooLarge, ServingError, TensorMismatch
from registry.rows import same_bits
from registry.vocabulary import TensorSpec
from tests.support import models
from tests.support.serving import aspire

pytest.importorskip("simdjson", reason="simdjson is an extra: without it nothing is read this way")

PAD = b" " * 4000  # so that brackets are few in it
NUMERIC = [kind for kind in ("BF16", *onnx.NUMPY_DTYPES) if kind not in ("BYTES", "BOOL")]


def slot(datatype: str) -> InputSlot:
    return InputSlot(TensorSpec("x", datatype, None), onnx.NUMPY_DTYPES[datatype])


def body_of(data: bytes, more: bytes = b"") -> bytes:
    return b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":' + data + b"}]" + more + PAD + b"}"


def numbers(data: bytes) -> Any:
    document = json_numbers.load(body_of(data), 100)
    return None if document is None else document["inputs"][0]["data"]


def outcome(datatype: str, data: Any) -> Any:
    try:
        array = from_json(slot(datatype), data)
    except TensorMismatch as error:
        return error.message
    return (array.shape, array.dtype, array.tolist() if array.dtype == object else array.tobytes())


values = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**64 - 1) | st.integers(-200, 200)
lists = st.recursive(st.lists(values, max_size=5), lambda inner: st.lists(inner, max_size=3), max_leaves=10)


@given(st.sampled_from(NUMERIC), lists | st.lists(st.just([1, 2.5]), min_size=1, max_size=3))
@settings(deadline=None, max_examples=40)
def test_the_same_bits_or_the_same_refusal_as_the_ordinary_way(datatype: str, data: Any) -> None:
    text = orjson.dumps(data)
    quick = numbers(text)
    if type(quick) is Numbers:
        assert quick.values() == orjson.loads(text)
        assert outcome(datatype, quick) == outcome(datatype, orjson.loads(text))


@pytest.mark.parametrize("datatype", NUMERIC)
def test_ordinary_numbers_are_read_the_quick_way(datatype: str) -> None:
    for text, shape in ((b"[1,2,3]", (3,)), (b"[[1,2],[3,4]]", (2, 2)), (b"[]", (0,)), (b"[[],[]]", (2, 0))):
        quick = numbers(text)
        array = quick.array(onnx.NUMPY_DTYPES[datatype])
        assert array is not None
        assert array.shape == shape
        assert array.dtype == onnx.NUMPY_DTYPES[datatype]


@pytest.mark.parametrize(
    "data",
    [
        b"[1,[2]]",
        b"[[1,2],[3]]",
        b"[[1,2],[3,[4]]]",  # as many values as a matrix has
        b"[[1],2]",
        b"[NaN]",
        b"[1e999]",
        b"[18446744073709551616]",
        b'[1,"[",2]]',
        b"[1",
        b"[" * 40 + b"1" + b"]" * 40,
    ],
)
def test_what_is_ragged_deep_or_no_number_is_left_to_the_ordinary_way(data: bytes) -> None:
    assert numbers(data) is None


def test_a_mark_of_byte_order_is_no_json_whichever_way_it_is_read() -> None:
    body = body_of(b"[1,2,3]")
    assert json_numbers.load(body, 100) is not None
    assert json_numbers.load(b"\xef\xbb\xbf" + body, 100) is None
    assert json_numbers.load_rows(b"\xef\xbb\xbf" + body, 100) is None


@pytest.mark.parametrize("data", [b"[true]", b"[null]", b'["1"]', b"[{}]", b"[1.5,true]"])
@pytest.mark.parametrize("datatype", ["FP32", "INT64", "UINT64", "BOOL", "BYTES"])
def test_values_of_another_type_end_as_they_would_the_ordinary_way(data: bytes, datatype: str) -> None:
    assert outcome(datatype, numbers(data)) == outcome(datatype, orjson.loads(data))


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"1",
        b"{}",
        b'{"inputs":{}}',
        b'{"inputs":[1]}',
        b'{"inputs":[],"inputs":[]}',
        b'{"inputs":[{"name":"x","data":[1],"data":[2]}]}',
        body_of(b"[1]", b',"more":[[1]]'),
        body_of(b"[1]", b',"id":"["'),
        body_of(b"[1]", b',"more":' + b'{"a":' * 120 + b"1" + b"}" * 120),
        b"\xff" + PAD,
        body_of(b"[1]") + b"x",
    ],
)
def test_documents_that_are_unusual_are_left_to_the_ordinary_way(body: bytes) -> None:
    assert json_numbers.load(body, 100) is None


def test_other_fields_are_read_as_the_ordinary_way_reads_them() -> None:
    more = b',"id":"\\u6771","outputs":[{"name":"y","parameters":{"binary_data":true}}],"parameters":{"timeout":5}'
    body = body_of(b"[1.5,2]", more)
    document = json_numbers.load(body, 100)
    assert document is not None
    document["inputs"][0]["data"] = document["inputs"][0]["data"].values()
    assert document == orjson.loads(body)


def test_large_tensors_have_the_same_bits_both_ways() -> None:
    rng = np.random.default_rng(5)
    wild = rng.integers(0, 2**63, 50_000).view(np.float64)  # any exponent
    data = np.concatenate([wild[np.isfinite(wild) & (np.abs(wild) < 3e38)], rng.normal(size=50_000)])
    text = orjson.dumps(data.tolist())
    for datatype in ("FP32", "FP64", "BF16"):
        assert outcome(datatype, numbers(text)) == outcome(datatype, orjson.loads(text))


def test_without_the_library_nothing_is_read_this_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_numbers, "simdjson", None)
    assert json_numbers.load(body_of(b"[1]"), 100) is None


# ---- the depth of a body

nested = st.recursive(
    st.none() | st.integers(0, 9) | st.text(alphabet='a"\\[]{}\n', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='a"\\[{', max_size=3), inner, max_size=2)
    ),
    max_leaves=15,
)


def depth_of(value: Any) -> int:
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 0


@given(nested)
@settings(deadline=None, max_examples=40)
def test_the_depth_is_that_of_the_values_whatever_the_texts_hold(value: Any) -> None:
    assert json_body.depth(orjson.dumps(value)) == depth_of(value)


@given(st.binary(max_size=200))
def test_no_octets_upset_the_count(octets: bytes) -> None:
    with contextlib.suppress(MalformedRequest):
        json_body.load(octets * 30, LimitSettings(json_depth=5), nan=True)


def test_long_bodies_are_counted_as_short_ones_are() -> None:
    rows = [[[i, "]["]] for i in range(3000)]
    assert json_body.depth(orjson.dumps(rows)) == 3
    limits = LimitSettings(json_depth=3)
    assert json_body.load(orjson.dumps(rows), limits) == rows
    with pytest.raises(MalformedRequest, match="3 levels"):
        json_body.load(orjson.dumps([rows]), limits)


@pytest.mark.parametrize("one", [b"{}", b"[]", b'{"a":[1]}'])
def test_very_many_lists_and_objects_are_refused_before_they_are_made(
    one: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 64 MiB they took 2 GiB and stopped the event loop for 5 s."""
    monkeypatch.setattr(json_body, "MOST_CONTAINERS", 300)
    each = one.count(b"[") + one.count(b"{")
    fits = b"[" + b",".join([one] * (299 // each)) + b"]"
    assert len(json_body.load(fits, LimitSettings())) == 299 // each
    json_body.load(b'["' + b"[{" * 300 + b'"]', LimitSettings())  # in a text
    many = b"[" + b",".join([one] * 300) + b"]"
    with pytest.raises(PayloadTooLarge, match="more than 300 lists and objects"):
        json_body.load(many, LimitSettings())
    with pytest.raises(PayloadTooLarge, match="more than 300 lists and objects"):
        tables.read_lines(b"\n".join([b"[" + one + b"]"] * 200), LimitSettings())


# ---- requests of rows and columns

cells = (
    st.floats(allow_nan=False, allow_infinity=False, width=32)
    | st.integers(-(2**40), 2**40)
    | st.none()
    | st.just(1e300)
)
tables_of = st.integers(0, 4).flatmap(
    lambda width: st.lists(st.lists(cells, min_size=width, max_size=width), max_size=5)
)
rows_of = tables_of | lists | st.lists(cells | st.booleans() | st.text(max_size=3), max_size=4)
NAMES = ["age", "visits", "city", "comment"]


def requests_of(rows: Any) -> list[dict[str, Any]]:
    columns = [list(column) for column in zip(*rows, strict=False)] if rows and type(rows[0]) is list else [rows]
    named = dict(zip(NAMES, columns, strict=False))
    width = len(rows[0]) if rows and type(rows[0]) is list else 1
    return [
        {"instances": rows},
        {"inputs": rows},
        {"inputs": named},
        {"signature_name": "s", "instances": rows},
        {"instances": [dict(zip(NAMES, row, strict=False)) for row in rows if type(row) is list]},
        {"dataframe_split": {"columns": [f"c{at}" for at in range(width)], "data": rows}},
        {"dataframe_split": {"columns": NAMES, "index": [0], "data": rows}},
        {"dataframe_split": {"data": rows}, "params": {"a": 1}},
        {"dataframe_split": {"columns": ["a"], "data": rows}},
        {"dataframe_split": rows},
        {"instances": rows, "inputs": rows},
    ]


def told(read: Any, body: bytes, servable: Servable) -> Any:
    try:
        feeds, call = read(body, {}, servable, LimitSettings())
    except ServingError as error:
        return type(error), error.message
    return type(call), [
        (feed.shape, feed.dtype, feed.tolist() if feed.dtype == object else feed.tobytes()) for feed in feeds
    ]


@given(rows=rows_of, is_wide=st.booleans(), nan=st.booleans())
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_and_columns_are_read_as_the_ordinary_way_does(
    monkeypatch: pytest.MonkeyPatch, versions: dict[bool, Servable], rows: Any, is_wide: bool, nan: bool
) -> None:
    servable = versions[is_wide]
    servable.refuses_nonfinite = not nan
    for request in requests_of(rows):
        body = orjson.dumps(request)[:-1] + b" " * 9000 + b"}"
        for read in (v1.read, mlflow.read, mlflow.read_azure):
            with monkeypatch.context() as without:
                without.setattr(json_numbers, "simdjson", None)
                want = told(read, body, servable)
            assert told(read, body, servable) == want, request


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Servable]:
    folder = tmp_path_factory.mktemp("versions")
    made = {False: models.linear(folder / "one.onnx"), True: models.texts(folder / "four.onnx")}
    return {wide: describe("m", 1, Path(aspire(path).manifest_path), 64) for wide, path in made.items()}


def test_rows_of_numbers_are_read_the_quick_way(
    versions: dict[bool, Servable], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ordinary(*_given: Any, **_named: Any) -> Any:
        raise AssertionError("read the ordinary way")

    monkeypatch.setattr(json_body, "load", ordinary)
    rows = np.random.default_rng(0).normal(size=(200, 3)).tolist()
    wanted = np.array(rows, np.float32)
    for request in (
        {"instances": rows},
        {"inputs": rows},
        {"dataframe_split": {"columns": ["a", "b", "c"], "data": rows}},
    ):
        for read in (v1.read, mlflow.read) if "dataframe_split" not in request else (mlflow.read,):
            (feed,), _ = read(orjson.dumps(request), {}, versions[False], LimitSettings())
            assert same_bits(feed, wanted)
