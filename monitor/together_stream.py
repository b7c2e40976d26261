"""Columns together in one version's traffic: rows sampled, asked, and judged, with a state that survives a kill.

Why beside `monitor/stream.py`, which owns it: rows are sampled, and judged at a pace of their own, but their state must
be stored with the counts of the same rows, and replayed from the same evaluations. Invariants: what was stored stands
for whole tallies: a row that was taken into one is never taken again; what waits is bounded. One thread.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from monitor.block import Rows
from monitor.budget import EVALUATE_ROWS
from monitor.dependence import LEARN_EVALUATIONS
from monitor.pauses import pause
from monitor.row_sample import RowSample
from monitor.together import Tally, Together
from monitor.together_watch import EVALUATE_S, TogetherDetector
from monitor.watch import Evidence

_STRIP_ROWS = 256  # asked at once: about a millisecond


class TogetherStream:
    """The sample, what waits for the next evaluation, and the detector."""

    def __init__(self, together: Together) -> None:
        self._together = together
        self.sample = RowSample(len(together.questions.columns))
        self.evaluations, self._evaluated_s = 0, -math.inf
        self._waiting = self._nothing()
        self._is_changed = False  # what waits, since `changed`

    @cached_property
    def detector(self) -> TogetherDetector:
        """Made when it is wanted, as the others in `monitor/stream.py`."""
        return TogetherDetector(self._together)

    @property
    def has_detector(self) -> bool:
        """Whether it was wanted, ever."""
        return "detector" in self.__dict__

    def active(self) -> tuple[Evidence, ...]:
        """Alarms that are raised."""
        return tuple(self.detector.active()) if self.has_detector else ()

    def evidence(self) -> tuple[Evidence, ...]:
        """Of each statistic, the strongest first; none before the first evaluation."""
        return tuple(self.detector.evidence()) if self.has_detector else ()

    def _nothing(self) -> Tally:
        questions = self._together.questions
        return Tally.empty(len(questions), len(questions.columns))

    @property
    def sampled(self) -> int:
        """Rows that were asked, ever."""
        return (self.detector.rows if self.has_detector else 0) + self._waiting.rows

    def add(self, rows: Rows, salt: int) -> None:
        """Rows that were counted."""
        self.sample.add(rows, salt)

    def ask(self) -> None:
        """Ask the rows that were sampled since."""
        block = self.sample.take()
        if block is None:
            return
        self._is_changed = True
        for start in range(0, len(block), _STRIP_ROWS):
            self._waiting.merge(self._together.questions.tally(block[start : start + _STRIP_ROWS]))
            pause()

    def evaluate(
        self, now_s: float, wall_s: float, log_limit: float, depends: bool = False
    ) -> tuple[list[Evidence], list[Evidence], dict[str, Any] | None]:
        """If it is time, judge what waits: alarms raised, alarms cleared, and what `replay` takes (else None)."""
        self.ask()
        if self._waiting.rows < EVALUATE_ROWS or now_s - self._evaluated_s < EVALUATE_S:
            return [], [], None
        self._evaluated_s = now_s
        block = {"limit": log_limit, "tally": self._waiting.to_dict()}
        return *self._judge(self._waiting, wall_s, log_limit, depends), block

    def _judge(
        self, tally: Tally, wall_s: float, log_limit: float, depends: bool
    ) -> tuple[list[Evidence], list[Evidence]]:
        """depends: rows resemble their neighbours, of which the reference says nothing: first, that is learned."""
        is_learning = depends and self.evaluations < LEARN_EVALUATIONS
        self._waiting = self._nothing()
        self.evaluations += 1
        return self.detector.update(tally, wall_s, log_limit, is_learning=is_learning)

    # -- its state -------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The detector's state."""
        return {"evaluations": self.evaluations, "detector": self.detector.to_dict()}

    def changed(self) -> dict[str, Any] | None:
        """What waits, rows that were sampled but now included; None if it is as it was when last asked for."""
        self.ask()
        is_changed, self._is_changed = self._is_changed, False
        return self.waiting() if is_changed else None

    def waiting(self) -> dict[str, Any]:
        """What waits, and the sample's rate."""
        return {"evaluations": self.evaluations, "rate": self.sample.rate, "tally": self._waiting.to_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `to_dict` stood. Raises KeyError, TypeError or ValueError."""
        self.detector.restore(state["detector"])
        self.evaluations = int(state["evaluations"])

    def replay(self, block: Mapping[str, Any], wall_s: float, depends: bool) -> None:
        """Judge again what `evaluate` told. Raises KeyError, TypeError or ValueError."""
        self._judge(self._tally(block["tally"]), wall_s, float(block["limit"]), depends)

    def wait(self, document: Mapping[str, Any]) -> None:
        """What `waiting` told waits again, if nothing was judged since. Raises KeyError, TypeError or ValueError."""
        rate = float(document["rate"])
        if not 0.0 < rate <= 1.0:
            raise ValueError(f"a sample's rate of {rate}")
        self.sample.rate = rate
        if int(document["evaluations"]) == self.evaluations:
            self._waiting = self._tally(document["tally"])

    def _tally(self, document: Mapping[str, Any]) -> Tally:
        questions = self._together.questions
        return Tally.from_dict(document, len(questions), len(questions.columns))
