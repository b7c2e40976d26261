"""Open Inference V2 as Apache Arrow IPC: a table whose columns are the inputs, and answers as one.

A column is an input by its name; the columns of a model's only matrix may be given one by one instead (`frame.py`).
What else a request says (id, outputs, parameters) is JSON in the schema's metadata, under `driftgate.request`.
`docs/protocols/msgpack-arrow.md` has the form in full. Invariant: pyarrow sees only what `arrow_claims` has let
through, and its values are used only after `validate(full=True)`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from gateway.data.codecs import arrow_library, json_body
from gateway.data.codecs.arrow_claims import checked_stream
from gateway.data.codecs.arrow_columns import Columns
from gateway.data.codecs.call import Headers
from gateway.data.codecs.frame import checked_texts, feeds_of
from gateway.data.codecs.raw import aligned
from gateway.data.codecs.v2_calls import Call, call_of
from gateway.data.servable import Servable, Tensor
from gateway.settings import LimitSettings
from registry.errors import MalformedRequest, PayloadTooLarge, TensorMismatch

_REQUEST = b"driftgate.request"
_THREAD_FROM_BYTES = 1024 * 1024  # a larger body is opened in a thread
_TOLD = 50  # names in an error message

Opened = Callable[[bytes, Headers, Servable, LimitSettings], tuple[list[Tensor], Call]]


async def open_body(body: bytes, headers: Headers, limits: LimitSettings) -> Opened:
    """Check a body and open it → what reads on from there, for the servable that the request is routed to.

    Raises MalformedRequest, TensorMismatch, UnsupportedMedia or PayloadTooLarge.
    """
    stream = checked_stream(body, limits.tensor_elements)
    if len(body) >= _THREAD_FROM_BYTES or not arrow_library.is_loaded():
        table = await asyncio.to_thread(open_table, stream)
    else:
        table = open_table(stream)
    return partial(_read_table, table)


def read(body: bytes, headers: Headers, servable: Servable, limits: LimitSettings) -> tuple[list[Tensor], Call]:
    """The tensors of a request in the order of the servable's slots, without a thread.

    Raises MalformedRequest, TensorMismatch, UnsupportedMedia or PayloadTooLarge.
    """
    return _read_table(open_table(checked_stream(body, limits.tensor_elements)), body, headers, servable, limits)


def open_table(stream: memoryview) -> Any:
    """The validated `pyarrow.Table` of a checked stream; its buffers lie in it. Raises MalformedRequest."""
    pa = arrow_library.get()
    options = pa.ipc.IpcReadOptions(use_threads=False, ensure_alignment=pa.ipc.Alignment.DataTypeSpecific)
    try:
        with pa.ipc.open_stream(pa.py_buffer(stream), options=options) as reader:
            table = reader.read_all()
        table.validate(full=True)
        _ = table.column_names  # which must be UTF-8
    except MemoryError:
        raise PayloadTooLarge("the Arrow body needs more memory than there is") from None
    except (pa.ArrowException, OSError, LookupError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0][:300] or type(error).__name__
        raise MalformedRequest(f"the Arrow body cannot be read: {reason}") from None
    return table


def _read_table(
    table: Any, body: bytes, headers: Headers, servable: Servable, limits: LimitSettings
) -> tuple[list[Tensor], Call]:
    asked = _asked(table, limits)
    columns = Columns(table, limits)
    layout = asked.get("layout", "rows")
    if layout == "whole":
        feeds = checked_texts(_whole_tensors(columns, servable), limits)
    elif layout == "rows":
        feeds = feeds_of(columns, servable, limits)
    else:
        raise MalformedRequest('"layout" must be "rows" or "whole"')
    return [aligned(np.asarray(feed, order="C")) for feed in feeds], call_of(asked, servable)


def _asked(table: Any, limits: LimitSettings) -> Mapping[str, Any]:
    text = (table.schema.metadata or {}).get(_REQUEST)
    if text is None:
        return {}
    asked = json_body.load(text, limits)
    if type(asked) is not dict:
        raise MalformedRequest(f'the schema\'s "{_REQUEST.decode()}" must be a JSON object')
    return asked


def _whole_tensors(columns: Columns, servable: Servable) -> list[Tensor]:
    """The inputs of a table of one row, each whole in it."""
    wanted, names = servable.input_names, list(columns.names or ())
    if sorted(names) != sorted(wanted):
        raise TensorMismatch(f"a table of whole tensors has the columns {_told(wanted)}, not {_told(names)}")
    if columns.height != 1:
        raise TensorMismatch(f"a table of whole tensors has one row, not {columns.height}")
    tensors = []
    for slot in servable.slots:
        tensor = columns.array(slot, names.index(slot.spec.name), nan=not servable.refuses_nonfinite)[0, ...]
        slot.check_shape(tensor.shape)
        tensors.append(tensor)
    return tensors


def _told(names: Sequence[str]) -> str:
    return ", ".join(f'"{name[:100]}"' for name in names[:_TOLD]) + (" …" if len(names) > _TOLD else "")
