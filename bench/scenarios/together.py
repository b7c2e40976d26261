"""How many sampled rows pass until a drift of relations is seen, by simulation: no column's own distribution changes.

The threshold is that of one false alarm a month, the multivariate share alone, and one version. Beside the detector
runs what it was chosen over: the squared MMD of windows of sampled rows, at the same share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from bench.result import Result
from bench.scenario import Options
from monitor.budget import EVALUATE_ROWS, MONTH_S, Budget
from monitor.multivariate import fit_basis
from monitor.profile import Order, fit
from monitor.record import Column, LogSchema
from monitor.together import STATISTICS
from monitor.together_watch import EVALUATE_S, TogetherDetector

SUMMARY = "detection delay of inputs together in sampled rows, by simulation; the table of docs/drift.md"
REFERENCE_ROWS = 100_000
MOST_ROWS = 64_000  # that are waited for
SOON_ROWS = 1_000  # after which a correlation that turns around is to be seen: 500 in the table
WINDOWS = (500, 2_000, 8_000, 32_000)

Floats = NDArray[np.float64]
Draw = Callable[[int, np.random.Generator], Floats]


def pair(columns: int, correlation: float) -> Draw:
    """Standard normal columns, independent but for the first two."""

    def draw(rows: int, rng: np.random.Generator) -> Floats:
        x = rng.normal(size=(rows, columns))
        x[:, 1] = correlation * x[:, 0] + np.sqrt(1.0 - correlation**2) * x[:, 1]
        return x

    return draw


def factors(columns: int, strength: float, *, swapped: bool = False) -> Draw:
    """Columns of variance 1 that share three factors; the first two may be swapped."""
    loads = strength * np.random.default_rng(5).normal(size=(3, columns))

    def draw(rows: int, rng: np.random.Generator) -> Floats:
        x = (rng.normal(size=(rows, 3)) @ loads + rng.normal(size=(rows, columns))) / np.sqrt((loads**2).sum(0) + 1.0)
        if swapped:
            x[:, [0, 1]] = x[:, [1, 0]]
        return np.asarray(x, np.float64)

    return draw


def mixture(columns: int, turned: float) -> Draw:
    """Two clusters in the plane of the first two columns, on the diagonal or turned to the other."""

    def draw(rows: int, rng: np.random.Generator) -> Floats:
        x = rng.normal(size=(rows, columns))
        side = np.where(rng.random(rows) < 0.5, 1.0, -1.0)
        x[:, :2] = 0.5 * x[:, :2] + side[:, None] * np.array([1.0, turned])
        return x

    return draw


def far_out(columns: int, tied: bool) -> Draw:
    """The second column is as far out as the first, on either side: no correlation."""

    def draw(rows: int, rng: np.random.Generator) -> Floats:
        x = rng.normal(size=(rows, columns))
        if tied:
            x[:, 1] = np.abs(x[:, 0]) * np.sign(x[:, 1])
        return x

    return draw


def late(columns: int, by: int) -> Draw:
    """The second column follows the first one's state, by so many rows later; states last ten rows in the mean."""

    def draw(rows: int, rng: np.random.Generator) -> Floats:
        x = rng.normal(size=(rows, columns))
        state = np.cumsum(rng.random(rows + by) < 0.1) % 2 * 2.0 - 1.0
        x[:, 0] += state[by:]
        x[:, 1] += state[:rows]
        return x

    return draw


@dataclass(frozen=True)
class Case:
    """One drift: rows before and after it."""

    name: str
    before: Draw
    after: Draw


CASES = (
    Case("correlation .6 → −.6, 2 of 10", pair(10, 0.6), pair(10, -0.6)),
    Case("correlation .6 → .4, 2 of 10", pair(10, 0.6), pair(10, 0.4)),
    Case("correlation 0 → .3, 2 of 10", pair(10, 0.0), pair(10, 0.3)),
    Case("correlation .6 → −.6, 2 of 50", pair(50, 0.6), pair(50, -0.6)),
    Case("two of 10 columns swapped", factors(10, 1.0), factors(10, 1.0, swapped=True)),
    Case("mixture turned by 90°, 2 of 10", mixture(10, 1.0), mixture(10, -1.0)),
    Case("equally far out, uncorrelated, 2 of 10", far_out(10, False), far_out(10, True)),
    Case("50 columns' factors a fifth weaker", factors(50, 1.0), factors(50, 0.8)),
    Case("a state that comes 5 rows late, 2 of 10", late(10, 0), late(10, 5)),
)


