"""What joins give: counts of a rollout's pairs, and live errors. Never a row.

Invariant: cumulative since the rollout began, and stored with the lane positions that they stand for.
Made by `joins.py`, kept by the monitor, read by the controller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class RolloutWatch:
    """What pairs and labels are counted for: one rollout of a model."""

    id: str
    model: str
    champion: int
    candidate: int
    # How far two numbers may lie apart before they disagree, by output; a number without one is not compared.
    tolerances: Mapping[str, float] = field(default_factory=dict)


@dataclass
class PairCounts:
    """Rows that both versions answered for the same input, and what labels said of them. Cumulative in a rollout."""

    rows: int = 0
    disagreements: int = 0
    requests: int = 0
    disagreed: float = 0.0  # of each request the share of its rows that disagree, summed: a request is one witness
    by_output: dict[str, int] = field(default_factory=dict)
    shadow_errors: int = 0  # copies that failed where the champion answered, in rows
    shadow_errors_requests: int = 0  # and the requests that they were of
    unpaired: int = 0  # copies whose answer was not found: dropped by a lane, or ambiguous
    farther: int = 0  # labelled: the candidate is farther from the label
    closer: int = 0
    ties: int = 0
    pair_wall_ns: int = 0  # when the last pair, and the last labelled pair, were made; 0 for never
    label_wall_ns: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> PairCounts:
        known = {name: document[name] for name in cls.__dataclass_fields__ if name in document}
        found = cls(**known)
        if "disagreed" not in document:  # counted before requests were witnesses: as if all had as many rows
            found.disagreed = found.disagreements * found.requests / max(found.rows, 1)
            found.shadow_errors_requests = found.shadow_errors
        return found


@dataclass
class LiveError:
    """How wrong a version was where labels came: a share of wrong classes, or the mean absolute error."""

    kind: str
    n: int = 0
    total: float = 0.0

    @property
    def value(self) -> float:
        return self.total / self.n if self.n else float("nan")
