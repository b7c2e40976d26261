"""Drift of live traffic: fast detectors and looks at windows of every version that is followed, alarms, and events.

Why: one place turns counts into alarms, so that the one false-alarm budget is divided by everything that is looked at.
Invariants: an alarm, its event and the state that remembers it are stored in the transaction that stores the counts
which raised it, so a controller killed at any moment tells each alarm once and forgets none; a judgement takes
milliseconds, and a wide look goes on in the next one. Of a thousand versions that are followed at once each is taken up
with its first row, when somebody asks, or, if something of it is remembered, in its turn. Called by the monitor, in its
thread.
"""

from __future__ import annotations

import json
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from monitor.alarms import Alarms, QualityRatio, quality
from monitor.alarms import Key as AlarmKey
from monitor.block import Rows
from monitor.budget import Budget, Spender, evaluations_in
from monitor.counts import Counts
from monitor.detectors import FAMILIES, Limits
from monitor.drift import MONTH_S, Measurement, count_of_tests, worst
from monitor.drill import Drill, Shift
from monitor.events import Family
from monitor.lane_file import LaneHeader
from monitor.looks import LOOK_EVERY_S, LOOKS_PER_MONTH, WINDOWS, Look, Slices, reach_s
from monitor.pauses import pause, take_pauses
from monitor.profile import ColumnProfile, ReferenceProfile
from monitor.score_streams import ScoreStreams
from monitor.self_audit import AUDITS, LEAST_ROWS, SplitAudit, Tally, YesterdayAudit, limits_of
from monitor.settings import MonitorSettings
from monitor.store import MonitorStore, StateKey, Told
from monitor.stream import Stream
from monitor.suspect import attribute, standing
from monitor.telling import clearing_event, look_event, stream_event, with_suspect
from monitor.together import STATISTICS
from monitor.together_telling import together_event
from monitor.together_watch import EVALUATE_S, NAME
from monitor.watch import SIDES, Side
from monitor.windows import Window
from registry.clock import Clock
from registry.errors import FormatTooNew, MalformedRequest, Overloaded, StateDamaged, VersionNotFound
from registry.formats import check_stamp, stamped
from registry.vocabulary import Role

logger = logging.getLogger(__name__)

ROLES = (Role.CHAMPION, Role.CANARY, Role.SHADOW)  # not direct: somebody's experiments are not the traffic
LEAST_PACE_S = min(LOOK_EVERY_S.values())  # divides the others
# Of processor time: of asking sampled rows, of evaluating versions and of looking at windows in one step.
ASK_S, JUDGE_S, LOOK_S = 0.02, 0.02, 0.01
FOLLOW_S = 0.05  # and of taking up versions at once
FAST = "fast"  # the window of an alarm that a fast detector raised
DAY_S = 86_400
AUDIT_KEY: StateKey = ("", 0, "audit")
MOST_DRILLS, KEPT_DRILLS = 8, 16  # that run at a time; that are remembered of a version
SAMPLE_ROWS = 512  # of those that wait for an evaluation: an alarm names requests among them

SPENDERS: tuple[Spender, ...] = ("inputs", "outputs", "quality", "level")  # what runs here shares the whole budget,
TOGETHER: Spender = "multivariate"  # and this, where a version's profile knows how its inputs go together

Key = tuple[str, int]
DayOf = Callable[[str, int, int, int], Window | None]  # model, version, since_s, until_s
PairOf = Callable[[str], tuple[int, int] | None]  # model → champion and candidate, while a rollout runs
WindowOf = Callable[[str, int, int, Iterable[str]], Window | None]  # model, version, seconds, roles


