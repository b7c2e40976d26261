"""What is told when drift is seen and when it is over: events with a plain sentence, and the evidence beside it.

Invariant: a sentence names only what was measured, and the event carries the numbers that it was made of. Pure. Called
by `monitor/live.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor.alarms import Key as AlarmKey
from monitor.block import Rows
from monitor.counts import Counts
from monitor.drift import Measurement, ranked
from monitor.explain import Explanation, Sample, explain, names_of
from monitor.histograms import histogram
from monitor.profile import ColumnProfile, ReferenceProfile
from monitor.store import Told
from monitor.suspect import Attribution, Suspect
from monitor.together_watch import NAME
from monitor.watch import Evidence
from monitor.windows import Window
from registry.clock import rfc3339

MOST_FEATURES = 100  # named in an event
MOST_EVIDENCE = 5  # measurements in an event
MOST_REQUESTS = 5


def look_event(
    key: tuple[str, int], profile: ReferenceProfile, window: Window, name: str, raised: Sequence[Measurement]
) -> Told:
    """Drift was seen in this window: `raised` is what breached."""
    model, version = key
    found = ranked(raised)
    first = found[0]
    features = names(m.feature for m in found)
    others = f" and {len(features) - 1} more" if len(features) > 1 else ""
    sentence = (
        f"{first.kind.capitalize()} {first.feature}{others} of version {version} moved in the last {name}: "
        f"{first.statistic} is {first.value:.3g}, its limit {first.threshold:.3g}. "
        f"{_explained(profile, window, first).sentence}"
    )
    data: dict[str, Any] = {
        "sentence": sentence,
        "window": name,
        "rows": window.rows,
        "profile": profile.digest,
        "features": features[:MOST_FEATURES],
        "measurements": [m.to_dict() for m in found[:MOST_EVIDENCE]],
    }
    return Told("drift.alarm", model, version, data)


def _explained(profile: ReferenceProfile, window: Window, first: Measurement) -> Explanation:
    columns, counts = (profile.inputs, window.inputs) if first.kind == "input" else (profile.outputs, window.outputs)
    at, column = next((at, column) for at, column in enumerate(columns) if column.name == first.feature)
    before, now = Sample.expected(column, column.rows), Sample.of(counts, at)
    return explain(column.bins, before, now, name=names_of(column), deff=column.deff, noun=column.noun)


def stream_event(
    key: tuple[str, int],
    profile: ReferenceProfile,
    raised: Sequence[Evidence],
    counts: tuple[Counts, Counts],
    sample: Rows | None,
) -> Told:
    """A fast detector raised alarms on these counts; `sample` are some of the rows in them."""
    model, version = key
    found = sorted(raised, key=lambda row: row.limit_log10 - row.evidence_log10)
    features = names(row.feature for row in found)
    first = found[0]
    others = f" {len(features) - 1} more moved too." if len(features) > 1 else ""
    at, column = _column(profile, first)
    sentence = f"{first.side.capitalize()} {first.feature} of version {version} moved: {moved(column, first)}.{others}"
    live = counts[0] if first.side == "input" else counts[1]
    data: dict[str, Any] = {
        "sentence": sentence,
        "window": "fast",
        "rows": first.rows,
        "profile": profile.digest,
        "features": features[:MOST_FEATURES],
        "started_at": rfc3339(round(first.start_s * 1e9)),
        "evidence": [row.to_dict() for row in found[:MOST_EVIDENCE]],
        "histogram": histogram(column, column.rows, live, at),
        "first_requests": [] if sample is None else first_requests(sample, first, column, at),
    }
    return Told("drift.alarm", model, version, data)


def _column(profile: ReferenceProfile, row: Evidence) -> tuple[int, ColumnProfile]:
    columns = profile.inputs if row.side == "input" else profile.outputs
    return next((at, column) for at, column in enumerate(columns) if column.name == row.feature)


def moved(column: ColumnProfile, row: Evidence) -> str:
    """What a detector's event did, in words."""
    if row.kind == "edge" and row.direction < 0:  # said of the other side, which grew
        edge = column.bins.edges[row.place]
        return f"{column.noun} from {edge:.4g} on rose from {1.0 - row.reference:.2%} to {1.0 - row.share:.2%} of rows"
    verb = "rose" if row.direction > 0 else "fell"
    return f"{event_words(column, row)} {verb} from {row.reference:.2%} to {row.share:.2%} of rows"


