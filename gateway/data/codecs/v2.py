"""Open Inference V2 over REST: bytes to tensors and back.

Source of the format: the Open Inference Protocol, "Inference Request JSON Object" and "Inference Response JSON Object",
and Triton's binary tensor data extension (`v2_binary`). JSON data may be nested or flat, row-major; answers are flat.
What a request asks beside its tensors is read in `v2_calls`. The commonest request, one row of floats, has a way of its
own through `read` with the fewest steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np
import orjson

from gateway.data.codecs import json_body, json_numbers, v2_binary
from gateway.data.codecs.call import Answer, Codec, Door, Headers, only_json
from gateway.data.codecs.call import Call as AnyCall
from gateway.data.codecs.raw import to_raw
from gateway.data.codecs.tensors import check_shape, from_json, with_shape
from gateway.data.codecs.v2_binary import HEADER, NOTHING, Buffers, from_buffer, json_length, whole_body
from gateway.data.codecs.v2_calls import PLAIN, Call, FullCall, all_binary, call_of, no_shared_memory, scalars, shown
from gateway.data.servable import InputSlot, Servable, Tensor
from gateway.settings import LimitSettings
from registry.errors import MalformedRequest, TensorMismatch
from registry.vocabulary import TensorSpec

_NUMBERS = frozenset((int, float))
_NO_PARAMETERS: dict[str, Any] = {}


def read(body: bytes, headers: Headers, servable: Servable, limits: LimitSettings) -> tuple[list[Tensor], Call]:
    """The tensors of a request in the order of the servable's slots. Raises as `Codec.read` says."""
    if len(body) >= json_numbers.LARGE_BYTES:
        return _read_long(body, headers, servable, limits)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _read_long(body, headers, servable, limits)  # where it is known what else it may be, and what to say
    slots = servable.slots
    if type(document) is dict and len(slots) == 1:
        inputs = document.get("inputs")
        if type(inputs) is list and len(inputs) == 1:
            feed = _one_row_of_floats(inputs[0], slots[0])
            if feed is not None:
                if len(document) == 1:
                    return [feed], PLAIN
                request_id = document.get("id")
                if request_id and len(document) == 2 and type(request_id) is str:
                    return [feed], Call(request_id, None)
                json_body.check_depth(body, limits.json_depth)
                return [feed], call_of(document, servable)
    json_body.check_depth(body, limits.json_depth)
    return read_document(document, servable, limits, NOTHING)


def _read_long(body: bytes, headers: Headers, servable: Servable, limits: LimitSettings) -> tuple[list[Tensor], Call]:
    if HEADER in headers:
        return read_binary(body, headers, servable, limits)
    return read_document(_document(body, servable, limits), servable, limits, NOTHING)


def read_binary(body: bytes, headers: Headers, servable: Servable, limits: LimitSettings) -> tuple[list[Tensor], Call]:
    """As `read`, for a body that is JSON and then raw buffers, or one raw buffer."""
    length = json_length(headers, body)
    if length == 0:
        return [whole_body(body, servable, limits)], all_binary(servable)
    buffers = Buffers(memoryview(body)[length:])
    feeds, call = read_document(_document(bytes(body[:length]), servable, limits), servable, limits, buffers)
    buffers.end()
    return feeds, call


def _document(body: bytes, servable: Servable, limits: LimitSettings) -> Any:
    if len(body) >= json_numbers.LARGE_BYTES:
        document = json_numbers.load(body, limits.json_depth)
        if document is not None:
            return document
    return json_body.load(body, limits, nan=not servable.refuses_nonfinite)


