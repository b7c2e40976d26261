"""Drift as the API shows it: measurements, the histograms behind them, and the alarms that are up.

Why beside the monitor: an answer for a model of a thousand columns takes a quarter of a second to make, so what it is
made of is taken under the monitor's lock, in milliseconds, and the answer is made after. Invariant: a view owns what it
holds and changes nothing; asking raises no alarm. Called by `resources.py`, on the HTTP server's threads.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monitor.alarms import Key as AlarmKey
from monitor.counts import Counts
from monitor.drift import Measurement, ranked
from monitor.explain import Sample, explain, names_of
from monitor.histograms import histogram
from monitor.live import FAST, VersionLive
from monitor.looks import Look
from monitor.profile import ColumnProfile, ReferenceProfile
from monitor.score_streams import StreamView
from monitor.suspect import Standing, attribute
from monitor.telling import event_words
from monitor.together_telling import together_sentence, what_moved
from monitor.together_watch import NAME
from monitor.watch import Evidence
from registry.clock import rfc3339
from registry.errors import MalformedRequest
from registry.vocabulary import Cause, Verdict

MOST_HISTOGRAMS = 100
_DURATION = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LONGEST_S = 7 * 86_400


@dataclass(frozen=True, slots=True)
class TogetherView:
    """What is known of a version's inputs together: of the sampled rows, which are this share of all."""

    columns: int
    rate: float
    rows: int
    evidence: Sequence[Evidence]  # one for each statistic, the strongest first
    moved: Mapping[str, Any]
    sentence: str

    @classmethod
    def of(cls, known: VersionLive) -> TogetherView | None:
        """None without a profile that knows how they go together."""
        stream, alone = known.stream.together, known.alarms.inputs_in_alarm(NAME)
        if stream is None:
            return None
        detector, profile = stream.detector, known.profile
        return cls(
            len(detector.together.questions.used),
            stream.sample.rate,
            stream.sampled,
            detector.evidence(),
            what_moved(profile, detector),
            together_sentence(profile, detector, alone),
        )


@dataclass(frozen=True, slots=True)
class VersionView:
    """One version's part of an answer."""

    version: int
    profile: ReferenceProfile
    look: Look
    alarms: Mapping[AlarmKey, int]  # → wall_ns since when
    evidence: Sequence[Evidence]  # of the fast detectors, the strongest first
    scores: Sequence[StreamView] = ()
    together: TogetherView | None = None


@dataclass(frozen=True, slots=True)
class DriftView:
    """What `GET models/{m}/drift` is made of."""

    versions: Sequence[VersionView] = ()
    rollout: tuple[int, int] | None = None  # champion and candidate, while one runs

    def to_json(self, most: int | None = None) -> dict[str, Any]:
        """The answer: at most so many measurements, the worst first, and their columns' histograms."""
        found = [(view, m) for view in self.versions for m in view.look.finish()]
        by_measurement = {id(m): view for view, m in found}
        worst = ranked(m for _, m in found)[:most]
        return {
            "items": [{"version": by_measurement[id(m)].version, **m.to_dict()} for m in worst],
            "next": None,
            "fast": [evidence_json(view, row) for view, row in self._strongest()[:most]],
            "multivariate": [together_json(view) for view in self.versions],
            "features": self._features([(by_measurement[id(m)], m) for m in worst]),
            "alarms": [alarm_json(view.version, key, ns) for view in self.versions for key, ns in view.alarms.items()],
            "suspect": self._suspect(),
            "scores": [score_json(view.version, seen) for view in self.versions for seen in view.scores],
            "windows": [window_json(view) for view in self.versions],
        }

    def _strongest(self) -> list[tuple[VersionView, Evidence]]:
        rows = [(view, row) for view in self.versions for row in view.evidence]
        rows += [(view, row) for view in self.versions if view.together for row in view.together.evidence]
        return sorted(rows, key=lambda pair: (not pair[1].rows, pair[1].limit_log10 - pair[1].evidence_log10))

    @staticmethod
    def _features(found: Sequence[tuple[VersionView, Measurement]]) -> list[dict[str, Any]]:
        wanted = list(dict.fromkeys((view.version, m.kind, m.feature) for view, m in found))[:MOST_HISTOGRAMS]
        views = {view.version: view for view, _ in found}
        shown = []
        for version, kind, feature in wanted:
            column, counts, at = _column(views[version], kind, feature)
            drawn = histogram(column, column.rows, counts, at)
            reference, now = Sample.expected(column, column.rows), Sample.of(counts, at)
            told = explain(column.bins, reference, now, name=names_of(column), deff=column.deff, noun=column.noun)
            shown.append({"version": version, "kind": kind, "feature": feature, **told.to_dict(), "histogram": drawn})
        return shown

    def _suspect(self) -> dict[str, str] | None:
        """World or release, while a rollout compares two versions."""
        if self.rollout is None:
            return None
        champion, candidate = self.rollout
        views = {view.version: view.look.finish() for view in self.versions}
        if champion not in views or candidate not in views:
            return None
        together = [
            Standing(NAME, Verdict.BREACH)
            for view in self.versions
            if view.version == champion and any(alarm[:2] == ("input", NAME) for alarm in view.alarms)
        ]
        found = attribute(
            [*(m for m in views[champion] if m.kind == "input"), *together],
            [m for m in views[champion] if m.kind == "output"],
            [m for m in views[candidate] if m.kind == "output"],
        )
        return {"suspect": found.suspect.value, "sentence": found.sentence}


