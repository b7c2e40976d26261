"""May requests for this model be joined? Found by running given rows alone and joined, and comparing every bit.

Some models give other values to joined rows (their arithmetic takes another path for a single row). How far apart they
are is measured, and joined they are only where the version's options allow that much. Pure but for the runs and the
clock; used by the probe's child.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.batching import Axes, Kind
from registry.errors import ServingError
from registry.probe_axes import AxesFinding, Tensors, find_axes, join, singles_of
from registry.rows import Feeds, Runner, same_bits, shared_digest
from registry.vocabulary import TensorSpec

MOST_ROWS = 256  # given rows that are run alone
_MOST_AXES = 3  # guesses whose rows are compared
_MOST_GROUPS = 8  # values of shared inputs, and shapes, for which joining is tried
_FEW = 2  # runs of a size, once rows are known to differ and no difference is tolerated
_ALWAYS = (2, 3, 5, 8, 16, 64)  # joined sizes that must have been tried; 2 to 64 are, while there is time


@dataclass(frozen=True, slots=True)
class BatchingFinding:
    """What was found. rows: given rows that were run alone and joined; the others as in `batching.Batching`."""

    by_rows: bool
    kind: Kind
    reason: str
    rows: int = 0
    axes: Axes | None = None
    joined_rows: int = 0
    largest_difference: float | None = None
    shared: tuple[str, ...] = ()

    @property
    def is_exact_by_rows(self) -> bool:
        """Whether rows on axis 0 may be run together without a bit changed."""
        return self.kind == "exact" and self.by_rows


def find_batching(
    run: Runner,
    requests: Sequence[Feeds],
    specs: Sequence[TensorSpec],
    *,
    rng: np.random.Generator,
    budget_s: float,
    max_rows: int = 64,
    tolerance: float | None = None,
) -> BatchingFinding:
    """Run given rows alone and joined, in every size from 2 to max_rows while budget_s lasts, and compare every bit.

    requests: whole requests that the model answers, at least one; the earlier ones are preferred where there are many.
    tolerance: what the options allow a number of a joined answer to differ by. Never raises a failure of the model.
    """
    until_s = time.monotonic() + budget_s
    first: BatchingFinding | None = None
    for found in islice(find_axes(run, requests, specs), _MOST_AXES):
        if found.axes is None:
            return BatchingFinding(found.by_rows, "never", found.reason)
        if max_rows < 2:
            return BatchingFinding(found.by_rows, "never", "a run of at most one row has nothing to join")
        groups = _groups(_sample(requests, specs, found.axes, rng), specs, found.axes)
        trial = _Trial(run, specs, found.axes, rng, max_rows, is_tolerant=tolerance is not None)
        finding = _tried(groups, trial, found, until_s, tolerance)
        first = first or finding
        if finding.kind != "never":
            return finding
    assert first is not None
    return first


def _tried(
    groups: Sequence[Sequence[Tensors]], trial: _Trial, found: AxesFinding, until_s: float, tolerance: float | None
) -> BatchingFinding:
    """What trying every group says of these axes."""
    digests, reasons = [], []
    for number, group in enumerate(groups):
        left_s = until_s - time.monotonic()
        reason = trial.compare(group, time.monotonic() + left_s / (len(groups) - number))
        if trial.is_wrong:
            return BatchingFinding(found.by_rows, "never", reason, trial.rows)
        if reason:
            reasons.append(reason)
        else:
            digests.append(trial.digest(group[0]))
    if not digests:
        return BatchingFinding(found.by_rows, "never", reasons[0], trial.rows)
    exact = BatchingFinding(
        found.by_rows,
        "exact",
        f"{trial.rows} given rows gave the same bits alone and joined, in runs of 2 to {trial.most} rows",
        trial.rows,
        found.axes,
        trial.upto,
        shared=tuple(sorted({digest for digest in digests if digest})),
    )
    return _judged(exact, trial, tolerance)


def _judged(exact: BatchingFinding, trial: _Trial, tolerance: float | None) -> BatchingFinding:
    """What the largest difference makes of rows that would be exact without it."""
    largest = trial.largest
    if largest == 0.0:
        return exact
    reason = f"joined rows differ from single rows by up to {_rounded_up(largest)} ({trial.where})"
    if tolerance is not None and largest <= tolerance:
        reason += f", which is within the tolerance of {tolerance:g}"
        return replace(exact, kind="within_tolerance", reason=reason, largest_difference=largest)
    reason += f", which is more than the tolerance of {tolerance:g}" if tolerance is not None else ""
    hint = f"; batch_tolerance = {_rounded_up(largest)} in the options would allow it"
    return replace(exact, kind="never", reason=reason + hint, largest_difference=largest)


def _rounded_up(value: float) -> str:
    """Two digits, never below the value: what is shown can be given as a tolerance.

    >>> _rounded_up(0.00466), _rounded_up(3e-8)
    ('0.0047', '3e-08')
    """
    shown = f"{value:.1e}"
    if float(shown) < value:
        mantissa, exponent = shown.split("e")
        shown = f"{float(mantissa) + 0.1:.1f}e{exponent}"
    return f"{float(shown):g}"


def _sample(
    requests: Sequence[Feeds], specs: Sequence[TensorSpec], axes: Axes, rng: np.random.Generator
) -> list[Tensors]:
    """At most MOST_ROWS of the requests' rows, in their order."""
    total = sum(1 for _ in singles_of(requests, specs, axes.inputs))
    chosen = np.zeros(total, dtype=bool)
    chosen[rng.permutation(total)[:MOST_ROWS]] = True
    return list(compress(singles_of(requests, specs, axes.inputs), chosen))


