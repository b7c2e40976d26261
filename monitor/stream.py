"""The fast detectors of one version's stream: what waits for the next evaluation, and a state that survives a kill.

Why: a detector's state is a pure function of the counts that came, in their order, and of a thousand features it is
megabytes. So each evaluation's counts are stored (kilobytes, in the transaction of the tiles that hold the same rows),
the whole state only now and then, and a restart replays the evaluations since. Invariants: after a restart the
detectors stand exactly where they stood at the last checkpoint; what waits for an evaluation is stored too; at most
`RING` evaluations are kept. Owned by `monitor/live.py`. One thread; a state is packed on another while nothing changes
it.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from concurrent.futures import Executor, Future
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor.block import Rows
from monitor.budget import is_due
from monitor.counts import Counts
from monitor.dependence import LEARN_EVALUATIONS
from monitor.detectors import FastDetector, Limits
from monitor.neighbours import resemble
from monitor.profile import ReferenceProfile
from monitor.together_stream import TogetherStream
from monitor.watch import SIDES, Evidence, Side
from registry.errors import StateDamaged
from registry.formats import check_stamp, stamped

logger = logging.getLogger(__name__)

SNAPSHOT_EVERY = 60  # evaluations between two whole states
RING = 128  # evaluations kept: more than come while a state is packed
UNTIL_LEARNED = 1e9  # a design effect that no window has rows for


class Stream:
    """Input and output detectors of one version under one profile."""

    def __init__(self, profile: ReferenceProfile, executor: Executor) -> None:
        self.profile = profile
        self.digest = profile.digest  # of a wide one it takes a while: here, and not in the first evaluation
        _ = [each.digest for each in (profile.input_bins(), profile.output_bins())]  # the same
        self.together = None if profile.together is None else TogetherStream(profile.together)
        self.evaluations, self.evaluated_s = 0, -math.inf
        self._order_is_lost = all(column.block_rows is None for column in (*profile.inputs, *profile.outputs))
        self._depends = False  # live rows resemble their neighbours, of which the reference says nothing
        self._executor = executor
        self._waiting = self._nothing()
        self._unsaved: dict[str, bytes] = {}
        self._packing: tuple[int, Future[bytes]] | None = None

    @cached_property
    def detectors(self) -> tuple[FastDetector, FastDetector]:
        """Made for the first evaluation: they are megabytes, and most of a thousand versions are hardly ever asked."""
        inputs, outputs = self.profile.input_bins(), self.profile.output_bins()
        return (
            FastDetector(self.profile.inputs, "input", bins=inputs),
            FastDetector(self.profile.outputs, "output", bins=outputs),
        )

    @property
    def has_detectors(self) -> bool:
        """Whether it was evaluated, ever."""
        return "detectors" in self.__dict__

    def _nothing(self) -> tuple[Counts, Counts]:
        return Counts.empty(self.profile.input_bins()), Counts.empty(self.profile.output_bins())

    @property
    def waiting_rows(self) -> int:
        """Rows since the last evaluation."""
        return self._waiting[0].rows

    def add(self, inputs: Counts, outputs: Counts) -> None:
        """Rows that came, counted in the profile's bins."""
        self._waiting[0].merge(inputs)
        self._waiting[1].merge(outputs)
        self._unsaved["waiting"] = b""  # made when it is asked for

    def sample(self, rows: Rows, salt: int) -> None:
        """The same rows, to be looked at as a whole: some of them. salt tells lanes apart."""
        if self.together is not None:
            self.together.add(rows, salt)

    def is_due(self, now_s: float) -> bool:
        """Whether enough rows and time have passed since the last evaluation."""
        return is_due(self.waiting_rows, now_s - self.evaluated_s)

    def see(self, features: NDArray[np.floating[Any]]) -> None:
        """Input rows (n, F) of those that wait, in the order in which they came: whether they need to be learned from.

        Where the reference's order says nothing of dependence and neighbours prove to resemble each other, the first
        evaluations only teach how much: nobody could tell a drift from the mood of a day.
        """
        if self._order_is_lost and not self._depends and self.evaluations < LEARN_EVALUATIONS:
            self._depends = resemble(self.profile.input_bins(), features)

    @property
    def is_learning(self) -> bool:
        """Whether where values lie cannot be judged yet, as nobody knows how rows depend on each other."""
        return self._depends and self.evaluations < LEARN_EVALUATIONS

    def live_deffs(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Per column of either side: by how much more rows depend on their neighbours than the reference says."""
        if self.has_detectors:
            inputs, outputs = (detector.live_deffs() for detector in self.detectors)
        else:
            inputs, outputs = np.ones(len(self.profile.inputs)), np.ones(len(self.profile.outputs))
        if self.is_learning:
            inputs[:], outputs[:] = UNTIL_LEARNED, UNTIL_LEARNED
        return inputs, outputs

    def evaluate(
        self, now_s: float, wall_s: float, limits: tuple[Limits, Limits], together_limit: float = math.inf
    ) -> tuple[list[Evidence], list[Evidence], tuple[Counts, Counts]]:
        """Judge what waits: the alarms that it raised, those that it cleared, and the counts that were judged."""
        if self._packing is not None:
            self._packing[1].exception()  # wait: it reads the state that changes now
        counts = self._waiting
        raised, cleared = self._update(counts, wall_s, limits)
        asked = None
        if self.together is not None:
            self.together.sample.pace(counts[0].rows, now_s - self.evaluated_s)
            up, down, asked = self.together.evaluate(now_s, wall_s, together_limit, self._depends)
            raised, cleared = [*raised, *up], [*cleared, *down]
        self._waiting, self.evaluated_s = self._nothing(), now_s
        self._unsaved.pop("waiting", None)
        block = {
            "n": self.evaluations,
            "profile": self.digest,
            "wall_s": wall_s,
            "limits": [[each.shape, each.quality] for each in limits],
            "inputs": counts[0].to_dict(),
            "outputs": counts[1].to_dict(),
            "depends": self._depends,
        }
        if asked is not None:
            block["together"] = asked
        self._unsaved[f"block.{self.evaluations % RING}"] = _dump(stamped("evaluation", block))
        if self.evaluations % SNAPSHOT_EVERY == 0:
            self._packing = self.evaluations, self._executor.submit(self._pack, self.evaluations)
        return raised, cleared, counts

    def forgo(self, now_s: float) -> None:
        """What waits could not be judged: it never will be, or what was judged of it would be judged twice."""
        self._waiting, self.evaluated_s = self._nothing(), now_s
        self._unsaved["waiting"] = b""

    def _update(
        self, counts: tuple[Counts, Counts], wall_s: float, limits: tuple[Limits, Limits]
    ) -> tuple[list[Evidence], list[Evidence]]:
        raised: list[Evidence] = []
        cleared: list[Evidence] = []
        is_learning = self.is_learning
        for detector, counted, limit in zip(self.detectors, counts, limits, strict=True):
            report = detector.update(counted, wall_s, limit, is_learning=is_learning)
            raised += report.raised
            cleared += report.cleared
        self.evaluations += 1
        return raised, cleared

    def active(self) -> list[Evidence]:
        """All alarms that are raised."""
        found = [row for detector in self.detectors for row in detector.active()] if self.has_detectors else []
        return found if self.together is None else [*found, *self.together.active()]

    def worst(self, features: int) -> list[Evidence]:
        """The evidence nearest to its limit, of both sides, the strongest first; none before the first evaluation."""
        if not self.has_detectors:
            return []
        rows = [row for detector in self.detectors for row in detector.worst(features)]
        return sorted(rows, key=lambda row: row.limit_log10 - row.evidence_log10)[:features]

    def strongest(self, side: Side) -> Evidence | None:
        """The evidence of one side that is nearest to its limit; None before the first evaluation."""
        if not self.has_detectors:
            return None
        return next(iter(self.detectors[SIDES.index(side)].worst(1)), None)

    # -- its state -------------------------------------------------------------------------------------------------

    def _pack(self, evaluations: int) -> bytes:
        body: dict[str, Any] = {
            "n": evaluations,
            "profile": self.digest,
            "input": self.detectors[0].to_dict(),
            "output": self.detectors[1].to_dict(),
            "depends": self._depends,
        }
        if self.together is not None:
            body["together"] = self.together.to_dict()
        return _dump(stamped("stream", body))

    def unsaved(self) -> dict[str, bytes]:
        """What changed since `saved`, by name."""
        if self._packing is not None and self._packing[1].done():
            (_, packed), self._packing = self._packing, None
            if packed.exception() is None:  # else the blocks since the last one have to do
                self._unsaved["state"] = packed.result()
        if "waiting" in self._unsaved:
            inputs, outputs = self._waiting
            body = {
                "n": self.evaluations,
                "profile": self.digest,
                "inputs": inputs.to_dict(),
                "outputs": outputs.to_dict(),
            }
            self._unsaved["waiting"] = _dump(stamped("evaluation", body))
        sampled = None if self.together is None else self.together.changed()
        if sampled is not None:
            self._unsaved["together"] = _dump(stamped("together", {"profile": self.digest, **sampled}))
        return dict(self._unsaved)

    def saved(self) -> None:
        """What `unsaved` gave is in the database now."""
        self._unsaved.clear()

    def restore(self, stored: Mapping[str, bytes]) -> None:
        """Go on where the last checkpoint stood. Raises StateDamaged or FormatTooNew, and then begins anew.

        What another profile's stream left there is not looked at.
        """
        try:
            self._restore(stored)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StateDamaged(f"a stream's state cannot be taken up: {error!r}") from None

    def _restore(self, stored: Mapping[str, bytes]) -> None:
        state = self._read("stream", stored.get("state"))
        if state is not None:
            self.detectors[0].restore(state["input"])
            self.detectors[1].restore(state["output"])
            if self.together is not None and "together" in state:
                self.together.restore(state["together"])
            self.evaluations = int(state["n"])
            self._depends = bool(state.get("depends", False))
        while (block := self._next(stored)) is not None:
            self._depends = bool(block.get("depends", False))
            limits = tuple(Limits(float(shape), float(quality)) for shape, quality in block["limits"])
            self._update(self._counts(block), float(block["wall_s"]), (limits[0], limits[1]))
            if self.together is not None and "together" in block:
                self.together.replay(block["together"], float(block["wall_s"]), self._depends)
        waiting = self._read("evaluation", stored.get("waiting"))
        if waiting is not None and int(waiting["n"]) == self.evaluations:
            self._waiting = self._counts(waiting)
        sampled = self._read("together", stored.get("together"))
        if self.together is not None and sampled is not None:
            self.together.wait(sampled)

    def _next(self, stored: Mapping[str, bytes]) -> Mapping[str, Any] | None:
        """The evaluation after the last one. One at a time: parsed, all of them would be megabytes."""
        wanted = self.evaluations + 1
        block = self._read("evaluation", stored.get(f"block.{wanted % RING}"))
        return block if block is not None and int(block["n"]) == wanted else None

    def _read(self, kind: str, document: bytes | None) -> Mapping[str, Any] | None:
        if document is None:
            return None
        found = json.loads(document)
        check_stamp(kind, found)
        return found if found["profile"] == self.digest else None

    def _counts(self, document: Mapping[str, Any]) -> tuple[Counts, Counts]:
        return (
            Counts.from_dict(document["inputs"], self.profile.input_bins()),
            Counts.from_dict(document["outputs"], self.profile.output_bins()),
        )


def _dump(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
