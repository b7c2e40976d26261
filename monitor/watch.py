"""One family of events of one side: evidence per feature, alarms that are raised once and cleared on evidence.

Why apart: shape and quality have thresholds of their own, and everything else in common. Invariants: an alarm is raised
when a feature's M reaches c, and its evidence is then collected anew, so that the promise counts every alarm; it is
cleared only by an e-detector of its own, against "the event is still nearer to where it was at the alarm than to what
is tolerated", so a share that hovers at the limit does not flap. Owned by `monitor/detectors.py`. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import inf, isfinite, log
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from monitor.counts import Counts
from monitor.dependence import LiveDependence
from monitor.events import KINDS, EventKind, Events, Family
from monitor.mixture import STEPS_H, Floats, Mixture, Mode, angle, share_at
from monitor.packing import pack, unpack
from monitor.pauses import pause
from monitor.selection import e_d_bh

Side = Literal["input", "output"]
SIDES: tuple[Side, ...] = get_args(Side)
LOG10 = log(10.0)
CLEAR_LOG = log(1e4)  # an alarm whose drift stays at half its way is cleared once in 10,000 evaluations at most


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one family of events says of one feature. Shares are of rows with a value (shape) or of all rows (quality).

    evidence_log10: of M, at its peak while an alarm is raised; limit_log10: of the threshold c. kind, place, direction:
    the event that adds most: its kind, its bin or edge, and 1 where it came more often, -1 less. share: its share in
    `rows` since the estimated start; reference: in the profile; limit: the tolerated share on that side; effect_h:
    Cohen's h between share and reference, signed. start_rows, start_s: the estimated onset. deff: rows that say as much
    as one independent row, live experience counted in.
    """

    feature: str
    side: Side
    family: Family
    evidence_log10: float
    limit_log10: float
    kind: EventKind
    place: int
    direction: int
    share: float
    reference: float
    limit: float
    rows: int
    effect_h: float
    start_rows: int
    start_s: float
    mode: Mode
    deff: float
    is_raised: bool

    def to_dict(self) -> dict[str, Any]:
        """A JSON object; a limit that nobody has set is null."""
        return {**asdict(self), "limit_log10": self.limit_log10 if isfinite(self.limit_log10) else None}


class Named(Protocol):
    """What is watched: a column, or columns together."""

    @property
    def name(self) -> str: ...


_BACK_H = np.array((0.0, *STEPS_H))  # how far a share may have gone back


