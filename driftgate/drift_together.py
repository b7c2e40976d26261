"""How columns go together, compared on sampled rows of two tables: the drift that no column shows by itself.

Invariants: which rows are sampled, and what is learned from them, is settled by the reference and a fixed seed before
the current rows are seen; the rows that teach components and kernel are never among those compared; the test's share of
the run's false-alarm probability is set aside whether it can be made or not. Rows that depend on their neighbours are
compared in runs as long as that dependence; columns whose dependence is longer than the reference can show are left
out, and named. Called by `driftgate/drift.py`; the reading of files feeds the samples.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from driftgate.drift_leading import columns_rebuilt_worse, pairs_that_moved
from driftgate.drift_result_together import ColumnError, Multivariate, MultivariateStatistic, PairMoved
from driftgate.drift_runs import RunSample
from monitor.column_profile import ColumnProfile
from monitor.design_effect import places
from monitor.explain import Name, bin_names, percent
from monitor.multivariate import Coordinate, Coordinates, fit_basis
from monitor.permutation import exchange, resolves

MOST_COLUMNS = 512
ROWS = 10_000  # sampled of the current side, and twice of the reference: half of these teach
BLOCKS = 100  # on each side, that are exchanged
LEAST_ROWS = 100
_LEAST_RUNS = 12  # of rows that depend on each other
_MOST_VALUES = 16_000_000  # sampled of the reference: twice as many as of the current side
_SEED = 20_13

STATISTICS: tuple[Literal["mmd", "reconstruction"], ...] = ("mmd", "reconstruction")

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Depends:
    """How one column's rows depend on their neighbours: as in a profile, of so many rows."""

    block_rows: int | None
    levelled: bool


