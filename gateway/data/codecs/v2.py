"""Open Inference V2 over REST, JSON form: bytes to tensors and back.

Source of the format: the Open Inference Protocol, "Inference Request JSON Object" and "Inference Response JSON Object".
Data may be nested or flat, row-major; answers are flat. The `id` is echoed only when it was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np
import orjson

from gateway.data.codecs import call
from gateway.data.codecs.call import Codec, Headers, only_json
from gateway.data.codecs.tensors import from_json, with_shape
from gateway.data.servable import InputSlot, Servable, Tensor
from gateway.settings import LimitSettings
from registry.errors import MalformedRequest, TensorMismatch
from registry.vocabulary import TensorSpec


class Call(call.Call):
    """A request that is answered in plain JSON."""

    __slots__ = ("id", "joint", "outputs")

    def __init__(self, request_id: str | None, outputs: Sequence[int] | None) -> None:
        self.id = request_id
        self.outputs = outputs  # indexes of the outputs wanted; None: all
        self.joint = outputs is None

    def write(self, writer: Writer, outputs: Sequence[Tensor], rows: int) -> bytes:
        """As `Writer.write`."""
        return writer.write(outputs, self)


_NUMBERS = frozenset((int, float))
PLAIN = Call(None, None)  # nothing beside its tensors, as most requests are


def read(body: bytes, headers: Headers, servable: Servable, limits: LimitSettings) -> tuple[list[Tensor], Call]:
    """The tensors of a request in the order of the servable's slots. Raises MalformedRequest or TensorMismatch."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(f"the body is not JSON: {error}") from None
    if type(document) is not dict:
        raise MalformedRequest("the body must be a JSON object")
    inputs = document.get("inputs")
    if type(inputs) is not list:
        raise MalformedRequest('"inputs" must be a list of tensors')
    slots = servable.slots
    if len(inputs) == 1 and len(slots) == 1:
        feed = _one_row_of_floats(inputs[0], slots[0])
        if feed is not None:
            return [feed], _call(document, servable)
    feeds: list[Tensor | None] = [None] * len(slots)
    for tensor in inputs:
        if type(tensor) is not dict:
            raise MalformedRequest('an element of "inputs" is not an object')
        name = tensor.get("name")
        index = servable.slot_index.get(name) if type(name) is str else None
        if index is None:
            raise TensorMismatch(f"unknown input {name!r}; the model has {_names(servable.input_names)}")
        if feeds[index] is not None:
            raise MalformedRequest(f"input {name!r} is given twice")
        slot = slots[index]
        datatype = tensor.get("datatype")
        if datatype != slot.spec.datatype:
            raise TensorMismatch(
                f'input "{name}": got datatype {datatype!r}, model wants {slot.spec.datatype}', input=name
            )
        if "data" not in tensor:
            raise MalformedRequest(f'input "{name}" has no "data"')
        feeds[index] = with_shape(slot, from_json(slot, tensor["data"]), tensor.get("shape"), limits.tensor_elements)
    complete = [feed for feed in feeds if feed is not None]
    if len(complete) != len(slots):
        missing = [slot.spec.name for slot, feed in zip(slots, feeds, strict=True) if feed is None]
        raise TensorMismatch(f"missing input: {_names(missing)}")
    return complete, _call(document, servable)


def _one_row_of_floats(tensor: Any, slot: InputSlot) -> Tensor | None:
    """The commonest request, read with the fewest steps; None: read it the long way, which also finds what is wrong."""
    if type(tensor) is not dict or slot.row_width is None:
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


def _call(document: dict[str, Any], servable: Servable) -> Call:
    if len(document) == 1:
        return PLAIN
    call_id = document.get("id")
    if call_id is not None and type(call_id) is not str:
        raise MalformedRequest('"id" must be a string')
    wanted = document.get("outputs")
    return Call(call_id, _wanted(wanted, servable) if wanted else None)


def _wanted(outputs: Any, servable: Servable) -> list[int]:
    if type(outputs) is not list:
        raise MalformedRequest('"outputs" must be a list')
    indexes = []
    for output in outputs:
        name = output.get("name") if type(output) is dict else None
        if name not in servable.output_names:
            raise TensorMismatch(f"unknown output {name!r}; the model has {_names(servable.output_names)}")
        indexes.append(servable.output_names.index(name))
    if len(set(indexes)) != len(indexes):
        raise MalformedRequest("an output is asked for twice")
    return indexes


def _names(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


class Writer:
    """Answers of one servable, built from parts that never change. Made once, when the version loads."""

    def __init__(self, servable: Servable) -> None:
        self.servable = servable
        self._head = b'{"model_name":' + orjson.dumps(servable.model) + b',"model_version":"%d"' % servable.version
        self._outputs = [
            b'{"name":' + orjson.dumps(name) + b',"datatype":"' + datatype.encode() + b'","shape":['
            for name, datatype in zip(servable.output_names, servable.output_datatypes, strict=True)
        ]

    def write_single_rows(self, outputs: Sequence[Tensor], calls: Sequence[call.Call]) -> list[bytes] | None:
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
        parts = [self._head]
        if call.id is not None:
            parts += (b',"id":', orjson.dumps(call.id))
        indexes = range(len(outputs)) if call.outputs is None else call.outputs
        glue = b',"outputs":['
        for index in indexes:
            output = outputs[index]
            shape = b",".join([b"%d" % n for n in output.shape])
            parts += (glue, self._outputs[index], shape, b'],"data":', to_json(output), b"}")
            glue = b","
        parts.append(b"]}" if len(indexes) else b',"outputs":[]}')
        return b"".join(parts)


def to_json(output: Tensor) -> bytes:
    """A tensor's values as a flat JSON list."""
    if output.dtype.kind == "O":
        return orjson.dumps([_text(value) for value in output.ravel().tolist()])
    if output.size <= 64:  # below this a list is faster than orjson's own numpy reader
        return orjson.dumps(output.ravel().tolist())
    if output.dtype.kind == "f":
        output = output.astype(np.float64)  # the same digits as above, whatever the size: the exact value
    return orjson.dumps(np.ascontiguousarray(output).ravel(), option=orjson.OPT_SERIALIZE_NUMPY)


def _text(value: Any) -> str:
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
    return {"name": spec.name, "datatype": spec.datatype, "shape": shape}


CODEC = Codec("v2", read)
DOOR = only_json(CODEC)
