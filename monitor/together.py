"""Columns together: what a reference says of how its input columns go together, and rows counted as answers to it.

Why: a correlation that turns around moves no histogram, so no detector of single columns sees it. Here each row answers
yes-or-no questions that are about several columns at once; their shares are watched by the same bets as any other
event's (`monitor/mixture.py`), so the false-alarm promise, dependence, restarts and merging over workers are the same.
Three kinds of questions:

*pairs*: do two columns lie on the same side, both high or both low (Blomqvist's medial correlation, 1950), both far out
or both in the middle, both of a category? Sees any pair that parts or meets, and names it.
*reconstruction*: how much of a row do the reference's principal components leave unexplained? Sees a relation of many
columns that weakens a little everywhere.
*mmd*: random Fourier features (Rahimi and Recht, 2007), whose means' distance is the maximum mean discrepancy of a
Gaussian kernel: each feature's value, in bins. Sees what the others were not made for, later.

Invariants: a row's answers are a pure function of profile and row; a missing value answers no pair's question and lies
at the reference's mean elsewhere; tallies add up exactly; memory is bounded by MOST_PAIRS and FEATURES whatever the
width. Fitted by `monitor/together_fit.py`, judged by `monitor/together_watch.py`. Pure; numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from monitor.column_profile import ColumnProfile
from monitor.multivariate import Basis, Coordinates
from monitor.packing import pack, unpack
from monitor.splits import Split, splits_of, tables_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
TogetherStatistic = Literal["pairs", "reconstruction", "mmd"]
STATISTICS: tuple[TogetherStatistic, ...] = get_args(TogetherStatistic)
METHOD, OF_MANY = 1, 2  # of asking: the second where a column has more categories than bins, of which the first
# asked about all others at once. A profile that was fitted by another method has no detector.
MOST_COORDINATES = 1024
MOST_PAIRS = 1280  # all of fifty columns
FEATURES = 32  # random Fourier features, each of which is watched
BINS = 10  # of a score, at the reference's quantiles
PER_SCORE = 2 * BINS - 1  # questions: in this bin? in a bin up to this one?


@dataclass
class Tally:
    """Answers of some rows, added up: `happened` yes of `of` told, (E,) each, over all questions in their order.

    unexplained (C,): what the components leave of each column's variance, summed over rows.
    """

    rows: int
    happened: Ints
    of: Ints
    unexplained: Floats

    @classmethod
    def empty(cls, questions: int, columns: int) -> Tally:
        return cls(0, np.zeros(questions, np.int64), np.zeros(questions, np.int64), np.zeros(columns))

    def merge(self, other: Tally) -> Tally:
        """Add the other's, of the same reference. Raises ValueError for one of another size."""
        if other.happened.shape != self.happened.shape or other.unexplained.shape != self.unexplained.shape:
            raise ValueError("tallies of different questions do not merge")
        self.rows += other.rows
        self.happened += other.happened
        self.of += other.of
        self.unexplained += other.unexplained
        return self

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "rows": self.rows,
            "happened": pack(self.happened.astype(np.int32)),
            "of": pack(self.of.astype(np.int32)),
            "unexplained": pack(self.unexplained),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], questions: int, columns: int) -> Tally:
        """Raises KeyError, TypeError or ValueError for what `to_dict` never wrote of so many."""
        happened = unpack(document["happened"], "<i4", questions).astype(np.int64)
        of = unpack(document["of"], "<i4", questions).astype(np.int64)
        if (happened < 0).any() or (happened > of).any() or int(document["rows"]) < 0:
            raise ValueError("answers that cannot be")
        unexplained = unpack(document["unexplained"], "<f8", columns)
        return cls(int(document["rows"]), happened, of, unexplained)


def method_of(columns: Sequence[ColumnProfile]) -> int:
    """Which method asks about these columns."""
    return METHOD if all(column.bins.kind == "number" or column.complete for column in columns) else OF_MANY