@dataclass
class VersionLive:
    """What is known of one followed version."""

    profile: ReferenceProfile
    slices: Slices
    alarms: Alarms
    stream: Stream
    scores: ScoreStreams
    sample: Rows | None = None  # the first rows that wait for an evaluation
    split: SplitAudit | None = None  # made with the first rows, which tell their dtype
    yesterday: YesterdayAudit | None = None
    drills: list[Drill] = field(default_factory=list)  # the newest last
    looks: dict[str, list[Measurement]] = field(default_factory=dict)  # window → the last look's measurements
    quality: list[QualityRatio] = field(default_factory=list)
    yesterday_s: int = 0  # the midnight for which `yesterday` was made
    rows: int = 0  # that came since it is followed
    rows_looked: dict[str, int] = field(default_factory=dict)  # window → how many of them had come at its last look
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
        day_of: DayOf,
        executor: Executor | None = None,
        pair_of: PairOf = lambda _model: None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._window_of = window_of
        self._day_of = day_of
        self._pair_of = pair_of
        self._executor = executor or ThreadPoolExecutor(1, "pack", take_pauses)
        self._dirty: set[StateKey] = set()
        self._events: list[Told] = []
        self.versions: dict[Key, VersionLive] = {}
        self._coming: dict[Key, ReferenceProfile] = {}  # followed, and not taken up yet
        self._looking: Key | None = None  # whose look goes on
        self._due: deque[tuple[int, int, Key, str]] = deque()  # windows to be looked at, the longest waiting first
        self._due_slot: int | None = None  # of the shortest pace, in which they were found
        self._remembered: set[Key] = set()  # those of which something is stored: an alarm may stand
        self._failing: set[Key] = set()  # those whose failure was told
        self.failures = 0  # of single versions
        self.audits: dict[str, Tally] = self._stored_audits()
        self._audited = False
        self._set_limits()

    # -- what is followed ------------------------------------------------------------------------------------------

    def follow(self, profiles: Mapping[Key, ReferenceProfile]) -> None:
        """These versions, with these profiles, from now on. Goes on from what was stored."""
        same = [key for key, known in self.versions.items() if _is_same(known.profile, profiles.get(key))]
        self.versions = {key: self.versions[key] for key in same}
        self._coming = {key: profile for key, profile in profiles.items() if key not in self.versions}
        self._failing &= profiles.keys()
        self._remembered = self._store.remembered() & self._coming.keys() if self._coming else set()
        self._take_up_some([*self._remembered, *self._coming], self._pace(FOLLOW_S))
        self._set_limits()

    def _take_up_some(self, keys: Iterable[Key], pace: Iterator[bool]) -> bool:
        """Take up these while there is time: whether none is left."""
        for key in keys:
            if not next(pace):
                return False
            try:
                self.take_up(key)
            except Exception:  # the others wait; this one is taken up when it is needed
                self._remembered.discard(key)
                self._failed(key)
        return True

    def take_up(self, key: Key) -> VersionLive | None:
        """A followed version as it stands; None if it is not followed."""
        profile = self._coming.get(key)
        if profile is not None:
            self.versions[key] = self._resumed(key, profile)
            del self._coming[key]
            self._remembered.discard(key)
            self._due_slot = None
        return self.versions.get(key)

    def take_up_all(self, model: str) -> None:
        """All followed versions of a model."""
        for key in [key for key in self._coming if key[0] == model]:
            self.take_up(key)

    def _resumed(self, key: Key, profile: ReferenceProfile) -> VersionLive:
        stored = self._store.states(*key)
        sides = (("input", profile.inputs), ("output", profile.outputs))
        alarms, stream = Alarms(), Stream(profile, self._executor)
        try:
            if "alarms" in stored:
                alarms = Alarms.from_dict(json.loads(stored["alarms"]))
                alarms.keep([("input", NAME), *((kind, column.name) for kind, columns in sides for column in columns)])
            stream.restore(stored)
        except (StateDamaged, FormatTooNew, ValueError) as error:
            logger.warning("the detectors of %s:%d begin anew: %s", *key, error)
            stream = Stream(profile, self._executor)
        alarms.end_all_but(FAST, [(row.side, row.feature, row.family) for row in stream.active()])
        return VersionLive(
            profile, Slices(profile), alarms, stream, ScoreStreams.resumed(profile, stored.get("scores"))
        )

    def _set_limits(self) -> None:
        """Share the budget out: every feature of every version is evaluated once a second at most.

        Of a version that was not evaluated yet every feature is taken to be: rather too strict than too lax.
        """
        watched = [known.stream for known in self.versions.values() if known.stream.has_detectors]
        coming = tuple(self._coming.values())
        together = sum(known.profile.together is not None for known in self.versions.values())
        together += sum(profile.together is not None for profile in coming)
        spenders = (*SPENDERS, TOGETHER) if together else SPENDERS
        budget = Budget(max(self._settings.false_alarms_per_month, 1e-6)).among(spenders)
        most = evaluations_in(MONTH_S)
        streams = [stream.detectors for stream in watched]
        others = [*coming, *(known.profile for known in self.versions.values() if not known.stream.has_detectors)]
        unknown = [most * sum(len(p.inputs) for p in others), most * sum(len(p.outputs) for p in others)]

        def evaluations(side: int, family: Family) -> float:
            return unknown[side] + sum(pair[side].evaluations_of(family, math.inf, most) for pair in streams)

        quality = budget.log_threshold("quality", evaluations(0, "quality") + evaluations(1, "quality"))
        self.limits = (
            Limits(budget.log_threshold("inputs", evaluations(0, "shape")), quality),
            Limits(budget.log_threshold("outputs", evaluations(1, "shape")), quality),
        )
        self.together_limit = budget.log_threshold(TOGETHER, together * len(STATISTICS) * MONTH_S / EVALUATE_S)
        tests = sum(map(count_of_tests, (*(known.profile for known in self.versions.values()), *coming)))
        self.level = budget.level("level", LOOKS_PER_MONTH * tests)
        self._set_audit_limits()

    def _set_audit_limits(self) -> None:
        self._is_new_audit = False
        self._audit_limits = {
            "split": _hour_limits([known.split for known in self.versions.values() if known.split is not None]),
            "yesterday": _hour_limits(
                [known.yesterday for known in self.versions.values() if known.yesterday is not None]
            ),
        }

    @property
    def features_shown(self) -> int:
        """Features of a version that metrics have room for."""
        share = self._settings.features_shown_in_all // max(1, len(self.versions))
        return min(self._settings.features_shown, max(1, share))

    # -- the monitor's listener ------------------------------------------------------------------------------------

    def counted(self, header: LaneHeader, rows: Rows, inputs: Counts, outputs: Counts) -> None:
        """Rows of a version were counted: they wait for the next evaluation."""
        key = header.model, header.version
        try:
            self._take(key, header, rows, inputs, outputs)
        except Exception:  # the rows are counted: rollouts need them, and other versions theirs
            self._failed(key)

    def _take(self, key: Key, header: LaneHeader, rows: Rows, inputs: Counts, outputs: Counts) -> None:
        known = self.take_up(key)
        if known is None or header.role not in ROLES or inputs.bins.digest != known.profile.input_bins().digest:
            return
        known.rows += len(rows)
        known.stream.add(inputs, outputs)
        pause()
        known.stream.sample(rows, header.slot)
        known.scores.add(header.role, header.schema, rows["outputs"], rows["wall_ns"])
        if known.sample is None:
            known.sample = rows[:SAMPLE_ROWS]
        if known.split is None:
            known.split = SplitAudit(known.profile, header.schema.input_dtype)
            self._is_new_audit = True  # of many versions that are asked for the first time the limits are found once
        pause()
        known.split.add(rows, inputs, header.slot)
        for drill in known.drills:
            drill.add(rows)

    def labelled(self, model: str, version: int, role: Role, output: str, is_class: bool, loss: float) -> None:
        """A row's label came: it is part of a picture, and of no alarm."""
        known = self.take_up((model, version))
        if known is not None and role in ROLES:
            known.scores.add_loss(role, output, is_class, loss, self._clock.wall_ns())

    def ask(self) -> None:
        """Ask the rows that were sampled what they say as a whole, for a bounded time: the rest waits for `unsaved`."""
        pace = self._pace(ASK_S)
        for key, known in self.versions.items():
            if known.stream.together is None or not known.stream.together.sample.is_waiting:
                continue
            if not next(pace):
                return
            try:
                known.stream.together.ask()
            except Exception:  # the others wait
                self._failed(key)

    def judge(self, now_s: float) -> bool:
        """Evaluate what is due, the longest waiting first: streams, audits and drills. False if some are left.

        In what time is left, take up versions of which something is remembered.
        """
        if self._is_new_audit:
            self._set_audit_limits()
        told, pace, more = len(self._events), self._pace(JUDGE_S), False
        due = [(key, known) for key, known in self.versions.items() if known.stream.is_due(now_s)]
        for key, known in sorted(due, key=lambda each: each[1].stream.evaluated_s):
            if more := not next(pace):
                break
            try:
                self._evaluate(key, known, now_s)
            except Exception:  # the others wait
                known.stream.forgo(now_s)
                self._failed(key)
        if self._remembered and not more:
            more = not self._take_up_some(list(self._remembered), pace)
            if not more:
                self._set_limits()  # less is unknown
        self._attribute(told)
        for key, known in self.versions.items():
            for drill in known.drills:
                if drill.judge(now_s, self.limits[0 if drill.side == "input" else 1]):
                    self._events.append(Told("drift.drill", *key, drill.to_json()))
        return not more

    def _failed(self, key: Key) -> None:
        """A version's failure, while its exception is handled: counted each time, told once while it is followed."""
        self.failures += 1
        if key not in self._failing:
            self._failing.add(key)
            logger.exception("drift of %s:%d could not be judged; later failures of it are only counted", *key)

    def look(self) -> bool:
        """Look at windows that are due, the longest waiting first, for a bounded time. False if some are left."""
        pace = self._pace(LOOK_S)
        while (found := self._next()) is not None:
            if not next(pace):
                return False
            key, known = found
            look, known.look = known.look, None  # one that fails is not gone on with: other windows wait
            assert look is not None
            if look.is_done:
                self._finish(key, known, look)
            else:
                look.go_on()
                known.look = look
        return True

    def _pace(self, most_s: float) -> Iterator[bool]:
        """Whether there is time for another piece of work: always for the first, then if one as long as before fits."""
        spent_s = self._clock.spent_s()
        until_s, longest_s = spent_s + most_s, 0.0
        while True:
            pause()
            yield spent_s + longest_s <= until_s
            before_s, spent_s = spent_s, self._clock.spent_s()
            longest_s = max(longest_s, spent_s - before_s)

    def _evaluate(self, key: Key, known: VersionLive, now_s: float) -> None:
        wall_ns = self._clock.wall_ns()
        before = columns_in(known.alarms.active)
        sample, known.sample = known.sample, None
        if sample is not None:
            known.stream.see(sample["features"])
        raised, cleared, counts = known.stream.evaluate(now_s, wall_ns / 1e9, self.limits, self.together_limit)
        pause()
        self._audit(key, known, counts[0], wall_ns / 1e9)
        if not raised and not cleared:
            return
        self._dirty.add((*key, "alarms"))
        for row in raised:
            known.alarms.begin((row.side, row.feature, row.family, FAST), wall_ns)
        ended: dict[AlarmKey, int] = {}
        for row in cleared:
            alarm = (row.side, row.feature, row.family, FAST)
            since_ns = known.alarms.end(alarm)
            if since_ns is not None:
                ended[alarm] = since_ns
        new = [row for row in raised if (row.side, row.feature) not in before]
        alone = [row for row in new if row.feature != NAME]
        if alone:
            self._events.append(stream_event(key, known.profile, alone, counts, sample))
        together = [row for row in new if row.feature == NAME]
        if together and known.stream.together is not None:
            moved = known.alarms.inputs_in_alarm(NAME)
            self._events.append(together_event(key, known.profile, known.stream.together.detector, together, moved))
        self._tell_ends(key, known, ended, wall_ns)

    def _audit(self, key: Key, known: VersionLive, inputs: Counts, wall_s: float) -> None:
        """The same counts under the second budget, where no drift can be."""
        midnight_s = int(wall_s) // DAY_S * DAY_S
        if known.yesterday_s != midnight_s:
            known.yesterday_s = midnight_s
            day = self._day_of(*key, midnight_s - DAY_S, midnight_s)
            is_enough = day is not None and day.rows >= LEAST_ROWS
            known.yesterday = YesterdayAudit(known.profile, day) if day is not None and is_enough else None
            self._set_audit_limits()
        for name, audit in (("split", known.split), ("yesterday", known.yesterday)):
            if isinstance(audit, SplitAudit):
                found = audit.evaluate(wall_s, self._audit_limits["split"])
            elif audit is not None:
                found = audit.evaluate(inputs, wall_s, self._audit_limits["yesterday"])
            else:
                continue
            self.audits[name].alarms += found.alarms
            self.audits[name].expected += found.expected
            self._audited = True

    def _tell_ends(self, key: Key, known: VersionLive, ended: Mapping[AlarmKey, int], wall_ns: int) -> None:
        """Tell of columns without any alarm left: a drift ends last in the longest window."""
        after = columns_in(known.alarms.active)
        told = {alarm: since_ns for alarm, since_ns in ended.items() if alarm[:2] not in after}
        if told:
            self._events.append(clearing_event(key, told, wall_ns))

    def _next(self) -> tuple[Key, VersionLive] | None:
        """The look that goes on, or else a new one.

        Windows are looked at when wall time enters another slot of their pace, so a restart makes no look twice; and if
        rows came since the last look: what grows old tells nothing new, and a thousand idle versions cost nothing.
        """
        if self._looking is not None:
            known = self.versions.get(self._looking)
            if known is not None and known.look is not None:
                return self._looking, known
            self._looking = None
        wall_s = self._clock.wall_ns() // 1_000_000_000
        if wall_s // LEAST_PACE_S != self._due_slot:
            self._due_slot = wall_s // LEAST_PACE_S
            self._due = deque(sorted(self._due_windows(wall_s)))
        while self._due:
            _, seconds, key, name = self._due.popleft()
            known = self.versions.get(key)
            if known is None:
                continue
            known.alarms.looked[name] = wall_s // LOOK_EVERY_S[name]
            if known.rows_looked.get(name) == known.rows:
                continue
            known.rows_looked[name] = known.rows
            window = self._window_of(*key, reach_s(known.profile, seconds, wall_s), ROLES)
            if window is not None and window.rows:
                known.look = Look(known.slices, window, name, self.level, known.stream.live_deffs())
                self._looking = key
                return key, known
        return None

    def _due_windows(self, wall_s: int) -> Iterator[tuple[int, int, Key, str]]:
        """When it was looked at last, its length in seconds, its version and its name, of each window that is due."""
        for key, known in self.versions.items():
            for name, pace_s in LOOK_EVERY_S.items():
                last = known.alarms.looked.get(name, 0)
                if last != wall_s // pace_s:
                    yield last * pace_s, WINDOWS[name], key, name

    def _finish(self, key: Key, known: VersionLive, look: Look) -> None:
        known.looks[look.name] = look.found
        if look.name == next(iter(WINDOWS)):
            known.quality = quality(known.profile, look.window.inputs, look.window.outputs)
        before = columns_in(known.alarms.active)
        change = known.alarms.update(look.found, self._clock.wall_ns())
        self._dirty.add((*key, "alarms"))
        # The same drift soon breaches in longer windows too: it is told once.
        raised = [m for m in change.raised if m.key[:2] not in before]
        if raised:
            self._events.append(look_event(key, known.profile, look.window, look.name, raised))
            self._attribute(len(self._events) - 1)
        self._tell_ends(key, known, change.cleared, self._clock.wall_ns())

    def _attribute(self, told: int) -> None:
        """Say of the alarms from here on whether the world or the release is suspect, where a rollout runs."""
        for at in range(told, len(self._events)):
            event = self._events[at]
            pair = self._pair_of(event.model) if event.type == "drift.alarm" else None
            both = [self.versions[event.model, each] for each in pair or () if (event.model, each) in self.versions]
            if pair is None or event.version not in pair or len(both) < 2:
                continue
            sides = [[standing(v.alarms.active, v.stream.strongest(side), side) for v in both] for side in SIDES]
            (old_inputs, new_inputs), (old_outputs, new_outputs) = sides
            self._events[at] = with_suspect(event, attribute([*old_inputs, *new_inputs], old_outputs, new_outputs))

    def unsaved(self) -> tuple[Mapping[StateKey, bytes], Sequence[Told]]:
        """Alarms that changed, and events, to be stored with the counts that they came from."""
        states: dict[StateKey, bytes] = {
            (model, version, name): json.dumps(self.versions[model, version].alarms.to_dict()).encode()
            for model, version, name in self._dirty
            if (model, version) in self.versions
        }
        for key, known in self.versions.items():
            states.update({(*key, name): document for name, document in known.stream.unsaved().items()})
            scores = known.scores.unsaved()
            if scores is not None:
                states[*key, "scores"] = scores
        if self._audited:
            tallies = {name: [tally.alarms, tally.expected] for name, tally in self.audits.items()}
            states[AUDIT_KEY] = json.dumps(stamped("audit", {"tallies": tallies})).encode()
        return states, list(self._events)

    def saved(self) -> None:
        """What `unsaved` gave is in the database now."""
        self._dirty.clear()
        self._events.clear()
        self._audited = False
        for known in self.versions.values():
            known.stream.saved()
            known.scores.saved()

    def _stored_audits(self) -> dict[str, Tally]:
        tallies: dict[str, Tally] = {name: Tally() for name in AUDITS}
        try:
            document = json.loads(self._store.states(*AUDIT_KEY[:2]).get(AUDIT_KEY[2], b"{}"))
            if document:
                check_stamp("audit", document)
                for name in AUDITS:
                    alarms, expected = document["tallies"][name]
                    tallies[name] = Tally(int(alarms), float(expected))
        except (StateDamaged, FormatTooNew, KeyError, TypeError, ValueError) as error:
            logger.warning("the self-audit's counts begin anew: %s", error)
        return tallies

    # -- drills ----------------------------------------------------------------------------------------------------

    def drill(self, key: Key, feature: str | None, shifts: Sequence[Shift], most_s: float, now_s: float) -> list[Drill]:
        """Begin drills on one column: the first number of the inputs, or the named one. Raises ServingError."""
        known = self.take_up(key)
        if known is None:
            raise VersionNotFound(f"{key[0]}:{key[1]} is not served with a reference profile, so nothing can drift")
        side, at, column = _drilled(known.profile, feature)
        running = sum(not drill.is_over for each in self.versions.values() for drill in each.drills)
        if running + len(shifts) > MOST_DRILLS:
            raise Overloaded(f"{running} drills run, and at most {MOST_DRILLS} may at a time")
        made = [
            Drill(
                id=f"{key[0]}-{key[1]}-{self._clock.wall_ns()}-{number}",
                version=key[1],
                side=side,
                at=at,
                column=column,
                shift=shift,
                most_s=most_s,
                now_s=now_s,
                wall_ns=self._clock.wall_ns(),
                rng=np.random.default_rng([at, number]),
            )
            for number, shift in enumerate(shifts)
        ]
        known.drills = [*known.drills, *made][-KEPT_DRILLS:]
        return made

    def close(self) -> None:
        """After the last checkpoint."""
        self._executor.shutdown()


