"""One request over each of three protocols, written by hand from the specifications: arrays in, arrays out."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import grpc
import httpx
import numpy as np
from numpy.typing import NDArray

from gateway.data.grpc import messages
from registry.onnx import NUMPY_DTYPES

Tensors = Mapping[str, NDArray[Any]]
NAMES = {dtype: name for name in ("BF16", *NUMPY_DTYPES) for dtype in [NUMPY_DTYPES[name]]}


class Refused(Exception):
    """An answer that is no success: (status, code, message)."""


def datatype_of(array: NDArray[Any]) -> str:
    """Its Open Inference datatype."""
    return NAMES[array.dtype]


def raw(array: NDArray[Any]) -> bytes:
    """A tensor as the binary extension and gRPC have it."""
    if array.dtype != object:
        return array.tobytes()
    return b"".join(struct.pack("<I", len(text)) + text for text in (str(item).encode() for item in array.ravel()))


def unraw(octets: bytes, datatype: str, shape: list[int]) -> NDArray[Any]:
    """The reverse of `raw`."""
    if datatype != "BYTES":
        return np.frombuffer(octets, NUMPY_DTYPES[datatype]).reshape(shape)
    texts, at = [], 0
    while at < len(octets):
        (size,) = struct.unpack_from("<I", octets, at)
        texts.append(octets[at + 4 : at + 4 + size].decode())
        at += 4 + size
    return objects(texts, shape)


def objects(texts: list[str], shape: list[int]) -> NDArray[Any]:
    """Texts as an object array."""
    flat = np.empty(len(texts), object)
    flat[:] = texts
    return flat.reshape(shape)


def plain(array: NDArray[Any]) -> list[Any]:
    """A tensor's values as JSON has them, flat."""
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    values: list[Any] = array.ravel().tolist()
    return values


def from_plain(output: Mapping[str, Any]) -> NDArray[Any]:
    """A tensor of a JSON answer; null is NaN."""
    datatype, shape = output["datatype"], output["shape"]
    if datatype == "BYTES":
        return objects(output["data"], shape)
    values = [np.nan if value is None else value for value in output["data"]]
    if datatype == "BF16":
        return np.array(values, np.float32).astype(NUMPY_DTYPES["BF16"]).reshape(shape)
    return np.array(values, NUMPY_DTYPES[datatype]).reshape(shape)


def over_json(client: httpx.Client, model: str, feeds: Tensors) -> dict[str, NDArray[Any]]:
    """V2 over REST, plain JSON. Raises Refused."""
    inputs = [
        {"name": name, "datatype": datatype_of(array), "shape": list(array.shape), "data": plain(array)}
        for name, array in feeds.items()
    ]
    answer = client.post(f"/v2/models/{model}/infer", json={"inputs": inputs})
    _check(answer)
    return {output["name"]: from_plain(output) for output in answer.json()["outputs"]}


def over_binary(client: httpx.Client, model: str, feeds: Tensors) -> dict[str, NDArray[Any]]:
    """V2 over REST with raw buffers both ways. Raises Refused."""
    buffers = [raw(array) for array in feeds.values()]
    inputs = [
        {
            "name": name,
            "datatype": datatype_of(array),
            "shape": list(array.shape),
            "parameters": {"binary_data_size": len(buffer)},
        }
        for (name, array), buffer in zip(feeds.items(), buffers, strict=True)
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
    answer = client.post(f"/v2/models/{model}/infer", content=b"".join((head, *buffers)), headers=headers)
    _check(answer)
    size = int(answer.headers.get("inference-header-content-length", len(answer.content)))
    at, found = size, {}
    for output in json.loads(answer.content[:size])["outputs"]:
        length = output["parameters"]["binary_data_size"]
        octets = answer.content[at : at + length]
        found[output["name"]] = unraw(octets, output["datatype"], output["shape"])
        at += length
    assert at == len(answer.content)
    return found


def over_grpc(channel: grpc.Channel, model: str, feeds: Tensors) -> dict[str, NDArray[Any]]:
    """ModelInfer with raw contents. Raises Refused."""
    request = messages.ModelInferRequest(model_name=model)
    for name, array in feeds.items():
        request.inputs.add(name=name, datatype=datatype_of(array), shape=list(array.shape))
        request.raw_input_contents.append(raw(array))
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    try:
        answer = messages.ModelInferResponse.FromString(call(request.SerializeToString(), timeout=30))
    except grpc.RpcError as error:
        raise Refused(error.code().name, "", error.details()) from None
    return {
        output.name: unraw(octets, output.datatype, list(output.shape))
        for output, octets in zip(answer.outputs, answer.raw_output_contents, strict=True)
    }


def _check(answer: httpx.Response) -> None:
    if answer.status_code != 200:
        document = answer.json()
        raise Refused(answer.status_code, document.get("code"), document["error"])
