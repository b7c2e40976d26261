"""May requests for this model be joined? Found by running given rows alone and joined, and comparing every bit.

A declared shape proves nothing: some models return other shapes than they declare, and some (whose arithmetic takes
another path for a single row) return other values. Pure but for the runs; called by the probe's child.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.errors import ServingError
from registry.vocabulary import TensorSpec

Feeds = Mapping[str, NDArray[Any]]
Runner = Callable[[Feeds], list[NDArray[Any]]]

MOST_ROWS = 256  # given rows that are run alone
_ALWAYS = (2, 3, 5, 8, 16, 64)  # joined sizes that must have been tried; 2 to 64 are, while there is time


@dataclass(frozen=True, slots=True)
class RowsFinding:
    """by_rows: axis 0 of all inputs and outputs is rows. exact: joined rows equalled single rows, bit by bit."""

    by_rows: bool
    exact: bool
    reason: str
    rows: int
    joined_rows: int = 0  # the largest run up to which every size was tried, when exact


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


def find_structure(run: Runner, feeds: Feeds, specs: Sequence[TensorSpec]) -> RowsFinding:
    """Whether outputs follow the number of rows, from the shapes of runs of 1, 2 and 3 rows; `exact` stays False.

    `feeds` has at least one row; rows are repeated where there are too few. A single row that fails raises.
    """
    possible, reason = declared_refusal(specs)
    if not possible:
        return RowsFinding(False, False, reason, 0)
    available = common_rows(feeds)
    if not available:
        return RowsFinding(False, False, "the inputs do not share a number of rows", 0)
    single = run(take(feeds, [0]))
    for count in (1,) if reason else (1, 2, 3):
        try:
            outputs = single if count == 1 else run(take(feeds, [row % available for row in range(count)]))
        except ServingError as error:
            return RowsFinding(False, False, f"{count} rows in one run fail: {error.message}", 0)
        for number, (output, alone) in enumerate(zip(outputs, single, strict=True)):
            if output.ndim == 0 or output.shape[0] != count or output.shape[1:] != alone.shape[1:]:
                text = f"output {number} has shape {output.shape} for {count} row{'s' * (count > 1)}"
                return RowsFinding(False, False, f"axis 0 of the outputs is not rows: {text}", 0)
    return RowsFinding(True, False, reason, 0)


def find_exactness(
    run: Runner,
    feeds: Feeds,
    specs: Sequence[TensorSpec],
    *,
    rng: np.random.Generator,
    budget_s: float,
    max_rows: int = 64,
) -> RowsFinding:
    """Run given rows alone and joined, in every size from 2 to max_rows while budget_s lasts, and compare every bit.

    A single row that fails raises what the runner raised; joined rows that fail or differ are a finding.
    """
    structure = find_structure(run, feeds, specs)
    available = common_rows(feeds) or 0
    if not structure.by_rows or structure.reason:
        return structure
    started = time.monotonic()
    chosen = np.sort(rng.permutation(available)[:MOST_ROWS])
    singles: list[list[NDArray[Any]]] = []
    for row in chosen:
        singles.append(run(take(feeds, [int(row)])))
        if time.monotonic() - started > budget_s / 12 and len(singles) >= 8:
            break
    chosen = chosen[: len(singles)]
    rows = len(singles)

    def never(reason: str) -> RowsFinding:
        return RowsFinding(True, False, reason, rows)

    again = run(take(feeds, [int(chosen[0])]))
    if not all(map(same_bits, again, singles[0])):
        return never("the same row gives another answer when it is run again")
    if not _differ(feeds, chosen):
        return never("only one distinct row was given, which proves nothing about joining")
    required = {size for size in _ALWAYS if size <= max_rows} | {max_rows}
    others = [size for size in range(2, max_rows + 1) if size not in required]
    tried: set[int] = set()
    for size in [*sorted(required), *others]:
        if size < 2:
            continue
        if time.monotonic() - started > budget_s:
            if required - tried - {1}:
                return never(f"trying it took longer than {budget_s:.0f} s")
            break
        for group in _groups(rows, size, rng):
            try:
                outputs = run(take(feeds, chosen[group]))
            except ServingError as error:
                return never(f"{size} rows in one run fail: {error.message}")
            difference = _difference(outputs, singles, group)
            if difference:
                return never(f"joined rows differ from single rows: {size} rows in one run, {difference}")
        tried.add(size)
    upto = next(size for size in range(2, max_rows + 2) if size not in tried) - 1
    reason = f"{rows} given rows gave the same bits alone and joined, in runs of 2 to {max(tried)} rows"
    return RowsFinding(True, True, reason, rows, upto)


def _differ(feeds: Feeds, chosen: NDArray[np.int64]) -> bool:
    first = take(feeds, [int(chosen[0])])
    for row in chosen[1:]:
        other = take(feeds, [int(row)])
        if any(not same_bits(first[name], other[name]) for name in first):
            return True
    return False


def _groups(rows: int, size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Mixed rows in runs of this size: each row about once (twice for the smallest), never more than 256 in all."""
    order = np.concatenate([rng.permutation(rows) for _ in range(-(-max(size, min(rows, MOST_ROWS)) // rows))])
    whole = len(order) // size
    limit = max(1, min(whole, 32 if size > 4 else 64))
    return [order[number * size : (number + 1) * size] for number in range(limit)]


def _difference(
    outputs: Sequence[NDArray[Any]], singles: Sequence[Sequence[NDArray[Any]]], group: NDArray[np.int64]
) -> str:
    for number, output in enumerate(outputs):
        if output.ndim == 0 or output.shape[0] != len(group):
            return f"output {number} has shape {output.shape}"
        for place, row in enumerate(group):
            joined, alone = output[place : place + 1], singles[int(row)][number]
            if not same_bits(joined, alone):
                return f"output {number}{_by_how_much(joined, alone)}"
    return ""


def _by_how_much(joined: NDArray[Any], alone: NDArray[Any]) -> str:
    if joined.shape != alone.shape:
        return f" has shape {joined.shape} instead of {alone.shape}"
    if joined.dtype.kind != "f":
        return ""
    with np.errstate(invalid="ignore"):
        gap = np.abs(joined.astype(np.float64) - alone.astype(np.float64))
    finite = gap[np.isfinite(gap)]
    return f" by {finite.max():.2g}" if finite.size else ""
