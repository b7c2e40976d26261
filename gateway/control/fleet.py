"""One model as the controller holds it in memory between ticks. Plain values; only the controller changes them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from gateway.control.gather import Baseline, Gathered
from gateway.control.latency import LatencyWindow
from gateway.control.measure import Measured
from gateway.data.routes import RouteEntry
from monitor.plan import ROLLBACK_SHARES
from monitor.rollout import RolloutRecord, Transition


@dataclass(slots=True)
class ModelState:
    """Routing, rollout and evidence of one model."""

    name: str
    aliases: dict[str, int] = field(default_factory=dict)
    profiles: dict[int, str | None] = field(default_factory=dict)  # version → its profile in use
    routed: int | None = None  # the champion that the route table names; follows the alias once it is loaded
    # Versions that operators want to make champion → how many calls wait: aspired, not routed.
    pending: Counter[int] = field(default_factory=Counter)
    unloaded: bool = False  # a caller of the data port wants it not to be served
    is_returning: bool = False  # it was unloaded, and is routed to again once every worker holds it
    wish_ns: int = 0  # the last wish that was looked at, by its time
    refused_wish_ns: int = 0  # the last one that was not followed
    record: RolloutRecord | None = None  # a rollout that has not ended
    last_record: RolloutRecord | None = None  # the newest that has ended, for metrics
    stored_revision: int | None = None  # as the database has it
    unstored: list[tuple[Transition, str]] = field(default_factory=list)  # done in the data plane, not yet written
    baseline: Baseline = field(default_factory=Baseline)
    gathered: Gathered = field(default_factory=Gathered)
    window: LatencyWindow | None = None
    measured: Measured | None = None  # candidate and champion on reference rows; None: not yet
    watching: str | None = None  # id of the rollout that the monitor pairs for
    judged_s: float | None = None  # when the rollout was last judged
    failing_since_s: float | None = None  # its judging raises: after a lease its weight is 0
    saved_s: float = float("-inf")
    answers: int = -1  # of both arms at the last look
    answered_s: float | None = None  # when that number last rose
    load_failure: str = ""  # the last one told as an event
    entry: RouteEntry | None = None  # as published
    settled_as: tuple[object, ...] | None = None  # what it was when there was nothing left to do for it
    # Reason → since the registry was made. Zeros are shown too: an alert on an increase needs the value before it.
    rollbacks: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*ROLLBACK_SHARES, "operator"), 0))
    promotions: int = 0

    def facts(self) -> tuple[object, ...]:
        """All that the route table is made of, and that somebody may have changed since the last tick."""
        return (
            self.routed,
            self.unloaded,
            self.is_returning,
            self.refused_wish_ns,
            self.record,
            len(self.unstored),
            not self.pending,
            self.aliases,
            self.profiles,
        )

    def settle(self) -> None:
        """There is nothing left to do until one of these facts is another."""
        plain = self.facts()[:-2]  # the last two may be changed in place
        self.settled_as = (*plain, dict(self.aliases), dict(self.profiles))

    @property
    def is_settled(self) -> bool:
        """Whether nothing has changed since there was nothing left to do: thousands of models cost next to nothing."""
        return self.settled_as is not None and self.settled_as == self.facts()

    def begin(self, record: RolloutRecord, baseline: Baseline, measured: Measured | None = None) -> None:
        """Take up a rollout: a new one, or one that a former controller began."""
        self.record = record
        self.baseline = baseline
        self.measured = measured
        self.gathered = Gathered()
        self.judged_s = self.failing_since_s = self.answered_s = None
        self.answers = -1
