"""Rows of tensors: how many there are, some of them, one of them as a request, and whether they are the same.

Small pure functions that the probe, the sample of reference rows and the comparison with a champion share.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.vocabulary import TensorSpec

Feeds = Mapping[str, NDArray[Any]]
Runner = Callable[[Feeds], list[NDArray[Any]]]


def declared_refusal(specs: Sequence[TensorSpec]) -> tuple[bool, str]:
    """(can axis 0 be rows, why joining is impossible by the declared inputs or "").

    >>> declared_refusal([TensorSpec("x", "FP32", (1, 3))])
    (True, 'input "x" has a fixed first dimension of 1')
    """
    if not specs:
        return False, "the model has no inputs"
    reason = ""
    for spec in specs:
        if spec.shape is None:
            continue
        if not spec.shape:
            return False, f'input "{spec.name}" is a scalar, so axis 0 is not rows'
        if spec.shape[0] is not None:
            reason = f'input "{spec.name}" has a fixed first dimension of {spec.shape[0]}'
            if spec.shape[0] != 1:
                return False, reason
    return True, reason


def common_rows(feeds: Feeds) -> int | None:
    """The length of axis 0 that all tensors share, if they do."""
    lengths = {array.shape[0] if array.ndim else -1 for array in feeds.values()}
    return lengths.pop() if len(lengths) == 1 and -1 not in lengths else None


def take(feeds: Feeds, rows: Sequence[int] | NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """These rows of all tensors, in this order."""
    index = np.asarray(rows, dtype=np.int64)
    return {name: np.ascontiguousarray(array[index]) for name, array in feeds.items()}


def one(feeds: Feeds, specs: Sequence[TensorSpec], row: int) -> dict[str, NDArray[Any]]:
    """One row as one request: with its row axis where the model declares that rank (or none), else without."""
    feed = {}
    for spec in specs:
        array = feeds[spec.name]
        without = spec.shape is not None and len(spec.shape) == array.ndim - 1
        feed[spec.name] = np.asarray(array[row], dtype=array.dtype) if without else array[row : row + 1]
    return feed


def runs(count: int, wanted: int, chance: np.random.Generator) -> NDArray[np.int64]:
    """About `wanted` of `count` rows, rising, in 64 runs of neighbours, of which alone it can be seen how rows depend.

    >>> runs(3, 5, np.random.default_rng(0)).tolist()
    [0, 1, 2]
    """
    size = max(wanted // 64, 1)
    starts = chance.permutation(-(-count // size))[: -(-wanted // size)]
    rows: NDArray[np.int64] = np.sort((starts[:, None] * size + np.arange(size)).ravel())
    return rows[rows < count]


def same_bits(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Whether two arrays are equal in dtype, shape and every bit (so NaN equals the same NaN, and 0.0 is not -0.0)."""
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    if first.dtype == object:
        return bool(np.array_equal(first, second))
    return first.tobytes() == second.tobytes()


def shared_digest(arrays: Sequence[NDArray[Any]]) -> str:
    """A digest of values that joined requests must share: names dtypes, shapes and every bit. 16 hex digits."""
    digest = blake2b(digest_size=8)
    for array in arrays:
        content = json.dumps(array.ravel().tolist()).encode() if array.dtype == object else array.tobytes()
        digest.update(f"{array.dtype.name}{array.shape}{len(content)}:".encode() + content)
    return digest.hexdigest()
