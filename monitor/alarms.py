"""From looks to alarms: counts each drift once, and does not flap around the limit.

Invariant: an alarm is raised by the first breach and ends only after CLEAR_AFTER looks in a row that pass with room to
spare; a look that could not measure (`unknown`) neither raises nor ends one. So alarms count events, not looks. The
state is a document, stored with the counts that it came from. Touched by the monitor's step alone. Also the shares of
values that are bad in themselves, which need no test.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from monitor.counts import Counts
from monitor.drift import Kind, Measurement
from monitor.profile import ColumnProfile, ReferenceProfile
from registry.errors import StateDamaged
from registry.formats import check_stamp, stamped
from registry.vocabulary import Verdict

CLEAR_AFTER = 3
CLEAR_BELOW = 0.9  # of the limit: a value between this and the limit neither raises an alarm nor ends one

Key = tuple[str, str, str, str]  # kind, feature, statistic, window
Problem = Literal["missing", "infinite", "out_of_range", "unseen", "mistyped"]


@dataclass(frozen=True, slots=True)
class Change:
    """What one look changed: measurements that raised an alarm, and the alarms that ended, with their start."""

    raised: list[Measurement]
    cleared: dict[Key, int]  # → wall_ns when it was raised


@dataclass(slots=True)
class _Active:
    since_ns: int
    quiet: int = 0  # passing looks in a row


class Alarms:
    """The alarms of one version. Bounded by features x statistics x windows."""

    def __init__(self) -> None:
        self.totals: dict[Key, int] = {}  # raised, ever
        self.looked: dict[str, int] = {}  # window → the last slot of time in which it was looked at
        self._active: dict[Key, _Active] = {}

    def update(self, measurements: Iterable[Measurement], wall_ns: int) -> Change:
        """Take one look's measurements."""
        raised, cleared = [], {}
        for m in measurements:
            active = self._active.get(m.key)
            if m.verdict is Verdict.BREACH:
                if active is None:
                    self.totals[m.key] = self.totals.get(m.key, 0) + 1
                    active = self._active[m.key] = _Active(wall_ns)
                    raised.append(m)
                active.quiet = 0
            elif m.verdict is Verdict.PASS and active is not None:
                active.quiet = active.quiet + 1 if m.excess <= CLEAR_BELOW else 0
                if active.quiet >= CLEAR_AFTER:
                    cleared[m.key] = self._active.pop(m.key).since_ns
        return Change(raised, cleared)

    def begin(self, key: Key, wall_ns: int) -> None:
        """An alarm that somebody else decided, and will end."""
        self.totals[key] = self.totals.get(key, 0) + 1
        self._active[key] = _Active(wall_ns)

    def end(self, key: Key) -> int | None:
        """End it → wall_ns when it began; None if it was not up."""
        active = self._active.pop(key, None)
        return None if active is None else active.since_ns

    def end_all_but(self, window: str, kept: Iterable[tuple[str, str, str]]) -> None:
        """Of one window's alarms keep those of these (kind, feature, statistic)."""
        known = set(kept)
        self._active = {key: up for key, up in self._active.items() if key[3] != window or key[:3] in known}

    @property
    def active(self) -> Mapping[Key, int]:
        """Alarms that were raised and have not ended → wall_ns when they were raised."""
        return {key: active.since_ns for key, active in self._active.items()}

    def inputs_in_alarm(self, besides: str) -> list[str]:
        """The inputs that have an alarm, each once, but this one."""
        names = (feature for kind, feature, _, _ in self._active if kind == "input")
        return [name for name in dict.fromkeys(names) if name != besides]

    def keep(self, features: Iterable[tuple[str, str]]) -> None:
        """Forget alarms of what is no (kind, feature) of the profile any more; totals stay."""
        known = set(features)
        self._active = {key: active for key, active in self._active.items() if key[:2] in known}

    def to_dict(self) -> dict[str, Any]:
        """As it is stored."""
        return stamped(
            "alarms",
            {
                "totals": [[*key, n] for key, n in self.totals.items()],
                "active": [[*key, active.since_ns, active.quiet] for key, active in self._active.items()],
                "looked": self.looked,
            },
        )

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Alarms:
        """Raises StateDamaged or FormatTooNew."""
        check_stamp("alarms", document)
        alarms = cls()
        try:
            alarms.looked = {str(window): int(slot) for window, slot in document["looked"].items()}
            for kind, feature, statistic, window, n in document["totals"]:
                alarms.totals[str(kind), str(feature), str(statistic), str(window)] = int(n)
            for kind, feature, statistic, window, since_ns, quiet in document["active"]:
                key = (str(kind), str(feature), str(statistic), str(window))
                alarms._active[key] = _Active(int(since_ns), int(quiet))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StateDamaged(f"stored alarms cannot be read: {error!r}") from None
        return alarms


@dataclass(frozen=True, slots=True)
class QualityRatio:
    """The share of a column's rows with one problem, 0 to 1. `infinite` values are also out of range."""

    feature: str
    kind: Kind
    problem: Problem
    ratio: float


def quality(profile: ReferenceProfile, inputs: Counts | None, outputs: Counts | None) -> list[QualityRatio]:
    """Every column's problems over the rows counted; nothing for a side without rows."""
    found: list[QualityRatio] = []
    sides: tuple[tuple[Kind, tuple[ColumnProfile, ...], Counts | None], ...] = (
        ("input", profile.inputs, inputs),
        ("output", profile.outputs, outputs),
    )
    for kind, columns, counts in sides:
        if counts is None or counts.rows == 0:
            continue
        for at, column in enumerate(columns):
            own = counts.of(at)
            problems: dict[Problem, int] = {"missing": int(counts.missing[at]), "infinite": int(counts.infinite[at])}
            if column.bins.kind == "number":
                if len(own) > 1:
                    problems["out_of_range"] = int(own[0] + own[-1])
            elif column.complete:
                problems["unseen"] = int(own[-1])
            if column.bins.whole:
                problems["mistyped"] = int(counts.mistyped[at])
            found.extend(QualityRatio(column.name, kind, name, n / counts.rows) for name, n in problems.items())
    return found