class Layout:
    """How rows of some columns become what is asked about: bins, points (`multivariate.py`) and answers to splits."""

    def __init__(self, columns: Sequence[ColumnProfile]) -> None:
        self.columns, self.splits = columns, splits_of(columns)
        self._points = Coordinates(columns, MOST_COORDINATES)
        self.axes = np.array([axis.column for axis in self._points.axes], np.intp)  # (d,): each coordinate's column
        self.owners = np.array([split.column for split in self.splits], np.intp)  # (M,): each split's
        self._starts, self._answers = tables_of(self.splits)
        self._marks = [np.array(c.bins.edges if c.bins.kind == "number" else c.bins.values) for c in columns]

    def places(self, block: NDArray[np.floating]) -> NDArray[np.intp]:
        """(C, n): each value's bin, as in `design_effect.places`, of all columns at once; block (n, C)."""
        values = np.array(block.T, np.float64, order="C")
        found = np.empty(values.shape, np.intp)
        for at, (column, marks) in enumerate(zip(self.columns, self._marks, strict=True)):
            place = marks.searchsorted(values[at], side="right")
            if column.bins.kind == "category":
                place -= 1
                unknown = np.append(marks, np.nan)[place] != values[at]  # what lies below all has place -1
                place[unknown] = len(marks)
            found[at] = place
        missing = np.isnan(values)
        if missing.any():
            column_at, row_at = np.nonzero(missing)
            found[column_at, row_at] = np.array([c.bins.bins for c in self.columns])[column_at]
        return found

    def points(self, places: NDArray[np.intp]) -> Floats:
        """(n, d)."""
        return self._points.points_at(places)

    def answers(self, places: NDArray[np.intp]) -> NDArray[np.int8]:
        """(M, n): 1 or -1 for each split, 0 for a missing value."""
        return np.asarray(self._answers[places[self.owners] + self._starts[:, None]], np.int8)


class Questions:
    """What rows are asked, under one profile's columns: E questions, the pairs', and then each score's.

    The S scores are the error, and then the features of `basis`. Of each it is asked whether it lies in this bin, for
    each of BINS, and then whether it lies in a bin up to this one, for all but the last.
    """

    def __init__(
        self, layout: Layout, basis: Basis, first: NDArray[np.intp], second: NDArray[np.intp], edges: Floats
    ) -> None:
        """first, second (P,): each pair's two splits, by their number in the layout. edges (S, BINS - 1).

        Raises ValueError for parts that do not belong together.
        """
        self.layout, self.basis, self.first, self.second, self.edges = layout, basis, first, second, edges
        self.columns = layout.columns
        numbers = np.concatenate([first, second])
        if first.shape != second.shape or ((numbers < 0) | (numbers >= len(layout.splits))).any():
            raise ValueError("pairs of splits that are not there")
        if len(basis.components) != len(layout.axes) or edges.shape != (1 + len(basis.phases), BINS - 1):
            raise ValueError("components or edges of other columns")

    def __len__(self) -> int:
        return len(self.first) + len(self.edges) * PER_SCORE

    @property
    def used(self) -> tuple[int, ...]:
        """The columns that take part."""
        asked = self.layout.owners[np.concatenate([self.first, self.second])]
        return tuple(np.unique(np.concatenate([self.layout.axes, asked])).tolist())

    def of(self, statistic: TogetherStatistic) -> slice:
        """Which questions are its."""
        pairs = len(self.first)
        if statistic == "pairs":
            return slice(0, pairs)
        return slice(pairs, pairs + PER_SCORE) if statistic == "reconstruction" else slice(pairs + PER_SCORE, len(self))

    def pair(self, question: int) -> tuple[Split, Split]:
        """The two splits of a pairs' question."""
        splits = self.layout.splits
        return splits[self.first[question]], splits[self.second[question]]

    def tally(self, block: NDArray[np.floating]) -> Tally:
        """Rows (n, C), asked and added up."""
        places = self.layout.places(block)
        answers = self.agreements(places)
        scores, rest = self.scores(places)
        bins = np.stack([np.bincount(each, minlength=BINS) for each in self.score_bins(scores)])
        below = np.cumsum(bins, axis=1)[:, :-1]
        return Tally(
            len(block),
            np.concatenate([np.count_nonzero(answers > 0, axis=1), np.concatenate([bins, below], axis=1).ravel()]),
            np.concatenate([np.count_nonzero(answers, axis=1), np.full(len(self.edges) * PER_SCORE, len(block))]),
            np.bincount(self.layout.axes, rest.sum(axis=0), len(self.columns)).astype(np.float64),
        )

    def agreements(self, places: NDArray[np.intp]) -> NDArray[np.int8]:
        """(P, n): 1 where both splits of a pair answer alike, -1 where not, 0 where a value is missing."""
        answers = self.layout.answers(places)
        return answers[self.first] * answers[self.second]

    def scores(self, places: NDArray[np.intp]) -> tuple[Floats, Floats]:
        """(n, S): of each row; and (n, d): what components leave of each coordinate, as a share of all variance."""
        points = self.layout.points(places)
        rest = self.basis.residuals(points) / self.basis.variance
        return np.column_stack([rest.sum(axis=1), self.basis.features(points)]), rest

    def score_bins(self, scores: Floats) -> NDArray[np.intp]:
        """(S, n): which bin each score lies in."""
        return np.stack(
            [edges.searchsorted(each, side="right") for edges, each in zip(self.edges, scores.T, strict=True)]
        )


