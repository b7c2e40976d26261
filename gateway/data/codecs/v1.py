"""KServe V1 and TensorFlow Serving's `:predict`: rows in `instances`, or whole columns in `inputs`.

Source of the format: TensorFlow Serving's REST API, which KServe's V1 follows. A model with one input takes its value a
row, one with several takes an object a row, keyed by input name; `{"b64": "..."}` is a string. `instances` is answered
with `predictions`, a row each, and `inputs` with `outputs`, a tensor each; one output stands alone, several stand in an
object. Rows may also be objects keyed by the columns of the one input (`frame.py`). Non-finite numbers become null.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from gateway.data.codecs import json_body, json_numbers
from gateway.data.codecs.call import Call, Codec, Headers, only_json
from gateway.data.codecs.frame import RowFrame, feeds_of, fitted
from gateway.data.codecs.json_numbers import Numbers
from gateway.data.codecs.tensors import from_json
from gateway.data.codecs.v2 import Writer
from gateway.data.servable import InputSlot, Servable, Tensor
from gateway.settings import LimitSettings
from registry.errors import MalformedRequest, TensorMismatch

_MOST_AXES = 32


class Rows(Call):
    """A request that is answered by rows, under `predictions`."""

    __slots__ = ()
    is_text = True

    def write(self, writer: Writer, outputs: Sequence[Tensor], rows: int) -> bytes:
        """The body of a 200."""
        return orjson.dumps({"predictions": predictions(writer.servable, outputs, rows)})


class Columns(Call):
    """A request that is answered by tensors, under `outputs`."""

    __slots__ = ()
    is_text = True

    def write(self, writer: Writer, outputs: Sequence[Tensor], rows: int) -> bytes:
        """The body of a 200."""
        names = writer.servable.output_names
        tensors = [listed(name, output) for name, output in zip(names, outputs, strict=True)]
        return orjson.dumps({"outputs": tensors[0] if len(tensors) == 1 else dict(zip(names, tensors, strict=True))})


ROWS, COLUMNS = Rows(), Columns()


def read(body: bytes, headers: Headers, servable: Servable, limits: LimitSettings) -> tuple[list[Tensor], Call]:
    """The tensors of a request in the order of the servable's slots, and how to answer it.

    Raises MalformedRequest, TensorMismatch or PayloadTooLarge.
    """
    document = parsed(body, servable, limits)
    if type(document) is not dict:
        raise MalformedRequest("the body must be a JSON object")
    if "signature_name" in document and type(document["signature_name"]) is not str:
        raise MalformedRequest('"signature_name" must be a string')
    if ("instances" in document) == ("inputs" in document):
        raise MalformedRequest('the body must have either "instances" (rows) or "inputs" (columns)')
    if "instances" in document:
        return from_rows(document["instances"], servable, limits), ROWS
    return from_columns(document["inputs"], servable, limits), COLUMNS


def parsed(body: bytes, servable: Servable, limits: LimitSettings) -> Any:
    """What a JSON body says; rows or columns of numbers in a large one are `Numbers`. Raises MalformedRequest."""
    if len(body) >= json_numbers.LARGE_BYTES:
        document = json_numbers.load_rows(body, limits.json_depth)
        if document is not None:
            return document
    return json_body.load(body, limits, nan=not servable.refuses_nonfinite)


def from_rows(rows: Any, servable: Servable, limits: LimitSettings) -> list[Tensor]:
    """Tensors of `instances`. Raises MalformedRequest, TensorMismatch or PayloadTooLarge."""
    slots = servable.slots
    if type(rows) is Numbers:
        if len(slots) == 1 and rows.dims[0]:
            return [_tensor(slots[0], rows, servable, limits)]
        rows = rows.values()
    if type(rows) is not list or not rows:
        raise MalformedRequest('"instances" must be a list with at least one row')
    if len(slots) == 1 and (type(rows[0]) is not dict or _is_b64(rows[0], slots[0])):
        return [_tensor(slots[0], rows, servable, limits)]
    if any(type(row) is not dict for row in rows):
        raise TensorMismatch("rows are objects keyed by input name here, all of them")
    known = servable.slot_index
    if known.keys().isdisjoint(rows[0]):
        return feeds_of(RowFrame.of_records(rows), servable, limits)
    for row in rows:
        if row.keys() != known.keys():
            _refuse_names(row, known)
    return [_tensor(slot, [row[slot.spec.name] for row in rows], servable, limits) for slot in slots]


def from_columns(columns: Any, servable: Servable, limits: LimitSettings) -> list[Tensor]:
    """Tensors of `inputs`. Raises MalformedRequest, TensorMismatch or PayloadTooLarge."""
    slots, known = servable.slots, servable.slot_index
    if len(slots) == 1 and (type(columns) is not dict or _is_b64(columns, slots[0])):
        return [_tensor(slots[0], columns, servable, limits)]
    if type(columns) is not dict:
        raise TensorMismatch("the inputs of this model are keyed by name: " + ", ".join(known))
    if columns.keys() != known.keys():
        _refuse_names(columns, known)
    return [_tensor(slot, columns[slot.spec.name], servable, limits) for slot in slots]


def _refuse_names(given: Mapping[str, Any], known: Mapping[str, int]) -> None:
    for name in given:
        if name not in known:
            raise TensorMismatch(f"unknown input {name[:100]!r}; the model has {', '.join(known)}")
    missing = next(name for name in known if name not in given)
    raise TensorMismatch(f'missing input: "{missing}"', input=missing)


def _tensor(slot: InputSlot, values: Any, servable: Servable, limits: LimitSettings) -> Tensor:
    if slot.dtype.kind == "O":
        values = _texts(slot, values, _MOST_AXES)
    return fitted(slot, from_json(slot, values, nan=not servable.refuses_nonfinite), limits)


def _is_b64(value: dict[str, Any], slot: InputSlot) -> bool:
    return len(value) == 1 and "b64" in value and slot.dtype.kind == "O" and slot.spec.name != "b64"


def _texts(slot: InputSlot, values: Any, depth: int) -> Any:
    """The same with every `{"b64": "..."}` read."""
    if type(values) is list and depth:
        return [value if type(value) is str else _texts(slot, value, depth - 1) for value in values]
    if type(values) is not dict or len(values) != 1 or type(values.get("b64")) is not str:
        return values
    try:
        return base64.b64decode(values["b64"], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError) as error:
        why = "not UTF-8, which strings of ONNX are" if isinstance(error, UnicodeDecodeError) else "not base64"
        raise TensorMismatch(f'input "{slot.spec.name}": a "b64" value is {why}', input=slot.spec.name) from None


# ---- answers


def predictions(servable: Servable, outputs: Sequence[Tensor], rows: int) -> Any:
    """Outputs as a list with one item a row; of a model without rows, the whole tensors."""
    names = servable.output_names
    lists = [listed(name, output) for name, output in zip(names, outputs, strict=True)]
    by_rows = servable.by_rows and all(output.ndim > 0 and len(output) == rows for output in outputs)
    if len(lists) == 1:
        return lists[0]
    if not by_rows:
        return dict(zip(names, lists, strict=True))
    return [dict(zip(names, values, strict=True)) for values in zip(*lists, strict=True)]


def listed(name: str, output: Tensor) -> Any:
    """A tensor as nested lists. Bytes that are no text are `{"b64": ...}`, as is all of an output named `*_bytes`."""
    if output.dtype.kind != "O":
        return output.tolist()
    always = name.endswith("_bytes")
    values = np.empty(output.shape, dtype=object)
    values.ravel()[:] = [_shown(value, always) for value in output.ravel().tolist()]
    return values.tolist()


def _shown(value: Any, always: bool) -> Any:
    raw = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
    if not always:
        try:
            return raw.decode()
        except UnicodeDecodeError:
            pass
    return {"b64": base64.b64encode(raw).decode()}


ASIDE_BYTES = 1 << 20  # 30 to 40 ms a megabyte
CODEC = Codec("v1", read, aside_bytes=ASIDE_BYTES)
DOOR = only_json(CODEC)
# Vertex AI's form is V1's; its `parameters` mean nothing to an ONNX model.
VERTEX = only_json(Codec("vertex", read, aside_bytes=ASIDE_BYTES))