def delays(case: Case, seed: int) -> dict[str, int]:
    """Statistic, and "windows" → rows until its first alarm; at most MOST_ROWS. Raises RuntimeError for a false one."""
    rng = np.random.default_rng(seed)
    reference = case.before(REFERENCE_ROWS, rng)
    columns = reference.shape[1]
    schema = LogSchema(True, tuple(Column(f"x{at}", f"x{at}", "number", 0) for at in range(columns)), (), "f8", "f8")
    order = Order(in_time=True)
    found = fit(schema, reference, np.empty((len(reference), 0)), order=order, together=True).together
    assert found is not None
    detector, windows = TogetherDetector(found), Windows(reference, rng)
    share = Budget(1.0)
    limit = share.log_threshold("multivariate", len(STATISTICS) * MONTH_S / EVALUATE_S)
    told: dict[str, int] = {}
    for turn in range(-10, MOST_ROWS // EVALUATE_ROWS):
        rows = (case.before if turn < 0 else case.after)(EVALUATE_ROWS, rng)
        raised, _ = detector.update(found.questions.tally(rows), float(turn), limit)
        if turn < 0 and raised:
            raise RuntimeError(f"{case.name}, seed {seed}: an alarm before the onset")
        names = [row.family for row in raised] + (["windows"] if turn >= 0 and windows.moved(rows) else [])
        for name in names:
            told.setdefault(name, (turn + 1) * EVALUATE_ROWS)
        if len(told) > len(STATISTICS):
            break
    return told


class Windows:
    """MMD² of windows that follow each other, of several lengths, each with a quarter of the share."""

    def __init__(self, reference: Floats, rng: np.random.Generator) -> None:
        self._basis = fit_basis(reference[:20_000], rng)
        features = self._basis.features(reference)
        self._mean = features.mean(axis=0)
        values = np.linalg.eigvalsh(np.cov(features, rowvar=False))
        self._scale, self._freedom = (values**2).sum() / values.sum(), values.sum() ** 2 / (values**2).sum()
        self._m = len(reference)
        self._open = {length: (0, np.zeros(len(self._mean))) for length in WINDOWS}

    def moved(self, rows: Floats) -> bool:
        """Whether a window that these rows close lies beyond its limit."""
        from scipy import stats

        sums, is_beyond = self._basis.features(rows).sum(axis=0), False
        for length, (count, total) in self._open.items():
            count, total = count + len(rows), total + sums
            if count >= length:
                windows = MONTH_S / (ceil(length / EVALUATE_ROWS) * EVALUATE_S)
                level = Budget(1.0).of("multivariate") / len(WINDOWS) / windows
                limit = self._scale * stats.chi2.isf(level, self._freedom) * (1.0 / count + 1.0 / self._m)
                is_beyond |= bool(np.square(total / count - self._mean).sum() > limit)
                count, total = 0, np.zeros(len(sums))
            self._open[length] = count, total
        return is_beyond


def run(options: Options) -> Result:
    """Every case."""
    seeds, result = 1 if options.quick else 5, Result("together")
    options.say("| drift | first alarm | pairs | reconstruction | mmd | MMD of windows |")
    options.say("| --- | --- | --- | --- | --- | --- |")
    for case in CASES[:1] if options.quick else CASES:
        found = [delays(case, seed) for seed in range(seeds)]
        cells = []
        for name in (*STATISTICS, "windows"):
            each = [one.get(name, MOST_ROWS) for one in found]
            cells.append(f"{np.median(each):,.0f}" if np.median(each) < MOST_ROWS else "–")
        first = [min((rows for name, rows in one.items() if name != "windows"), default=MOST_ROWS) for one in found]
        options.say(f"| {case.name} | {np.median(first):,.0f} | {' | '.join(cells)} |")
        result.add(case.name, "rows", [float(rows) for rows in first], "lower")
    result.bar("a correlation that turns around is seen soon", CASES[0].name, "<=", SOON_ROWS)
    return result
