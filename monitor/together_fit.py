"""Columns together, learned from reference rows: which pairs to watch, principal components, and every share.

Why: what live rows are held against must not flatter itself, so the rows that choose pairs, components and bins are not
those whose answers are counted. Invariants: a bounded number of rows is looked at, spread over the whole reference; how
rows depend is found among neighbours, by the code that finds it of single columns. Called by the profile's fit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from monitor.bins import BinSet, ColumnBins
from monitor.column_profile import ColumnProfile
from monitor.design_effect import BASE, Dependence, dependence_of_sums, dependences
from monitor.multivariate import Basis, fit_basis
from monitor.threads import in_threads
from monitor.together import BINS, FEATURES, MOST_PAIRS, PER_SCORE, Layout, Questions, Tally, Together

Floats = NDArray[np.float64]

LEAST_ROWS = 1000  # of the reference; of fewer nothing is learned
COUNTED, TAUGHT, NEIGHBOURS = 100_000, 40_000, 32_768  # rows: whose answers are counted; that teach; that tell runs
_MOST_VALUES = 10_000_000  # of each of these
_MOST_PRODUCTS = 20_000_000_000  # rows that teach x coordinates²
_PARTS = 16  # of the reference, which teach and are counted in turns
_COMPONENTS = 32
_STRIP_ROWS = 4096
_SEED = 20_13
_SAME = 1e-6  # scores so near are one: a sum of floats is not the same in every order


def fit_together(
    columns: Sequence[ColumnProfile], features: NDArray[np.floating], in_time: bool | None
) -> Together | None:
    """From the reference rows (n, C); None with fewer than LEAST_ROWS, or two columns that vary.

    in_time: whether they are in the order of time; None where nobody said, and then an independence proves nothing.
    """
    n, width = features.shape
    layout = Layout(columns)
    if n < LEAST_ROWS or len(set(layout.axes.tolist())) < 2:
        return None
    most = max(_MOST_VALUES // width, _STRIP_ROWS)
    parts = np.array_split(np.arange(n), _PARTS)
    teaching, others = (np.concatenate(parts[turn::2]) for turn in (0, 1))
    teaching = _spread(teaching, min(TAUGHT, most, max(_MOST_PRODUCTS // len(layout.axes) ** 2, 2000)))
    asked = _questions(layout, features[teaching])
    counted = _spread(others, min(COUNTED, most))
    tally = Tally.empty(len(asked), width)
    for start in range(0, len(counted), _STRIP_ROWS):
        tally.merge(asked.tally(features[counted[start : start + _STRIP_ROWS]]))
    deffs, block_rows = np.ones(len(asked)), np.zeros(len(asked), np.int64)
    if in_time is not False:
        # Components fit those that taught them better, which would look like a drift that comes and goes.
        deffs, block_rows = _dependence(asked, features[others[: min(NEIGHBOURS, most)]])
        if in_time is None:
            block_rows[block_rows == 1] = 0
    return Together(asked, tally, deffs, block_rows)


def _spread(rows: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    """At most so many of them, evenly."""
    return rows[:: -(-len(rows) // most)]


def _questions(layout: Layout, block: NDArray[np.floating]) -> Questions:
    places = layout.places(block)
    found = fit_basis(layout.points(places), np.random.default_rng(_SEED), FEATURES)
    stored = [np.asarray(part, np.float32).astype(np.float64) for part in (found.frequencies, found.phases)]
    kept = np.asarray(found.components[:, :_COMPONENTS], np.float32).astype(np.float64)  # as the profile stores them
    basis = Basis(stored[0], stored[1], kept, found.variance)
    none = np.zeros(0, np.intp)
    asked = Questions(layout, basis, none, none, np.zeros((1 + FEATURES, BINS - 1)))
    scores, _ = asked.scores(places)
    shares = np.arange(1, BINS) / BINS
    edges = np.quantile(scores, shares, axis=0, method="inverted_cdf").T + _SAME
    return Questions(layout, basis, *_pairs(layout, places), edges)


def _pairs(layout: Layout, places: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """All pairs of splits of different columns; of too many, those that say most of each other.

    Before these come all that are not about what lies far out, if they fit.
    """
    answers = layout.answers(places).astype(np.float32)
    owners = layout.owners
    first, second = np.nonzero(np.triu(owners[:, None] != owners[None]))
    if len(first) > MOST_PAIRS:
        answers -= answers.mean(axis=1, keepdims=True)
        answers /= np.maximum(np.sqrt(np.square(answers).mean(axis=1, keepdims=True)), 1e-9)
        strength = np.abs((answers @ answers.T)[first, second])
        is_plain = np.array([split.kind != "outer" for split in layout.splits])
        both = is_plain[first] & is_plain[second]
        if np.count_nonzero(both) <= MOST_PAIRS:
            strength[both] = np.inf
        chosen = np.sort(np.argsort(-strength, kind="stable")[:MOST_PAIRS])
        first, second = first[chosen], second[chosen]
    by_columns = np.lexsort((second, first, owners[second], owners[first]))
    return first[by_columns], second[by_columns]


def _dependence(asked: Questions, block: NDArray[np.floating]) -> tuple[Floats, NDArray[np.int64]]:
    """(E,) each: design effects, and the rows of a tile; 0 where nobody knows. Of rows in the order of time."""
    pairs, rows = len(asked.first), len(block) // BASE * BASE
    alike, told = (np.zeros((pairs, 1 + rows // BASE)) for _ in range(2))  # before each block of BASE rows
    scores = np.empty((rows, len(asked.edges)))
    for start in range(0, rows, _STRIP_ROWS):
        stop = min(start + _STRIP_ROWS, rows)
        places = asked.layout.places(block[start:stop])
        answers = asked.agreements(places)
        here = slice(1 + start // BASE, 1 + stop // BASE)
        alike[:, here], told[:, here] = (np.bitwise_count(each.view(np.uint64)) for each in (answers > 0, answers != 0))
        scores[start:stop], _ = asked.scores(places)
    np.cumsum(alike, axis=1, out=alike)
    np.cumsum(told, axis=1, out=told)
    every = np.arange(alike.shape[1]) * float(BASE)
    deffs, block_rows = np.ones(len(asked)), np.zeros(len(asked), np.int64)
    pair = ColumnBins("pair", "category", values=(-1.0, 1.0))

    def of_pair(at: int) -> Dependence:
        sums = np.stack([told[at] - alike[at], alike[at], np.zeros(len(every)), every - told[at]])
        return dependence_of_sums(pair, sums)

    for at, found in enumerate(in_threads(of_pair, range(pairs))):
        deffs[at], block_rows[at] = found.bins[1], found.block_rows or 0
    bins = tuple(ColumnBins("score", "number", edges=tuple(np.unique(edges).tolist())) for edges in asked.edges)
    for number, found in enumerate(dependences(BinSet(bins), scores)):
        here = slice(pairs + number * PER_SCORE, pairs + (number + 1) * PER_SCORE)
        own = (*found.bins, *found.edges)
        deffs[here] = own if len(own) == PER_SCORE else found.deff  # fewer where edges coincide
        block_rows[here] = found.block_rows or 0
    return deffs, block_rows