def read_document(
    document: Any, servable: Servable, limits: LimitSettings, buffers: Buffers
) -> tuple[list[Tensor], Call]:
    if type(document) is not dict:
        raise MalformedRequest("the body must be a JSON object")
    inputs = document.get("inputs")
    if type(inputs) is not list:
        raise MalformedRequest('"inputs" must be a list of tensors')
    slots = servable.slots
    nan = not servable.refuses_nonfinite
    feeds: list[Tensor | None] = [None] * len(slots)
    for tensor in inputs:
        if type(tensor) is not dict:
            raise MalformedRequest('an element of "inputs" is not an object')
        name = tensor.get("name")
        index = servable.slot_index.get(name) if type(name) is str else None
        if index is None:
            raise TensorMismatch(f"unknown input {shown(name)}; the model has {_names(servable.input_names)}")
        if feeds[index] is not None:
            raise MalformedRequest(f"input {name!r} is given twice")
        slot, datatype = slots[index], tensor.get("datatype")
        if datatype != slot.spec.datatype:
            raise TensorMismatch(
                f'input "{name}": got datatype {shown(datatype)}, model wants {slot.spec.datatype}', input=name
            )
        given = tensor.get("parameters")
        parameters = _NO_PARAMETERS if given is None else scalars(given, f"input {name!r}")
        no_shared_memory(parameters, f"input {name!r}")
        if "binary_data_size" in parameters:
            if "data" in tensor:
                raise MalformedRequest(f'input "{name}" has both "data" and "binary_data_size"')
            feeds[index] = from_buffer(slot, tensor.get("shape"), parameters, buffers, limits)
        elif "data" in tensor:
            shape = tensor.get("shape")
            check_shape(slot, shape, limits.tensor_elements)  # before anything is allocated
            array = from_json(slot, tensor["data"], nan=nan)
            feeds[index] = with_shape(slot, array, shape, limits.tensor_elements)
        else:
            raise MalformedRequest(f'input "{name}" has no "data"')
    complete = [feed for feed in feeds if feed is not None]
    if len(complete) != len(slots):
        missing = [slot.spec.name for slot, feed in zip(slots, feeds, strict=True) if feed is None]
        raise TensorMismatch(f"missing input: {_names(missing)}")
    return complete, call_of(document, servable)


def _one_row_of_floats(tensor: Any, slot: InputSlot) -> Tensor | None:
    """The commonest request, read with the fewest steps; None: read it the long way, which also finds what is wrong."""
    if type(tensor) is not dict or slot.row_width is None or len(tensor) != 4:
        return None
    shape = tensor.get("shape")
    if tensor.get("name") != slot.spec.name or tensor.get("datatype") != "FP32" or shape != [1, slot.row_width]:
        return None
    data = tensor.get("data")
    if type(data) is not list or len(data) != slot.row_width or type(shape[0]) is not int:
        return None
    if not set(map(type, data)) <= _NUMBERS:
        return None
    try:
        row = np.array(data, dtype=np.float32)
    except OverflowError:
        return None
    # The square is finite unless a value is huge, and such a row is read the long way.
    return row.reshape(1, -1) if isfinite(np.dot(row, row)) else None


