"""What a version says and how wrong it was, followed by ADWIN and Page-Hinkley: a picture for dashboards.

Why: people look at scores and losses over time, and at these two detectors. Both see blocks of `BLOCK` rows, summed
by numpy; ADWIN's blocks keep their rows' variance, so its test is the published one, looked at as often as river looks
(every 32 values) or once a second of the rows' own time, whichever is later. Rows that resemble their neighbours say
less than others: how much less is measured between blocks, and taken into account.
Invariants: the state is a pure function of the rows in their order, so a restart that reads the same rows again changes
nothing; at most `MOST` streams of a role, of some kilobytes each. Nothing here raises an alarm. Called by `live.py`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import inf, isfinite, sqrt
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from monitor.pauses import pause
from monitor.profile import ColumnProfile, ReferenceProfile
from monitor.record import LogSchema
from monitor.scores import Adwin, PageHinkley, from_dict, to_dict
from registry.errors import FormatTooNew, StateDamaged
from registry.formats import check_stamp, stamped
from registry.vocabulary import Role

logger = logging.getLogger(__name__)

StreamKind = Literal["top_score", "score", "value", "loss"]
KINDS: tuple[str, ...] = get_args(StreamKind)

LEVEL = 5
BLOCK = 1 << LEVEL  # rows
LOOK_EVERY_NS = 1_000_000_000
MOST = 4  # streams of scores of one role, and as many of losses
WARM_UP = 32  # blocks before Page-Hinkley begins: until then it has no scale
MEMORY = 10_000.0  # blocks that the scale is a mean of, about
SPREAD_SD = 4.0  # values farther than this from the reference's mean count as if they were there
# In standard deviations of a block's mean: a shift under a twentieth of a row's own is never found where rows are
# independent, larger ones as soon as the table in docs/drift.md says.
DELTA, THRESHOLD = 0.25, 35.0


@dataclass(frozen=True, slots=True)
class Spec:
    """One stream. Values are clipped to [low, high], which ADWIN takes for its [0, 1]."""

    output: str
    kind: StreamKind
    low: float
    high: float


@dataclass(slots=True)
class ScoreStream:
    """One stream's state."""

    spec: Spec
    rows: int = 0
    skipped: int = 0  # not finite
    adwin: Adwin = field(default_factory=Adwin)
    page_hinkley: PageHinkley = field(
        default_factory=lambda: PageHinkley(min_values=WARM_UP, delta=DELTA, threshold=THRESHOLD, forgetting=1.0)
    )
    adwin_ns: int = 0  # when the last change was found, by the rows' clock; 0 for never
    page_hinkley_ns: int = 0
    waiting: list[float] = field(default_factory=list)  # rows of a block that is not full
    looked_ns: int = 0
    blocks: int = 0
    last: float = 0.0  # the last block's mean
    between: float = 0.0  # variance of blocks' means, from neighbours' differences: a shift hardly touches it
    within: float = 0.0  # variance of rows in their block

    @property
    def mean(self) -> float:
        """Of the rows in ADWIN's window, in the stream's own units."""
        return self.spec.low + self.adwin.estimate * (self.spec.high - self.spec.low)

    @property
    def deff(self) -> float:
        """How many rows say as much as one independent row, as far as a block shows it."""
        total = self.within * (BLOCK - 1) / BLOCK + self.between
        return max(1.0, BLOCK * self.between / total) if total > 0.0 else 1.0

    def add(self, values: NDArray[np.float64], wall_ns: NDArray[np.int64]) -> None:
        """Rows (n,) in their order, and when they were."""
        good = np.isfinite(values)
        if not good.all():
            self.skipped += int((~good).sum())
            values, wall_ns = values[good], wall_ns[good]
        before, self.rows = len(self.waiting), self.rows + len(values)
        low, high = self.spec.low, self.spec.high
        units = (np.clip(values, low, high) - low) / (high - low)
        if before + len(units) < BLOCK:
            self.waiting += units.tolist()
            return
        units = np.concatenate((self.waiting, units))
        full = len(units) // BLOCK
        self.waiting = units[full * BLOCK :].tolist()
        blocks = units[: full * BLOCK].reshape(full, BLOCK)
        self._add_blocks(blocks, wall_ns[BLOCK - 1 - before :: BLOCK].tolist())

    def add_one(self, value: float, wall_ns: int) -> None:
        """One row."""
        if not isfinite(value):
            self.skipped += 1
            return
        self.rows += 1
        low, high = self.spec.low, self.spec.high
        self.waiting.append((min(max(value, low), high) - low) / (high - low))
        if len(self.waiting) == BLOCK:
            block, self.waiting = np.array([self.waiting]), []
            self._add_blocks(block, [wall_ns])

    def _add_blocks(self, blocks: NDArray[np.float64], ends_ns: list[int]) -> None:
        means = blocks.mean(axis=1)
        m2s = np.square(blocks - means[:, None]).sum(axis=1)
        for mean, m2, end_ns in zip(means.tolist(), m2s.tolist(), ends_ns, strict=True):
            self._add_block(mean, m2, end_ns)

    def _add_block(self, mean: float, m2: float, wall_ns: int) -> None:
        self.within += (m2 / (BLOCK - 1) - self.within) / min(self.blocks + 1.0, MEMORY)
        if self.blocks:
            self.between += ((mean - self.last) ** 2 / 2.0 - self.between) / min(float(self.blocks), MEMORY)
        self.blocks, self.last = self.blocks + 1, mean
        if self.blocks >= WARM_UP and self.between > 0.0 and self.page_hinkley.update(mean, sqrt(self.between)):
            self.page_hinkley_ns = wall_ns
        self.adwin.add(mean, m2, LEVEL)
        if abs(wall_ns - self.looked_ns) >= LOOK_EVERY_NS:
            self.looked_ns = wall_ns
            if self.adwin.look(self.deff):
                self.adwin_ns = wall_ns

    def to_dict(self) -> dict[str, Any]:
        """As stored."""
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "output": self.spec.output,
            "stream": self.spec.kind,
            "low": self.spec.low,
            "high": self.spec.high,
            "waiting": self.waiting,
            "adwin": to_dict(self.adwin),
            "page_hinkley": to_dict(self.page_hinkley),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> ScoreStream:
        """Raises StateDamaged, FormatTooNew, KeyError, TypeError or ValueError."""
        low, high = float(document["low"]), float(document["high"])
        waiting = [float(value) for value in document["waiting"]]
        adwin, page_hinkley = from_dict(document["adwin"]), from_dict(document["page_hinkley"])
        if not (isinstance(adwin, Adwin) and isinstance(page_hinkley, PageHinkley)):
            raise ValueError("its detectors are of another kind")
        if not 0.0 < high - low < inf or len(waiting) >= BLOCK or document["stream"] not in KINDS:
            raise ValueError(f"a stream of {document['stream']!r} between {low} and {high}")
        made = cls(Spec(str(document["output"]), document["stream"], low, high), adwin=adwin, page_hinkley=page_hinkley)
        made.waiting = waiting
        for name, kind in _PLAIN.items():
            setattr(made, name, kind(document[name]))
        return made


