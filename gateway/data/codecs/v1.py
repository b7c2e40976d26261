"""KServe V1 `:predict`: rows in `instances`, `predictions` out.

A model with one input takes its value a row; one with several takes an object a row, keyed by input name. Answers have
the same form: one output gives its value a row, several give an object a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from gateway.data.codecs.call import Call, Codec, Headers, only_json
from gateway.data.codecs.tensors import from_json
from gateway.data.codecs.v2 import Writer
from gateway.data.servable import InputSlot, Servable, Tensor
from gateway.settings import LimitSettings
from registry.errors import MalformedRequest, PayloadTooLarge, TensorMismatch


class Rows(Call):
    """A request in the row form."""

    __slots__ = ()

    def write(self, writer: Writer, outputs: Sequence[Tensor], rows: int) -> bytes:
        """The body of a 200. Non-finite numbers become null."""
        return write(writer.servable, outputs, rows)


_ROWS = Rows()


def read(body: bytes, headers: Headers, servable: Servable, limits: LimitSettings) -> tuple[list[Tensor], Call]:
    """The tensors of a request in the order of the servable's slots. Raises MalformedRequest or TensorMismatch."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(f"the body is not JSON: {error}") from None
    instances = document.get("instances") if type(document) is dict else None
    if type(instances) is not list or not instances:
        raise MalformedRequest('"instances" must be a list with at least one row')
    slots = servable.slots
    if len(slots) == 1 and type(instances[0]) is not dict:
        columns: list[Any] = [instances]
    else:
        columns = [[_value(row, slot.spec.name) for row in instances] for slot in slots]
        known = servable.slot_index
        for row in instances:
            for name in row:
                if name not in known:
                    raise TensorMismatch(f"unknown input {name!r}; the model has {', '.join(known)}")
    most = limits.tensor_elements
    return [_fitted(s, from_json(s, column), most) for s, column in zip(slots, columns, strict=True)], _ROWS


def _value(row: Any, name: str) -> Any:
    if type(row) is not dict:
        raise TensorMismatch("a model with several inputs takes rows as objects keyed by input name")
    if name not in row:
        raise TensorMismatch(f'missing input: "{name}"', input=name)
    return row[name]


def _fitted(slot: InputSlot, array: Tensor, max_elements: int) -> Tensor:
    """Rows of plain values fit an input of [N, 1]; a model of fixed batch 1 takes its one instance."""
    if array.size > max_elements:
        raise PayloadTooLarge(f'input "{slot.spec.name}" has {array.size} elements, the limit is {max_elements}')
    wanted = slot.spec.shape
    if wanted is not None and array.ndim == len(wanted) - 1 and wanted[-1] in (1, None) and array.ndim == 1:
        array = array.reshape(-1, 1)
    slot.check_shape(array.shape)
    return array


def write(servable: Servable, outputs: Sequence[Tensor], rows: int) -> bytes:
    """The body of a 200. Non-finite numbers become null."""
    lists = [_listed(output) for output in outputs]
    by_rows = all(output.ndim > 0 and len(output) == rows for output in outputs) and servable.by_rows
    if not by_rows:
        predictions: Any = lists[0] if len(lists) == 1 else dict(zip(servable.output_names, lists, strict=True))
    elif len(lists) == 1:
        predictions = lists[0]
    else:
        names = servable.output_names
        predictions = [dict(zip(names, values, strict=True)) for values in zip(*lists, strict=True)]
    return orjson.dumps({"predictions": predictions})


def _listed(output: Tensor) -> Any:
    if output.dtype.kind != "O":
        return output.tolist()
    texts = [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in output.ravel().tolist()]
    return np.array(texts, dtype=object).reshape(output.shape).tolist()


CODEC = Codec("v1", read)
DOOR = only_json(CODEC)
