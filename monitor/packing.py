"""Arrays in stored JSON: compressed and in base64, since a wide model has hundreds of thousands of numbers. Pure."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray


def pack(array: NDArray[Any]) -> str:
    """The array's bytes, little-endian; dtype and shape are the reader's to know."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return base64.b64encode(zlib.compress(little.tobytes(), 1)).decode()


def unpack(text: str, dtype: str, count: int) -> NDArray[Any]:
    """`count` numbers that `pack` wrote, as a writable array of dtype ("<f8" …).

    Raises ValueError for anything else; memory is bounded by `count`, whatever the text claims.

    >>> unpack(pack(np.array([1.5, 2.5])), "<f8", 2)
    array([1.5, 2.5])
    """
    kind = np.dtype(dtype)
    size = count * kind.itemsize
    try:
        reader = zlib.decompressobj()
        content = reader.decompress(base64.b64decode(text, validate=True), size + 1)
    except (zlib.error, ValueError) as error:
        raise ValueError(f"packed numbers cannot be read: {error}") from None
    if len(content) != size:
        raise ValueError(f"packed numbers are not {count} of {dtype}")
    return np.frombuffer(content, kind).copy()