def event_words(column: ColumnProfile, row: Evidence) -> str:
    """What a detector's event is, in words."""
    edges, values = column.bins.edges, column.bins.values
    match row.kind:
        case "missing":
            return "missing values"
        case "infinite":
            return "infinite values"
        case "mistyped":
            return "values of another type"
        case "unseen" | "other":
            return "other categories"
        case "category":
            return "a category" if column.hashed else f"category {values[row.place]:g}"
        case "below_range":
            return f"{column.noun} below {edges[0]:.4g}"
        case "above_range":
            return f"{column.noun} from {edges[-1]:.4g} on"
        case "edge":
            return f"{column.noun} below {edges[row.place]:.4g}"
        case _:
            return f"{column.noun} from {edges[row.place - 1]:.4g} to {edges[row.place]:.4g}"


def first_requests(sample: Rows, row: Evidence, column: ColumnProfile, at: int) -> list[str]:
    """Hashes of the first requests among these rows where the event happened, or did not, if it came less often.

    A hash is BLAKE2b of the request id, 16 bytes, in hex.
    """
    values = np.asarray(sample["features" if row.side == "input" else "outputs"][:, at], np.float64)
    chosen = _happened(values, row, column)
    if row.direction < 0:
        chosen = ~chosen & ~np.isnan(values)
    happened = np.flatnonzero(chosen)[:MOST_REQUESTS]
    pairs = zip(sample["hash0"][happened].tolist(), sample["hash1"][happened].tolist(), strict=True)
    return [(low.to_bytes(8, "little") + high.to_bytes(8, "little")).hex() for low, high in pairs]


def _happened(values: NDArray[np.float64], row: Evidence, column: ColumnProfile) -> NDArray[np.bool_]:
    if row.kind == "missing":
        return np.isnan(values)
    if row.kind == "infinite":
        return np.isinf(values)
    if row.kind == "mistyped":
        return np.asarray(np.isfinite(values) & (values != np.floor(values)), np.bool_)
    if column.bins.kind == "category":
        known = np.isin(values, column.bins.values)
        return values == column.bins.values[row.place] if row.kind == "category" else ~known & ~np.isnan(values)
    place = np.searchsorted(column.bins.edges, values, side="right")
    return (place <= row.place if row.kind == "edge" else place == row.place) & ~np.isnan(values)


def with_suspect(alarm: Told, found: Attribution) -> Told:
    """The alarm, told while two versions are in traffic: whether the world changed or the release broke."""
    data = {**alarm.data, "suspect": {"suspect": found.suspect.value, "sentence": found.sentence}}
    if found.suspect in (Suspect.WORLD, Suspect.RELEASE, Suspect.UPSTREAM):
        data["sentence"] = f"{alarm.data['sentence']} {found.sentence}"
    return replace(alarm, data=data)


def clearing_event(key: tuple[str, int], cleared: Mapping[AlarmKey, int], wall_ns: int) -> Told:
    """Alarms ended: each with the time when it was raised."""
    model, version = key
    features = names(feature for _, feature, _, _ in cleared)
    lasted_s = round((wall_ns - min(cleared.values())) / 1e9)
    which = features[0] + (f" and {len(features) - 1} more" if len(features) > 1 else "")
    verb = "is" if len(features) == 1 and features[0] != NAME else "are"
    data = {
        "sentence": f"{which} of version {version} {verb} like the reference again, after {_duration(lasted_s)}.",
        "features": features[:MOST_FEATURES],
        "ended": [
            {"kind": kind, "feature": feature, "statistic": statistic, "window": window}
            for kind, feature, statistic, window in list(cleared)[:MOST_FEATURES]
        ],
    }
    return Told("drift.cleared", model, version, data)


def names(features: Any) -> list[str]:
    """Each once, in order."""
    return list(dict.fromkeys(features))


def _duration(seconds: int) -> str:
    """In the two largest units.

    >>> _duration(59), _duration(3725), _duration(200_000)
    ('59 s', '1 h 2 min', '2 d 7 h')
    """
    for unit, size, below, below_size in (("d", 86_400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            rest = seconds % size // below_size
            return f"{seconds // size} {unit}" + (f" {rest} {below}" if rest else "")
    return f"{seconds} s"
