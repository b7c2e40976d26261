"""What one worker makes of one model's route: the arms that may answer, and how the split chooses between them.

Built anew whenever the route table or the set of loaded versions changes, and never changed after that: a request
keeps the arm it was assigned, so that its outcome is booked where it belongs however late it comes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from hashlib import blake2b
from math import isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.data import answer_cache
from gateway.data.batcher import Batcher
from gateway.data.breaker import Breaker
from gateway.data.codecs import v2
from gateway.data.keys import KeyTable
from gateway.data.page import WorkerPage
from gateway.data.routes import RouteEntry
from gateway.data.run_mark import RunMark
from gateway.data.servable import Servable, Tensor
from gateway.data.split import canary_bound
from monitor.record import Gatherer, LogSchema
from registry.errors import NotReady, VersionNotFound
from registry.vocabulary import Role

HEADER_KEY = "header:"
_FEW = 64


class Loaded:
    """A servable with everything that is made once when it loads."""

    def __init__(self, servable: Servable, limits: Sequence[tuple[float, float] | None] | None) -> None:
        self.servable = servable
        self.writer = v2.Writer(servable)
        self.batcher: Batcher[Any]  # set by the owner, whose callback needs this object
        self.answers = answer_cache.of(servable)
        self.breaker: Breaker | None = None  # only while runs have failed, or ended the worker; kept by `breakers.py`
        self.still_answers: Callable[[], bool] = lambda: False  # whether it does what it was registered with; slow
        self.constant: Loaded | None = None  # itself with the constant of its options for a run; set by the owner
        self.is_constant = False
        schema = servable.manifest.log_schema
        self.schema = None if schema is None else LogSchema.from_dict(schema)
        if self.schema is not None:
            self._inputs = Gatherer(self.schema.inputs, self.schema.by_rows, self.schema.input_dtype)
            self._outputs = Gatherer(self.schema.outputs, self.schema.by_rows, self.schema.output_dtype)
        self._low, self._high = self._bounds(limits)
        self._lows = [] if self._low is None else self._low.tolist()
        self._highs = [] if self._high is None else self._high.tolist()
        # Whether outputs within their limits are finite, which then need not be looked at again.
        self.good_is_finite = self._limits_cover_every_number()

    @property
    def is_gone(self) -> bool:
        """Whether it was let go of: it takes no request any more."""
        return not hasattr(self, "batcher")

    def _bounds(
        self, limits: Sequence[tuple[float, float] | None] | None
    ) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
        if limits is None or self.schema is None or len(limits) != len(self.schema.outputs):
            return None, None
        pairs = [(-np.inf, np.inf) if pair is None else pair for pair in limits]
        return np.array([low for low, _ in pairs]), np.array([high for _, high in pairs])

    def _limits_cover_every_number(self) -> bool:
        if self._low is None or self._high is None or self.schema is None:
            return False
        finite = np.isfinite(self._low) & np.isfinite(self._high)
        plain = {c.tensor for c, is_bound in zip(self.schema.outputs, finite, strict=True) if is_bound}
        loose = {
            column.tensor
            for column, is_bound in zip(self.schema.outputs, finite, strict=True)
            if not is_bound or column.kind == "summary" or column.name.endswith(".top")
        }
        servable = self.servable
        return all(servable.output_names[index] in plain - loose for index in servable.float_outputs)

    def features(self, feeds: Sequence[Tensor], rows: int) -> NDArray[Any]:
        """The logged input columns, (rows, columns)."""
        if len(feeds) == 1 and self._inputs.is_block(feeds[0], rows):
            return feeds[0]
        return self._inputs(dict(zip(self.servable.input_names, feeds, strict=True)), rows)

    def outputs(self, outputs: Sequence[Tensor], rows: int) -> NDArray[Any]:
        """The logged output columns, (rows, columns)."""
        if len(outputs) == 1 and self._outputs.is_block(outputs[0], rows):
            return outputs[0]
        return self._outputs(dict(zip(self.servable.output_names, outputs, strict=True)), rows)

    def all_good(self, outputs: NDArray[Any]) -> bool:
        """Whether surely no row is bad: the common case, for the price of a minimum and a maximum."""
        if self._low is None or self._high is None or not outputs.size:
            return False
        if outputs.size <= _FEW and outputs.shape[1] == 1:  # numpy's fixed costs are higher than Python's loops
            values = outputs.ravel().tolist()
            # min and max may pass over a NaN, a sum never does.
            return bool(self._low[0] <= min(values) and max(values) <= self._high[0] and not isnan(sum(values)))
        if len(outputs) == 1 and outputs.size <= _FEW:
            bounds = zip(self._lows, outputs[0].tolist(), self._highs, strict=True)
            return all(low <= value <= high for low, value, high in bounds)
        return bool((outputs.min(axis=0) >= self._low).all() and (outputs.max(axis=0) <= self._high).all())

    def bad_rows(self, outputs: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Rows with a missing or out-of-range output; None when the version has no profile to say so."""
        if self._low is None or self._high is None:
            return None
        # Written so that NaN, which compares false with everything, is bad.
        good = (outputs >= self._low) & (outputs <= self._high)
        bad: NDArray[np.bool_] = np.logical_not(np.all(good, axis=1))
        return bad