class Together:
    """Two samples in the making: feed both sides' rows, then `judge`."""

    def __init__(self, depends: Sequence[Depends], rows: int) -> None:
        """depends: by column, found in so many reference rows in their order; 1 or None is no dependence."""
        depends = depends[:MOST_COLUMNS]
        longest = max(min(rows, _MOST_VALUES // max(2 * len(depends), 1)) // (2 * _LEAST_RUNS), 1)
        fits = [item.levelled and (item.block_rows or 1) <= longest for item in depends]
        self._at = [at for at, is_kept in enumerate(fits) if is_kept]
        self.left_out = tuple(at for at, is_kept in enumerate(fits) if not is_kept)
        self.run_rows = max((depends[at].block_rows or 1 for at in self._at), default=1)
        values = self.run_rows * max(len(self._at), 1)
        most = min(ROWS if self.run_rows == 1 else BLOCKS, _MOST_VALUES // values // 2)
        seeds = np.random.SeedSequence(_SEED).spawn(3)
        self._reference = RunSample(self._at, self.run_rows, 2 * most, np.random.default_rng(seeds[0]))
        self._current = RunSample(self._at, self.run_rows, most, np.random.default_rng(seeds[1]))
        self._chance = np.random.default_rng(seeds[2])

    def see_reference(self, block: Floats) -> None:
        """The next reference rows (C, n), in order."""
        self._reference.add(block)

    def see_current(self, block: Floats) -> None:
        """The next current rows (C, n), in order."""
        self._current.add(block)

    def judge(
        self,
        columns: Sequence[ColumnProfile],
        name_of: Sequence[Name],
        moved: Collection[str],
        probability: float,
    ) -> Multivariate:
        """By column: what the whole reference says, and a category in words. moved: those that moved by themselves.

        probability: of a false alarm of this test.
        """
        before, now = self._sides()
        blocks, size = now.shape[:2]
        taught = before[blocks:].reshape(-1, before.shape[2])
        coordinates = Coordinates([_as_taught(columns[at], taught[:, place]) for place, at in enumerate(self._at)])
        rows = blocks * size
        level = probability / 2.0  # two distances
        told = Multivariate(
            verdict="unknown",
            cause=None,
            explanation="",
            statistics=(),
            columns=len(coordinates.columns),
            rows=rows,
            run_rows=self.run_rows,
            left_out=tuple(columns[at].name for at in self.left_out),
        )
        least = LEAST_ROWS if self.run_rows == 1 else _LEAST_RUNS * self.run_rows
        if min(rows, (len(before) - blocks) * size) < least or not resolves(blocks, level):
            runs = "" if self.run_rows == 1 else f", in {blocks:,} runs that are independent of each other"
            why = f"{rows:,} rows of each side{runs}: too few to tell how columns go together."
            return replace(told, cause="not_enough", explanation=why)
        if len(coordinates.columns) < 2:
            why = "Fewer than two columns, which is too few to go together."
            return replace(told, cause="not_configured", explanation=why)
        points, current = (coordinates.points(part.reshape(-1, part.shape[2])) for part in (before, now))
        reference = points[:rows]
        basis = fit_basis(points[rows:], self._chance)
        means = [basis.rows(side).reshape(blocks, size, -1).mean(axis=1) for side in (reference, current)]
        found = exchange(means[0], means[1], _distances, level, self._chance)
        errors = (float(means[0][:, -1].mean()), float(means[1][:, -1].mean()))
        effects = (float(np.sqrt(max(found.value[0] - found.expected[0], 0.0))), errors[1] - errors[0])
        alarms = (found.value > found.limit).tolist()
        statistics = tuple(
            MultivariateStatistic(
                name=name,
                value=float(found.value[at]),
                threshold=float(found.limit[at]),
                effect=effects[at],
                rows=rows,
                reference_rows=rows,
                verdict="breach" if alarms[at] else "pass",
                p=float(found.p[at]),
            )
            for at, name in enumerate(STATISTICS)
        )
        told = replace(told, statistics=statistics)
        if not any(alarms):
            return replace(told, verdict="pass", explanation="Columns go together as they did in the reference.")
        owners = [axis.column for axis in coordinates.axes]
        names = [columns[at].name for at in self._at]
        shaped = [side.reshape(blocks, size, -1) for side in (reference, current)]
        pairs = pairs_that_moved(shaped[0], shaped[1], owners, self._labels(coordinates.axes, columns, name_of))
        worse = columns_rebuilt_worse(basis, reference, current, owners, names) if alarms[1] else ()
        apart = sum(names[at] in moved for at in coordinates.columns)
        said = _sentence(pairs, errors if alarms[1] else None, worse, apart)
        return replace(told, verdict="breach", explanation=said, pairs=pairs, errors=worse)

    def _labels(
        self, axes: Sequence[Coordinate], columns: Sequence[ColumnProfile], name_of: Sequence[Name]
    ) -> list[str]:
        labels = []
        for axis in axes:
            column, name = columns[self._at[axis.column]], name_of[self._at[axis.column]]
            which = "" if axis.bin is None else f" ({bin_names(column.bins, name)[axis.bin]})"
            labels.append(f"{column.name}{which}")
        return labels

    def _sides(self) -> tuple[Floats, Floats]:
        """Blocks (B, n, C): of the reference, those to compare and then those that teach; as many of the current."""
        before, now = self._reference.runs(), self._current.runs()
        if not len(before) or not len(now):
            return before, now[:0]
        if self.run_rows == 1:  # rows in an order that chance chose: any grouping will do
            size = max(-(-min(len(before) // 2, len(now)) // BLOCKS), 1)
            before, now = (part[: len(part) // size * size].reshape(-1, size, part.shape[2]) for part in (before, now))
        blocks = min(len(before) // 2, len(now), BLOCKS)
        return before, now[:blocks]


def _as_taught(column: ColumnProfile, values: Floats) -> ColumnProfile:
    """A column with the counts of the rows that teach, if there are any.

    The most frequent categories of some rows are rarer in all others, in those of the reference, too.
    """
    if not len(values):
        return column
    counts = np.bincount(places(column.bins, values), minlength=column.bins.bins + 1)[:-1]
    return replace(column, counts=tuple(counts.tolist()))


def _distances(gaps: Floats) -> Floats:
    """(m, V) → (m, 2): MMD², and how far the mean errors lie apart."""
    return np.column_stack([np.square(gaps[:, :-1]).sum(axis=1), np.abs(gaps[:, -1])])


def _sentence(
    pairs: Sequence[PairMoved],
    errors: tuple[float, float] | None,
    worse: Sequence[ColumnError],
    moved: int,
) -> str:
    """What is known, and no cause that is not."""
    said = ["Rows as a whole are not those of the reference."]
    if pairs:
        first, *more = (
            f"of {pair.first} and {pair.second} went from {pair.reference:.2f} to {pair.current:.2f}" for pair in pairs
        )
        said.append("; ".join([f"The correlation {first}", *(f"that {told}" for told in more)]) + ".")
    if errors is not None:
        most = f", most in {', '.join(item.feature for item in worse)}" if worse else ""
        said.append(
            f"What the reference's principal components leave unexplained went from {percent(errors[0])} to "
            f"{percent(errors[1])} of its variance{most}."
        )
    if moved:
        who = (
            "One of these columns moved by itself" if moved == 1 else f"{moved:,} of these columns moved by themselves"
        )
        said.append(f"{who}, which may be all of it.")
    else:
        said.append("None of these columns moved beyond its own limit.")
    return " ".join(said)
