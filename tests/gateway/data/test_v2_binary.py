"""Raw buffers after the JSON, or one as the whole body: read where they lie, and refused when they do not add up."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.data.codecs import v2
from gateway.data.codecs.v2_binary import HEADER
from gateway.data.servable import Servable
from registry.errors import CallerError, MalformedRequest, PayloadTooLarge, TensorMismatch
from tests.support.v2 import KINDS, LIMITS, answered, body_of, echo, opened, two

F32 = struct.pack("<2f", 1.5, -2.0)


@pytest.fixture(scope="module", params=["BF16", "BYTES"])
def every(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Servable:
    """Every datatype but one, of any shape: onnxruntime gives no bfloat16 to Python beside text."""
    kinds = [kind for kind in KINDS if kind != request.param]
    return echo(tmp_path_factory.mktemp("m") / "a.onnx", kinds)


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> Servable:
    return echo(tmp_path_factory.mktemp("m") / "a.onnx", ["FP32", "INT64"], ["N", 2])


def buffered(size: Any, shape: Any = (1, 2), **more: Any) -> dict[str, Any]:
    tensor = {"name": "FP32", "shape": shape, "datatype": "FP32", "parameters": {"binary_data_size": size}, **more}
    return {"inputs": [tensor, two()["inputs"][1]]}


@pytest.mark.parametrize(
    ("document", "rest", "length"),
    [
        (buffered(8), b"1234567", None),  # one byte short
        (buffered(8), b"123456789", None),  # one too many
        (buffered(4), b"1234", None),  # not the shape's
        (buffered(-8), b"12345678", None),
        (buffered("8"), b"12345678", None),
        (buffered(True), b"1", None),
        (buffered(8.0), b"12345678", None),
        (buffered(2**60), b"12345678", None),
        (buffered(8, "2"), b"12345678", None),
        (buffered(8, [1, -2]), b"12345678", None),
        (buffered(8, [1, 2.0]), b"12345678", None),
        (buffered(8, [2**40, 2]), b"12345678", None),
        (buffered(8, [2**63, 2**63]), b"12345678", None),
        (buffered(8, [1] * 40), b"12345678", None),
        (buffered(8, data=[1, 2]), b"12345678", None),
        (buffered(8), b"12345678", b"-1"),
        (buffered(8), b"12345678", b"+5"),
        (buffered(8), b"12345678", b"1e1"),
        (buffered(8), b"12345678", b""),
        (buffered(8), b"12345678", b"9999999999"),
        (buffered(8), b"12345678", b"9" * 5000),
        (buffered(8), b"12345678", b"\xb2"),  # a digit, but only for Python
        (buffered(8), b"12345678", b"12"),  # in the middle of the JSON
        (two(), b"x", None),
    ],
)
def test_a_body_that_does_not_add_up_is_refused(floats: Servable, document: Any, rest: bytes, length: Any) -> None:
    body, headers = body_of(document, rest)
    with pytest.raises((MalformedRequest, TensorMismatch, PayloadTooLarge)):
        v2.read_binary(body, headers if length is None else {HEADER: length}, floats, LIMITS)


def test_a_buffer_size_in_plain_json_finds_no_buffer(floats: Servable) -> None:
    with pytest.raises(MalformedRequest, match="0 bytes left"):
        v2.read(orjson.dumps(buffered(8)), {}, floats, LIMITS)


def test_the_binary_header_is_obeyed_whatever_the_content_type_says(floats: Servable) -> None:
    body, headers = body_of(buffered(8), F32)
    for media_type in (b"application/json", b"text/plain", b"application/vnd.sagemaker-triton.binary+json"):
        feeds, _ = v2.DOOR.choose({**headers, b"content-type": media_type}).read(body, headers, floats, LIMITS)
        assert feeds[0].tobytes() == F32
    feeds, _ = v2.read(body, headers, floats, LIMITS)  # what the door's short way for JSON comes to
    assert feeds[0].tobytes() == F32


@pytest.mark.parametrize(
    ("kind", "shape", "body", "read"),
    [
        ("FP32", ["N", 2], struct.pack("<4f", 1, 2, 3, 4), (2, 2)),
        ("FP32", [1, 2], struct.pack("<2f", 1, 2), (1, 2)),
        ("FP32", ["N", "M", 2], struct.pack("<4f", 1, 2, 3, 4), (1, 2, 2)),
        ("FP32", ["N", "M", "K"], struct.pack("<f", 1), MalformedRequest),
        ("FP32", None, struct.pack("<f", 1), MalformedRequest),
        ("FP32", [], struct.pack("<f", 1), ()),
        ("FP32", ["N", 2], b"", (0, 2)),
        ("FP32", ["N", 2], b"123", TensorMismatch),
        ("FP32", ["N", 0], b"123", TensorMismatch),
        ("INT8", ["N"], b"\x01\xff", (2,)),
        ("BYTES", [1], "whole 東".encode(), (1,)),
        ("BYTES", ["N", 1], b"", (1, 1)),
        ("BYTES", [2], b"a", MalformedRequest),
        ("BYTES", [1], b"\xff", TensorMismatch),
        ("BOOL", ["N"], b"\x02", TensorMismatch),
    ],
)
def test_a_raw_body_takes_its_shape_from_its_size(
    tmp_path: Path, kind: str, shape: Any, body: bytes, read: Any
) -> None:
    servable = echo(tmp_path / "a.onnx", [kind], shape)
    headers = {HEADER: b"0"}
    if isinstance(read, type):
        with pytest.raises(read):
            v2.DOOR.choose(headers).read(body, headers, servable, LIMITS)
        return
    (feed,), _ = v2.DOOR.choose(headers).read(body, headers, servable, LIMITS)
    assert feed.shape == read
    document, buffers = opened(answered(servable, body, headers))
    assert document["outputs"][0]["shape"] == list(read)
    prefix = struct.pack("<I", len(body)) if kind == "BYTES" else b""
    assert buffers.get(f"{kind} out", b"") == prefix + body


def test_a_raw_body_is_for_models_of_one_input(floats: Servable) -> None:
    with pytest.raises(MalformedRequest, match="one input"):
        v2.read_binary(b"1234", {HEADER: b"0"}, floats, LIMITS)


def test_a_buffer_is_read_where_it_lies_and_copied_only_when_it_lies_askew(tmp_path: Path) -> None:
    servable = echo(tmp_path / "a.onnx", ["FP32"], ["N"])
    values = struct.pack("<3f", 1, 2, 3)
    for pad in range(4):
        document = {
            "inputs": [{"name": "FP32", "shape": [3], "datatype": "FP32", "parameters": {"binary_data_size": 12}}]
        }
        text = orjson.dumps(document)
        text += b" " * ((pad - len(text)) % 4)
        body = text + values
        (feed,), _ = v2.read_binary(body, {HEADER: b"%d" % len(text)}, servable, LIMITS)
        assert feed.flags.aligned
        assert np.shares_memory(feed, np.frombuffer(body, np.uint8)) == (pad == 0)
        assert servable.run([feed])[0].tobytes() == values


@given(st.binary(max_size=60), st.integers(0, 80) | st.binary(max_size=6), st.booleans())
@settings(deadline=None, max_examples=40)
def test_no_octets_and_no_header_make_anything_but_tensors_or_a_callers_error(
    every: Servable, floats: Servable, tail: bytes, length: int | bytes, real: bool
) -> None:
    text = orjson.dumps(buffered(8)) if real else b""
    header = length if isinstance(length, bytes) else b"%d" % (len(text) + length if real else length)
    for servable in (every, floats):
        try:
            feeds, _ = v2.read_binary(text + tail, {HEADER: header}, servable, LIMITS)
        except CallerError:
            continue
        assert all(isinstance(feed, np.ndarray) for feed in feeds)