def _names(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


class Writer:
    """Answers of one servable, built from parts that never change. Made once, when the version loads."""

    def __init__(self, servable: Servable) -> None:
        self.servable = servable
        self._head = b'{"model_name":' + orjson.dumps(servable.model) + b',"model_version":"%d"' % servable.version
        specs = servable.manifest.outputs
        self._specs = [
            b'{"name":' + orjson.dumps(spec.name) + b',"datatype":"' + spec.datatype.encode() + b'"' for spec in specs
        ]
        self._parameters = [orjson.dumps(parameters_of(spec))[1:-1] for spec in specs]
        self._outputs = [
            head + (b',"parameters":{' + parameters + b"}" if parameters else b"") + b',"shape":['
            for head, parameters in zip(self._specs, self._parameters, strict=True)
        ]

    def write_single_rows(self, outputs: Sequence[Tensor], calls: Sequence[AnyCall]) -> list[bytes] | None:
        """The bodies of requests of one row each, from their joined outputs; None when they must go one by one.

        One pass of the encoder for all of them: its text is cut at the commas, which numbers do not hold.
        """
        rows = len(calls)
        columns = []
        glue = b',"outputs":['
        for index, output in enumerate(outputs):
            if output.dtype.kind not in "fiub" or output.ndim == 0 or len(output) != rows or output.size == 0:
                return None
            width = output.size // rows
            numbers = to_json(output)[1:-1].split(b",")
            if width > 1:
                numbers = [b",".join(numbers[at : at + width]) for at in range(0, len(numbers), width)]
            shape = b",".join([b"1", *(b"%d" % n for n in output.shape[1:])])
            columns.append((glue + self._outputs[index] + shape + b'],"data":[', numbers))
            glue = b"]},"
        head, tails = columns[0]
        for glued, numbers in columns[1:]:
            tails = [b"%b%b%b" % (tail, glued, number) for tail, number in zip(tails, numbers, strict=True)]
        plain = self._head + head
        return [
            b"%b%b]}]}" % (plain, tail)
            if one.id is None
            else b'%b,"id":%b%b%b]}]}' % (self._head, orjson.dumps(one.id), head, tail)
            for one, tail in zip(calls, tails, strict=True)
        ]

    def write(self, outputs: Sequence[Tensor], call: Call) -> bytes:
        """The body of a 200. Non-finite numbers become null."""
        parts = self._start(call)
        indexes = range(len(outputs)) if call.outputs is None else call.outputs
        glue = b',"outputs":['
        for index in indexes:
            output = outputs[index]
            parts += (glue, self._outputs[index], _sizes(output), b'],"data":', to_json(output), b"}")
            glue = b","
        parts.append(b"]}" if len(indexes) else b',"outputs":[]}')
        return b"".join(parts)

    def write_binary(self, outputs: Sequence[Tensor], call: FullCall) -> bytes | Answer:
        """The answer with some outputs as raw buffers after the JSON; plain JSON when all of those are empty."""
        parts = self._start(call)
        buffers: list[bytes | memoryview] = []
        glue = b',"outputs":['
        for index in range(len(outputs)) if call.outputs is None else call.outputs:
            output = outputs[index]
            if index in call.binary:
                buffer = to_raw(output)
                parts += (
                    glue,
                    self._specs[index],
                    b',"shape":[',
                    _sizes(output),
                    b'],"parameters":{"binary_data_size":',
                )
                more = self._parameters[index]
                parts += (b"%d" % len(buffer), b"," + more if more else b"", b"}}")
                if len(buffer):
                    buffers.append(buffer)
            else:
                parts += (glue, self._outputs[index], _sizes(output), b'],"data":', to_json(output), b"}")
            glue = b","
        parts.append(b"]}")
        text = b"".join(parts)
        if not buffers:
            return text
        length = (b"inference-header-content-length", b"%d" % len(text))
        return Answer(b"".join((text, *buffers)), ((b"content-type", b"application/octet-stream"), length))

    def _start(self, call: Call) -> list[bytes]:
        return [self._head] if call.id is None else [self._head, b',"id":', orjson.dumps(call.id)]


def _sizes(output: Tensor) -> bytes:
    return b",".join([b"%d" % size for size in output.shape])


def to_json(output: Tensor) -> bytes:
    """A tensor's values as a flat JSON list. Non-finite numbers become null."""
    kind = output.dtype.kind
    if kind == "O":
        return orjson.dumps([text_of(value) for value in output.ravel().tolist()])
    if kind == "V":  # bfloat16
        output, kind = output.astype(np.float32), "f"
    if output.size <= 64:  # below this a list is faster than orjson's own numpy reader
        return orjson.dumps(output.ravel().tolist())
    if kind == "f":
        output = output.astype(np.float64)  # the same digits as above, whatever the size: the exact value
    return orjson.dumps(np.ascontiguousarray(output).ravel(), option=orjson.OPT_SERIALIZE_NUMPY)


def text_of(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def model_metadata(
    model: str, versions: Sequence[int], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> dict[str, Any]:
    """The model metadata object; a free dimension is -1."""
    return {
        "name": model,
        "versions": [str(version) for version in versions],
        "platform": "onnx_onnxv1",
        "inputs": [_tensor_metadata(spec) for spec in inputs],
        "outputs": [_tensor_metadata(spec) for spec in outputs],
    }


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    shape = [-1] if spec.shape is None else [-1 if n is None else n for n in spec.shape]
    parameters = parameters_of(spec)
    more = {"parameters": parameters} if parameters else {}
    return {"name": spec.name, "datatype": spec.datatype, "shape": shape, **more}


def parameters_of(spec: TensorSpec) -> dict[str, str]:
    """What an output says of itself: the names of its columns, as JSON text since a parameter is no list."""
    return {} if spec.classes is None else {"classes": orjson.dumps(spec.classes).decode()}


CODEC = Codec("v2", read, aside_bytes=4 << 20)  # 10 ms a megabyte in short lists, 7 in one
BINARY = Codec("v2", read_binary, room=v2_binary.room)
_JSON_DOOR = only_json(CODEC)


def _choose(headers: Headers) -> Codec:
    return BINARY if HEADER in headers else _JSON_DOOR.choose(headers)


DOOR = Door(CODEC, _choose)