class Arm:
    """One version in one role at one weight: where a request's outcome is booked."""

    __slots__ = (
        "epoch",
        "head",
        "headers",
        "is_canary",
        "loaded",
        "role",
        "segment",
        "slow_above_ns",
        "stand_in",
        "totals",
        "traffic",
        "weight",
    )

    def __init__(self, traffic: Traffic, loaded: Loaded, role: Role, page: WorkerPage, epoch: int) -> None:
        servable = loaded.servable
        self.traffic = traffic
        self.loaded = loaded
        self.role = role
        self.epoch = epoch
        self.is_canary = role is Role.CANARY
        self.weight = traffic.weight
        self.totals = page.totals(servable.model, servable.version, role)
        self.segment: int | None = None
        self.slow_above_ns = float("inf")
        self.stand_in: Arm | None = None  # who answers when this one's run fails
        self.headers: tuple[tuple[bytes, bytes], ...] = (
            (b"x-driftgate-version", b"%d" % servable.version),
            (b"x-driftgate-role", role.encode()),
            *(((b"x-driftgate-fallback", b"constant"),) if loaded.is_constant else ()),
        )
        self.head = b"".join(b"%b: %b\r\n" % header for header in self.headers)  # as they are on the wire

    def is_ready(self, now_s: float) -> bool:
        """Whether a request would be run now: it is loaded, and no breaker refuses."""
        loaded = self.loaded
        return not loaded.is_gone and (loaded.breaker is None or loaded.breaker.left_s(now_s) <= 0)

    def of_kept(self) -> Arm:
        """This arm for an answer that was kept: booked in the same place, and the caller is told."""
        arm = copy(self)
        arm.headers = (*self.headers, (b"x-driftgate-cache", b"hit"))
        arm.head = self.head + b"x-driftgate-cache: hit\r\n"
        return arm

    def watch(self, page: WorkerPage, entry: RouteEntry) -> None:
        """Count this arm's outcomes as evidence for the running rollout."""
        servable = self.loaded.servable
        judged = entry.latency_threshold_us is not None
        self.segment = page.segment(servable.model, servable.version, self.role, entry.rollout_id, self.weight, judged)
        if entry.latency_threshold_us is not None:
            factor = entry.slowdown if self.is_canary else 1.0
            self.slow_above_ns = entry.latency_threshold_us * factor * 1000.0


@dataclass(slots=True)
class Evidence:
    """A worker's own progress in one rollout; outlives route table epochs."""

    rollout_id: str
    burn_in_left: int
    keys: KeyTable | None = None
    keys_failed: bool = False  # the table could not be made
    vetoed: bool = False
    canary_failures_in_a_row: int = 0
    is_over: bool = False  # the rollout has ended: its keys and segments are another's now
    mark: RunMark | None = None  # that the candidate is being run
    marked: Servable | None = None  # the candidate, whose runs are marked


class Inside:
    """The requests of one model that are inside, for admission; like them, it outlives route tables."""

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting = 0


