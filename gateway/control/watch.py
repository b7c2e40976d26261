"""What the controller needs of the monitor, and nothing when monitoring is off.

The controller knows this protocol, not `monitor/worker.py`, so that a test can put a few numbers in its place. All
methods are called under one lock of the controller's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gateway.control.drifting import DriftView
from monitor.facts import LabelFacts
from monitor.rollout import RolloutRecord
from registry.errors import VersionNotFound


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What the monitor has seen of one running rollout, cumulative since it began."""

    shadow_errors: int = 0
    shadow_errors_requests: int | None = None
    pair_rows: int = 0
    pair_disagreements: int = 0
    pair_requests: int | None = None
    pair_disagreed: float | None = None
    pair_age_s: float | None = None
    labels: LabelFacts | None = None
    outputs: tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...] | None = None


class Watch(Protocol):
    """The monitor as the controller drives it."""

    @property
    def pause_s(self) -> float:
        """At most so long until the next step, or a lane gets full."""
        ...

    def step(self, now_s: float) -> None:
        """Drain and count, for some milliseconds; store positions and counts when a second has passed."""
        ...

    def follow(self, versions: Mapping[tuple[str, int], str | None]) -> None:
        """These versions are aspired now, with these profiles (sha256)."""
        ...

    def begin(self, record: RolloutRecord) -> None:
        """Pair and count for this rollout; again after a restart, where it goes on from what was stored."""
        ...

    def end(self, model: str) -> None:
        """No rollout of this model is judged any more."""
        ...

    def watched(self, record: RolloutRecord) -> Watched:
        """What was seen of a rollout that began."""
        ...

    def feedback(self, model: str, labels: Sequence[Mapping[str, Any]]) -> dict[str, int]:
        """Take labels → joined, waiting, ambiguous, expired. Raises MalformedRequest."""
        ...

    def drift(self, model: str, window: str | None) -> DriftView:
        """What moved, by how much, against which limit; the answer is made of it outside the lock."""
        ...

    def drill(self, model: str, version: int, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Begin drills: stated shifts in a copy of one column. Raises ServingError."""
        ...

    def drills(self, model: str) -> list[dict[str, Any]]:
        """Drills and what came of them."""
        ...

    def shadow(self, model: str) -> list[dict[str, Any]]:
        """Pairs of champion and shadow, by candidate."""
        ...

    def families(self, lane_less: Mapping[tuple[str, int, str], tuple[int, int]]) -> Sequence[Any]:
        """Prometheus metric families of what it has seen; lane_less: rows offered and dropped without a lane."""
        ...

    def close(self) -> None:
        """Store what is there and let go."""
        ...


class NoWatch:
    """Monitoring is off: nothing is logged, so nothing is known."""

    pause_s = math.inf

    def step(self, now_s: float) -> None: ...

    def follow(self, versions: Mapping[tuple[str, int], str | None]) -> None: ...

    def begin(self, record: RolloutRecord) -> None: ...

    def end(self, model: str) -> None: ...

    def watched(self, record: RolloutRecord) -> Watched:
        return Watched()

    def feedback(self, model: str, labels: Sequence[Mapping[str, Any]]) -> dict[str, int]:
        return {"joined": 0, "waiting": 0, "ambiguous": 0, "expired": len(labels)}

    def drift(self, model: str, window: str | None) -> DriftView:
        return DriftView()

    def drill(self, model: str, version: int, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        raise VersionNotFound(f"the monitor is off, so nothing of {model}:{version} is watched")

    def drills(self, model: str) -> list[dict[str, Any]]:
        return []

    def shadow(self, model: str) -> list[dict[str, Any]]:
        return []

    def families(self, lane_less: Mapping[tuple[str, int, str], tuple[int, int]]) -> Sequence[Any]:
        return ()

    def close(self) -> None: ...