def _is_same(known: ReferenceProfile, wanted: ReferenceProfile | None) -> bool:
    return wanted is not None and (known is wanted or known.digest == wanted.digest)


def _hour_limits(audits: Sequence[SplitAudit | YesterdayAudit]) -> Limits:
    """Thresholds of one false alarm an hour over all versions that are audited."""
    return limits_of({family: sum(audit.evaluations(family) for audit in audits) for family in FAMILIES})


def _drilled(profile: ReferenceProfile, feature: str | None) -> tuple[Side, int, ColumnProfile]:
    sides: tuple[tuple[Side, Sequence[ColumnProfile]], ...] = (("input", profile.inputs), ("output", profile.outputs))
    listed = [(side, at, column) for side, columns in sides for at, column in enumerate(columns)]
    if feature is None:
        numbers = [found for found in listed if found[2].bins.kind == "number" and found[2].sd]
        if not numbers and not listed:
            raise MalformedRequest("the version has no column to drill")
        return (numbers or listed)[0]
    for found in listed:
        if found[2].name == feature:
            return found
    near = ", ".join(column.name for _, _, column in listed[:10])
    raise MalformedRequest(f"the version has no column {feature[:100]!r}; some are {near}")


def columns_in(alarms: Iterable[AlarmKey]) -> set[tuple[str, str]]:
    """The (kind, feature) of alarms."""
    return {(kind, feature) for kind, feature, _, _ in alarms}