def _groups(singles: Sequence[Tensors], specs: Sequence[TensorSpec], axes: Axes) -> list[list[Tensors]]:
    """Rows that could be joined with each other: of one shape, and with the same shared inputs. Largest first."""
    groups: dict[Any, list[Tensors]] = {}
    for single in singles:
        key = (_digest(single, specs, axes), tuple(array.shape for array in single.values()))
        groups.setdefault(key, []).append(single)
    return sorted(groups.values(), key=len, reverse=True)[:_MOST_GROUPS]


def _digest(single: Tensors, specs: Sequence[TensorSpec], axes: Axes) -> str:
    shared = [single[spec.name] for spec, axis in zip(specs, axes.inputs, strict=True) if axis is None]
    return shared_digest(shared) if shared else ""


class _Trial:
    """Runs groups of rows alone and joined, and keeps what was seen of all of them."""

    def __init__(
        self,
        run: Runner,
        specs: Sequence[TensorSpec],
        axes: Axes,
        rng: np.random.Generator,
        max_rows: int,
        *,
        is_tolerant: bool,
    ) -> None:
        self._run = run
        self._specs = specs
        self._axes = axes
        self._rng = rng
        self._max_rows = max_rows
        self._is_tolerant = is_tolerant
        self.rows = 0  # run alone
        self.most = 0  # rows in the largest joined run
        self.upto = max_rows  # every size up to this one was tried, for every group that was proven
        self.largest = 0.0  # difference of a number, joined from alone
        self.where = ""
        self.is_wrong = False  # joined rows are no answers, whatever is tolerated

    def digest(self, single: Tensors) -> str:
        """Of the inputs that joined requests share; empty where there are none."""
        return _digest(single, self._specs, self._axes)

    def compare(self, group: Sequence[Tensors], until_s: float) -> str:
        """Try one group → why nothing is proven for it, or "". Differences of numbers are kept, and prove too."""
        now_s = time.monotonic()
        try:
            singles = self._alone(group, now_s + (until_s - now_s) / 12)
            again = self._run(group[0])
        except ServingError as error:
            return f"given rows fail when they are run one by one: {error.message}"
        self.rows += len(singles)
        if not all(map(same_bits, again, singles[0])):
            self.is_wrong = True
            return "the same row gives another answer when it is run again"
        group = group[: len(singles)]
        if not _differ(group):
            return "only one distinct row was given, which proves nothing about joining"
        return self._joined(group, singles, until_s)

    def _alone(self, group: Sequence[Tensors], until_s: float) -> list[list[NDArray[Any]]]:
        singles: list[list[NDArray[Any]]] = []
        for single in group:
            singles.append(self._run(single))
            if time.monotonic() > until_s and len(singles) >= 8:
                break
        return singles

    def _joined(self, group: Sequence[Tensors], singles: Sequence[Sequence[NDArray[Any]]], until_s: float) -> str:
        required = {size for size in _ALWAYS if size <= self._max_rows} | {self._max_rows}
        others = [size for size in range(2, self._max_rows + 1) if size not in required]
        tried = {1}
        for size in [*sorted(required - {1}), *others]:
            is_lost = self.largest > 0.0 and not self._is_tolerant  # only how far apart they are is still to be told
            if time.monotonic() > until_s or (is_lost and size in others):
                if required - tried:
                    return f"trying it took too long: there was time for runs of up to {max(tried)} rows"
                break
            for members in _mixed(len(group), size, self._rng)[: _FEW if is_lost else None]:
                try:
                    outputs = self._run(join([group[row] for row in members], self._specs, self._axes.inputs))
                except ServingError as error:
                    self.is_wrong = True
                    return f"{size} rows in one run fail: {error.message}"
                wrong = self._note(outputs, [singles[row] for row in members])
                if wrong:
                    self.is_wrong = True
                    return f"joined rows differ from single rows: {size} rows in one run, {wrong}"
            tried.add(size)
        self.most = max(self.most, *tried)
        self.upto = min(self.upto, next(size for size in range(2, self._max_rows + 2) if size not in tried) - 1)
        return ""

    def _note(self, outputs: Sequence[NDArray[Any]], alone: Sequence[Sequence[NDArray[Any]]]) -> str:
        """Compare a joined run with its rows alone → what no tolerance covers, or "". Numbers' distances are kept."""
        for number, (output, axis) in enumerate(zip(outputs, self._axes.outputs, strict=True)):
            if axis >= output.ndim or output.shape[axis] != len(alone):
                return f"output {number} has shape {output.shape}"
            for place, single in enumerate(alone):
                index = (*(slice(None) for _ in range(axis)), slice(place, place + 1))
                joined, want = np.asarray(output[index], order="C"), single[number]
                if same_bits(joined, want):
                    continue
                gap = distance(joined, want)
                if gap is None:
                    return f"output {number}{_how(joined, want)}"
                if gap >= self.largest:
                    self.largest, self.where = gap, f"output {number}, {len(alone)} rows in one run"
        return ""


