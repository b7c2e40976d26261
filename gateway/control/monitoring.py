"""The monitor as the controller drives it: `monitor.worker.Monitor` with profiles, drift looks and metrics around it.

Invariant: what the judge reads of a rollout here is the monitor's own cumulative counts, stored with the lane positions
that they stand for; this file adds nothing to them. Called by the controller under its watch lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from prometheus_client.core import Metric

from gateway.control.ages import Ages
from gateway.control.drifting import DriftView, TogetherView, VersionView, seconds_of
from gateway.control.monitor_metrics import LaneLess, monitor_families
from gateway.control.watch import Watched
from monitor.agreement import tolerances
from monitor.drains import LaneKey
from monitor.drill import FORMS, Shift
from monitor.facts import LabelFacts
from monitor.join_counts import RolloutWatch
from monitor.lane import LaneStatistics
from monitor.live import ROLES, Live
from monitor.looks import Look, reach_s
from monitor.profile import ReferenceProfile
from monitor.rollout import RolloutRecord
from monitor.settings import MonitorSettings
from monitor.store import MonitorStore
from monitor.windows import VersionBins
from monitor.worker import Monitor, RolloutSeen
from registry.artifacts import ArtifactStore
from registry.catalog import Catalog
from registry.clock import Clock
from registry.errors import MalformedRequest
from registry.home import Home

DEFAULT_SHIFTS = ["mean+0.5sd", "sdx1.5", "missing+1%"]
MOST_EVIDENCE = 200  # features of a version of which the fast detectors' evidence is shown
MOST_OUTPUTS = 256  # columns compared between the arms

Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class _Known:
    sha256: str | None
    profile: ReferenceProfile | None
    bins: VersionBins | None


class Monitoring:
    """One controller's monitor. One thread at a time."""

    def __init__(
        self, home: Home, settings: MonitorSettings, catalog: Catalog, artifacts: ArtifactStore, clock: Clock
    ) -> None:
        self._catalog = catalog
        self._artifacts = artifacts
        self._clock = clock
        self._ages = Ages(clock)
        self._known: dict[Key, _Known] = {}
        self._read: WeakValueDictionary[str, ReferenceProfile] = WeakValueDictionary()  # sha256 → one that is in use
        self._served: dict[Key, str | None] = {}  # followed now → sha256 of the profile in use
        store = MonitorStore(catalog)
        self._live = Live(
            store,
            settings,
            clock,
            window_of=lambda *asked: self._monitor.window(*asked),
            day_of=lambda model, version, since_s, until_s: self._monitor.span(model, version, since_s, until_s, ROLES),
            pair_of=self._pair,
        )
        self._monitor = Monitor(home.run, store, settings, clock, self._bins_of, self._live)
        self._monitor.resume()

    # --- profiles ------------------------------------------------------------------------------------------------

    def _profile(self, model: str, version: int) -> _Known:
        known = self._known.get((model, version))
        if known is None:
            if (model, version) in self._served:
                sha256 = self._served[model, version]
            else:  # rows that waited in a lane while nobody followed
                listed = self._catalog.profiles(model, version)
                sha256 = listed[-1].sha256 if listed else None
            profile = None if sha256 is None else self._profile_of(sha256)
            bins = None if profile is None else VersionBins(profile.input_bins(), profile.output_bins())
            known = self._known[model, version] = _Known(sha256, profile, bins)
        return known

    def _profile_of(self, sha256: str) -> ReferenceProfile:
        """A profile, read once for all versions that use it."""
        profile = self._read.get(sha256)
        if profile is None:
            profile = self._read[sha256] = ReferenceProfile.from_bytes(self._artifacts.read(sha256))
        return profile

    def _bins_of(self, model: str, version: int) -> VersionBins | None:
        return self._profile(model, version).bins

    def follow(self, versions: Mapping[Key, str | None]) -> None:
        """These versions are aspired now, with these profiles (sha256)."""
        gone = set(self._served) - set(versions)
        if gone:  # what was judged of them since the last checkpoint is stored before they are forgotten
            self._monitor.checkpoint()
        for key in gone:
            self._monitor.retire(*key)
        for key, sha256 in versions.items():
            if key not in self._served or self._served[key] != sha256:
                known = self._known.get(key)
                if known is not None and known.sha256 != sha256:
                    del self._known[key]
                self._served[key] = sha256
                self._monitor.refresh(*key)
        self._served = dict(versions)
        for key in set(self._known) - set(versions):
            del self._known[key]
        profiles = {key: self._profile(*key).profile for key in versions}
        self._live.follow({key: profile for key, profile in profiles.items() if profile is not None})

    # --- the loop ------------------------------------------------------------------------------------------------

    def step(self, now_s: float) -> None:
        """Drain, count, join, judge drift, store."""
        self._monitor.step(now_s)

    @property
    def pause_s(self) -> float:
        """At most so long until the next step, or a lane gets full."""
        return self._monitor.pause_s

    def close(self) -> None:
        """A last checkpoint."""
        self._monitor.close()
        self._live.close()

    # --- rollouts ------------------------------------------------------------------------------------------------

    def begin(self, record: RolloutRecord) -> None:
        """Pair and count for this rollout; again after a restart, where it goes on from what was stored."""
        champion = self._profile(record.model, record.champion)
        allowed = tolerances(champion.profile)
        watch = RolloutWatch(record.id, record.model, record.champion, record.candidate, allowed)
        self._monitor.begin_rollout(watch, None if champion.bins is None else champion.bins.outputs)

    def end(self, model: str) -> None:
        """No rollout of this model is judged any more."""
        self._monitor.end_rollout(model)
        self._ages.forget(model)

    def watched(self, record: RolloutRecord) -> Watched:
        """What was seen of a rollout that began."""
        seen = self._monitor.rollout(record.model)
        if seen is None or seen.watch.id != record.id:
            return Watched()
        pairs, labels = seen.pairs, None
        age_s = self._ages.age_s((record.model, "label"), record.id, pairs.label_wall_ns)
        if age_s is not None:
            labels = LabelFacts(farther=pairs.farther, closer=pairs.closer, ties=pairs.ties, age_s=age_s)
        return Watched(
            shadow_errors=pairs.shadow_errors,
            shadow_errors_requests=pairs.shadow_errors_requests,
            pair_rows=pairs.rows,
            pair_disagreements=pairs.disagreements,
            pair_requests=pairs.requests,
            pair_disagreed=pairs.disagreed,
            pair_age_s=self._ages.age_s((record.model, "pair"), record.id, pairs.pair_wall_ns),
            labels=labels,
            outputs=_outputs(seen),
        )

    def feedback(self, model: str, labels: Sequence[Mapping[str, Any]]) -> dict[str, int]:
        """Take labels → joined, waiting, ambiguous, expired. Raises MalformedRequest."""
        return self._monitor.feedback(model, labels)

    # --- reading -------------------------------------------------------------------------------------------------

    def drift(self, model: str, window: str | None) -> DriftView:
        """What an answer about drift is made of: one window of every followed version. Raises MalformedRequest."""
        self._live.take_up_all(model)
        name = window or "5m"
        seconds, views = seconds_of(name), []
        for key, known in sorted(self._live.versions.items()):
            reach = reach_s(known.profile, seconds, self._clock.wall_ns() // 1_000_000_000)
            counted = self._monitor.window(*key, reach, ROLES) if key[0] == model else None
            if counted is not None:
                look = Look(known.slices, counted, name, self._live.level)
                evidence = known.stream.worst(MOST_EVIDENCE)
                scores = tuple(known.scores.views())
                together = TogetherView.of(known)
                views.append(VersionView(key[1], known.profile, look, known.alarms.active, evidence, scores, together))
        return DriftView(views, self._pair(model))

    def _pair(self, model: str) -> tuple[int, int] | None:
        """Champion and candidate of the running rollout."""
        seen = self._monitor.rollout(model)
        return None if seen is None else (seen.watch.champion, seen.watch.candidate)

    def drill(self, model: str, version: int, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Begin drills. Raises ServingError."""
        feature, shifts = body.get("feature"), body.get("shifts") or DEFAULT_SHIFTS
        if not isinstance(feature, str | None):
            raise MalformedRequest("'feature' must be the name of a column")
        if not isinstance(shifts, list) or not all(isinstance(each, str) for each in shifts):
            raise MalformedRequest(f"'shifts' must be a list of texts like {FORMS}")
        most_s = body.get("max_seconds", 600)
        if isinstance(most_s, bool) or not isinstance(most_s, int | float) or not 1 <= most_s <= 86_400:
            raise MalformedRequest(f"'max_seconds' must be between 1 and 86400, got {most_s!r:.20}")
        asked = [Shift.parse(each) for each in shifts]
        made = self._live.drill((model, version), feature, asked, float(most_s), self._clock.now_s())
        return [drill.to_json() for drill in made]

    def drills(self, model: str) -> list[dict[str, Any]]:
        """Drills of a model's followed versions, the oldest first."""
        found = [drill for key, known in self._live.versions.items() if key[0] == model for drill in known.drills]
        return [drill.to_json() for drill in sorted(found, key=lambda drill: drill.started_ns)]

    @property
    def records(self) -> int:
        """Rows counted since the start."""
        return self._monitor.records

    def lanes(self) -> Mapping[LaneKey, LaneStatistics]:
        """What went into the lanes and came out."""
        return self._monitor.snapshot().lanes

    def shadow(self, model: str) -> list[dict[str, Any]]:
        """Champion and candidate on the same input, in the rollout that runs."""
        seen = self._monitor.rollout(model)
        if seen is None:
            return []
        pairs = seen.pairs
        return [
            {
                "rollout": seen.watch.id,
                "champion": seen.watch.champion,
                "candidate": seen.watch.candidate,
                "rows": pairs.rows,
                "requests": pairs.requests,
                "disagreements": pairs.disagreements,
                "disagreement_ratio": pairs.disagreements / pairs.rows if pairs.rows else None,
                "by_output": dict(pairs.by_output),
                "tolerances": dict(seen.watch.tolerances),
                "shadow_errors": pairs.shadow_errors,
                "unpaired": pairs.unpaired,
                "labels": {"farther": pairs.farther, "closer": pairs.closer, "ties": pairs.ties},
            }
        ]

    def families(self, lane_less: LaneLess) -> Sequence[Metric]:
        """Prometheus metric families of what it has seen."""
        return list(monitor_families(self._monitor.snapshot(), lane_less, self._live))


def _outputs(seen: RolloutSeen) -> Any:
    """(champion, candidate) counts of each output column; the candidate's as canary and as shadow together."""
    if not seen.outputs:
        return None
    champion, canary, shadow = (seen.outputs[arm] for arm in ("champion", "canary", "shadow"))
    columns = range(min(len(champion.bins.columns), MOST_OUTPUTS))
    return tuple((champion.of(at).copy(), canary.of(at) + shadow.of(at)) for at in columns)
