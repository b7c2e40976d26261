"""MessagePack to plain values, for bodies from strangers: what is claimed is checked before anything is made of it.

Why not the msgpack library: it copies every binary buffer, and it makes a Python object of each byte that says "empty
map" (a body of 4 MiB took 300 MB). Here binary buffers stay views into the body, whatever else there is counts against
a budget that is looked at before a list is made, and extension types (timestamps too) are refused. A list of floats of
one width, as encoders write it, is read in one pass and costs one value. Invariant: anything but a whole, single
document raises. Called by the msgpack codec; the answers are written by the library.
Source of the format: the MessagePack specification, "Formats".
"""

from __future__ import annotations

import struct
from struct import Struct
from typing import Any

import numpy as np

from registry.errors import MalformedRequest, PayloadTooLarge

MOST_VALUES = 65_536  # tens of ms of the event loop; large tensors belong into binary buffers
_MOST_LEVELS = 40  # 32 axes of nested lists, and the document around them
_SHORT_RUN = 8  # from more values on, a run of floats is worth looking for

_U8, _U16, _U32, _U64 = Struct(">B"), Struct(">H"), Struct(">I"), Struct(">Q")
_NUMBERS = {
    0xCA: Struct(">f"),
    0xCB: Struct(">d"),
    0xCC: _U8,
    0xCD: _U16,
    0xCE: _U32,
    0xCF: _U64,
    0xD0: Struct(">b"),
    0xD1: Struct(">h"),
    0xD2: Struct(">i"),
    0xD3: Struct(">q"),
}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_BUFFERS = {0xC4: _U8, 0xC5: _U16, 0xC6: _U32}
_TEXTS = {0xD9: _U8, 0xDA: _U16, 0xDB: _U32}
_LISTS = {0xDC: _U16, 0xDD: _U32}
_MAPS = {0xDE: _U16, 0xDF: _U32}
_RUNS = {0xCA: (5, ">f4"), 0xCB: (9, ">f8")}  # byte before each float → bytes a value, dtype


def unpack(body: bytes, most_values: int = MOST_VALUES) -> Any:
    """The one value that a body holds. Binary buffers are views into it.

    Raises MalformedRequest, or PayloadTooLarge for more than `most_values` values outside binary buffers.

    >>> unpack(bytes([0x82, 0xA1, 0x61, 0x92, 0x01, 0xC0, 0xA1, 0x62, 0xC4, 0x01, 0xFF]))["a"]
    [1, None]
    """
    reader = _Reader(body, most_values)
    try:
        value = reader.value(_MOST_LEVELS)
    except (IndexError, struct.error):
        raise MalformedRequest("the MessagePack body ends inside a value") from None
    except UnicodeDecodeError as error:
        raise MalformedRequest(f"a MessagePack string is not UTF-8: {error.reason}") from None
    if reader.at != len(body):
        raise MalformedRequest(f"{len(body) - reader.at} bytes follow the MessagePack document")
    return value


class _Reader:
    __slots__ = ("at", "body", "left", "most", "view")

    def __init__(self, body: bytes, most_values: int) -> None:
        self.body = body
        self.view = memoryview(body)
        self.at = 0
        self.left = self.most = most_values

    def value(self, levels: int) -> Any:
        """The value that starts here, and `at` behind it."""
        tag = self.body[self.at]
        self.at += 1
        if tag < 0x80:
            return tag
        if 0xA0 <= tag < 0xC0:
            return self._text(tag & 0x1F)
        if tag < 0x90:
            return self._map(tag & 0x0F, levels)
        if tag < 0xA0:
            return self._list(tag & 0x0F, levels)
        if tag >= 0xE0:
            return tag - 256
        if tag in _CONSTANTS:
            return _CONSTANTS[tag]
        number = _NUMBERS.get(tag)
        if number is not None:
            return self._number(number)
        if tag in _BUFFERS:
            return self._view(self._number(_BUFFERS[tag]))
        if tag in _TEXTS:
            return self._text(self._number(_TEXTS[tag]))
        if tag in _LISTS:
            return self._list(self._number(_LISTS[tag]), levels)
        if tag in _MAPS:
            return self._map(self._number(_MAPS[tag]), levels)
        raise MalformedRequest(f"MessagePack byte 0x{tag:02x} is not read here: extension types are refused")

    def _number(self, form: Struct) -> Any:
        (number,) = form.unpack_from(self.body, self.at)
        self.at += form.size
        return number

    def _view(self, size: int) -> memoryview:
        start = self.at
        self.at = end = start + size
        if end > len(self.body):
            raise IndexError
        return self.view[start:end]

    def _text(self, size: int) -> str:
        start = self.at
        self.at = end = start + size
        if end > len(self.body):
            raise IndexError
        return self.body[start:end].decode()

    def _claim(self, values: int, levels: int) -> None:
        """Refuse a list or map before it is made: too deep, longer than the body, or too many values."""
        if levels <= 0:
            raise MalformedRequest(f"the MessagePack body has more than {_MOST_LEVELS} levels")
        if values > len(self.body) - self.at:
            raise IndexError
        if values > self.left:
            raise PayloadTooLarge(
                f"more than {self.most} values outside binary buffers; send a tensor's data as one binary buffer",
                limit_values=self.most,
            )
        self.left -= values

    def _list(self, count: int, levels: int) -> list[Any]:
        if count > _SHORT_RUN:
            floats = self._floats(count)
            if floats is not None:
                return floats
        self._claim(count, levels)
        return [self.value(levels - 1) for _ in range(count)]

    def _floats(self, count: int) -> list[Any] | None:
        """The next `count` values, if all are floats of one width."""
        tag = self.body[self.at]
        if tag not in _RUNS:
            return None
        width, dtype = _RUNS[tag]
        if width * count > len(self.body) - self.at:
            return None
        cells = np.frombuffer(self.body, np.uint8, width * count, self.at).reshape(count, width)
        if not (cells[:, 0] == tag).all():
            return None
        self.at += width * count
        floats: list[Any] = np.ascontiguousarray(cells[:, 1:]).view(dtype).ravel().tolist()
        return floats

    def _map(self, count: int, levels: int) -> dict[str, Any]:
        self._claim(2 * count, levels)
        found: dict[str, Any] = {}
        for _ in range(count):
            key = self.value(levels - 1)
            if type(key) is not str:
                raise MalformedRequest("a key of a MessagePack map is not a string")
            if key in found:
                raise MalformedRequest(f"the key {key[:100]!r} is given twice")
            found[key] = self.value(levels - 1)
        return found