_PLAIN: dict[str, type[int] | type[float]] = {
    **dict.fromkeys(("rows", "skipped", "adwin_ns", "page_hinkley_ns", "looked_ns", "blocks"), int),
    **dict.fromkeys(("last", "between", "within"), float),
}


@dataclass(frozen=True, slots=True)
class StreamView:
    """What is shown of one stream."""

    role: Role
    output: str
    kind: StreamKind
    rows: int
    skipped: int
    mean: float | None  # None before the first block
    window_rows: int
    changes: Mapping[str, tuple[int, int]]  # detector → how many, and the last one's wall_ns


class ScoreStreams:
    """All streams of one version, by role."""

    def __init__(self, profile: ReferenceProfile) -> None:
        self._profile = profile
        self._streams: dict[tuple[Role, str, StreamKind], ScoreStream] = {}
        self._schema: LogSchema | None = None
        self._specs: list[tuple[Spec, slice]] = []
        self._is_dirty = False

    @classmethod
    def resumed(cls, profile: ReferenceProfile, stored: bytes | None) -> ScoreStreams:
        """Go on where the last checkpoint stood; anew under another profile, or from what cannot be read."""
        made = cls(profile)
        if stored is None:
            return made
        try:
            document = json.loads(stored)
            check_stamp("scores", document)
            if document["profile"] == profile.digest:
                for item in document["streams"]:
                    stream = ScoreStream.from_dict(item)
                    made._streams[Role(item["role"]), stream.spec.output, stream.spec.kind] = stream
        except (StateDamaged, FormatTooNew, KeyError, TypeError, ValueError) as error:
            logger.warning("what was followed of scores and losses begins anew: %s", error)
            return cls(profile)
        return made

    def add(self, role: Role, schema: LogSchema, outputs: NDArray[Any], wall_ns: NDArray[np.int64]) -> None:
        """Answered rows (n, O) of one lane, in their order."""
        if self._schema is not schema:
            self._schema, self._specs = schema, specs_of(schema, self._profile.outputs)
        for spec, columns in self._specs:
            values = outputs[:, columns].max(axis=1) if spec.kind == "top_score" else outputs[:, columns.start]
            self._of(role, spec).add(values.astype(np.float64), wall_ns)
            pause()
            self._is_dirty = True

    def add_loss(self, role: Role, output: str, is_class: bool, loss: float, wall_ns: int) -> None:
        """One labelled row: 0 or 1 of a class, the absolute error of a number."""
        stream = self._streams.get((role, output, "loss"))
        if stream is None:
            if sum(known == role and kind == "loss" for known, _, kind in self._streams) >= MOST:
                return
            column = next((column for column in self._profile.outputs if column.name == output), None)
            if not is_class and column is None:
                return  # nobody knows what is large
            high = 1.0 if is_class or column is None else SPREAD_SD * _sd(column)
            stream = self._of(role, Spec(output, "loss", 0.0, high if high < inf else 1.0))
        stream.add_one(loss, wall_ns)
        self._is_dirty = True

    def _of(self, role: Role, spec: Spec) -> ScoreStream:
        key = (role, spec.output, spec.kind)
        if key not in self._streams:
            self._streams[key] = ScoreStream(spec)
        return self._streams[key]

    def views(self) -> Iterator[StreamView]:
        """What is shown, sorted."""
        for (role, output, kind), stream in sorted(self._streams.items()):
            yield StreamView(
                role,
                output,
                kind,
                stream.rows,
                stream.skipped,
                stream.mean if stream.adwin.width else None,
                stream.adwin.width,
                {
                    "adwin": (stream.adwin.changes, stream.adwin_ns),
                    "page_hinkley": (stream.page_hinkley.changes, stream.page_hinkley_ns),
                },
            )

    def unsaved(self) -> bytes | None:
        """All of it, if anything changed since `saved`."""
        if not self._is_dirty:
            return None
        streams = [{"role": str(role), **stream.to_dict()} for (role, _, _), stream in self._streams.items()]
        body = stamped("scores", {"profile": self._profile.digest, "streams": streams})
        return json.dumps(body, separators=(",", ":")).encode()

    def saved(self) -> None:
        """What `unsaved` gave is in the database now."""
        self._is_dirty = False


