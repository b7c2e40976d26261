"""Looking for drift: which windows are compared with which profile, how often, and what is told when one alarms.

Invariant: the false-alarm budget of a model's month is divided by every look that is made at every version and window,
so more looks never mean more false alarms. One window of one version is looked at per step, so that a step stays
short. Called by `monitoring.py`, on the monitor's thread.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from monitor.alarms import Alarms, QualityRatio, quality
from monitor.drift import MONTH_S, Measurement, level_per_test, measure, ranked, worst
from monitor.profile import ReferenceProfile
from monitor.settings import MonitorSettings
from monitor.windows import Window
from registry.errors import MalformedRequest
from registry.vocabulary import Role

WINDOWS: Mapping[str, int] = {"5m": 300, "1h": 3600}
LOOK_EVERY_S: Mapping[str, float] = {"5m": 15.0, "1h": 60.0}  # a window moves little in a twentieth of its length
ROLES = (Role.CHAMPION, Role.CANARY, Role.SHADOW)  # not direct: somebody's experiments are not the traffic
TOLD_FEATURES = 5
_DURATION = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LONGEST_S = 7 * 86_400

Key = tuple[str, int]
WindowOf = Callable[[str, int, int], Window | None]  # model, version, seconds
Tell = Callable[[str, int, dict[str, Any]], None]


@dataclass(slots=True)
class VersionDrift:
    """The last look at each window of one version."""

    alarms: Alarms = field(default_factory=Alarms)
    looks: dict[str, list[Measurement]] = field(default_factory=dict)  # window → measurements
    quality: list[QualityRatio] = field(default_factory=list)


class Drifting:
    """All versions' drift. One thread at a time."""

    def __init__(self, settings: MonitorSettings, window_of: WindowOf, tell: Tell) -> None:
        self._settings = settings
        self._window_of = window_of
        self._tell = tell
        self._due_s: dict[tuple[str, int, str], float] = {}
        self.versions: dict[Key, VersionDrift] = {}

    def step(self, profiles: Mapping[Key, ReferenceProfile], now_s: float) -> None:
        """Look at one window that is due, the longest waiting first; forget versions that went."""
        for gone in [key for key in self.versions if key not in profiles]:
            del self.versions[gone]
        self._due_s = {key: at for key, at in self._due_s.items() if key[:2] in profiles}
        for model, version in profiles:
            for name in WINDOWS:
                self._due_s.setdefault((model, version, name), now_s)
        if not self._due_s:
            return
        (model, version, name), due_s = min(self._due_s.items(), key=lambda item: item[1])
        if now_s < due_s:
            return
        self._due_s[model, version, name] = now_s + LOOK_EVERY_S[name]
        self._look(model, version, name, profiles[model, version])

    def _look(self, model: str, version: int, name: str, profile: ReferenceProfile) -> None:
        window = self._window_of(model, version, WINDOWS[name])
        if window is None or window.rows == 0:
            return
        found = self._measure(profile, window, name)
        seen = self.versions.setdefault((model, version), VersionDrift())
        seen.looks[name] = found
        if name == next(iter(WINDOWS)):
            seen.quality = quality(profile, window.inputs, window.outputs)
        raised = ranked(seen.alarms.update(found))
        if raised:
            self._tell(model, version, _alarm(version, name, raised))

    def _measure(self, profile: ReferenceProfile, window: Window, name: str) -> list[Measurement]:
        looks = sum(MONTH_S / pause_s for pause_s in LOOK_EVERY_S.values())
        level = level_per_test(profile, self._settings.false_alarms_per_month, looks)
        return measure(profile, window.inputs, window.outputs, window=name, level=level)

    def now(self, model: str, version: int, profile: ReferenceProfile, name: str) -> list[Measurement]:
        """One look at a window of any length, for an answer; raises no alarm. Raises MalformedRequest."""
        window = self._window_of(model, version, seconds_of(name))
        return [] if window is None else ranked(self._measure(profile, window, name))

    def shown(self, key: Key) -> list[Measurement]:
        """The measurements that /metrics has room for."""
        seen = self.versions.get(key)
        if seen is None:
            return []
        listed = [found for look in seen.looks.values() for found in look]
        return worst(listed, self._settings.features_shown)

    def shown_quality(self, key: Key) -> list[QualityRatio]:
        """The worst features' shares of bad values."""
        seen = self.versions.get(key)
        if seen is None:
            return []
        order = sorted(seen.quality, key=lambda found: -found.ratio)
        kept = dict.fromkeys((found.kind, found.feature) for found in order)
        names = set(list(kept)[: self._settings.features_shown])
        return [found for found in seen.quality if (found.kind, found.feature) in names]


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


def _alarm(version: int, window: str, raised: Sequence[Measurement]) -> dict[str, Any]:
    first = raised[0]
    features = list(dict.fromkeys(found.feature for found in raised))
    others = f" and {len(features) - 1} more" if len(features) > 1 else ""
    sentence = (
        f"{first.kind.capitalize()} {first.feature}{others} of version {version} moved in the last {window}: "
        f"{first.statistic} is {first.value:.3g}, its limit {first.threshold:.3g}."
    )
    told = [found.to_dict() for found in raised[:TOLD_FEATURES]]
    return {"sentence": sentence, "window": window, "features": features[:100], "measurements": told}
