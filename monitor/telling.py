"""What is told when drift is seen and when it is over: events with a plain sentence, and the evidence beside it.

Invariant: a sentence names only what was measured, and the event carries the numbers that it was made of. Pure. Called
by `monitor/live.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monitor.alarms import Key as AlarmKey
from monitor.drift import Measurement, ranked
from monitor.profile import ReferenceProfile
from monitor.store import Told
from monitor.windows import Window

MOST_FEATURES = 100  # named in an event
MOST_EVIDENCE = 5  # measurements in an event


def alarm_event(
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
        f"{first.statistic} is {first.value:.3g}, its limit {first.threshold:.3g}."
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


def clearing_event(key: tuple[str, int], cleared: Mapping[AlarmKey, int], wall_ns: int) -> Told:
    """Alarms ended: each with the time when it was raised."""
    model, version = key
    features = names(feature for _, feature, _, _ in cleared)
    lasted_s = round((wall_ns - min(cleared.values())) / 1e9)
    which = features[0] + (f" and {len(features) - 1} more" if len(features) > 1 else "")
    verb = "is" if len(features) == 1 else "are"
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