def _column(view: VersionView, kind: str, feature: str) -> tuple[ColumnProfile, Counts, int]:
    window, profile = view.look.window, view.profile
    columns, counts = (profile.inputs, window.inputs) if kind == "input" else (profile.outputs, window.outputs)
    at = next(at for at, column in enumerate(columns) if column.name == feature)
    return columns[at], counts, at


def evidence_json(view: VersionView, row: Evidence) -> dict[str, Any]:
    """A fast detector's word on one feature: value and threshold are Cohen's h of the event that adds most to it."""
    columns = view.profile.inputs if row.side == "input" else view.profile.outputs
    column = next((column for column in columns if column.name == row.feature), None)
    verdict = Verdict.BREACH if row.is_raised else Verdict.PASS if row.rows else Verdict.UNKNOWN
    return {
        "version": view.version,
        "feature": row.feature,
        "kind": row.side,
        "statistic": row.family,
        "value": abs(row.effect_h),
        "threshold": cohens_h(row.limit, row.reference),
        "rows": row.rows,
        "window": FAST,
        "verdict": verdict.value,
        "cause": Cause.NO_TRAFFIC.value if verdict is Verdict.UNKNOWN else None,
        "profile": view.profile.digest,
        "evidence_log10": row.evidence_log10,
        "limit_log10": row.limit_log10 if math.isfinite(row.limit_log10) else None,
        "event": _EVENTS[row.family] if row.family in _EVENTS or column is None else event_words(column, row),
        "direction": row.direction,
        "share": row.share,
        "reference": row.reference,
        "limit": row.limit,
        "started_at": rfc3339(round(row.start_s * 1e9)) if row.rows else None,
        "mode": row.mode,
        "deff": row.deff,
    }


_EVENTS = {
    "pairs": "two columns lie alike",
    "reconstruction": "what the reference's principal components leave unexplained",
    "mmd": "a random Fourier feature",
}


def together_json(view: VersionView) -> dict[str, Any]:
    """How a version's inputs go together: what moved most, of which sample; or why nobody can tell."""
    seen = view.together
    if seen is None:
        why = (
            "its profile says nothing of it: it was made by an older release, from counts, or of fewer than 1,000 rows "
        )
        return {"version": view.version, "feature": NAME, "enabled": False, "reason": why + "or two columns that vary"}
    up = any(alarm[:2] == ("input", NAME) for alarm in view.alarms)
    verdict = Verdict.BREACH if up else Verdict.PASS if any(row.rows for row in seen.evidence) else Verdict.UNKNOWN
    return {
        "version": view.version,
        "feature": NAME,
        "enabled": True,
        "verdict": verdict.value,
        "cause": Cause.NO_TRAFFIC.value if verdict is Verdict.UNKNOWN else None,
        "columns_watched": seen.columns,
        "sample_ratio": seen.rate,
        "sampled_rows": seen.rows,
        "sentence": seen.sentence if up else None,
        **seen.moved,
    }


def alarm_json(version: int, key: AlarmKey, since_ns: int) -> dict[str, Any]:
    """An alarm that is up."""
    kind, feature, statistic, window = key
    return {
        "version": version,
        "kind": kind,
        "feature": feature,
        "statistic": statistic,
        "window": window,
        "since": rfc3339(since_ns),
    }


def score_json(version: int, seen: StreamView) -> dict[str, Any]:
    """A stream of scores or losses as ADWIN and Page-Hinkley see it: a picture that promises no run length."""
    return {
        "version": version,
        "role": str(seen.role),
        "output": seen.output,
        "stream": seen.kind,
        "rows": seen.rows,
        "skipped": seen.skipped,
        "mean": seen.mean,
        "window_rows": seen.window_rows,
        "changes": [
            {"detector": detector, "count": count, "last_at": rfc3339(wall_ns) if wall_ns else None}
            for detector, (count, wall_ns) in seen.changes.items()
        ],
    }


def window_json(view: VersionView) -> dict[str, Any]:
    """Which span of time was added up: it begins with a whole tile, so somewhat earlier than asked for."""
    window = view.look.window
    return {
        "version": view.version,
        "window": view.look.name,
        "since": rfc3339(window.since_s * 1_000_000_000),
        "until": rfc3339(window.until_s * 1_000_000_000),
        "rows": window.rows,
        "errors": window.errors,
        "profile": view.profile.digest,
    }


def cohens_h(share: float, reference: float) -> float:
    """The distance of two shares, in Cohen's h.

    >>> round(cohens_h(0.6, 0.5), 3)
    0.201
    """
    return abs(2.0 * (math.asin(math.sqrt(min(share, 1.0))) - math.asin(math.sqrt(min(reference, 1.0)))))


def seconds_of(text: str) -> int:
    """A duration as the API takes it.

    >>> seconds_of("5m")
    300
    """
    match = _DURATION.fullmatch(text)
    seconds = int(match[1]) * _UNIT_S[match[2]] if match else 0
    if not 0 < seconds <= _LONGEST_S:
        raise MalformedRequest(f"a window is a duration like 5m or 1h, at most 7d, got {text[:20]!r}")
    return seconds
