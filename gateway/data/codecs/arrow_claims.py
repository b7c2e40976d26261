"""What an Arrow stream claims about itself, checked before pyarrow believes it.

Why: pyarrow's reader is safe against lies about buffers, not against small bodies that ask for much memory. Compressed
buffers state their own size; the tables of a flatbuffer may share one long string a million times; a column without
buffers may have 2^60 rows. So the messages are walked here first, in Python, with a budget. Invariant: a stream that
passes makes pyarrow allocate no more than a small multiple of its own size. Nothing here reads values, and a body that
is refused here does not even load pyarrow. Called by the Arrow codec.
Source of the format: Apache Arrow's Message.fbs, Schema.fbs and File.fbs; FlatBuffers' "Internals".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from struct import Struct

import numpy as np
from numpy.typing import NDArray

from registry.errors import MalformedRequest, PayloadTooLarge, TensorMismatch, UnsupportedMedia

MOST_MESSAGES = 1024
MOST_FIELDS = 16_384  # nested ones and entries of metadata count too
MOST_METADATA_BYTES = 4 * 1024 * 1024  # of one message, and of all texts in a schema
_MOST_LEVELS = 34
_MAGIC = b"ARROW1\0\0"
_CONTINUES = 0xFFFFFFFF
_PREFIX = Struct("<Ii")
_U8, _U16, _I32, _U32, _I64 = Struct("<B"), Struct("<H"), Struct("<i"), Struct("<I"), Struct("<q")
_PAIR_BYTES = 16  # FieldNode: rows, nulls; Buffer: offset, bytes

_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3  # of the union MessageHeader
# Of the union Type, what a tensor's elements or rows can be: Int, FloatingPoint, Binary, Utf8, Bool, List,
# FixedSizeBinary, FixedSizeList, LargeBinary, LargeUtf8, LargeList, BinaryView, Utf8View.
_READ_TYPES = frozenset((2, 3, 4, 5, 6, 12, 15, 16, 19, 20, 21, 23, 24))
_OTHER_TYPES = {
    1: "null",
    7: "decimal",
    8: "date",
    9: "time",
    10: "timestamp",
    11: "interval",
    13: "struct",
    14: "union",
    17: "map",
    18: "duration",
    22: "run-end encoded",
    25: "list view",
    26: "list view",
}


def checked_stream(body: bytes, most_elements: int) -> memoryview:
    """The part of a body (a stream, or a file around one) that is an Arrow stream and claims nothing that it has not.

    Raises MalformedRequest, PayloadTooLarge, TensorMismatch (a type that no tensor has) or UnsupportedMedia (compressed
    buffers).
    """
    is_file = body.startswith(_MAGIC)
    start = len(_MAGIC) if is_file else 0
    try:
        end = _walk(memoryview(body), start, most_elements)
    except struct.error:
        raise MalformedRequest("the Arrow body is damaged: it points outside of itself") from None
    if not is_file and end != len(body):
        raise MalformedRequest(f"{len(body) - end} bytes follow the Arrow stream")
    return memoryview(body)[start:end]


def _walk(view: memoryview, at: int, most_elements: int) -> int:
    """Where the stream that starts here ends."""
    budget = _Budget()
    for number in range(MOST_MESSAGES + 1):
        if at == len(view) and number:
            return at  # a stream may end without saying so
        marker, size = _PREFIX.unpack_from(view, at)
        at += _PREFIX.size
        if marker != _CONTINUES:
            raise MalformedRequest("the body is not an Arrow IPC stream (or one of before Arrow 0.15)")
        if size == 0:
            return at
        if not 0 < size <= len(view) - at:
            raise MalformedRequest("the Arrow body ends inside a message")
        if size > MOST_METADATA_BYTES:
            raise PayloadTooLarge(f"an Arrow message has {size} bytes of metadata, the limit is {MOST_METADATA_BYTES}")
        message = _Table.root(view[at : at + size])
        at += size
        body_size = message.integer(3, _I64)
        if not 0 <= body_size <= len(view) - at:
            raise MalformedRequest("the Arrow body ends inside a message")
        _check_message(message, number, body_size, most_elements, budget)
        at += body_size
    raise PayloadTooLarge(f"the Arrow stream has more than {MOST_MESSAGES} messages")


def _check_message(message: _Table, number: int, body_size: int, most_elements: int, budget: _Budget) -> None:
    budget.take_texts(message, 4)
    kind, header = message.integer(1, _U8), message.table(2)
    if header is None or (kind == _SCHEMA) != (number == 0) or kind not in (_SCHEMA, _DICTIONARY, _BATCH):
        raise MalformedRequest("an Arrow stream is one schema, then dictionaries and record batches")
    if kind == _SCHEMA:
        if header.integer(0, _U16):
            raise UnsupportedMedia("big-endian Arrow data is not read")
        budget.take_texts(header, 2)
        for field in header.tables(1):
            _check_field(field, budget, _MOST_LEVELS)
        return
    batch: _Table | None = header
    if kind == _DICTIONARY:
        if header.integer(2, _U8):
            raise UnsupportedMedia("Arrow dictionaries in parts (deltas) are not read; send each whole")
        batch = header.table(1)
    if batch is None:
        raise MalformedRequest("an Arrow dictionary without values")
    _check_batch(batch, body_size, most_elements)


def _check_batch(batch: _Table, body_size: int, most_elements: int) -> None:
    if batch.table(3) is not None:
        raise UnsupportedMedia("compressed Arrow buffers are not read; write the stream without compression")
    nodes, buffers = batch.pairs(1), batch.pairs(2)
    rows = max(batch.integer(0, _I64), int(nodes[:, 0].max(initial=0)))
    if rows > most_elements:
        raise PayloadTooLarge(f"an Arrow column claims {rows} elements, the limit is {most_elements}")
    if batch.integer(0, _I64) < 0 or nodes.min(initial=0) < 0 or buffers.min(initial=0) < 0:
        raise MalformedRequest("an Arrow batch claims a negative size")
    if buffers.max(initial=0) > body_size or buffers.sum(axis=1).max(initial=0) > body_size:
        raise MalformedRequest("an Arrow buffer lies outside of its message")
    if buffers[:, 1].sum() > body_size:
        raise MalformedRequest("Arrow buffers lie on each other")


def _check_field(field: _Table, budget: _Budget, levels: int) -> None:
    if levels == 0:
        raise MalformedRequest(f"an Arrow column has more than {_MOST_LEVELS} levels")
    budget.take(1, field.text_size(0))
    budget.take_texts(field, 6)
    kind = field.integer(2, _U8)
    if kind not in _READ_TYPES:
        name = field.text(0)
        raise TensorMismatch(f"column {name!r} is of Arrow type {_OTHER_TYPES.get(kind, kind)}, which no tensor has")
    for child in field.tables(5):
        _check_field(child, budget, levels - 1)


class _Budget:
    """What the schema and all messages together may hold of small things."""

    __slots__ = ("fields", "text_bytes")

    def __init__(self) -> None:
        self.fields = MOST_FIELDS
        self.text_bytes = MOST_METADATA_BYTES

    def take(self, fields: int, text_bytes: int) -> None:
        self.fields -= fields
        self.text_bytes -= text_bytes
        if self.fields < 0 or self.text_bytes < 0:
            raise PayloadTooLarge(
                f"the Arrow schema has more than {MOST_FIELDS} fields and metadata entries, "
                f"or more than {MOST_METADATA_BYTES} bytes of text"
            )

    def take_texts(self, table: _Table, index: int) -> None:
        """The custom metadata at this field of a table: key and value of each entry."""
        for entry in table.tables(index):
            self.take(1, entry.text_size(0) + entry.text_size(1))


class _Table:
    """One table of a flatbuffer. A field is found by its index in the format's declaration; absent ones are 0 or None.

    Raises struct.error or MalformedRequest for what points outside of the buffer.
    """

    __slots__ = ("_at", "_fields", "_view", "_vtable")

    def __init__(self, view: memoryview, at: int) -> None:
        self._view, self._at = view, at
        self._vtable = at - _I32.unpack_from(view, at)[0]
        if self._vtable < 0:
            raise MalformedRequest("the Arrow body is damaged: it points outside of itself")
        self._fields = (_U16.unpack_from(view, self._vtable)[0] - 4) // 2

    @classmethod
    def root(cls, view: memoryview) -> _Table:
        """The outermost table of a flatbuffer."""
        return cls(view, _U32.unpack_from(view, 0)[0])

    def _place(self, index: int) -> int | None:
        if index >= self._fields:
            return None
        offset = _U16.unpack_from(self._view, self._vtable + 4 + 2 * index)[0]
        return self._at + offset if offset else None

    def _target(self, index: int) -> int | None:
        place = self._place(index)
        return None if place is None else place + int(_U32.unpack_from(self._view, place)[0])

    def integer(self, index: int, form: Struct) -> int:
        """A number of this form, or 0."""
        place = self._place(index)
        return 0 if place is None else int(form.unpack_from(self._view, place)[0])

    def table(self, index: int) -> _Table | None:
        """The table that a field points at."""
        target = self._target(index)
        return None if target is None else _Table(self._view, target)

    def _vector(self, index: int, width: int) -> tuple[int, int]:
        """Where a vector's elements start, and how many there are: they lie in the buffer."""
        target = self._target(index)
        if target is None:
            return 0, 0
        count = _U32.unpack_from(self._view, target)[0]
        if count * width > len(self._view) - target - 4:
            raise MalformedRequest("the Arrow body is damaged: it points outside of itself")
        return target + 4, count

    def tables(self, index: int) -> Iterator[_Table]:
        """The tables of a vector."""
        start, count = self._vector(index, 4)
        for place in range(start, start + 4 * count, 4):
            yield _Table(self._view, place + _U32.unpack_from(self._view, place)[0])

    def pairs(self, index: int) -> NDArray[np.int64]:
        """The elements of a vector of two 64-bit numbers each, (count, 2)."""
        start, count = self._vector(index, _PAIR_BYTES)
        return np.frombuffer(self._view[start : start + _PAIR_BYTES * count], "<i8").reshape(count, 2)

    def text_size(self, index: int) -> int:
        """How many bytes a string has."""
        return self._vector(index, 1)[1]

    def text(self, index: int) -> str:
        """The start of a string, for people."""
        start, count = self._vector(index, 1)
        return bytes(self._view[start : start + min(count, 100)]).decode("utf-8", "replace")
