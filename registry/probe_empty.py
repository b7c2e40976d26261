"""Which tensors without elements end the process: found by running them where that harms nobody.

Some of onnxruntime's kernels divide by the size of an axis, or abort: an LSTM of no rows, an Einsum over nothing
(measured, 1.31). One such request would end a worker and all requests in it. So each free axis is given the size 0
once, after everything else that a pass finds has been written down. Invariant: a case is in the log before it is run,
so the last one in a log without an end is the one that ended the process. Used by both sides of the probe.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.errors import ServingError
from registry.rows import Feeds
from registry.vocabulary import TensorSpec

Place = tuple[str, int]  # an input and an axis of it
Case = tuple[Place, ...]  # what is empty at once

MOST_CASES = 16
_END = "end"


def cases_of(
    feeds: Feeds, specs: Sequence[TensorSpec], names: Mapping[str, Sequence[str | None]], *, by_rows: bool
) -> list[Case]:
    """What is tried of a request that the model answers: its rows, the axes of one name, and then each axis alone.

    names: of each input's axes, None where the model gives none.
    """
    free = [
        (spec.name, axis)
        for spec in specs
        for axis in range(feeds[spec.name].ndim)
        if spec.shape is None or (axis < len(spec.shape) and spec.shape[axis] is None)
    ]
    groups: list[Case] = [tuple(place for place in free if place[1] == 0)] if by_rows else []
    by_name: dict[str, list[Place]] = {}
    for name, axis in free:
        called = names.get(name, ())
        if axis < len(called) and called[axis] is not None:
            by_name.setdefault(str(called[axis]), []).append((name, axis))
    groups += [tuple(places) for places in by_name.values()]
    groups += [(place,) for place in free]
    return [case for case in dict.fromkeys(groups) if case][:MOST_CASES]


def emptied(feeds: Feeds, case: Case) -> dict[str, NDArray[Any]]:
    """The request with no size on these axes."""
    found = {name: np.asarray(array) for name, array in feeds.items()}
    for name, axis in case:
        array = found[name]
        found[name] = np.empty((*array.shape[:axis], 0, *array.shape[axis + 1 :]), array.dtype)
    return found


def try_all(
    run: Callable[[Feeds], object], feeds: Feeds, cases: Sequence[Case], log: Path, first: int, budget_s: float
) -> None:
    """In the child: run the cases from `first` on, as far as the budget goes. One that fails is harmless."""
    until_s = time.monotonic() + budget_s
    with log.open("w", encoding="ascii") as file:
        for number in range(first, len(cases)):
            if time.monotonic() > until_s:
                break
            file.write(f"{number}\n")
            file.flush()
            with contextlib.suppress(ServingError):  # a caller is told so
                run(emptied(feeds, cases[number]))
        file.write(_END)


def ended_at(log: Path) -> int | None:
    """In the parent: the case that ended the process; None: none did."""
    try:
        lines = log.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        return None
    return int(lines[-1]) if lines and lines[-1].isdecimal() else None
