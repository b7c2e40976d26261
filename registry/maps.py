"""Sequences of maps, as scikit-learn's exporters end a classifier (ZipMap), as one matrix with named columns.

The names are found when a version is probed and kept in its manifest, so their order is the same for ever. Invariant:
a map that has other keys than these is an error and never a shifted column. Called by `registry/onnx.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.errors import InferenceFailed

Key = int | str
# onnxruntime's type → the type of the keys. The values are float32.
TYPES: dict[str, type[Key]] = {
    "seq(map(int64,tensor(float)))": int,
    "seq(map(string,tensor(float)))": str,
}


def keys_of(kind: str, classes: Sequence[str]) -> tuple[Key, ...]:
    """The keys that classes stand for in maps of a type of TYPES.

    >>> keys_of("seq(map(int64,tensor(float)))", ("0", "-1"))
    (0, -1)
    """
    return tuple(map(TYPES[kind], classes))


def classes_of(found: Sequence[Mapping[Any, float]]) -> tuple[str, ...]:
    """The classes of maps that a model returned: integers in their order, text in that of its code points.

    >>> classes_of([{10: 0.1, 2: 0.9}])
    ('2', '10')
    """
    keys: set[Any] = set(chain.from_iterable(found))
    return tuple(str(key) for key in sorted(keys))


def matrix(found: Sequence[Mapping[Any, float]], keys: Sequence[Key]) -> NDArray[np.float32]:
    """Maps as rows, (maps, keys) float32. Raises InferenceFailed unless each map has exactly these keys."""
    width = len(keys)
    pick = itemgetter(*keys) if width > 1 else lambda one: (one[keys[0]],) if width else ()
    try:
        rows = [pick(one) for one in found]
    except KeyError as error:
        raise InferenceFailed(f"the model did not return its class {error.args[0]!r}", kind="classes") from None
    for one in found:
        if len(one) != width:
            unknown = next(key for key in one if key not in keys)
            raise InferenceFailed(f"the model returned a class {unknown!r} that it never had", kind="classes")
    return np.array(rows, dtype=np.float32).reshape(len(rows), width)
