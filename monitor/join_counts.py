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
    by_output: dict[str, int] = field(default_factory=dict)
    shadow_errors: int = 0  # copies that failed where the champion answered
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
        return cls(**known)


@dataclass
class LiveError:
    """How wrong a version was where labels came: a share of wrong classes, or the mean absolute error."""

    kind: str
    n: int = 0
    total: float = 0.0

    @property
    def value(self) -> float:
        return self.total / self.n if self.n else float("nan")
