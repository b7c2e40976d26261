"""MessagePack: what the library writes is read, lies are refused before they cost memory, answers are the same bits."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.data.codecs import msgpack as codec
from gateway.data.codecs.msgpack_values import MOST_VALUES, unpack
from gateway.data.codecs.v2 import Writer
from gateway.data.codecs.v2_calls import Call
from gateway.data.servable import Servable
from gateway.settings import LimitSettings
from registry import onnx
from registry.errors import MalformedRequest, PayloadTooLarge, ServingError, TensorMismatch
from registry.manifest import Manifest
from tests.support import models
from tests.support.serving import aspire

LIMITS = LimitSettings(tensor_elements=100_000)

values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(allow_nan=False),
        st.text(max_size=40),
        st.binary(max_size=300),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=20), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=30,
)


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Servable:
    return served(models.linear(tmp_path_factory.mktemp("m") / "a.onnx"))


@pytest.fixture(scope="module")
def columns(tmp_path_factory: pytest.TempPathFactory) -> Servable:
    return served(models.columns(tmp_path_factory.mktemp("m") / "a.onnx"))


def served(path: Path) -> Servable:
    manifest = Manifest.from_json(Path(aspire(path).manifest_path).read_text())
    return Servable("m", 3, onnx.open_session(path), manifest, 64)


def tensor(name: str, array: Any, datatype: str, **changes: Any) -> dict[str, Any]:
    """A tensor as a client writes it: its buffer."""
    data = array.tobytes()
    return {"name": name, "shape": list(array.shape), "datatype": datatype, "data": data, **changes}


def read(document: Any, servable: Servable) -> list[Any]:
    body = document if isinstance(document, bytes) else msgpack.packb(document)
    return list(codec.read(body, {}, servable, LIMITS)[0])


def plain(value: Any) -> Any:
    """Views as the bytes that they show."""
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    return {key: plain(item) for key, item in value.items()} if isinstance(value, dict) else value


@given(values)
@settings(deadline=None)
def test_what_the_library_writes_is_read_as_it_was(value: Any) -> None:
    assert plain(unpack(msgpack.packb(value))) == value


@given(st.lists(st.floats(width=32), max_size=40))
@settings(deadline=None)
def test_lists_of_single_floats_are_read_as_they_were(numbers: list[float]) -> None:
    assert repr(unpack(msgpack.packb(numbers, use_single_float=True))) == repr(numbers)


@given(st.binary(max_size=60))
@settings(deadline=None)
def test_any_bytes_are_read_as_the_library_reads_them_or_refused(body: bytes) -> None:
    try:
        value = unpack(body)
    except ServingError:
        return
    assert repr(plain(value)) == repr(msgpack.unpackb(body))  # as text, in which NaN equals NaN


@given(values, st.data())
@settings(deadline=None)
def test_a_document_that_is_cut_off_or_goes_on_is_refused(value: Any, data: st.DataObject) -> None:
    body = msgpack.packb(value)
    with pytest.raises(MalformedRequest):
        unpack(body[: data.draw(st.integers(0, len(body) - 1))])
    with pytest.raises(MalformedRequest, match="follow"):
        unpack(body + b"\xc0")


def test_binary_buffers_are_views_of_the_body() -> None:
    body = msgpack.packb({"a": bytes(1000)})
    assert unpack(body)["a"].obj is body


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"\xdd\x7f\xff\xff\xff" * 100, MalformedRequest),  # lists that claim 2^31 elements each
        (b"\xdf\x7f\xff\xff\xff", MalformedRequest),
        (b"\x91" * 5000 + b"\xc0", MalformedRequest),  # deeper than anything needs
        (b"\xdd\x00\x01\x00\x01" + b"\x80" * 65_537, PayloadTooLarge),  # more maps than the budget
        (msgpack.packb([[0] * 1000] * 66), PayloadTooLarge),
        (msgpack.packb(msgpack.ExtType(5, b"abc")), MalformedRequest),
        (msgpack.packb({"t": msgpack.Timestamp(1)}), MalformedRequest),
        (b"\xc1", MalformedRequest),
        (b"\x81\x01\x02", MalformedRequest),  # a key that is a number
        (b"\x82\xa1a\x01\xa1a\x02", MalformedRequest),  # a key twice
        (b"\xa2\xff\xfe", MalformedRequest),  # no UTF-8
        (b"\xc6\xff\xff\xff\xff", MalformedRequest),
        (b"", MalformedRequest),
    ],
)
def test_lies_and_excesses_are_refused(body: bytes, kind: type[ServingError]) -> None:
    with pytest.raises(kind):
        unpack(body)


def test_a_body_of_empty_maps_or_claims_costs_no_memory() -> None:
    bodies = [b"\xdd\x00\x40\x00\x00" + b"\x80" * 0x400000, b"\xdd\x00\x3f\xff\xff" * 800_000]
    tracemalloc.start()
    try:
        for body in bodies:
            with pytest.raises(ServingError):
                unpack(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def test_a_list_of_floats_of_any_length_is_one_value_and_others_have_a_budget() -> None:
    floats = np.random.default_rng(1).normal(size=MOST_VALUES + 1).tolist()
    assert unpack(msgpack.packb(floats)) == floats
    with pytest.raises(PayloadTooLarge, match="one binary buffer"):
        unpack(msgpack.packb([1, *floats]))


@pytest.mark.parametrize("pad", range(16))
def test_a_buffer_is_not_copied_where_its_alignment_allows_and_is_right_wherever_it_lies(
    matrix: Servable, pad: int
) -> None:
    rows = np.random.default_rng(2).normal(size=(7, 3)).astype(np.float32)
    body = msgpack.packb({"id": "i" * pad, "inputs": [tensor("x", rows, "FP32")]})
    (feed,) = read(body, matrix)
    assert feed.tobytes() == rows.tobytes()
    # A bytes object's content starts at a multiple of 16, as numpy's own arrays do.
    start = feed.__array_interface__["data"][0] - np.frombuffer(body, np.uint8).__array_interface__["data"][0]
    assert (start == body.index(rows.tobytes())) == (body.index(rows.tobytes()) % 16 == 0)
    assert feed.__array_interface__["data"][0] % 16 == 0


def test_every_way_to_write_a_tensor_gives_the_same(columns: Servable) -> None:
    age, visits = np.array([[1.5], [2.5]], np.float32), np.array([[3], [4]], np.int64)
    city = {"name": "city", "shape": [2, 1], "datatype": "BYTES"}
    ways = [
        [tensor("age", age, "FP32"), tensor("visits", visits, "INT64"), {**city, "data": ["a", "東"]}],
        [
            {**tensor("age", age, "FP32"), "data": [1.5, 2.5]},
            {**tensor("visits", visits, "INT64"), "data": [[3], [4]]},
            {**city, "data": [[b"a"], ["東".encode()]]},
        ],
        [
            {**city, "data": b"\x01\0\0\0a\x03\0\0\0" + "東".encode()},
            tensor("visits", visits, "INT64"),
            tensor("age", age, "FP32", parameters={"note": 1}),
        ],
    ]
    for inputs in ways:
        feeds = read({"inputs": inputs}, columns)
        assert feeds[0].tobytes() == age.tobytes()
        assert feeds[1].tobytes() == visits.tobytes()
        assert feeds[2].tolist() == [["a"], ["東"]]


X = np.ones((1, 3), np.float32)


@pytest.mark.parametrize(
    ("document", "kind", "told"),
    [
        ([], MalformedRequest, "object"),
        ({"inputs": 1}, MalformedRequest, "inputs"),
        ({"inputs": [b"abc"]}, MalformedRequest, "not an object"),
        ({"inputs": []}, TensorMismatch, "missing input"),
        ({"inputs": [tensor("z", X, "FP32")]}, TensorMismatch, "unknown input"),
        ({"inputs": [tensor("x", X, "FP32")] * 2}, MalformedRequest, "twice"),
        ({"inputs": [tensor("x", X, "FP64")]}, TensorMismatch, "datatype"),
        ({"inputs": [tensor("x", X, "FP32", shape=[1, 4])]}, TensorMismatch, "model wants"),
        ({"inputs": [tensor("x", X, "FP32", shape=[2, 3])]}, TensorMismatch, "12 bytes"),
        ({"inputs": [tensor("x", X, "FP32", shape=[-1, 3])]}, TensorMismatch, "shape"),
        ({"inputs": [tensor("x", X, "FP32", shape=b"\1\3")]}, TensorMismatch, "shape"),
        ({"inputs": [tensor("x", X, "FP32", shape=[2**62, 3])]}, PayloadTooLarge, "limit"),
        ({"inputs": [tensor("x", X, "FP32", data=[b"\0" * 4] * 3)]}, TensorMismatch, "model wants numbers"),
        ({"inputs": [tensor("x", X, "FP32", data="abc")]}, TensorMismatch, "model wants numbers"),
        ({"inputs": [tensor("x", X, "FP32", data=[1, 2, None])]}, TensorMismatch, "null"),
        ({"inputs": [tensor("x", X, "FP32", parameters={"binary_data_size": 12})]}, MalformedRequest, "binary_data"),
        ({"inputs": [tensor("x", X, "FP32", parameters=[1])]}, MalformedRequest, "parameters"),
        ({"inputs": [tensor("x", X, "FP32")], "id": b"x"}, MalformedRequest, "id"),
        ({"inputs": [tensor("x", X, "FP32")], "outputs": [{"name": "q"}]}, TensorMismatch, "unknown output"),
        ({"inputs": [tensor("x", X, "FP32")], "parameters": {"a": b"x"}}, MalformedRequest, "parameter"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(
    document: Any, kind: type[ServingError], told: str, matrix: Servable
) -> None:
    with pytest.raises(kind, match=told):
        read(document, matrix)


def test_an_answer_carries_the_bits_the_id_and_only_the_outputs_asked_for(columns: Servable) -> None:
    nan = np.array([[np.nan], [np.inf]], np.float32)
    asked = codec.PackedCall(Call("α", None))
    answer = asked.write(Writer(columns), [nan, np.array([["a"], [b"b\xff"]], object)], 2)
    assert answer.headers == ((b"content-type", b"application/msgpack"),)
    document = msgpack.unpackb(answer.body)
    assert document == {
        "model_name": "m",
        "model_version": "3",
        "id": "α",
        "outputs": [
            {"name": "total", "datatype": "FP32", "shape": [2, 1], "data": nan.tobytes()},
            {"name": "named", "datatype": "BYTES", "shape": [2, 1], "data": ["a", "b\ufffd"]},
        ],
    }
    one = codec.PackedCall(Call(None, [1])).write(Writer(columns), [nan, np.array([["a"], ["b"]], object)], 2)
    assert [output["name"] for output in msgpack.unpackb(one.body)["outputs"]] == ["named"]
    assert "id" not in msgpack.unpackb(one.body)


GOOD = msgpack.packb(
    {
        "id": "7",
        "inputs": [tensor("x", np.ones((2, 3), np.float32), "FP32", parameters={"a": 1})],
        "outputs": [{"name": "y", "parameters": {"b": True}}],
        "parameters": {"timeout": 5},
    }
)


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=6), st.integers(0, 3))
@settings(deadline=None, max_examples=300)
def test_a_damaged_request_gives_tensors_that_fit_or_a_refusal(
    matrix: Servable, changes: list[tuple[int, int]], cut: int
) -> None:
    body = bytearray(GOOD)
    for at, octet in changes:
        body[at] = octet
    try:
        (feed,) = read(bytes(body[: len(body) - cut]), matrix)
    except ServingError:
        return
    assert feed.dtype == np.float32
    assert feed.shape[1:] == (3,)
