"""The little of protobuf's wire format that is read and written here: large buffers pass without a copy.

protobuf's own reader copies a `bytes` field twice, and makes an object of every two-byte field of a hostile message
(64 MiB of them: gigabytes). So a large message is cut here first: its tensors' data stay where they are, and what
remains, which is small, goes to protobuf. Pure; raises MalformedRequest or PayloadTooLarge.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, repeat
from typing import NamedTuple

from registry.errors import MalformedRequest, PayloadTooLarge

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MOST_FIELDS = 65_536  # of one message and its inputs together: each takes a microsecond of the event loop
HEAD_BYTES = 1024 * 1024  # of a message beside its tensors' data
_HARMLESS_BYTES = 1024 * 1024  # of contents, whatever they are
_NUMBER_BYTES = 12  # more than one takes: its tag and ten bytes
_TEXTS = 8  # bytes_contents of InferTensorContents
_SMALL_INPUT = 1024  # bytes of an input below which its contents are left in it


class Cut(NamedTuple):
    """A message without its large fields, and these."""

    head: bytes
    raws: list[memoryview]  # raw_input_contents, in order
    contents: dict[int, bytes]  # by the input's position: its InferTensorContents, still encoded


def _bad(what: str) -> MalformedRequest:
    return MalformedRequest(f"the message is not protobuf: {what}")


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(view) and shift < 64:
        octet = view[at]
        at += 1
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            return value, at
        shift += 7
    raise _bad("a number has no end")


def varint(value: int) -> bytes:
    """A number of 0 or more as protobuf writes it.

    >>> varint(300)
    b'\\xac\\x02'
    """
    octets = bytearray()
    while value > 0x7F:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)


def tagged(number: int, size: int) -> bytes:
    """What stands before a field of bytes."""
    return varint(number << 3 | _BYTES) + varint(size)


def _fields(view: memoryview, numbers: Iterator[int]) -> Iterator[tuple[int, bool, int, int, int]]:
    """Each field as (number, is it bytes, where its tag is, where its value is, where it ends).

    numbers: counts the fields of the whole message.
    """
    at = 0
    while at < len(view):
        tag_at = at
        tag, at = _varint(view, at)
        kind, start = tag & 7, at
        if kind == _VARINT:
            _, at = _varint(view, at)
        elif kind == _BYTES:
            size, start = _varint(view, at)
            at = start + size
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise _bad(f"a field of wire type {kind}")
        if at > len(view):
            raise _bad("it ends inside a field")
        if next(numbers) > _MOST_FIELDS:
            raise PayloadTooLarge(f"the message has more than {_MOST_FIELDS} fields")
        yield tag >> 3, kind == _BYTES, tag_at, start, at


def cut(body: bytes) -> Cut:
    """Cut a ModelInferRequest: raw_input_contents (7) out of it, and contents (5) out of its larger inputs (5)."""
    view = memoryview(body)
    kept: list[bytes | memoryview] = []
    raws: list[memoryview] = []
    contents: dict[int, bytes] = {}
    size = inputs = 0
    numbers = count(1)
    for number, is_bytes, tag_at, start, end in _fields(view, numbers):
        if number == 7 and is_bytes:
            raws.append(view[start:end])
            continue
        part: bytes | memoryview = view[tag_at:end]
        if number == 5 and is_bytes:
            if end - start > _SMALL_INPUT:
                tensor, data = _without_contents(view[start:end], numbers)
                part = tagged(5, len(tensor)) + tensor
                contents[inputs] = data
            inputs += 1
        size += len(part)
        if size > HEAD_BYTES:
            raise PayloadTooLarge(
                f"the message has more than {HEAD_BYTES} bytes beside its tensors' data", limit_bytes=HEAD_BYTES
            )
        kept.append(part)
    return Cut(b"".join(kept), raws, contents)


def holds_more(contents: bytes, count: int, *, texts: bool) -> bool:
    """Whether a tensor's encoded contents surely hold more than its shape says: so many texts, or else numbers.

    Asked before protobuf makes of each byte of them 21 (measured: 64 MiB of small numbers took 1.35 GiB).
    """
    if len(contents) <= _HARMLESS_BYTES:
        return False
    if not texts:
        return len(contents) > _NUMBER_BYTES * (count + 1)
    fields = _fields(memoryview(contents), repeat(0))
    return any(place >= count or number != _TEXTS for place, (number, *_) in enumerate(fields))


def _without_contents(tensor: memoryview, numbers: Iterator[int]) -> tuple[bytes, bytes]:
    """An input without its contents, and these: a field that comes twice is one, joined, as protobuf has it."""
    kept: list[memoryview] = []
    contents: list[memoryview] = []
    for number, is_bytes, tag_at, start, end in _fields(tensor, numbers):
        if number == 5 and is_bytes:
            contents.append(tensor[start:end])
        else:
            kept.append(tensor[tag_at:end])
    size = sum(map(len, kept))
    if size > HEAD_BYTES:
        raise PayloadTooLarge(f"an input has more than {HEAD_BYTES} bytes beside its data", limit_bytes=HEAD_BYTES)
    return b"".join(kept), b"".join(contents)
