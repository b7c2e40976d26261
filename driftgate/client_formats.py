"""Arrays to bodies and back, in the three forms that the client speaks: JSON, MessagePack, Arrow.

`docs/protocols/msgpack-arrow.md` describes them. Invariant: what is not needed is not loaded: msgpack, pyarrow and
ml_dtypes at their first use. Answers come as arrays of the caller's own, which may be written to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from driftgate.client_errors import ServerFailed

Form = Literal["json", "msgpack", "arrow"]
Array = NDArray[Any]

MEDIA_TYPES: dict[Form, str] = {
    "json": "application/json",
    "msgpack": "application/msgpack",
    "arrow": "application/vnd.apache.arrow.stream",
}
_NUMPY: dict[str, str] = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
    "BYTES": "O",
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One named array with its Open Inference datatype. BYTES are object arrays of str."""

    name: str
    datatype: str
    array: Array
    parameters: Mapping[str, Any] = field(default_factory=dict)


def dtype_of(datatype: str) -> np.dtype[Any]:
    """The numpy dtype of an Open Inference datatype. Raises ValueError."""
    if datatype == "BF16":
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    if datatype not in _NUMPY:
        raise ValueError(f"no numpy dtype for datatype {datatype!r}")
    return np.dtype(_NUMPY[datatype])


def fitted(name: str, datatype: str, values: Any) -> Tensor:
    """Values as a tensor of this datatype: numbers may be rounded to a float, nothing else is changed.

    Raises ValueError for fractions where integers are wanted, strings where numbers are, and numbers out of range.

    >>> fitted("x", "FP32", [[1, 2.5]]).array
    array([[1. , 2.5]], dtype=float32)
    """
    dtype = dtype_of(datatype)
    given = np.asarray(values)
    if dtype.kind == "O":
        return Tensor(name, datatype, _texts(name, given))
    if given.dtype == dtype:
        return Tensor(name, datatype, given)
    if given.dtype.kind == "O":  # columns of mixed numbers, and None
        given = np.asarray(given.tolist())
    is_float = dtype.kind in "fV"
    allowed = "b" if dtype.kind == "b" else "iu" + ("fV" if is_float else "")
    if given.dtype.kind not in allowed and given.size:
        raise ValueError(f'input "{name}": got {given.dtype}, the model wants {datatype}')
    with np.errstate(over="ignore", invalid="ignore"):
        array = given.astype(dtype)
        lost = np.isfinite(given) & ~np.isfinite(array) if is_float else array != given
    if np.any(lost):
        raise ValueError(f'input "{name}": a number does not fit {datatype}')
    return Tensor(name, datatype, array)


def _texts(name: str, given: Array) -> Array:
    if given.dtype.kind not in "OUS":
        raise ValueError(f'input "{name}": got {given.dtype}, the model wants strings (BYTES)')
    array = np.empty(given.shape, np.object_)
    flat = array.reshape(-1)
    for at, value in enumerate(given.ravel().tolist()):
        if not isinstance(value, str | bytes):
            raise ValueError(f'input "{name}": got {type(value).__name__}, the model wants strings (BYTES)')
        flat[at] = value if isinstance(value, str) else value.decode()
    return flat.reshape(given.shape)


# ---- requests


def body_of(form: Form, tensors: Sequence[Tensor], asked: Mapping[str, Any]) -> bytes:
    """A request's body. asked: what it says beside its inputs (`id`, `outputs`, `parameters`)."""
    if form == "arrow":
        whole = any(t.array.ndim == 0 or len(t.array) != len(tensors[0].array) for t in tensors)
        columns = {t.name: t.array.reshape((1, *t.array.shape)) if whole else t.array for t in tensors}
        return arrow_body(columns, {**asked, "layout": "whole"} if whole else asked)
    inputs = [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.array.shape),
            "data": _listed(tensor.array) if form == "json" or tensor.array.dtype.kind == "O" else _raw(tensor.array),
        }
        for tensor in tensors
    ]
    document = {**asked, "inputs": inputs}
    if form == "json":
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    import msgpack

    return bytes(msgpack.packb(document))


def _listed(array: Array) -> list[Any]:
    values: list[Any] = (array.astype(np.float32) if array.dtype.kind == "V" else array).ravel().tolist()
    return values


def _raw(array: Array) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def arrow_body(columns: Mapping[str, Any], asked: Mapping[str, Any]) -> bytes:
    """An Arrow stream of one batch. columns: numpy arrays with an element a row, or Arrow arrays."""
    import pyarrow as pa

    arrays = [_column(pa, values) if isinstance(values, np.ndarray) else values for values in columns.values()]
    about = {"driftgate.request": json.dumps(asked)} if asked else None
    schema = pa.schema([(name, array.type) for name, array in zip(columns, arrays, strict=True)], about)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as stream:
        stream.write_batch(pa.record_batch(arrays, schema=schema))
    return bytes(sink.getvalue().to_pybytes())


