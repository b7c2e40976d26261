"""The constant of a version's options as somebody who answers: what `traffic.py` puts last among those that stand in.

Invariant: it answers at once and never fails for what the request holds, so nothing comes after it. Its rows are not
logged: no model said them, and labels must not be joined to them. Event loop only.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from time import perf_counter_ns
from typing import Any

import numpy as np

from gateway.data import page_layout as layout
from gateway.data.batcher import Batcher, Waiter
from gateway.data.page import WorkerPage
from gateway.data.run_times import RunTimes
from gateway.data.runs import Batch
from gateway.data.servable import Tensor
from gateway.data.traffic import Loaded
from registry.constants import constant_of
from registry.errors import InferenceFailed
from registry.vocabulary import Role

_MOST_ELEMENTS = 1 << 24  # of one answer: it is the caller who says how many rows

Answer = Callable[[Loaded, Batch[Any]], None]


def standing_in(loaded: Loaded, worker_page: WorkerPage, answer: Answer) -> Loaded | None:
    """This version with its constant in the place of its runs; None where its options name none."""
    servable = loaded.servable
    manifest = servable.manifest
    said = manifest.options.fallback_constant
    if not said:
        return None
    twin = copy(loaded)
    twin.is_constant = True
    twin.schema = None
    twin.answers = None
    values = constant_of(said, manifest.outputs, by_rows=servable.by_rows)
    twin.batcher = _Constant(twin, values, worker_page, answer)
    return twin


class _Constant(Batcher[Any]):
    """Where a version has the queue of its requests: here none waits."""

    def __init__(self, loaded: Loaded, values: tuple[Tensor, ...], worker_page: WorkerPage, answer: Answer) -> None:
        self.servable = loaded.servable
        self.times = RunTimes()
        self.runs = set()
        self._loaded = loaded
        self._values = values
        self._page = worker_page
        self._answer_with = answer

    def submit(self, waiter: Waiter, *, alone: bool = False) -> None:
        """Release the request with the constant, a row of it for each of its rows."""
        rows, by_rows = waiter.rows, self.servable.by_rows
        if by_rows and rows * max(value.size for value in self._values) > _MOST_ELEMENTS:
            waiter.fail(InferenceFailed(f"{rows} rows are too many for the constant that stands in"))
            return
        outputs = [_repeated(value, rows) if by_rows else value for value in self._values]
        self._page.words[
            self._page.totals(self.servable.model, self.servable.version, Role.FALLBACK) + layout.CONSTANTS
        ] += 1
        now_ns = perf_counter_ns()
        self._answer_with(self._loaded, Batch([waiter], waiter.feeds, outputs, rows, now_ns, now_ns))

    def wait_us(self) -> float:
        return 0.0

    def run_us(self, waiter: Any) -> float:
        return 0.0


def _repeated(value: Tensor, rows: int) -> Tensor:
    """(rows, …) of one row's values, (…).

    >>> _repeated(np.array([1, 2]), 2).tolist(), _repeated(np.array(7), 2).tolist()
    ([[1, 2], [1, 2]], [7, 7])
    """
    return np.repeat(value.reshape(1, *value.shape), rows, axis=0)
