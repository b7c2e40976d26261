"""Requests and answers of the V2 protocol as bytes: JSON tensors, the binary extension, the form of an error."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.conformance.target import Answer, Target

Array = NDArray[Any]
LENGTH = "inference-header-content-length"
OCTETS = {"content-type": "application/octet-stream"}
# BF16 is kept as its two bytes: numpy has no such type, and no case has to calculate with it.
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"), "UINT8": np.dtype("<u1"), "UINT16": np.dtype("<u2"), "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"), "INT8": np.dtype("<i1"), "INT16": np.dtype("<i2"), "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"), "FP16": np.dtype("<f2"), "BF16": np.dtype("<u2"), "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}  # fmt: skip


def tensor(name: str, datatype: str, data: Any, shape: Sequence[int] | None = None, **more: Any) -> dict[str, Any]:
    """A tensor of the JSON form; without a shape that of the (nested) data."""
    shape = list(np.shape(data)) if shape is None else list(shape)
    return {"name": name, "shape": shape, "datatype": datatype, "data": data, **more}


def fp32(data: Any, shape: Sequence[int] | None = None, **more: Any) -> dict[str, Any]:
    """INPUT0 of identity_fp32."""
    return tensor("INPUT0", "FP32", data, shape, **more)


def request(*inputs: Any, **more: Any) -> dict[str, Any]:
    """A request of these inputs."""
    return {"inputs": list(inputs), **more}


def in_binary(name: str, datatype: str, shape: Sequence[int], size: int, **more: Any) -> dict[str, Any]:
    """A tensor whose values follow the JSON."""
    return {"name": name, "shape": list(shape), "datatype": datatype, "parameters": {"binary_data_size": size, **more}}


def with_buffers(document: Any, *buffers: bytes, length: object = None, **headers: str) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a binary request; `length` replaces the true length of the JSON in the header."""
    text = json.dumps(document).encode()
    given = {**OCTETS, LENGTH: str(len(text) if length is None else length), **headers}
    return text + b"".join(buffers), given


def binary_fp32(values: Sequence[float] | Array, **more: Any) -> tuple[bytes, dict[str, str]]:
    """A whole request of identity_fp32 with its input in binary."""
    data = np.asarray(values, "<f4").tobytes()
    return with_buffers(request(in_binary("INPUT0", "FP32", [len(values)], len(data)), **more), data)


def strings(*values: bytes) -> bytes:
    """BYTES elements as binary: each after its length."""
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def outputs(answer: Answer) -> dict[str, dict[str, Any]]:
    """The outputs of a 200 by name; those that came in binary hold their buffer as `bytes`."""
    assert answer.status == 200, f"{answer.status}: {answer.body[:300]!r}"
    stated = answer.headers.get(LENGTH)
    size = len(answer.body) if stated is None else int(stated)
    assert size <= len(answer.body), f"{LENGTH} is {size}, the body has {len(answer.body)} bytes"
    document = Answer(200, answer.headers, answer.body[:size]).json()
    found, at = {}, size
    for output in document["outputs"]:
        name = output["name"]
        assert name not in found, f"two outputs are called {name}"
        length = (output.get("parameters") or {}).get("binary_data_size")
        if length is not None:
            assert "data" not in output, f"{name} has both data and binary_data_size"
            output = {**output, "bytes": answer.body[at : at + length]}
            assert len(output["bytes"]) == length, f"{name} states {length} bytes, {len(output['bytes'])} are left"
            at += length
        found[name] = output
    assert at == len(answer.body), f"{len(answer.body) - at} bytes are left over"
    return found


def array(output: Mapping[str, Any]) -> Array:
    """The values of one output, however it came (numbers only)."""
    dtype = DTYPES[output["datatype"]]
    if "bytes" in output:
        return np.frombuffer(output["bytes"], dtype).reshape(output["shape"])
    values = np.array(output["data"], dtype=dtype)
    return values.reshape(output["shape"])


def same(output: Mapping[str, Any], want: Array) -> None:
    """The output has the datatype's very bits, and the shape."""
    got = array(output)
    assert got.shape == want.shape, f"shape {got.shape}, sent {want.shape}"
    assert got.tobytes() == want.tobytes(), f"got {got.ravel()[:8]}, sent {want.ravel()[:8]}"


def echo(target: Target, model: str, body: Any, want: Array, headers: Mapping[str, str] | None = None) -> None:
    """The request's OUTPUT0 is this array."""
    same(outputs(target.infer(model, body, headers))["OUTPUT0"], want)


def error(answer: Answer) -> str:
    """The message of an error in the protocol's form. Fails on any other answer."""
    assert answer.status >= 400, f"not refused: {answer.status} {answer.body[:300]!r}"
    document = answer.json()
    said = document.get("error") if isinstance(document, dict) else None
    assert isinstance(said, str), f'no "error" string: {document}'
    assert said, "the error says nothing"
    return said


def callers_error(answer: Answer) -> str:
    """As `error`, and the status says that the request was at fault."""
    assert 400 <= answer.status < 500, f"status {answer.status}: {answer.body[:300]!r}"
    return error(answer)