def _differ(group: Sequence[Tensors]) -> bool:
    return any(not all(same_bits(group[0][name], other[name]) for name in other) for other in group[1:])


def _mixed(rows: int, size: int, rng: np.random.Generator) -> list[list[int]]:
    """Mixed rows in runs of this size: each row about once (twice for the smallest), never more than 256 in all."""
    order = np.concatenate([rng.permutation(rows) for _ in range(-(-max(size, min(rows, MOST_ROWS)) // rows))])
    limit = max(1, min(len(order) // size, 32 if size > 4 else 64))
    return [order[number * size : (number + 1) * size].tolist() for number in range(limit)]


def distance(joined: NDArray[Any], want: NDArray[Any]) -> float | None:
    """The largest absolute difference of floating-point numbers; None when no tolerance covers it.

    A number that is not finite must be the same in both; -0.0 for 0.0 is a difference of the smallest number.
    """
    if joined.shape != want.shape or joined.dtype != want.dtype or joined.dtype.kind in "biuOSU":
        return None
    left, right = joined.astype(np.float64), want.astype(np.float64)
    finite = np.isfinite(right)
    if not np.array_equal(left[~finite], right[~finite], equal_nan=True) or not np.isfinite(left[finite]).all():
        return None
    gap = float(np.abs(left[finite] - right[finite]).max(initial=0.0))
    return gap if gap > 0.0 else math.ulp(0.0)


def _how(joined: NDArray[Any], want: NDArray[Any]) -> str:
    if joined.shape != want.shape:
        return f" has shape {joined.shape} instead of {want.shape}"
    return f" of {joined.dtype.name} holds other values" if joined.dtype.kind in "biuOSU" else " is not finite alike"