@dataclass(frozen=True, eq=False)
class Together:
    """What a reference says of its columns together: `tally` of some of its rows; and how those depend on each other.

    deffs (E,): rows that say as much as one independent row, of each question; block_rows (E,): how long a tile must be
    for the next one to be as good as independent, 1 where rows are, 0 where nobody knows.
    """

    questions: Questions
    tally: Tally
    deffs: Floats
    block_rows: Ints

    def to_dict(self) -> dict[str, Any]:
        """As a profile stores it."""
        asked, basis = self.questions, self.questions.basis
        return {
            "method": method_of(asked.columns),
            "pairs": len(asked.first),
            "components": basis.components.shape[1],
            "features": len(basis.phases),
            "first": pack(asked.first.astype(np.int16)),
            "second": pack(asked.second.astype(np.int16)),
            "basis": [pack(part.astype(np.float32)) for part in (basis.components, basis.frequencies, basis.phases)],
            "variance": basis.variance,
            "edges": pack(asked.edges),
            "tally": self.tally.to_dict(),
            "deffs": pack(self.deffs.astype(np.float32)),
            "block_rows": pack(self.block_rows.astype(np.int32)),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], columns: Sequence[ColumnProfile]) -> Together | None:
        """Of these columns; None for another method's. Raises KeyError, TypeError or ValueError for damaged ones."""
        if document["method"] != method_of(columns):
            return None
        pairs, kept, features = (int(document[name]) for name in ("pairs", "components", "features"))
        layout = Layout(columns)
        d = len(layout.axes)
        if not (0 <= pairs <= MOST_PAIRS and 1 <= kept <= d and 1 <= features <= FEATURES):
            raise ValueError(f"{pairs} pairs, {kept} components and {features} features of {d} coordinates")
        first, second = (unpack(document[name], "<i2", pairs).astype(np.intp) for name in ("first", "second"))
        components, frequencies, phases = (
            unpack(text, "<f4", count).astype(np.float64)
            for text, count in zip(document["basis"], (d * kept, d * features, features), strict=True)
        )
        basis = Basis(frequencies.reshape(d, -1), phases, components.reshape(d, -1), float(document["variance"]))
        edges = unpack(document["edges"], "<f8", (1 + features) * (BINS - 1)).reshape(1 + features, -1)
        asked = Questions(layout, basis, first, second, edges)
        deffs = unpack(document["deffs"], "<f4", len(asked)).astype(np.float64)
        if not (basis.variance > 0.0 and (deffs >= 1.0).all() and np.isfinite(deffs).all()):
            raise ValueError("design effects or a variance that cannot be")
        tally = Tally.from_dict(document["tally"], len(asked), len(columns))
        block_rows = unpack(document["block_rows"], "<i4", len(asked)).astype(np.int64)
        return cls(asked, tally, deffs, block_rows)
