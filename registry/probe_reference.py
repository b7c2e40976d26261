"""Reference rows in the probing process: some to prove joining with, as many as there is time for to fit a profile on.

Invariant: the same reference gives the same rows in the same order, although no two runs take as long. Used by
`registry/probe_run.py`, in that process only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry import rows
from registry.errors import ArtifactRejected
from registry.probe_batching import MOST_ROWS, BatchingFinding
from registry.probe_model import ProbedModel, Tensors
from registry.tensors import save_tensors

Tell = Callable[[str, float], None]

_SEED = 20130101
_LADDER = (50_000, 20_000, 5_000, 1_000, 200, 50)  # rows that are run, when all would take too long
_OUTPUT_BYTES = 512 << 20  # outputs kept for the profile
_CHUNK = 64  # rows in one run of exact models


class Reference:
    """The reference rows of one version, rows first, by input name."""

    def __init__(self, feeds: Mapping[str, NDArray[Any]], probe: ProbedModel) -> None:
        """Runs the first row. Raises ArtifactRejected when there is none, or when it fails."""
        self._feeds = feeds
        self._probe = probe
        self._count = rows.common_rows(feeds) or 0
        if not self._count:
            raise ArtifactRejected("the reference has no rows")
        single = rows.one(feeds, probe.inputs, 0)
        probe.run_given(single, "reference row 1 fails")
        before = time.monotonic()
        probe.run_given(single, "reference row 1 fails")
        self._row_s = time.monotonic() - before

    def some(self) -> list[Tensors]:
        """A sample of the rows, each as a request of its own."""
        chosen = np.sort(np.random.default_rng(_SEED).permutation(self._count)[:MOST_ROWS])
        return [rows.one(self._feeds, self._probe.inputs, int(row)) for row in chosen]

    def run(self, finding: BatchingFinding, work: Path, tell: Tell, left_s: float) -> BatchingFinding:
        """Run as many rows as `left_s` seconds allow, keep their outputs in the work folder → the finding, corrected.

        Raises ArtifactRejected for a row that fails.
        """
        probe = self._probe
        chosen = self._chosen(finding, max(1.0, left_s))
        collected: list[list[NDArray[Any]]] = []
        for done, part in _parts(chosen, min(_CHUNK, finding.joined_rows) if finding.is_exact_by_rows else 1):
            index = [int(row) for row in part]
            feed = rows.take(self._feeds, index) if finding.by_rows else rows.one(self._feeds, probe.inputs, index[0])
            collected.append(probe.run_given(feed, f"reference row {index[0] + 1} fails"))
            if len(collected) % 256 == 0:
                tell("running reference rows", done / len(chosen))
        stacked = _stack(probe.names, collected, finding.by_rows, len(chosen))
        ragged = [name for name in probe.names if name not in stacked]
        if ragged:
            parts = _one_by_one(collected) if finding.by_rows else collected
            reason = f"the shape of output {ragged[0]!r} varies from row to row"
            finding = BatchingFinding(False, "never", reason, finding.rows)
            stacked = _stack(probe.names, parts, False, len(chosen))
            _save_ragged(work / "ragged.tensors", probe, ragged, parts)
        save_tensors(work / "outputs.tensors", stacked)
        save_tensors(work / "rows.tensors", {"rows": chosen})
        return finding

    def _chosen(self, finding: BatchingFinding, left_s: float) -> NDArray[np.int64]:
        count = self._count
        row_bytes = max(1, sum(_size(array) for array in self._probe.examples.values()))
        # A ladder, not the exact number: the same reference gives the same profile although no two runs take as long.
        fits = [count, *(step for step in _LADDER if step < count)]
        row_s = self._row_s / 8 if finding.is_exact_by_rows else self._row_s
        wanted = next((n for n in fits if n * row_s <= left_s and n * row_bytes <= _OUTPUT_BYTES), fits[-1])
        if wanted == count:
            return np.arange(count)
        chosen = rows.runs(count, wanted, np.random.default_rng(_SEED))
        self._probe.warnings.append(
            f"the outputs' profile is fitted on {len(chosen)} of {count} reference rows: all would take too long"
        )
        return chosen


def _parts(chosen: NDArray[Any], size: int) -> Iterator[tuple[int, NDArray[Any]]]:
    for start in range(0, len(chosen), size):
        yield start, chosen[start : start + size]


def _stack(names: Sequence[str], parts: list[list[NDArray[Any]]], by_rows: bool, count: int) -> Tensors:
    """Outputs with rows first. An output whose shape varies from row to row is left out."""
    stacked = {}
    for number, name in enumerate(names):
        arrays = [part[number] for part in parts]
        try:
            whole = np.concatenate(arrays) if by_rows else np.stack(arrays)
        except ValueError:
            continue
        if whole.shape[0] == count:
            stacked[name] = whole
    return stacked


def _one_by_one(parts: list[list[NDArray[Any]]]) -> list[list[NDArray[Any]]]:
    """Joined runs as runs of one row each."""
    return [[array[row : row + 1] for array in part] for part in parts for row in range(len(part[0]))]


def _save_ragged(path: Path, probe: ProbedModel, names: Sequence[str], parts: list[list[NDArray[Any]]]) -> None:
    """Keep outputs of varying shape run by run (the parent puts them together), and free what varies in their specs."""
    saved: Tensors = {}
    specs = list(probe.outputs)
    for name in names:
        number = probe.names.index(name)
        shapes = {part[number].shape for part in parts}
        saved.update({f"{row}:{name}": part[number] for row, part in enumerate(parts)})
        sizes = list(zip(*shapes, strict=True)) if len({len(shape) for shape in shapes}) == 1 else None
        free = None if sizes is None else tuple(axis[0] if len(set(axis)) == 1 else None for axis in sizes)
        specs[number] = replace(specs[number], shape=free)
    save_tensors(path, saved)
    probe.outputs = tuple(specs)


def _size(array: NDArray[Any]) -> int:
    return sum(len(str(item)) for item in array.ravel()) if array.dtype == object else array.nbytes
