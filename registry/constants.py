"""The constant that may answer in a version's place: what its options say, as arrays that fit its outputs.

Checked at registration, so that a worker never meets one that does not fit. Called by `register.py`, and by workers
when a version loads.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.onnx import FLOATS, NUMPY_DTYPES
from registry.vocabulary import TensorSpec

Shape = tuple[int, ...]


def constant_of(
    said: Sequence[tuple[str, Any]], outputs: Sequence[TensorSpec], *, by_rows: bool
) -> tuple[NDArray[Any], ...]:
    """An array for each output, in their order: by_rows what one row of it holds, else the whole output.

    said: (output, a value or nested tuples of values), as in ServingOptions.fallback_constant. Raises ValueError, which
    says of which output what was got and what is wanted.
    """
    values = dict(said)
    names = [spec.name for spec in outputs]
    for name in values.keys() - set(names):
        near = difflib.get_close_matches(name, names, n=1)
        raise ValueError(f'there is no output "{name}"' + (f', did you mean "{near[0]}"?' if near else ""))
    missing = [name for name in names if name not in values]
    if missing:
        raise ValueError(f'output "{missing[0]}" is missing: a constant has all outputs that are served')
    return tuple(_array(spec, values, by_rows=by_rows) for spec in outputs)


def _array(spec: TensorSpec, values: Mapping[str, Any], *, by_rows: bool) -> NDArray[Any]:
    value = values[spec.name]
    shape = _shape(value, spec.name)
    leaves = _leaves(value)
    wanted = spec.shape
    if wanted is not None and by_rows:
        wanted = wanted[1:]
    if wanted is not None and (
        len(shape) != len(wanted) or any(n is not None and n != got for got, n in zip(shape, wanted, strict=True))
    ):
        whole = "a row" if by_rows else "the whole output"
        raise ValueError(f'output "{spec.name}": got shape {_text(shape)}, {whole} has {_text(wanted)}')
    array = _typed(leaves, spec)
    return array.reshape(shape)


def _shape(value: Any, name: str) -> Shape:
    if not isinstance(value, tuple):
        return ()
    below = {_shape(item, name) for item in value}
    if len(below) > 1:
        raise ValueError(f'output "{name}": its lists are not of equal lengths')
    return (len(value), *(below.pop() if below else ()))


def _leaves(value: Any) -> list[Any]:
    return [leaf for item in value for leaf in _leaves(item)] if isinstance(value, tuple) else [value]


def _typed(leaves: list[Any], spec: TensorSpec) -> NDArray[Any]:
    dtype = NUMPY_DTYPES[spec.datatype]
    kind, wanted = "f" if spec.datatype in FLOATS else dtype.kind, spec.datatype
    fitting: dict[str, tuple[type, ...]] = {"O": (str,), "b": (bool,), "f": (int, float), "i": (int,), "u": (int,)}
    for leaf in leaves:
        if not isinstance(leaf, fitting[kind]) or (isinstance(leaf, bool) and kind != "b"):
            raise ValueError(f'output "{spec.name}": got {leaf!r:.80}, wants {wanted}')
    if kind == "O":
        texts = np.empty(len(leaves), dtype=object)
        texts[:] = leaves
        return texts
    if kind in "iu":
        limits = np.iinfo(dtype)
        for leaf in leaves:
            if not limits.min <= leaf <= limits.max:
                raise ValueError(f'output "{spec.name}": {leaf} does not fit {wanted}')
        return np.array(leaves, dtype=dtype)
    if kind == "b":
        return np.array(leaves, dtype=dtype)
    try:
        with np.errstate(over="ignore"):
            numbers = np.array([float(leaf) for leaf in leaves], dtype=np.float64).astype(dtype)
    except OverflowError:
        numbers = np.array([np.inf])
    if not np.isfinite(numbers.astype(np.float64)).all():
        raise ValueError(f'output "{spec.name}": a number does not fit {wanted}')
    return numbers


def _text(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("?" if n is None else str(n) for n in shape) + "]"
