"""The fast detector: from counts since the last evaluation to evidence, alarms raised and alarms cleared.

Why: finds a drift within minutes, with a promise on false alarms that no number of looks can break (`monitor/budget.py`
says which threshold keeps which promise). Invariants: a pure function of profile, settings and the counts, in their
order: no clock, no chance; state is bounded and goes on after a restart where it stood. Called by the controller every
500 records or every second, whichever is later (`budget.is_due`), and by offline comparison with rows in order.

    detector = FastDetector(profile.inputs, "input")
    report = detector.update(counts_since, now_s, Limits(shape, quality))    # ln c of each family of events
    report.raised, report.cleared, detector.active(), detector.worst(5), detector.evidence("income")

Detectors of several workers do not merge; their counts do (`Counts.merge`), before they come here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from monitor.budget import EVALUATE_ROWS
from monitor.counts import BinSet, Counts
from monitor.dependence import LiveDependence
from monitor.events import Events, Family, Tolerance, events_of
from monitor.mixture import Mixture
from monitor.profile import ColumnProfile
from monitor.watch import Evidence, Side, Watch
from registry.errors import StateDamaged
from registry.formats import check_stamp, stamped

FAMILIES: tuple[Family, ...] = ("shape", "quality")


@dataclass(frozen=True, slots=True, kw_only=True)
class FastSettings:
    """What is tolerated, and how rows are taken to depend on each other."""

    tolerance: Tolerance = field(default_factory=Tolerance)
    mode: Literal["auto", "count", "share"] = "auto"  # auto: by the reference, for each feature
    learn: bool = True  # weaken evidence where live rows prove more dependent than the reference


@dataclass(frozen=True, slots=True)
class Limits:
    """ln c of the two families of events: `Budget.log_threshold`."""

    shape: float
    quality: float


@dataclass(frozen=True, slots=True)
class FastReport:
    """What one evaluation changed. `rows` were seen in all."""

    rows: int
    raised: tuple[Evidence, ...] = ()
    cleared: tuple[Evidence, ...] = ()


class FastDetector:
    """Watches one side (inputs or outputs) of a version's rows. One thread at a time."""

    def __init__(
        self,
        columns: Sequence[ColumnProfile],
        side: Side,
        settings: FastSettings | None = None,
        bins: BinSet | None = None,
    ) -> None:
        """bins: the columns', where there is such an object already: counts in it need no comparison."""
        self.side = side
        self.settings = settings or FastSettings()
        self.bins = bins or BinSet(tuple(column.bins for column in columns))
        self.rows = 0
        self.evaluations = 0
        self._watches = {family: _watch(columns, side, family, self.settings) for family in FAMILIES}

    def update(self, counts: Counts, now_s: float, limits: Limits, *, is_learning: bool = False) -> FastReport:
        """Take the counts since the last evaluation; now_s is any time axis, seconds. Counts without rows say nothing.

        is_learning: they tell how rows depend on each other, and are no evidence of where values lie. Of
        values that the reference never had, all rows of an evaluation say as much as one; other bad ones count.

        Raises ValueError for counts of other bins.
        """
        if counts.bins is not self.bins and counts.bins.digest != self.bins.digest:
            raise ValueError(f"the {self.side} counts have other bins than the detector")
        if counts.rows <= 0:
            return FastReport(self.rows)
        raised: list[Evidence] = []
        cleared: list[Evidence] = []
        for family, watch in self._watches.items():
            if is_learning and family == "shape":
                watch.learn(counts)
                continue
            values = (
                np.maximum(self.live_deffs(), EVALUATE_ROWS if is_learning else 1.0) if family == "quality" else None
            )
            up, down = watch.update(counts, self.rows, now_s, getattr(limits, family), values)
            raised += up
            cleared += down
        self.rows += counts.rows
        self.evaluations += 1
        return FastReport(self.rows, tuple(raised), tuple(cleared))

    def evaluations_of(self, family: Family, rows: float, evaluations: float) -> float:
        """How often single features are evaluated in so many rows and updates: what a threshold is found from.

        A feature that is judged by tiles is evaluated once a tile.
        """
        return self._watches[family].mixture.evaluations(rows, evaluations)

    def live_deffs(self) -> NDArray[np.float64]:
        """(C,): by how much more values depend on their neighbours than the reference says; 1 if nothing shows it."""
        return self._watches["shape"].live_deffs(len(self.bins.columns))

    def evidence(self, feature: str, family: Family = "shape") -> Evidence | None:
        """What is known of one feature; None if it has no such events."""
        return self._watches[family].evidence(feature)

    def active(self) -> tuple[Evidence, ...]:
        """All alarms that are raised."""
        return tuple(watch.row(int(at)) for watch in self._watches.values() for at in np.flatnonzero(watch.is_raised))

    def listed(self) -> tuple[Evidence, ...]:
        """The features on the e-d-BH list (`monitor/selection.py`), the strongest first."""
        rows = [watch.row(int(at)) for watch in self._watches.values() for at in np.flatnonzero(watch.listed())]
        return tuple(sorted(rows, key=_headroom))

    def worst(self, count: int) -> tuple[Evidence, ...]:
        """The rows of evidence nearest to their limit, or farthest beyond it, the strongest first."""
        rows = [
            watch.row(int(at))
            for watch in self._watches.values()
            for at in np.argsort(-watch.log_evidence(), kind="stable")[:count]
        ]
        return tuple(sorted(rows, key=_headroom)[:count])

    def to_dict(self) -> dict[str, Any]:
        """Its whole state as a JSON object, stamped."""
        return stamped(
            "detector",
            {
                "kind": "fast",
                "side": self.side,
                "bins": self.bins.digest,
                "rows": self.rows,
                "evaluations": self.evaluations,
                "families": [watch.to_dict() for watch in self._watches.values()],
            },
        )

    def restore(self, document: Mapping[str, Any]) -> None:
        """Go on where `to_dict` stood, in a detector made from the same profile and settings.

        Raises StateDamaged (and nothing is changed) for anything else, FormatTooNew for a newer release's.
        """
        check_stamp("detector", document)
        before = self.to_dict()
        try:
            if document["kind"] != "fast" or document["side"] != self.side or document["bins"] != self.bins.digest:
                raise ValueError("it is of another profile or side")
            self._take(document)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self._take(before)
            raise StateDamaged(f"a detector's state cannot be taken up: {error!r}") from None

    def _take(self, document: Mapping[str, Any]) -> None:
        rows, evaluations = int(document["rows"]), int(document["evaluations"])
        stored = list(document["families"])
        if min(rows, evaluations) < 0 or len(stored) != len(self._watches):
            raise ValueError("it has other families, or counts below zero")
        for watch, each in zip(self._watches.values(), stored, strict=True):
            watch.take(each)
        self.rows, self.evaluations = rows, evaluations


def _headroom(row: Evidence) -> float:
    return row.limit_log10 - row.evidence_log10


def _watch(columns: Sequence[ColumnProfile], side: Side, family: Family, settings: FastSettings) -> Watch:
    events = events_of(columns, family, settings.tolerance)
    is_share, tile_rows = _plan(columns, events, settings)
    mixture = Mixture(events, is_share, tile_rows)
    return Watch(columns, side, events, mixture, LiveDependence(events) if settings.learn else None)


def _plan(
    columns: Sequence[ColumnProfile], events: Events, settings: FastSettings
) -> tuple[np.ndarray[Any, np.dtype[np.bool_]], np.ndarray[Any, np.dtype[np.float64]]]:
    """Per event (E,): whether it is bet on by shares of tiles, and the rows of its tiles.

    Bad rows are always counted: an outage of one source must not wait for a tile that may last a week.
    """
    e = len(events)
    if settings.mode == "count":
        return np.zeros(e, bool), np.ones(e)
    lengths = np.array([float(column.block_rows or 1) for column in columns])
    tiles = np.where(events.is_value & (lengths[events.column] > EVALUATE_ROWS), lengths[events.column], 1.0)
    return events.is_value if settings.mode == "share" else tiles > 1.0, tiles
