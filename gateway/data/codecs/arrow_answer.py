"""Answers as Apache Arrow IPC: one record batch, a column an output.

When all outputs have the same first axis, it is the rows: [n] is a plain column, [n, k] lists of fixed size, more axes
fixed-shape tensors (nested lists of fixed size where Arrow has no such tensor: strings, booleans, BF16). Otherwise the
batch has one row that holds each output whole, and its schema says so. What else an answer says is JSON in the schema's
metadata, under `driftgate.response`. Invariant: pyarrow has been loaded before (`arrow_library.load`).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import orjson

from gateway.data.codecs import arrow_library, v2
from gateway.data.codecs.call import Answer
from gateway.data.codecs.v2_calls import Call, FullCall
from gateway.data.servable import Tensor

STREAM = "application/vnd.apache.arrow.stream"
FILE = "application/vnd.apache.arrow.file"
_MOST_STRING_BYTES = 2**31 - 1  # of a column with offsets of 32 bits
_HEADERS = {kind: ((b"content-type", kind.encode()),) for kind in (STREAM, FILE)}


class ArrowCall(FullCall):
    """A V2 request, in whatever form, that is answered in Arrow."""

    __slots__ = ("media_type",)

    def __init__(self, asked: Call, media_type: str) -> None:
        super().__init__(asked.id, asked.outputs, asked.timeout_us, frozenset())
        self.joint = False
        self.media_type = media_type

    def write(self, writer: v2.Writer, outputs: Sequence[Tensor], rows: int) -> Answer:
        """The body of a 200. Numbers are carried as they are, NaN and infinity too."""
        pa, servable = arrow_library.get(), writer.servable
        wanted = range(len(outputs)) if self.outputs is None else self.outputs
        specs = [servable.manifest.outputs[index] for index in wanted]
        tensors = [outputs[index] for index in wanted]
        about = {"model_name": servable.model, "model_version": str(servable.version)}
        if self.id is not None:
            about["id"] = self.id
        if any(tensor.ndim == 0 or len(tensor) != len(tensors[0]) for tensor in tensors):
            tensors = [tensor[np.newaxis] for tensor in tensors]
            about["layout"] = "whole"
        columns = [column_of(pa, tensor) for tensor in tensors]
        fields = [
            pa.field(spec.name, column.type, nullable=False, metadata=v2.parameters_of(spec) or None)
            for spec, column in zip(specs, columns, strict=True)
        ]
        batch = pa.record_batch(columns, schema=pa.schema(fields, {"driftgate.response": orjson.dumps(about)}))
        sink = pa.BufferOutputStream()
        with (pa.ipc.new_file if self.media_type == FILE else pa.ipc.new_stream)(sink, batch.schema) as stream:
            stream.write_batch(batch)
        return Answer(sink.getvalue().to_pybytes(), _HEADERS[self.media_type])


def column_of(pa: Any, tensor: Tensor) -> Any:
    """A tensor as an Arrow array with an element for each row."""
    values = _values(pa, tensor)
    if tensor.ndim >= 3 and tensor.dtype.kind in "fiu":
        rows, *shape = tensor.shape
        kind = pa.fixed_shape_tensor(values.type, shape)
        return pa.ExtensionArray.from_storage(kind, _lists(pa, values, prod(shape), rows))
    for axis in range(tensor.ndim - 1, 0, -1):
        values = _lists(pa, values, tensor.shape[axis], prod(tensor.shape[:axis]))
    return values


def _lists(pa: Any, values: Any, size: int, count: int) -> Any:
    return pa.Array.from_buffers(pa.list_(values.type, size), count, [None], children=[values])


def _values(pa: Any, tensor: Tensor) -> Any:
    """A tensor's values, flat. Made of buffers: `pa.array` loads pandas, which stopped a worker for half a second."""
    flat = np.ascontiguousarray(tensor).reshape(-1)
    if tensor.dtype.kind == "O":
        texts = [v2.text_of(value).encode() for value in flat.tolist()]
        ends = np.cumsum([0, *map(len, texts)], dtype=np.int64)
        buffers, kind = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(texts))], pa.large_string()
        if ends[-1] <= _MOST_STRING_BYTES:
            buffers[1], kind = pa.py_buffer(ends.astype(np.int32)), pa.string()
        return pa.Array.from_buffers(kind, len(flat), buffers)
    if tensor.dtype.kind == "b":
        return pa.Array.from_buffers(pa.bool_(), len(flat), [None, pa.py_buffer(np.packbits(flat, bitorder="little"))])
    kind = pa.binary(2) if tensor.dtype.kind == "V" else pa.from_numpy_dtype(flat.dtype)  # BF16 as in a raw buffer
    return pa.Array.from_buffers(kind, len(flat), [None, pa.py_buffer(flat.view(np.uint8))])
