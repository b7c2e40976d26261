"""Large tensors in JSON, read without a Python object a number.

simdjson parses the body and hands over a list of numbers as one buffer of doubles or integers: the same doubles that
orjson gives, since both round correctly, so a tensor has the same bits whichever way it was read. Whatever is unusual
(values that are no numbers, doubled keys, ragged lists, numbers beyond 64 bits, text that is no JSON) makes `load` or
`Numbers.array` give None, and the ordinary way reads the body again and says what is wrong.

Measured on one core (`python -m bench run image`): 150,528 numbers take 0.35 to 0.47 of the time of
np.asarray(orjson.loads(…)), four fifths of it parsing. It pays from about 300 numbers on. Without the library
everything is read the ordinary way.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.data.codecs.json_body import count_byte

simdjson: Any = None  # an extra; a gateway without it is slower with large bodies and answers the same
with contextlib.suppress(ImportError):
    simdjson = importlib.import_module("simdjson")

_ARRAY: Any = None if simdjson is None else simdjson.Array

LARGE_BYTES = 8192  # of a body; shorter ones are as fast with orjson
_MOST_AXES = 32
_BYTES_A_LIST = 32  # bodies with more brackets hold lists so short that walking them costs more than it gains
_MARK = b"\xef\xbb\xbf"  # of byte order, which simdjson passes over and JSON must not begin with
_PLACES = frozenset(("instances", "inputs", "dataframe_split"))
_KINDS: dict[str, tuple[str, type[Any]]] = {
    "f": ("d", np.float64),
    "V": ("d", np.float64),  # bfloat16
    "i": ("i", np.int64),
    "u": ("u", np.uint64),
}


class Numbers:
    """A JSON list that lies in the parser's memory, with the same number of values in every list of one level."""

    __slots__ = ("_list", "dims")

    def __init__(self, values: Any, dims: tuple[int, ...]) -> None:
        self._list = values
        self.dims = dims

    def array(self, dtype: np.dtype[Any]) -> NDArray[Any] | None:
        """The values as an array of this type; None when they are not all numbers that fit it."""
        buffer_kind, wide_type = _KINDS.get(dtype.kind, ("", np.float64))
        if not buffer_kind:
            return None
        try:
            wide = np.frombuffer(self._list.as_buffer(of_type=buffer_kind), wide_type)
        except (TypeError, ValueError, RuntimeError):
            return None
        if wide.size != math.prod(self.dims):  # the parser counts to 2^24 only
            return None
        if dtype == wide.dtype:
            return wide.reshape(self.dims)
        if buffer_kind == "d":
            with np.errstate(over="ignore"):
                array = narrow(wide, dtype)
            fits = bool(np.isfinite(array).all())
        else:
            bounds = np.iinfo(dtype)
            fits = not wide.size or bool(wide.min() >= bounds.min and wide.max() <= bounds.max)
            array = wide.astype(dtype)
        return array.reshape(self.dims) if fits else None

    def values(self) -> list[Any]:
        """The values as orjson would give them."""
        found: list[Any] = self._list.as_list()
        return found


def narrow(wide: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Doubles as another float type. bfloat16 is rounded from float32, as its own library does."""
    return wide.astype(np.float32).astype(dtype) if dtype.kind == "V" else wide.astype(dtype)


def load(body: bytes, most_levels: int) -> dict[str, Any] | None:
    """A V2 request with `Numbers` for each tensor's data; None when it must be read the ordinary way."""
    document, lists = _opened(body, most_levels)
    inputs: Any = document.get("inputs") if document is not None else None
    if document is None or type(inputs) is not _ARRAY:
        return None
    seen = 1
    tensors = []
    for item in inputs:
        tensor = _fields(item)
        if tensor is None:
            return None
        inside = _numbers_in(tensor, "data")
        if inside is None:
            return None
        seen += inside + _plain(tensor)
        tensors.append(tensor)
    document["inputs"] = tensors
    seen += _plain(document)
    # A list that was not seen is a list beside numbers (as_buffer would read through it), or a bracket in a text.
    return document if seen == lists else None


def load_rows(body: bytes, most_levels: int) -> dict[str, Any] | None:
    """As `load`, for requests of rows or columns: `Numbers` for `instances`, `inputs`, each of `inputs`' columns, and
    the `data` of `dataframe_split`.
    """
    document, lists = _opened(body, most_levels)
    if document is None:
        return None
    seen = 0
    for name in [name for name in document if name in _PLACES]:
        fields, places = document, [name]
        if type(document[name]) is not _ARRAY:
            inner = _fields(document[name])
            if inner is None:
                return None
            document[name], fields = inner, inner
            places = ["data"] if name == "dataframe_split" else list(inner)
        for place in places:
            inside = _numbers_in(fields, place) if _begins_with_a_number(fields.get(place)) else None
            if inside is None:
                return None
            seen += inside
        if fields is not document:
            seen += _plain(fields)
    seen += _plain(document)
    return document if seen == lists else None


def _opened(body: bytes, most_levels: int) -> tuple[dict[str, Any] | None, int]:
    """The fields of a body, not yet read themselves, and how many lists are in it; None: read it the ordinary way."""
    if simdjson is None:
        return None, 0
    lists = count_byte(body, b"[")
    if lists * _BYTES_A_LIST > len(body) or count_byte(body, b"{") > most_levels or body.startswith(_MARK):
        return None, 0
    try:
        return _fields(simdjson.Parser().parse(body)), lists
    except (ValueError, RuntimeError):  # RuntimeError: an integer beyond 64 bits
        return None, 0


def _numbers_in(fields: dict[str, Any], name: str) -> int | None:
    """Make a list among these fields `Numbers` → how many lists it holds with itself; None: it is not of one shape."""
    value = fields.get(name)
    if type(value) is not _ARRAY:
        return 0
    uniform = _uniform(value)
    if uniform is None:
        return None
    dims, count = uniform
    fields[name] = Numbers(value, dims)
    return count


def _fields(value: Any) -> dict[str, Any] | None:
    """An object's fields, not yet read themselves; None for anything else, and when a key is there twice."""
    if type(value) is not simdjson.Object:
        return None
    names = list(value)
    fields = {name: value[name] for name in names}  # items() would make Python objects of everything inside
    return fields if len(fields) == len(names) else None


def _begins_with_a_number(values: Any) -> bool:
    """Whether a list's first value is one: text is read the ordinary way, which is faster with it."""
    for _ in range(_MOST_AXES):
        if type(values) is not _ARRAY or not len(values):
            break
        values = values[0]
    return type(values) in (int, float)


def _plain(fields: dict[str, Any]) -> int:
    """Read the lists and objects among these fields → how many of them are lists."""
    lists = 0
    for name, value in fields.items():
        if type(value) is _ARRAY:
            fields[name] = value.as_list()
            lists += 1
        elif type(value) is simdjson.Object:
            fields[name] = value.as_dict()
    return lists


def _uniform(values: Any) -> tuple[tuple[int, ...], int] | None:
    """The sizes of nested lists and how many lists there are; None when they are ragged or very deep."""
    level: Sequence[Any] = (values,)
    dims: list[int] = []
    count = 0
    while len(dims) < _MOST_AXES:
        size = len(level[0])
        if any(len(one) != size for one in level):
            return None
        dims.append(size)
        count += len(level)
        if size == 0 or type(level[0][0]) is not _ARRAY:
            return tuple(dims), count
        level = [child for one in level for child in one]
        if any(type(child) is not _ARRAY for child in level):
            return None
    return None
