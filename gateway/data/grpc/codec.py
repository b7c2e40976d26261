"""ModelInferRequest to tensors, and tensors to ModelInferResponse.

Tensors come as `raw_input_contents` or as `contents`, never both in one request; FP16 and BF16 only raw. Answers are
raw, as Triton's are, unless the request says `binary_data_output: false`. Numbers in a large request are read where
they lie. A `Request` is one message on its way: the services parse it, and hand its `codec` to `Predict.ask`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from gateway.data.codecs import call
from gateway.data.codecs.call import Codec, Headers
from gateway.data.codecs.raw import Buffer, elements, from_raw, text, to_bytes, to_raw
from gateway.data.codecs.v2 import Writer, parameters_of
from gateway.data.codecs.v2_calls import call_of, no_shared_memory, shown
from gateway.data.grpc import wire
from gateway.data.grpc.messages import InferTensorContents, ModelInferRequest, ModelInferResponse
from gateway.data.servable import InputSlot, Servable, Tensor
from gateway.settings import LimitSettings
from registry.errors import MalformedRequest, TensorMismatch

PROTOCOL = "grpc"
_WHOLE_BELOW = 64 * 1024  # bytes of a message that protobuf may have as it is

# Where a datatype's values stand in InferTensorContents, and how they are read before they are narrowed.
_CONTENTS: dict[str, tuple[str, Any]] = {
    "BOOL": ("bool_contents", np.bool_),
    "INT8": ("int_contents", np.int32),
    "INT16": ("int_contents", np.int32),
    "INT32": ("int_contents", np.int32),
    "INT64": ("int64_contents", np.int64),
    "UINT8": ("uint_contents", np.uint32),
    "UINT16": ("uint_contents", np.uint32),
    "UINT32": ("uint_contents", np.uint32),
    "UINT64": ("uint64_contents", np.uint64),
    "FP32": ("fp32_contents", np.float32),
    "FP64": ("fp64_contents", np.float64),
    "BYTES": ("bytes_contents", np.object_),
}

# Datatypes whose values stand in `contents` as in memory: field number and dtype.
_PACKED: dict[str, tuple[int, np.dtype[Any]]] = {"FP32": (6, np.dtype(np.float32)), "FP64": (7, np.dtype(np.float64))}


class Answering(call.Call):
    """What a request asks beside its tensors."""

    __slots__ = ("id", "is_raw", "outputs", "timeout_us")

    def __init__(
        self, request_id: str | None, outputs: Sequence[int] | None, timeout_us: int | None, *, is_raw: bool
    ) -> None:
        self.id = request_id
        self.outputs = outputs  # indexes of the outputs wanted; None: all
        self.timeout_us = timeout_us
        self.is_raw = is_raw

    def write(self, writer: Writer, outputs: Sequence[Tensor], rows: int) -> bytes:
        """A ModelInferResponse, encoded."""
        servable = writer.servable
        head = ModelInferResponse(model_name=servable.model, model_version=str(servable.version), id=self.id or "")
        indexes = range(len(outputs)) if self.outputs is None else self.outputs
        is_raw = self.is_raw or any(servable.output_datatypes[index] not in _CONTENTS for index in indexes)
        raws: list[Buffer] = []
        for index in indexes:
            output, datatype = outputs[index], servable.output_datatypes[index]
            described = head.outputs.add(
                name=servable.output_names[index], datatype=datatype, shape=[int(size) for size in output.shape]
            )
            for key, value in parameters_of(servable.manifest.outputs[index]).items():
                described.parameters[key].string_param = value
            if is_raw:
                raw = to_raw(output)
                raws += (wire.tagged(6, len(raw)), raw)
            else:
                _add_contents(described.contents, datatype, output)
        return b"".join((head.SerializeToString(), *raws))


class Request:
    """One ModelInferRequest: what routes it, and a codec that reads the rest of it."""

    __slots__ = ("_contents", "_message", "_raws", "codec", "size")

    def __init__(self, body: bytes) -> None:
        """Parse a message. Raises MalformedRequest or PayloadTooLarge."""
        self.size = len(body)
        self._contents: Mapping[int, bytes] = {}
        try:
            if len(body) < _WHOLE_BELOW:
                self._message = ModelInferRequest.FromString(body)
                self._raws: Sequence[Buffer] = self._message.raw_input_contents
            else:
                head, self._raws, self._contents = wire.cut(body)
                self._message = ModelInferRequest.FromString(head)
        except DecodeError as error:
            raise MalformedRequest(f"the message is not a ModelInferRequest: {error}") from None
        self.codec = Codec(PROTOCOL, self._read)

    @property
    def model(self) -> str:
        """The model's name."""
        return str(self._message.model_name)

    @property
    def version(self) -> str | None:
        """The version or alias that the caller names."""
        return self._message.model_version or None

    @property
    def id(self) -> str:
        """What the caller wants echoed; may be empty."""
        return str(self._message.id)

    def _read(
        self, _body: bytes, _headers: Headers, servable: Servable, limits: LimitSettings
    ) -> tuple[list[Tensor], Answering]:
        inputs, raws = self._message.inputs, self._raws
        if raws and len(raws) != len(inputs):
            raise MalformedRequest(f"{len(raws)} raw_input_contents for {len(inputs)} inputs; all are raw, or none")
        feeds: list[Tensor | None] = [None] * len(servable.slots)
        for position, tensor in enumerate(inputs):
            slot, index = _slot(servable, tensor)
            if feeds[index] is not None:
                raise MalformedRequest(f"input {tensor.name!r} is given twice")
            if raws:
                if self._contents.get(position) or tensor.contents.ByteSize():
                    raise MalformedRequest(f'input "{tensor.name}" has contents beside raw_input_contents')
                feeds[index] = from_raw(slot, raws[position], tensor.shape, limits.tensor_elements)
            else:
                count = elements(slot, tensor.shape, limits.tensor_elements)
                feed = self._packed(slot, position, count)
                if feed is None:
                    feed = _from_contents(slot, self._contents_of(position, tensor, count), count)
                feeds[index] = feed.reshape(tensor.shape)
        complete = [feed for feed in feeds if feed is not None]
        if len(complete) != len(feeds):
            missing = [slot.spec.name for slot, feed in zip(servable.slots, feeds, strict=True) if feed is None]
            raise TensorMismatch(f"missing input: {_names(missing)}")
        return complete, self._answering(servable)

    def _packed(self, slot: InputSlot, position: int, count: int) -> Tensor | None:
        """Many values that stand in the message as they stand in an array; None: protobuf must read them."""
        cut, field = self._contents.get(position), _PACKED.get(slot.spec.datatype)
        if cut is None or field is None:
            return None
        number, dtype = field
        tag = wire.tagged(number, count * dtype.itemsize)
        if len(cut) != len(tag) + count * dtype.itemsize or not cut.startswith(tag):
            return None
        return np.frombuffer(cut, dtype, offset=len(tag)).copy()  # now aligned

    def _contents_of(self, position: int, tensor: Any, count: int) -> Any:
        cut = self._contents.get(position)
        if cut is None:
            return tensor.contents
        if wire.holds_more(cut, count, texts=tensor.datatype == "BYTES"):
            name = shown(tensor.name)
            raise TensorMismatch(f"input {name}: the shape has {count} elements, its contents hold more")
        try:
            return InferTensorContents.FromString(cut)
        except DecodeError as error:
            raise MalformedRequest(f"the contents of an input cannot be read: {error}") from None

    def _answering(self, servable: Servable) -> Answering:
        message = self._message
        if not message.parameters and not message.outputs:
            return Answering(message.id or None, None, None, is_raw=True)
        parameters = scalars(message.parameters)
        parameters.pop("triton_enable_empty_final_response", None)  # no answer here is empty
        outputs = [{"name": each.name, "parameters": scalars(each.parameters)} for each in message.outputs]
        asked = call_of({"id": message.id, "parameters": parameters, "outputs": outputs}, servable)
        is_raw = bool(parameters.get("binary_data_output", True))
        return Answering(asked.id, asked.outputs, asked.timeout_us, is_raw=is_raw)