@dataclass(slots=True)
class Traffic:
    """How one model's requests are split here and now."""

    model: str
    entry: RouteEntry
    loaded: Mapping[int, Loaded]
    champion: Arm | None = None
    canary: Arm | None = None
    quiet: Arm | None = None  # the champion while the canary's effective weight is 0: its answers are no evidence
    shadow: Loaded | None = None
    shadow_order: tuple[int, ...] = ()  # the shadow's inputs as positions among the champion's
    weight: float = 0.0
    bound: int = 0
    salt: bytes = b""
    key_header: bytes = b"x-routing-key"
    evidence: Evidence | None = None
    direct: dict[int, Arm] = field(default_factory=dict)
    inside: Inside = field(default_factory=Inside)

    def pick(self, headers: Mapping[bytes, bytes], random_bits: int, lease_left_ns: int) -> tuple[Arm, bytes | None]:
        """The arm that answers, and the routing key when one decided. Raises NotReady."""
        champion = self.champion
        key = headers.get(self.key_header)
        if self.bound and lease_left_ns > 0 and self.canary is not None:
            evidence = self.evidence
            if evidence is None or not evidence.vetoed:
                if key is None:
                    chosen = random_bits < self.bound
                else:
                    digest = blake2b(key, key=self.salt, digest_size=8).digest()
                    chosen = int.from_bytes(digest, "little") < self.bound
                if chosen:
                    return self.canary, key
                if champion is not None:
                    return champion, key
        if champion is None:
            raise NotReady(f"model {self.model!r} has no champion that is ready here", model=self.model)
        return (champion if self.quiet is None else self.quiet), key

    def named(self, version: str, page: WorkerPage, epoch: int) -> Arm:
        """The arm of a version, or an alias, that the caller named. Raises VersionNotFound or NotReady."""
        number = int(version) if version.isdecimal() and len(version) < 10 else self.entry.aliases.get(version, -1)
        loaded = self.loaded.get(number)
        if loaded is None:
            if number in self.entry.aspired:
                raise NotReady(f"version {version} of model {self.model!r} is not ready here", model=self.model)
            raise VersionNotFound(f"model {self.model!r} serves no version {version!r}", model=self.model)
        arm = self.direct.get(number)
        if arm is None:
            arm = self.direct[number] = Arm(self, loaded, Role.DIRECT, page, epoch)
        return arm


def build(
    model: str,
    entry: RouteEntry,
    loaded: Mapping[int, Loaded],
    page: WorkerPage,
    epoch: int,
    evidence: Evidence | None,
    inside: Inside,
    *,
    trusted: bool,
) -> Traffic:
    """The traffic of one model. An untrusted table, or a candidate that is not loaded here, gives weight 0."""
    traffic = Traffic(model, entry, loaded, evidence=evidence, inside=inside)
    candidate = loaded.get(entry.candidate) if entry.candidate is not None else None
    if trusted and candidate is not None and entry.weight > 0:
        traffic.weight = entry.weight
        traffic.bound = canary_bound(entry.weight)
        traffic.salt = bytes.fromhex(entry.salt)
        traffic.canary = Arm(traffic, candidate, Role.CANARY, page, epoch)
    if entry.key.startswith(HEADER_KEY):
        traffic.key_header = entry.key.removeprefix(HEADER_KEY).lower().encode()
    champion = loaded.get(entry.champion) if entry.champion is not None else None
    if champion is not None:
        traffic.champion = Arm(traffic, champion, Role.CHAMPION, page, epoch)
        if trusted and candidate is not None and entry.shadow:
            order = input_order(champion.servable, candidate.servable)
            if order is not None:
                traffic.shadow, traffic.shadow_order = candidate, order
    if traffic.canary is not None and traffic.champion is not None and evidence is not None and champion is not None:
        traffic.champion.watch(page, entry)
        traffic.canary.watch(page, entry)
        traffic.quiet = Arm(traffic, champion, Role.CHAMPION, page, epoch)
    _link(traffic, page, epoch)
    return traffic


def _link(traffic: Traffic, page: WorkerPage, epoch: int) -> None:
    """Say who answers when a run fails: for a canary the champion, for the champion whom its options name.

    A caller who names a version wants that one: nobody stands in for it.
    """
    champion, canary = traffic.champion, traffic.canary
    if champion is None:
        return
    loaded, previous = champion.loaded, traffic.entry.previous
    after: Arm | None = None
    for step in reversed(loaded.servable.manifest.options.fallback):
        one = loaded.constant if step == "constant" else None if previous is None else traffic.loaded.get(previous)
        if one is not None and one is not loaded:
            after = _before(after, Arm(traffic, one, Role.FALLBACK, page, epoch))
    for arm in (champion, traffic.quiet):
        if arm is not None:
            arm.stand_in = after
    if canary is not None and canary.loaded is not loaded:
        canary.stand_in = _before(after, Arm(traffic, loaded, Role.FALLBACK, page, epoch))


def _before(after: Arm | None, arm: Arm) -> Arm:
    arm.stand_in = after
    return arm


def input_order(champion: Servable, candidate: Servable) -> tuple[int, ...] | None:
    """Where each input of the candidate stands among the champion's; None when it wants others."""
    order = []
    for slot in candidate.slots:
        position = champion.slot_index.get(slot.spec.name)
        if position is None or champion.slots[position].spec.datatype != slot.spec.datatype:
            return None
        order.append(position)
    return tuple(order)
