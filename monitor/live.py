"""Drift of live traffic: fast detectors and looks at windows of every version that is followed, alarms, and events.

Why: one place turns counts into alarms, so that the one false-alarm budget is divided by everything that is looked at.
Invariants: an alarm, its event and the state that remembers it are stored in the transaction that stores the counts
which raised it, so a controller killed at any moment tells each alarm once and forgets none; a judgement takes
milliseconds, and a wide look goes on in the next one. Called by the monitor, in its thread.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field

from monitor.alarms import Alarms, QualityRatio, quality
from monitor.alarms import Key as AlarmKey
from monitor.block import Rows
from monitor.budget import Budget, Spender, evaluations_in
from monitor.counts import Counts
from monitor.detectors import Limits
from monitor.drift import MONTH_S, Measurement, count_of_tests, worst
from monitor.events import Family
from monitor.lane_file import LaneHeader
from monitor.looks import LOOK_EVERY_S, LOOKS_PER_MONTH, WINDOWS, Look, Slices
from monitor.profile import ReferenceProfile
from monitor.settings import MonitorSettings
from monitor.store import MonitorStore, StateKey, Told
from monitor.stream import Stream
from monitor.telling import clearing_event, look_event, stream_event
from monitor.windows import Window
from registry.clock import Clock
from registry.errors import FormatTooNew, StateDamaged
from registry.vocabulary import Role

logger = logging.getLogger(__name__)

ROLES = (Role.CHAMPION, Role.CANARY, Role.SHADOW)  # not direct: somebody's experiments are not the traffic
JUDGE_S = 0.01  # of looking at windows in one judgement
FAST = "fast"  # the window of an alarm that a fast detector raised
SAMPLE_ROWS = 512  # of those that wait for an evaluation: an alarm names requests among them

SPENDERS: tuple[Spender, ...] = ("inputs", "outputs", "quality", "level")  # what runs here shares the whole budget

Key = tuple[str, int]
WindowOf = Callable[[str, int, int, Iterable[str]], Window | None]  # model, version, seconds, roles


@dataclass
class VersionLive:
    """What is known of one followed version."""

    profile: ReferenceProfile
    slices: Slices
    alarms: Alarms
    stream: Stream
    sample: Rows | None = None  # the first rows that wait for an evaluation
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

    def __init__(
        self,
        store: MonitorStore,
        settings: MonitorSettings,
        clock: Clock,
        window_of: WindowOf,
        executor: Executor | None = None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._window_of = window_of
        self._executor = executor or ThreadPoolExecutor(1, "pack")
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
                self.versions[key] = self._resumed(key, profile)
        self._set_limits()

    def _resumed(self, key: Key, profile: ReferenceProfile) -> VersionLive:
        stored = self._store.states(*key)
        sides = (("input", profile.inputs), ("output", profile.outputs))
        alarms, stream = Alarms(), Stream(profile, self._executor)
        try:
            if "alarms" in stored:
                alarms = Alarms.from_dict(json.loads(stored["alarms"]))
                alarms.keep((kind, column.name) for kind, columns in sides for column in columns)
            stream.restore(stored)
        except (StateDamaged, FormatTooNew, ValueError) as error:
            logger.warning("the detectors of %s:%d begin anew: %s", *key, error)
            stream = Stream(profile, self._executor)
        alarms.end_all_but(FAST, [(row.side, row.feature, row.family) for row in stream.active()])
        return VersionLive(profile, Slices(profile), alarms, stream)

    def _set_limits(self) -> None:
        """Share the budget out: every feature of every version is evaluated once a second at most."""
        budget = Budget(max(self._settings.false_alarms_per_month, 1e-6)).among(SPENDERS)
        most = evaluations_in(MONTH_S)
        streams = [known.stream.detectors for known in self.versions.values()]

        def evaluations(side: int, family: Family) -> float:
            return sum(pair[side].evaluations_of(family, math.inf, most) for pair in streams)

        quality = budget.log_threshold("quality", evaluations(0, "quality") + evaluations(1, "quality"))
        self.limits = (
            Limits(budget.log_threshold("inputs", evaluations(0, "shape")), quality),
            Limits(budget.log_threshold("outputs", evaluations(1, "shape")), quality),
        )
        tests = sum(count_of_tests(known.profile) for known in self.versions.values())
        self.level = budget.level("level", LOOKS_PER_MONTH * tests)

    @property
    def features_shown(self) -> int:
        """Features of a version that metrics have room for."""
        return self._settings.features_shown

    # -- the monitor's listener ------------------------------------------------------------------------------------

    def counted(self, header: LaneHeader, rows: Rows, inputs: Counts, outputs: Counts) -> None:
        """Rows of a version were counted: they wait for the next evaluation."""
        known = self.versions.get((header.model, header.version))
        if known is None or header.role not in ROLES or inputs.bins.digest != known.profile.input_bins().digest:
            return
        known.stream.add(inputs, outputs)
        if known.sample is None:
            known.sample = rows[:SAMPLE_ROWS]

    def judge(self, now_s: float) -> None:
        """Evaluate what is due; then look at windows that are, the longest waiting first, for a bounded time."""
        for key, known in self.versions.items():
            if known.stream.is_due(now_s):
                self._evaluate(key, known, now_s)
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

    def _evaluate(self, key: Key, known: VersionLive, now_s: float) -> None:
        wall_ns = self._clock.wall_ns()
        before = columns_in(known.alarms.active)
        raised, cleared, counts = known.stream.evaluate(now_s, wall_ns / 1e9, self.limits)
        sample, known.sample = known.sample, None
        if not raised and not cleared:
            return
        self._dirty.add((*key, "alarms"))
        for row in raised:
            known.alarms.begin((row.side, row.feature, row.family, FAST), wall_ns)
        ended = {
            alarm: since_ns
            for row in cleared
            if (since_ns := known.alarms.end(alarm := (row.side, row.feature, row.family, FAST))) is not None
        }
        new = [row for row in raised if (row.side, row.feature) not in before]
        if new:
            self._events.append(stream_event(key, known.profile, new, counts, sample))
        self._tell_ends(key, known, ended, wall_ns)

    def _tell_ends(self, key: Key, known: VersionLive, ended: Mapping[AlarmKey, int], wall_ns: int) -> None:
        """Tell of columns without any alarm left: a drift ends last in the longest window."""
        after = columns_in(known.alarms.active)
        told = {alarm: since_ns for alarm, since_ns in ended.items() if alarm[:2] not in after}
        if told:
            self._events.append(clearing_event(key, told, wall_ns))

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
                known.look = Look(known.slices, window, name, self.level)
                return key, known
        return None

    def _finish(self, key: Key, known: VersionLive, look: Look) -> None:
        known.looks[look.name] = look.found
        if look.name == next(iter(WINDOWS)):
            known.quality = quality(known.profile, look.window.inputs, look.window.outputs)
        before = columns_in(known.alarms.active)
        change = known.alarms.update(look.found, self._clock.wall_ns())
        if change.raised or change.cleared or before:
            self._dirty.add((*key, "alarms"))
        # The same drift soon breaches in longer windows too: it is told once.
        raised = [m for m in change.raised if m.key[:2] not in before]
        if raised:
            self._events.append(look_event(key, known.profile, look.window, look.name, raised))
        self._tell_ends(key, known, change.cleared, self._clock.wall_ns())

    def unsaved(self) -> tuple[Mapping[StateKey, bytes], Sequence[Told]]:
        """Alarms that changed, and events, to be stored with the counts that they came from."""
        states = {
            (model, version, name): json.dumps(self.versions[model, version].alarms.to_dict()).encode()
            for model, version, name in self._dirty
            if (model, version) in self.versions
        }
        for key, known in self.versions.items():
            states.update({(*key, name): document for name, document in known.stream.unsaved().items()})
        return states, list(self._events)

    def saved(self) -> None:
        """What `unsaved` gave is in the database now."""
        self._dirty.clear()
        self._events.clear()
        for known in self.versions.values():
            known.stream.saved()

    def close(self) -> None:
        """After the last checkpoint."""
        self._executor.shutdown()


def columns_in(alarms: Iterable[AlarmKey]) -> set[tuple[str, str]]:
    """The (kind, feature) of alarms."""
    return {(kind, feature) for kind, feature, _, _ in alarms}
