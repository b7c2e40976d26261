"""Open Inference V2 in MessagePack: the same document as in JSON, with `data` as one binary buffer.

A tensor's `data` is its raw little-endian buffer (binary), or a list as in JSON; an element of BYTES in a list is a
string or binary. Answers carry buffers, and BYTES as lists of strings. `docs/protocols/msgpack-arrow.md` has the form
in full. Invariant: a buffer is a view into the request's body wherever its alignment allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.data.codecs import v2
from gateway.data.codecs.call import Answer, Headers
from gateway.data.codecs.msgpack_values import unpack
from gateway.data.codecs.raw import to_raw
from gateway.data.codecs.v2_binary import Buffers
from gateway.data.codecs.v2_calls import Call, FullCall
from gateway.data.servable import Servable, Tensor
from gateway.settings import LimitSettings
from registry.errors import MalformedRequest

MEDIA_TYPE = "application/msgpack"
NAMES = frozenset((MEDIA_TYPE, "application/x-msgpack", "application/vnd.msgpack"))
_HEADERS = ((b"content-type", MEDIA_TYPE.encode()),)
_SIZE = "binary_data_size"


def read(body: bytes, headers: Headers, servable: Servable, limits: LimitSettings) -> tuple[list[Tensor], Call]:
    """The tensors of a request in the order of the servable's slots.

    Raises MalformedRequest, TensorMismatch or PayloadTooLarge.
    """
    document = unpack(body)
    views: list[memoryview] = []
    if type(document) is dict and type(document.get("inputs")) is list:
        document["inputs"] = [_as_in_json(tensor, views) for tensor in document["inputs"]]
    return v2.read_document(document, servable, limits, _Views(views))


def _as_in_json(tensor: Any, views: list[memoryview]) -> Any:
    """A tensor as V2 has it with binary data: its buffer is said to follow, and kept for `_Views`."""
    if type(tensor) is not dict:
        return tensor
    data, parameters = tensor.get("data"), tensor.get("parameters", {})
    if type(parameters) is dict and _SIZE in parameters:
        raise MalformedRequest(f'"{_SIZE}" is not read in MessagePack; "data" is the buffer')
    if type(data) is list and tensor.get("datatype") == "BYTES":
        return {**tensor, "data": _texts(data)}
    if type(data) is not memoryview or type(parameters) is not dict:
        return tensor
    views.append(data)
    told = {name: value for name, value in tensor.items() if name != "data"}
    return {**told, "parameters": {**parameters, _SIZE: len(data)}}


def _texts(data: Any) -> Any:
    """Nested lists with their binary elements as text. Levels are bounded by the reader."""
    if type(data) is list:
        return [_texts(item) for item in data]
    if type(data) is not memoryview:
        return data
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise MalformedRequest(f"an element of BYTES is not UTF-8 (byte {error.start})") from None


class _Views(Buffers):
    """The buffers of a document, handed out in order as those after a JSON text are."""

    __slots__ = ("_views",)

    def __init__(self, views: list[memoryview]) -> None:
        self._views = iter(views)

    def take(self, name: str, size: Any) -> memoryview:
        """The next buffer; `size` is its own."""
        return next(self._views)


class PackedCall(FullCall):
    """A V2 request, in whatever form, that is answered in MessagePack."""

    __slots__ = ()

    def __init__(self, asked: Call) -> None:
        super().__init__(asked.id, asked.outputs, asked.timeout_us, frozenset())
        self.joint = False

    def write(self, writer: v2.Writer, outputs: Sequence[Tensor], rows: int) -> Answer:
        """The body of a 200. Numbers are carried as they are, NaN and infinity too."""
        import msgpack  # at the first answer of this kind (6 ms): a worker starts without it

        servable = writer.servable
        document: dict[str, Any] = {"model_name": servable.model, "model_version": str(servable.version)}
        if self.id is not None:
            document["id"] = self.id
        wanted = range(len(outputs)) if self.outputs is None else self.outputs
        document["outputs"] = [_written(servable, index, outputs[index]) for index in wanted]
        return Answer(msgpack.packb(document), _HEADERS)


def _written(servable: Servable, index: int, output: Tensor) -> dict[str, Any]:
    spec = servable.manifest.outputs[index]
    tensor: dict[str, Any] = {"name": spec.name, "datatype": spec.datatype, "shape": list(output.shape)}
    parameters = v2.parameters_of(spec)
    if parameters:
        tensor["parameters"] = parameters
    tensor["data"] = [v2.text_of(v) for v in output.ravel().tolist()] if output.dtype.kind == "O" else to_raw(output)
    return tensor
