"""Does a row keep its answer beside rows that nobody gave? Found by running made-up rows together with given ones.

Given rows are alike: none of them makes a detector find two things or nothing, takes the other branch, or holds NaN. A
request may, and where the model looks at all rows of a run at once (which of them hold something, the largest, whether
any is above a bound), its batch mates would get other answers than alone, or its own rows. So rows of zeros, of ones,
turned around, very large and not finite are run beside given rows, and rows of sizes that were not given. Invariant:
what is refused alone is no reason; whatever a given row gets beside others must be what it gets alone. Pure but for the
runs, one of which may end the process: `registry/probe_run.py` writes down before what then is true.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.batching import Axes
from registry.errors import ServingError
from registry.onnx import is_bfloat16
from registry.probe_axes import Tensors, join, singles_of
from registry.probe_batching import distance
from registry.rows import Feeds, Runner, same_bits
from registry.vocabulary import TensorSpec

_HUGE = 1e6
_COUNTS = (2, 3, 4)  # rows of another size in one run: an odd number of them need not fill what an even one does
_MOST_SIZES = 4
_NO_TIME = "trying it beside made-up rows took too long"

Outputs = Sequence[NDArray[Any]]


def harm(
    run: Runner,
    requests: Sequence[Feeds],
    specs: Sequence[TensorSpec],
    axes: Axes,
    tolerance: float | None,
    *,
    budget_s: float,
    loops: bool = False,
) -> str:
    """What rows that nobody gave do to others in their run, or "". Never raises a failure of the model.

    requests: whole ones that the model answers. tolerance: by how much a number may differ; None: by no bit. loops: a
    value may say how long a run takes, so none is made large.
    """
    until_s = time.monotonic() + budget_s
    given = _two(requests, specs, axes)
    company = _Company(run, specs, axes, tolerance)
    try:
        alone = [run(one) for one in given]
        for what, stranger in _strangers(given[0], specs, axes, is_calm=loops):
            if time.monotonic() > until_s:
                return _NO_TIME
            found = company.beside(given, alone, stranger)
            if found:
                return f"a row of {what} {found}"
        for what, others in _other_sizes(given, specs, axes):
            if time.monotonic() > until_s:
                return _NO_TIME
            found = company.together(others)
            if found:
                return f"rows {what} {found}"
    except ServingError as error:
        return f"given rows fail when they are run one by one: {error.message}"
    return ""


def _two(requests: Sequence[Feeds], specs: Sequence[TensorSpec], axes: Axes) -> list[Tensors]:
    """Two rows that differ and can be joined, or one."""
    rows = singles_of(requests, specs, axes.inputs)
    first = next(rows)
    shared = [spec.name for spec, axis in zip(specs, axes.inputs, strict=True) if axis is None]
    for row in rows:
        is_like = all(row[name].shape == first[name].shape for name in first)
        is_like = is_like and all(same_bits(row[name], first[name]) for name in shared)
        if is_like and not all(same_bits(row[name], first[name]) for name in first):
            return [first, row]
    return [first]


def _strangers(
    row: Tensors, specs: Sequence[TensorSpec], axes: Axes, *, is_calm: bool
) -> Iterator[tuple[str, Tensors]]:
    """Rows like this one that hold something else; inputs that all requests share stay as they are."""
    own = [spec.name for spec, axis in zip(specs, axes.inputs, strict=True) if axis is not None]
    changes = [("zeros", _zeros), ("ones", _ones), ("opposite numbers", _opposite)]
    if not is_calm:
        changes += [("very large numbers", _large), ("NaN", _nan), ("infinity", _infinite)]
    for what, change in changes:
        stranger = {name: change(array) if name in own else array for name, array in row.items()}
        if not all(same_bits(stranger[name], row[name]) for name in own):
            yield what, stranger


def _zeros(array: NDArray[Any]) -> NDArray[Any]:
    return np.full(array.shape, "" if array.dtype == object else 0).astype(array.dtype)


def _ones(array: NDArray[Any]) -> NDArray[Any]:
    return np.full(array.shape, "a" if array.dtype == object else 1).astype(array.dtype)


def _opposite(array: NDArray[Any]) -> NDArray[Any]:
    return -array if _is_float(array) else ~array if array.dtype.kind == "b" else array


def _large(array: NDArray[Any]) -> NDArray[Any]:
    """Integers are often indexes: only of those of 8 bits is the largest a usual value."""
    if _is_float(array):
        return np.asarray((array.astype(np.float64) + 1.0) * _HUGE).astype(array.dtype)
    return np.full_like(array, np.iinfo(array.dtype).max) if array.dtype.str[1:] in ("u1", "i1") else array


def _nan(array: NDArray[Any]) -> NDArray[Any]:
    return np.full(array.shape, np.nan).astype(array.dtype) if _is_float(array) else array


def _infinite(array: NDArray[Any]) -> NDArray[Any]:
    return np.full(array.shape, np.inf).astype(array.dtype) if _is_float(array) else array


def _is_float(array: NDArray[Any]) -> bool:
    return array.dtype.kind == "f" or is_bfloat16(array)


def _other_sizes(
    given: Sequence[Tensors], specs: Sequence[TensorSpec], axes: Axes
) -> Iterator[tuple[str, list[Tensors]]]:
    """The rows with one element more, or less, on free axes beside that of rows: on all of one size, for they may
    have to agree."""
    free = [
        (spec.name, place)
        for spec, axis in zip(specs, axes.inputs, strict=True)
        if axis is not None
        for place in range(given[0][spec.name].ndim)
        if place != axis and (spec.shape is None or (place < len(spec.shape) and spec.shape[place] is None))
    ]
    sizes = list(dict.fromkeys(given[0][name].shape[place] for name, place in free))
    for size in sizes[:_MOST_SIZES]:
        for other in (size + 1, size - 1):
            if size < 1 or other < 1:
                continue
            places = [(name, place) for name, place in free if given[0][name].shape[place] == size]
            yield f"of size {other} instead of {size}", [_resized(row, places, other) for row in given]


def _resized(row: Tensors, places: Sequence[tuple[str, int]], size: int) -> Tensors:
    changed = dict(row)
    for name, place in places:
        array = changed[name]
        index = np.minimum(np.arange(size), array.shape[place] - 1)
        changed[name] = np.asarray(np.take(array, index, axis=place), order="C")
    return changed


class _Company:
    """Runs rows together, and compares what they get with what they get alone."""

    def __init__(self, run: Runner, specs: Sequence[TensorSpec], axes: Axes, tolerance: float | None) -> None:
        self._run = run
        self._specs = specs
        self._axes = axes
        self._tolerance = tolerance

    def beside(self, given: Sequence[Tensors], alone: Sequence[Outputs], stranger: Tensors) -> str:
        """What a stranger does that must not be, or ""."""
        own = self._tried(stranger)
        if own is None:
            return ""  # its request is told so
        for number, (output, axis) in enumerate(zip(own, self._axes.outputs, strict=True)):
            if axis >= output.ndim or output.shape[axis] != 1:
                return f"comes back as shape {output.shape} of output {number}"
        for members, wanted in (
            ([given[0], stranger], [alone[0], None]),
            ([stranger, given[-1]], [None, alone[-1]]),
        ):
            outputs = self._tried(join(members, self._specs, self._axes.inputs))
            found = "" if outputs is None else self._differs(outputs, wanted)  # of a run that fails each is run alone
            if found:
                return f"changes what is answered to a row beside it: {found}"
        return ""

    def together(self, rows: Sequence[Tensors]) -> str:
        """What rows do together that they do not alone, or ""."""
        alone = [self._tried(row) for row in rows]
        for count in _COUNTS:
            places = [place % len(rows) for place in range(count)]
            outputs = self._tried(join([rows[place] for place in places], self._specs, self._axes.inputs))
            if outputs is None:
                continue
            if any(alone[place] is None for place in places):
                return f"are refused alone, and {count} of them are answered together"
            found = self._differs(outputs, [alone[place] for place in places])
            if found:
                return f"get other answers together: {found}"
        return ""

    def _tried(self, feeds: Feeds) -> Outputs | None:
        try:
            return self._run(feeds)
        except ServingError:
            return None

    def _differs(self, outputs: Outputs, wanted: Sequence[Outputs | None]) -> str:
        """What a joined run says otherwise than its rows alone, or "". wanted: of each row; None: whatever it is."""
        for number, (output, axis) in enumerate(zip(outputs, self._axes.outputs, strict=True)):
            if axis >= output.ndim or output.shape[axis] != len(wanted):
                return f"output {number} has shape {output.shape}"
            for place, want in enumerate(wanted):
                if want is None:
                    continue
                index = (*(slice(None) for _ in range(axis)), slice(place, place + 1))
                joined, single = np.asarray(output[index], order="C"), want[number]
                if same_bits(joined, single):
                    continue
                gap = distance(joined, single)
                if gap is None or self._tolerance is None or gap > self._tolerance:
                    return f"output {number} is another" + ("" if gap is None else f", by {gap:.2g}")
        return ""