def scalars(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as REST has them. Raises MalformedRequest for one without a value."""
    found = {}
    for name, parameter in parameters.items():
        field = parameter.WhichOneof("parameter_choice")
        if field is None:
            raise MalformedRequest(f"parameter {shown(name)} has no value")
        found[name] = getattr(parameter, field)
    return found


def _slot(servable: Servable, tensor: Any) -> tuple[InputSlot, int]:
    """The input that a tensor is for, and its place. Raises TensorMismatch."""
    name = tensor.name
    index = servable.slot_index.get(name)
    if index is None:
        raise TensorMismatch(f"unknown input {shown(name)}; the model has {_names(servable.input_names)}")
    slot = servable.slots[index]
    if tensor.datatype != slot.spec.datatype:
        raise TensorMismatch(
            f'input "{name}": got datatype {shown(tensor.datatype)}, model wants {slot.spec.datatype}', input=name
        )
    if tensor.parameters:
        no_shared_memory(scalars(tensor.parameters), f"input {name!r}")
    return slot, index


def _from_contents(slot: InputSlot, contents: Any, count: int) -> Tensor:
    name, datatype = slot.spec.name, slot.spec.datatype
    if datatype not in _CONTENTS:
        raise TensorMismatch(f'input "{name}": {datatype} is sent in raw_input_contents', input=name)
    field, read_as = _CONTENTS[datatype]
    filled = [descriptor.name for descriptor, _ in contents.ListFields()]
    if filled and filled != [field]:
        raise TensorMismatch(f'input "{name}": {datatype} is sent in {field}, got {", ".join(filled)}', input=name)
    values = getattr(contents, field)
    if len(values) != count:
        raise TensorMismatch(f'input "{name}": the shape has {count} elements, {field} has {len(values)}', input=name)
    if datatype == "BYTES":
        array: Tensor = np.empty(count, dtype=np.object_)
        array[:] = [text(slot, value) for value in values]
        return array
    wide = np.fromiter(values, read_as, count)
    array = wide.astype(slot.dtype, copy=False)
    if array.dtype != wide.dtype and not np.array_equal(array, wide):
        raise TensorMismatch(f'input "{name}": a number does not fit {datatype}', input=name)
    return array


def _add_contents(contents: Any, datatype: str, output: Tensor) -> None:
    values = output.ravel().tolist()
    getattr(contents, _CONTENTS[datatype][0]).extend(map(to_bytes, values) if datatype == "BYTES" else values)


def _names(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
