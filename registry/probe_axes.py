"""Along which axes do requests lie in a model's tensors? Guessed from declarations and given sizes, found by running.

A declared shape proves nothing: some models return other shapes than they declare. So each guess is run with one, two
and three rows, and an output's axis is the one whose size follows. Pure but for the runs; used by the probe's child.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.batching import Axes
from registry.errors import ServingError
from registry.rows import Feeds, Runner, declared_refusal
from registry.vocabulary import TensorSpec

InputAxes = tuple[int | None, ...]
Tensors = dict[str, NDArray[Any]]

_MOST_GUESSES = 16
_MOST_TRIED = 4096  # combinations looked at before guesses are sorted
_COUNTS = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class AxesFinding:
    """by_rows: axis 0 of all inputs and outputs is rows. axes: where rows lie; None: nowhere, `reason` says why."""

    by_rows: bool
    axes: Axes | None
    reason: str = ""


def find_axes(run: Runner, requests: Sequence[Feeds], specs: Sequence[TensorSpec]) -> Iterator[AxesFinding]:
    """Where rows may lie in the inputs and outputs, likeliest first; one finding without axes where nowhere.

    `requests` are whole requests that the model answers, at least one. Axis 0 everywhere is tried first: where its
    outputs follow, nothing else is tried, and where nothing does, its reason is told. Runs the model as it goes.
    """
    possible, reason = declared_refusal(specs)
    rows = tuple(0 for _ in specs)
    is_one_row = possible and bool(reason)  # some input has one fixed row
    guesses: list[InputAxes] = [rows] if possible and not reason else []
    if not is_one_row or not all(spec.shape and spec.shape[0] == 1 for spec in specs):
        guesses += [guess for guess in guess_axes(requests, specs) if guess != rows]
    is_found = False
    for guess in guesses:
        single = next(singles_of(requests, specs, guess), None)
        found: tuple[int, ...] | str = "the inputs do not share a number of rows"
        if single is not None:
            found = _follow(run, [join([single] * count, specs, guess) for count in _COUNTS])
        if isinstance(found, tuple):
            is_found = True
            axes = Axes(guess, found)
            yield AxesFinding(axes.are_rows, axes)
            if guess == rows:
                return
        reason = reason or str(found)
    if not is_found:
        ends = _follow(run, [requests[0]]) if is_one_row else ""  # outputs of one row are rows all the same
        by_rows = isinstance(ends, tuple) and not any(ends)
        yield AxesFinding(by_rows, None, reason or "no input has an axis of free size")


def guess_axes(requests: Sequence[Feeds], specs: Sequence[TensorSpec]) -> list[InputAxes]:
    """Input axes that the declarations allow and on which every request has one size, likeliest first.

    An input may have no axis (all requests must then share its value), but the fewer such, the likelier.
    """
    options: list[list[int | None]] = []
    for spec in specs:
        ranks = {feeds[spec.name].ndim for feeds in requests}
        shape = spec.shape if spec.shape is not None else (None,) * min(ranks)
        options.append([axis for axis, size in enumerate(shape) if size is None and axis < min(ranks)])
        options[-1].append(None)
    fitting = [
        guess
        for guess in islice(product(*options), _MOST_TRIED)
        if any(axis is not None for axis in guess) and all(_extent(feeds, specs, guess) for feeds in requests)
    ]
    fitting.sort(key=lambda guess: (guess.count(None), sum(axis or 0 for axis in guess)))
    return fitting[:_MOST_GUESSES]


def _extent(feeds: Feeds, specs: Sequence[TensorSpec], axes: InputAxes) -> int:
    """How many rows a request holds along these axes; 0 when its inputs disagree."""
    sizes = {
        feeds[spec.name].shape[axis] if axis < feeds[spec.name].ndim else 0
        for spec, axis in zip(specs, axes, strict=True)
        if axis is not None
    }
    return sizes.pop() if len(sizes) == 1 else 0


def singles_of(requests: Sequence[Feeds], specs: Sequence[TensorSpec], axes: InputAxes) -> Iterator[Tensors]:
    """Every row of the requests as a request of its own; those whose inputs disagree are passed over."""
    for feeds in requests:
        for row in range(_extent(feeds, specs, axes)):
            yield {
                spec.name: feeds[spec.name] if axis is None else _slice(feeds[spec.name], axis, row)
                for spec, axis in zip(specs, axes, strict=True)
            }


def _slice(array: NDArray[Any], axis: int, row: int) -> NDArray[Any]:
    index = (*(slice(None) for _ in range(axis)), slice(row, row + 1))
    return np.asarray(array[index], order="C")


def join(singles: Sequence[Feeds], specs: Sequence[TensorSpec], axes: InputAxes) -> Tensors:
    """Rows as one request. An input without an axis is the first one's."""
    return {
        spec.name: singles[0][spec.name]
        if axis is None
        else np.concatenate([single[spec.name] for single in singles], axis=axis)
        for spec, axis in zip(specs, axes, strict=True)
    }


def _follow(run: Runner, requests: Sequence[Feeds]) -> tuple[int, ...] | str:
    """The axis of each output that follows the number of rows, or why there is none. requests: of 1, 2, 3 … rows."""
    counts = tuple(range(1, len(requests) + 1))
    shapes: list[list[tuple[int, ...]]] = []
    for count, feeds in zip(counts, requests, strict=True):
        try:
            shapes.append([output.shape for output in run(feeds)])
        except ServingError as error:
            return f"{_rows(count)} in one run fail{'s' * (count == 1)}: {error.message}"
    found = []
    for number, by_count in enumerate(zip(*shapes, strict=True)):
        sizes = list(zip(*by_count, strict=False))  # by axis
        follow = [axis for axis, seen in enumerate(sizes) if seen == counts]
        still = [axis for axis, seen in enumerate(sizes) if len(set(seen)) == 1]
        is_one = len(counts) == 1 and follow  # one row only: of several axes of size 1, the first
        if not is_one and (len(follow) != 1 or len(still) != len(sizes) - 1 or len({*map(len, by_count)}) != 1):
            wrong = next((c for c, shape in zip(counts, by_count, strict=True) if c not in shape), counts[-1])
            return f"no axis of output {number} is rows alone: it has shape {by_count[wrong - 1]} for {_rows(wrong)}"
        found.append(follow[0])
    return tuple(found)


def _rows(count: int) -> str:
    return f"{count} row{'s' * (count > 1)}"