class Watch:
    """Arrays (F,) are over the features that have such events, in their order: `names`."""

    def __init__(
        self, columns: Sequence[Named], side: Side, events: Events, mixture: Mixture, live: LiveDependence | None
    ) -> None:
        self.side, self.family, self.events, self.mixture, self._live = side, events.family, events, mixture, live
        self.names = tuple(columns[at].name for at in mixture.columns)
        self._at = {name: at for at, name in enumerate(self.names)}
        f = len(self.names)
        self.log_limit = inf
        self.is_raised = np.zeros(f, bool)
        self._peak = np.full(f, -np.inf)  # ln M at the alarm, or since
        self._kept: dict[int, Evidence] = {}  # raised alarms as they were at their peak
        self._event = np.zeros(f, np.intp)  # a raised alarm's event, and the bets that it went back
        self._hit, self._miss = np.zeros((f, len(STEPS_H))), np.zeros((f, len(STEPS_H)))
        self._clear = np.zeros((f, len(STEPS_H)))
        self._strength = np.ones(len(events))

    def update(
        self, counts: Counts, rows: int, now_s: float, log_limit: float, live_deffs: Floats | None = None
    ) -> tuple[list[Evidence], list[Evidence]]:
        """Take one evaluation: the alarms that it raised, and those that it cleared.

        live_deffs (columns,): what events of values are weakened by at least, if bad values alone cannot tell it.
        """
        self.log_limit = log_limit
        return self.judge(*self.events.count(counts), rows, now_s, log_limit, live_deffs) if self.names else ([], [])

    def judge(
        self,
        happened: Floats,
        of: Floats,
        rows: int,
        now_s: float,
        log_limit: float,
        live_deffs: Floats | None = None,
    ) -> tuple[list[Evidence], list[Evidence]]:
        """As `update`, of events that were counted already."""
        self.log_limit = log_limit
        strength = None if self._live is None else self._live.strength()
        if live_deffs is not None:
            known = 1.0 if strength is None else strength
            strength = np.where(self.events.is_value, np.minimum(known, 1.0 / live_deffs[self.events.column]), known)
        if strength is not None:
            self._strength = strength
        pause()
        self.mixture.update(happened, of, float(rows), now_s, strength)
        pause()
        if self._live is not None:
            self._live.update(happened, of)
        evidence = self.mixture.log_evidence()
        raised = [self._raise(int(at), float(evidence[at])) for at in np.flatnonzero(evidence >= log_limit)]
        cleared = self._clear_some(happened, of, strength)
        return [each for each in raised if each is not None], cleared

    def learn(self, counts: Counts) -> None:
        """Take one evaluation for how rows depend on each other alone, and no evidence."""
        if self.names:
            self.learn_from(*self.events.count(counts))

    def learn_from(self, happened: Floats, of: Floats) -> None:
        """As `learn`, of events that were counted already."""
        if self.names and self._live is not None:
            self._live.presume()
            self._live.update(happened, of)
        for at in range(len(self.names)):
            self.mixture.reset(at)

    def live_deffs(self, columns: int) -> Floats:
        """(columns,): by how much more rows depend than the reference says; 1 where nothing shows it."""
        found = np.ones(columns)
        if self._live is not None:
            found[self.mixture.columns] = self._live.deffs()
        return found

    def evidence(self, feature: str) -> Evidence | None:
        """What is known of a feature now; None if it has no such events."""
        at = self._at.get(feature)
        return None if at is None else self.row(at)

    def row(self, at: int) -> Evidence:
        """As `evidence`, by place."""
        return self._kept[at] if at in self._kept else self._row(at, float(self.mixture.log_evidence()[at]))

    def log_evidence(self) -> Floats:
        """(F,): ln M, at its peak where an alarm is raised."""
        return np.where(self.is_raised, self._peak, self.mixture.log_evidence())

    def listed(self) -> NDArray[np.bool_]:
        """(F,): the e-d-BH list."""
        return e_d_bh(self.log_evidence(), self.log_limit)

    def _row(self, at: int, log_evidence: float) -> Evidence:
        mixture, events = self.mixture, self.events
        e = mixture.worst(at)
        up = mixture.direction(e)
        rows = float(mixture.of[e])
        share = float(mixture.happened[e] / rows) if rows else float(events.share[e])
        reference = float(events.share[e])
        return Evidence(
            feature=self.names[at],
            side=self.side,
            family=self.family,
            evidence_log10=log_evidence / LOG10,
            limit_log10=self.log_limit / LOG10,
            kind=KINDS[int(events.kind[e])],
            place=int(events.place[e]),
            direction=up,
            share=share,
            reference=reference,
            limit=float(events.high[e] if up > 0 else events.low[e]),
            rows=int(rows),
            effect_h=2.0 * (angle(share) - angle(reference)),
            start_rows=int(mixture.since_rows[e]),
            start_s=float(mixture.since_s[e]),
            mode="share" if mixture.is_share[e] else "count",
            deff=float(events.deff[e]) / float(self._strength[e]),
            is_raised=bool(self.is_raised[at]),
        )

    def _raise(self, at: int, log_evidence: float) -> Evidence | None:
        """The alarm, or None if it is one already: then what it waits for begins anew.

        It waits for the event that speaks loudest at its peak to go back: half of the way from where that event's share
        was to its limit, at least.
        """
        is_new = not self.is_raised[at]
        if log_evidence > self._peak[at]:
            row = self._row(at, log_evidence)
            self.is_raised[at], self._peak[at], self._kept[at] = True, log_evidence, replace(row, is_raised=True)
            e = self.mixture.worst(at)
            limit, share = angle(row.limit), angle(row.share)
            middle = 0.5 * (limit + (max if row.direction > 0 else min)(limit, share))
            shares = share_at(middle - row.direction * 0.5 * _BACK_H)
            null, back = shares[0], shares[1:]
            self._event[at] = e
            self._hit[at] = np.log(back / null) / self.events.deff[e]
            self._miss[at] = (np.log1p(-back) - np.log1p(-null)) / self.events.deff[e]
        self._clear[at] = 0.0
        self.mixture.reset(at)
        return self._kept[at] if is_new else None  # whatever is new is above the peak

    def _clear_some(self, happened: Floats, of: Floats, strength: Floats | None) -> list[Evidence]:
        at = np.flatnonzero(self.is_raised)
        if not len(at):
            return []
        e = self._event[at]
        ratio = happened[e, None] * self._hit[at] + (of - happened)[e, None] * self._miss[at]
        if strength is not None:
            ratio *= strength[e, None]
        self._clear[at] = np.minimum((1.0 + self._clear[at]) * np.exp(np.minimum(ratio, 650.0)), 1e300)
        done = at[np.log(self._clear[at].mean(axis=1) + 1e-300) >= CLEAR_LOG]
        rows = []
        for each in done.tolist():
            self.is_raised[each] = False
            self._peak[each] = -np.inf
            self._kept.pop(each, None)
            self.mixture.reset(each)
            rows.append(self._row(each, float(self.mixture.log_evidence()[each])))
        return rows

    def to_dict(self) -> dict[str, Any]:
        """The whole state as a JSON object."""
        pause()
        return {
            "family": self.family,
            "log_limit": self.log_limit if isfinite(self.log_limit) else None,
            "mixture": {name: pack(array) for name, array in self.mixture.arrays().items()},
            "raised": [
                {
                    "at": at,
                    "event": int(self._event[at]),
                    "hit": self._hit[at].tolist(),
                    "miss": self._miss[at].tolist(),
                    "clear": self._clear[at].tolist(),
                    "evidence": self._kept[at].to_dict(),
                }
                for at in sorted(self._kept)
            ],
            "live": None if self._live is None else self._live.to_dict(),
        }

    def take(self, document: Mapping[str, Any]) -> None:
        """Go on where `to_dict` stood. Raises KeyError, TypeError or ValueError for another state."""
        if document["family"] != self.family:
            raise ValueError(f"the family is {document['family']!r}")
        self.log_limit = inf if document["log_limit"] is None else float(document["log_limit"])
        arrays = self.mixture.arrays()
        self.mixture.restore(
            {
                name: unpack(document["mixture"][name], "<f8", array.size)
                for name, array in arrays.items()
                if name in document["mixture"] or name != "rise"
            }
        )
        self.is_raised[:] = False
        self._peak[:] = -np.inf
        self._kept.clear()
        for item in document["raised"]:
            at, event = int(item["at"]), int(item["event"])
            if not (0 <= at < len(self.names) and 0 <= event < len(self.events)):
                raise ValueError(f"an alarm of feature {at}, event {event}")
            row = Evidence(**item["evidence"])
            self.is_raised[at], self._event[at], self._kept[at] = True, event, row
            self._peak[at] = row.evidence_log10 * LOG10
            self._hit[at], self._miss[at], self._clear[at] = item["hit"], item["miss"], item["clear"]
        if self._live is not None:
            self._live.take(document["live"])