def specs_of(schema: LogSchema, columns: tuple[ColumnProfile, ...]) -> list[tuple[Spec, slice]]:
    """What is followed of a schema's outputs, and in which columns it lies: at most `MOST` streams.

    Of class scores the largest, and of two classes the second's too, as a shift from .3 to .7 leaves the largest where
    it was; a number itself. Labels and summaries of large tensors are left to the counts.
    """
    found: list[tuple[Spec, slice]] = []
    by_tensor: dict[str, list[int]] = {}
    for at, column in enumerate(schema.outputs):
        by_tensor.setdefault(column.tensor, []).append(at)
    for tensor, places in by_tensor.items():
        where = slice(places[0], places[-1] + 1)  # a tensor's columns lie side by side
        if tensor in schema.scores:
            low, high = _range([columns[at] for at in places])
            found.append((Spec(tensor, "top_score", low, high), where))
            if len(places) == 2:
                found.append((Spec(columns[places[1]].name, "score", low, high), slice(places[1], places[1] + 1)))
        else:
            found += [
                (Spec(columns[at].name, "value", *_spread(columns[at])), slice(at, at + 1))
                for at in places[:MOST]
                if schema.outputs[at].kind == "number"
            ]
        if len(found) >= MOST:
            break
    return found[:MOST]


def _range(columns: list[ColumnProfile]) -> tuple[float, float]:
    """Where scores lie: probabilities from 0 to 1, others within what the reference had."""
    low = min((column.low for column in columns if column.low is not None), default=0.0)
    high = max((column.high for column in columns if column.high is not None), default=1.0)
    if low >= -1e-6 and high <= 1.0 + 1e-6:
        return 0.0, 1.0
    return _bounds(low, high)


def _spread(column: ColumnProfile) -> tuple[float, float]:
    mean, spread = column.mean or 0.0, SPREAD_SD * _sd(column)
    return _bounds(mean - spread, mean + spread)


def _bounds(low: float, high: float) -> tuple[float, float]:
    """These, or some for what a float cannot span."""
    return (low, high) if 0.0 < high - low < inf else (-1.0, 1.0)


def _sd(column: ColumnProfile) -> float:
    """The column's standard deviation; of one that was constant or always missing, what may be large instead."""
    return column.sd or abs(column.mean or 0.0) or 1.0
