"""Drift of live traffic: looks at windows of every version that is followed, alarms, and what is told of them.

Why: one place turns counts into alarms, so that the one false-alarm budget is divided by everything that is looked at.
Invariants: an alarm, its event and the state that remembers it are stored in the transaction that stores the counts
which raised it, so a controller killed at any moment tells each alarm once and forgets none; a judgement takes
milliseconds, and a wide look goes on in the next one. Called by the monitor, in its thread.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from monitor.alarms import Alarms, QualityRatio, quality
from monitor.alarms import Key as AlarmKey
from monitor.block import Rows
from monitor.counts import Counts
from monitor.drift import Measurement, count_of_tests, worst
from monitor.lane_file import LaneHeader
from monitor.looks import LOOK_EVERY_S, LOOKS_PER_MONTH, WINDOWS, Look, Slices
from monitor.profile import ReferenceProfile
from monitor.settings import MonitorSettings
from monitor.store import MonitorStore, StateKey, Told
from monitor.telling import alarm_event, clearing_event
from monitor.windows import Window
from registry.clock import Clock
from registry.errors import FormatTooNew, StateDamaged
from registry.vocabulary import Role

logger = logging.getLogger(__name__)

ROLES = (Role.CHAMPION, Role.CANARY, Role.SHADOW)  # not direct: somebody's experiments are not the traffic
JUDGE_S = 0.01  # of looking at windows in one judgement
LEVEL_SHARE = 0.1  # of the false-alarm budget

Key = tuple[str, int]
WindowOf = Callable[[str, int, int, Iterable[str]], Window | None]  # model, version, seconds, roles


@dataclass
class VersionLive:
    """What is known of one followed version."""

    profile: ReferenceProfile
    slices: Slices
    alarms: Alarms
    looks: dict[str, list[Measurement]] = field(default_factory=dict)  # window → the last look's measurements
    quality: list[QualityRatio] = field(default_factory=list)
    due_s: dict[str, float] = field(default_factory=dict)  # window → when to look again
    look: Look | None = None  # the one that goes on

    def worst(self, features: int) -> list[Measurement]:
        """Every measurement of the features that moved most, over all windows."""
        return worst([found for look in self.looks.values() for found in look], features)

    def worst_quality(self, features: int) -> list[QualityRatio]:
        """The worst features' shares of bad values."""
        order = sorted(self.quality, key=lambda found: -found.ratio)
        kept = set(list(dict.fromkeys((found.kind, found.feature) for found in order))[:features])
        return [found for found in self.quality if (found.kind, found.feature) in kept]


class Live:
    """All versions' drift. One thread."""

    def __init__(self, store: MonitorStore, settings: MonitorSettings, clock: Clock, window_of: WindowOf) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._window_of = window_of
        self._dirty: set[StateKey] = set()
        self._events: list[Told] = []
        self.versions: dict[Key, VersionLive] = {}

    # -- what is followed ------------------------------------------------------------------------------------------

    def follow(self, profiles: Mapping[Key, ReferenceProfile]) -> None:
        """These versions, with these profiles, from now on. Goes on from what was stored."""
        for gone in [key for key in self.versions if key not in profiles]:
            del self.versions[gone]
        for key, profile in profiles.items():
            known = self.versions.get(key)
            if known is None or known.profile.digest != profile.digest:
                self.versions[key] = VersionLive(profile, Slices(profile), self._restored(key, profile))

    def _restored(self, key: Key, profile: ReferenceProfile) -> Alarms:
        document = self._store.states(*key).get("alarms")
        try:
            alarms = Alarms() if document is None else Alarms.from_dict(json.loads(document))
        except (StateDamaged, ValueError) as error:
            logger.warning("the alarms of %s:%d begin anew: %s", *key, error)
            return Alarms()
        except FormatTooNew as error:
            logger.warning("the alarms of %s:%d are left alone: %s", *key, error)
            return Alarms()
        sides = (("input", profile.inputs), ("output", profile.outputs))
        alarms.keep((kind, column.name) for kind, columns in sides for column in columns)
        return alarms

    @property
    def features_shown(self) -> int:
        """Features of a version that metrics have room for."""
        return self._settings.features_shown

    def level(self) -> float:
        """The false-alarm probability of one test, so that a month expects this share of the budget over all looks."""
        tests = sum(count_of_tests(known.profile) for known in self.versions.values())
        budget = max(self._settings.false_alarms_per_month, 1e-6) * LEVEL_SHARE
        return min(budget / max(LOOKS_PER_MONTH * tests, 1.0), 0.05)

    # -- the monitor's listener ------------------------------------------------------------------------------------

    def counted(self, header: LaneHeader, rows: Rows, inputs: Counts, outputs: Counts) -> None:
        """Rows of a version were counted."""

    def judge(self, now_s: float) -> None:
        """Look at windows that are due, the longest waiting first, for a bounded time."""
        until_s = self._clock.now_s() + JUDGE_S
        while self._clock.now_s() < until_s:
            found = self._next(now_s)
            if found is None:
                return
            key, known = found
            assert known.look is not None
            if not known.look.go_on():
                self._finish(key, known, known.look)
                known.look = None

    def _next(self, now_s: float) -> tuple[Key, VersionLive] | None:
        """The look that goes on, or else a new one."""
        for key, known in self.versions.items():
            if known.look is not None:
                return key, known
        waiting = [
            (known.due_s.setdefault(name, now_s), seconds, key, name)
            for key, known in self.versions.items()
            for name, seconds in WINDOWS.items()
            if known.due_s.get(name, now_s) <= now_s
        ]
        for _, _, key, name in sorted(waiting):
            known = self.versions[key]
            known.due_s[name] = now_s + LOOK_EVERY_S[name]
            window = self._window_of(*key, WINDOWS[name], ROLES)
            if window is not None and window.rows:
                known.look = Look(known.slices, window, name, self.level())
                return key, known
        return None

    def _finish(self, key: Key, known: VersionLive, look: Look) -> None:
        known.looks[look.name] = look.found
        if look.name == next(iter(WINDOWS)):
            known.quality = quality(known.profile, look.window.inputs, look.window.outputs)
        before = columns_in(known.alarms.active)
        change = known.alarms.update(look.found, self._clock.wall_ns())
        after = columns_in(known.alarms.active)
        if change.raised or change.cleared or before:
            self._dirty.add((*key, "alarms"))
        # The same drift soon breaches in longer windows too, and ends last in the longest: it is told once.
        raised = [m for m in change.raised if m.key[:2] not in before]
        cleared = {alarm: since_ns for alarm, since_ns in change.cleared.items() if alarm[:2] not in after}
        if raised:
            self._events.append(alarm_event(key, known.profile, look.window, look.name, raised))
        if cleared:
            self._events.append(clearing_event(key, cleared, self._clock.wall_ns()))

    def unsaved(self) -> tuple[Mapping[StateKey, bytes], Sequence[Told]]:
        """Alarms that changed, and events, to be stored with the counts that they came from."""
        states = {
            (model, version, name): json.dumps(self.versions[model, version].alarms.to_dict()).encode()
            for model, version, name in self._dirty
            if (model, version) in self.versions
        }
        return states, list(self._events)

    def saved(self) -> None:
        """What `unsaved` gave is in the database now."""
        self._dirty.clear()
        self._events.clear()


def columns_in(alarms: Iterable[AlarmKey]) -> set[tuple[str, str]]:
    """The (kind, feature) of alarms."""
    return {(kind, feature) for kind, feature, _, _ in alarms}