def _column(pa: Any, array: Array) -> Any:
    flat = np.ascontiguousarray(array).reshape(-1)
    if array.dtype.kind == "V":  # BF16: two bytes, as in a raw buffer
        values = pa.Array.from_buffers(pa.binary(2), len(flat), [None, pa.py_buffer(flat.view(np.uint8))])
    else:
        values = pa.array(flat, pa.string() if array.dtype.kind == "O" else None)
    for axis in range(array.ndim - 1, 0, -1):
        kind = pa.list_(values.type, array.shape[axis])
        values = pa.Array.from_buffers(kind, prod(array.shape[:axis]), [None], children=[values])
    return values


def frame_columns(frame: Any) -> dict[str, Any]:
    """The columns of a pandas DataFrame as Arrow arrays. NaN in a column of floats stays NaN, as in a raw buffer."""
    import pyarrow as pa

    columns: dict[str, Any] = {}
    if len({str(name) for name in frame.columns}) != len(frame.columns):
        raise ValueError("the DataFrame has two columns of one name")
    for name in frame.columns:
        series = frame[name]
        is_float = isinstance(series.dtype, np.dtype) and series.dtype.kind == "f"
        column = pa.array(series.to_numpy()) if is_float else pa.array(series, from_pandas=True)
        columns[str(name)] = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return columns


# ---- answers


def tensors_of(content_type: str, body: bytes) -> tuple[list[Tensor], dict[str, Any]]:
    """An answer's outputs, and what else it says. Raises ServerFailed for what is no answer."""
    kind = content_type.partition(";")[0].strip().lower()
    try:
        if kind == MEDIA_TYPES["arrow"]:
            return _of_arrow(body)
        if kind == MEDIA_TYPES["msgpack"]:
            import msgpack

            document = msgpack.unpackb(body)
        else:
            document = json.loads(body)
        outputs = [_output(output) for output in document.pop("outputs")]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ServerFailed(f"the answer ({kind}) cannot be read: {error}", code="unreadable_answer") from error
    return outputs, document


def _output(output: Mapping[str, Any]) -> Tensor:
    dtype, data = dtype_of(output["datatype"]), output["data"]
    if isinstance(data, bytes):
        array = np.frombuffer(bytearray(data), dtype)
    elif dtype.kind in "fV":
        array = np.array([np.nan if value is None else value for value in data], dtype)
    else:
        array = np.array(data, dtype)
    return Tensor(output["name"], output["datatype"], array.reshape(output["shape"]), output.get("parameters") or {})


def _of_arrow(body: bytes) -> tuple[list[Tensor], dict[str, Any]]:
    import pyarrow as pa

    table = pa.ipc.open_stream(body).read_all()
    about = json.loads((table.schema.metadata or {}).get(b"driftgate.response", b"{}"))
    outputs = []
    for entry in table.schema:
        column = table.column(entry.name).combine_chunks()
        array = _values(pa, column.chunk(0) if isinstance(column, pa.ChunkedArray) else column)
        parameters = {key.decode(): text.decode() for key, text in (entry.metadata or {}).items()}
        parameters = {key: text for key, text in parameters.items() if not key.startswith("ARROW:")}
        array = array[0, ...].copy() if about.get("layout") == "whole" else array
        outputs.append(Tensor(entry.name, _datatype(array), array, parameters))
    return outputs, about


def _values(pa: Any, column: Any) -> Array:
    shape = [len(column)]
    while True:
        kind = column.type
        if isinstance(kind, pa.FixedShapeTensorType):
            shape += kind.shape
            column = column.storage.flatten()
        elif pa.types.is_fixed_size_list(kind):
            shape.append(kind.list_size)
            column = column.flatten()
        else:
            break
    if pa.types.is_fixed_size_binary(kind):
        octets = column.buffers()[1]
        flat = np.frombuffer(octets, dtype_of("BF16"), len(column), 2 * column.offset) if len(column) else np.empty(0)
        return flat.astype(dtype_of("BF16")).reshape(shape)
    return np.array(column.to_numpy(zero_copy_only=False)).reshape(shape)


def _datatype(array: Array) -> str:
    if array.dtype.kind == "V":
        return "BF16"
    return next(name for name, text in _NUMPY.items() if np.dtype(text) == array.dtype)
