"""V2 requests and answers as a client makes and opens them, and models that give back what they get."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from onnx import TensorProto, helper

from gateway.data.codecs import v2
from gateway.data.codecs.call import Answer
from gateway.data.codecs.v2_binary import HEADER
from gateway.data.servable import Servable
from gateway.settings import LimitSettings
from registry import onnx
from registry.manifest import Manifest, ServingOptions
from tests.support import models
from tests.support.serving import aspire

LIMITS = LimitSettings(tensor_elements=10_000, json_depth=20)
KINDS = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


def echo(path: Path, kinds: Sequence[str], shape: list[int | str] | None = None, nan: str = "refuse") -> Servable:
    """A model that returns each of its inputs: `BOOL` as `BOOL of` and so on."""
    nodes = [helper.make_node("Identity", [kind], [f"{kind} out"]) for kind in kinds]
    inputs = [models.value(kind, KINDS[kind], shape) for kind in kinds]
    outputs = [models.value(f"{kind} out", KINDS[kind], shape) for kind in kinds]
    models.build(path, nodes, inputs, outputs)
    options = ServingOptions.from_dict({"nan": nan})
    manifest = Manifest.from_json(Path(aspire(path, by_rows=False, options=options).manifest_path).read_text())
    if shape is None:  # onnxruntime shows a free rank as no axes; registration reads it from the graph
        free, given_back = (
            tuple(replace(spec, shape=None) for spec in specs) for specs in (manifest.inputs, manifest.outputs)
        )
        manifest = replace(manifest, inputs=free, outputs=given_back)
    return Servable("m", 3, onnx.open_session(path), manifest, 64)


def raw(array: Any) -> bytes:
    if array.dtype.kind != "O":
        return bytes(array.tobytes())
    return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in array.ravel().tolist())


def stated(name: str, array: Any, *, binary: bool) -> dict[str, Any]:
    tensor: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": name}
    if binary:
        return {**tensor, "parameters": {"binary_data_size": len(raw(array))}}
    values = array.astype(np.float64) if name == "BF16" else array
    return {**tensor, "data": values.ravel().tolist()}


def body_of(document: Mapping[str, Any], *buffers: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    text = orjson.dumps(document)
    return b"".join((text, *buffers)), {HEADER: b"%d" % len(text)}


def answered(servable: Servable, body: bytes, headers: Mapping[bytes, bytes], limits: LimitSettings = LIMITS) -> Any:
    """The whole way: read, run, write."""
    codec = v2.DOOR.choose(headers)
    feeds, call = codec.read(body, headers, servable, limits)
    return call.write(v2.Writer(servable), servable.run(feeds), servable.rows_of(feeds))


def opened(answer: bytes | Answer) -> tuple[Any, dict[str, bytes]]:
    """An answer's JSON, and its buffers by output."""
    if isinstance(answer, bytes):
        return orjson.loads(answer), {}
    headers = dict(answer.headers)
    assert headers[b"content-type"] == b"application/octet-stream"
    at = int(headers[HEADER])
    document, buffers = orjson.loads(answer.body[:at]), {}
    for output in document["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is not None:
            assert "data" not in output
            buffers[output["name"]] = answer.body[at : at + size]
            at += size
    assert at == len(answer.body)
    return document, buffers


def two(**more: Any) -> dict[str, Any]:
    values = {"FP32": [1.5, -2.0], "INT64": [3, 2**60]}
    inputs = [{"name": name, "shape": [1, 2], "datatype": name, "data": data} for name, data in values.items()]
    return {"inputs": inputs, **more}
