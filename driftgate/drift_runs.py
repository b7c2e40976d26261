"""A bounded sample of a table's rows, in runs of neighbours that chance chose, taken while the table is read once.

Why: what needs whole rows (how columns go together) cannot be counted in bins, and rows that depend on their neighbours
are told apart only in runs as long as their dependence. Invariants: every run of the table is as likely as any other;
the same rows give the same sample, however they come in batches; memory is bounded by twice the sample. Called by
`driftgate/drift_together.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class RunSample:
    """At most `most` runs of `run_rows` rows each, of some columns."""

    def __init__(self, columns: Sequence[int], run_rows: int, most: int, rng: np.random.Generator) -> None:
        self._columns = np.array(columns, np.intp)
        self.run_rows = run_rows
        self._most = most
        self._rng = rng
        self._rows = 0  # that came
        self._key = 0.0  # of the run that is not whole yet
        self._bar = 2.0  # no run with a larger key is among the `most`
        self._kept: list[Floats] = []  # rows (n, C)
        self._keys: list[Floats] = []  # of their runs
        self._held = 0

    def add(self, block: Floats) -> None:
        """The next rows (C, n)."""
        n = block.shape[1]
        if not n:
            return
        run = np.arange(self._rows, self._rows + n) // self.run_rows
        begins_run = self._rows % self.run_rows == 0
        keys = self._rng.random(int(run[-1] - run[0]) + begins_run)
        keys = keys if begins_run else np.concatenate([[self._key], keys])
        self._key = float(keys[-1])
        if len(keys) > self._most:  # one more: the last run may break off
            self._bar = min(self._bar, float(np.partition(keys, self._most)[self._most]))
        key = keys[run - run[0]]
        chosen = np.flatnonzero(key <= self._bar)
        self._kept.append(block[np.ix_(self._columns, chosen)].T)
        self._keys.append(key[chosen])
        self._rows += n
        self._held += len(chosen)
        if self._held > 2 * (self._most + 1) * self.run_rows:
            self._thin()

    def runs(self) -> Floats:
        """(R, run_rows, C): the chosen runs, in an order that chance chose too; one that broke off is none of them."""
        if not self._kept:
            return np.zeros((0, self.run_rows, 0))
        rows, keys = np.concatenate(self._kept), np.concatenate(self._keys)
        by_key = np.argsort(keys, kind="stable")  # and so by run, each in its own order
        _, first, sizes = np.unique(keys[by_key], return_index=True, return_counts=True)
        whole = first[sizes == self.run_rows][: self._most]
        chosen: Floats = rows[by_key[whole[:, None] + np.arange(self.run_rows)]]
        return chosen

    def _thin(self) -> None:
        rows, keys = np.concatenate(self._kept), np.concatenate(self._keys)
        self._bar = float(np.unique(keys)[: self._most + 1][-1])
        chosen = keys <= self._bar
        self._kept, self._keys, self._held = [rows[chosen]], [keys[chosen]], int(chosen.sum())
