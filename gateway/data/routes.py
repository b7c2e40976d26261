"""The route table as workers read it: an immutable snapshot file and a 64-byte header page in shared memory.

Invariant: a canary answers only while this process has read, parsed and trusts the table of the epoch that the header
shows, and the controller's lease on it has not run out. Whatever goes wrong lowers canaries to 0; nothing raises them.

The header is written by one process (`gateway/control/table.py`). `current()` costs one comparison when nothing moved.
"""

from __future__ import annotations

import logging
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from registry.clock import Clock
from registry.errors import ServingError, StateDamaged
from registry.formats import check_stamp, stamped
from registry.vocabulary import Role

logger = logging.getLogger(__name__)

MAGIC = int.from_bytes(b"DGROUTE1", "little", signed=True)
HEADER_BYTES = 64
WORD_MAGIC, WORD_BOOT, WORD_EPOCH, WORD_EXPIRY = 0, 1, 3, 4  # the boot id takes two words

_STORED = orjson.OPT_NON_STR_KEYS
RETRY_EVERY_NS = 50_000_000


@dataclass(frozen=True, slots=True)
class AspiredVersion:
    """A version that ought to be loaded. Paths are local files that onnxruntime and the worker can open."""

    model_path: str
    manifest_path: str
    output_limits: tuple[tuple[float, float] | None, ...] | None = None  # per logged output column; outside: bad output
    sample_path: str | None = None  # rows of its reference, to warm up with and for an example request
    file_bytes: int = 0  # of the model and its external data
    resident: bool = False  # in memory whatever else wants room: a rollout's versions, a champion that takes over
    golden_path: str | None = None  # its golden set, to warm up with


@dataclass(frozen=True, slots=True)
class RouteEntry:
    """Where one model's traffic goes."""

    champion: int | None
    candidate: int | None = None
    weight: float = 0.0  # the candidate's share of answers
    shadow: bool = False  # the candidate gets copies of what the champion answered
    salt: str = "00" * 16
    key: str = "request"  # or "header:x-user-id"
    rollout_id: str = ""
    burn_in: int = 0  # canary answers of a worker before its counts are evidence
    latency_threshold_us: float | None = None  # the champion's p99 of the previous closed window
    slowdown: float = 1.25
    previous: int | None = None  # while a promotion soaks: who was champion before
    unloaded: bool = False  # by a caller of the data port: nothing of it is served until it is loaded again
    refused_wish_ns: int = 0  # the last wish that was not followed, because a rollout was running
    aliases: Mapping[str, int] = field(default_factory=dict)
    aspired: Mapping[int, AspiredVersion] = field(default_factory=dict)

    def role_of(self, version: int) -> Role:
        """The role in which this version has its requests: who goes first when slots are short."""
        if version == self.champion:
            return Role.CHAMPION
        return Role.CANARY if version == self.candidate and self.weight > 0 else Role.DIRECT


@dataclass(frozen=True, slots=True)
class RouteSnapshot:
    """One epoch of the whole table."""

    epoch: int
    models: Mapping[str, RouteEntry]
    trusted: bool = True  # False: canaries are at 0 whatever the weights say


EMPTY = RouteSnapshot(epoch=0, models={}, trusted=False)


def header_path(run: Path) -> Path:
    """The header page."""
    return run / "routes"


def snapshot_path(run: Path, epoch: int) -> Path:
    """The snapshot of one epoch."""
    return run / f"routes-{epoch}.json"


def encode(snapshot: RouteSnapshot, boot_id: str, known: dict[str, tuple[RouteEntry, bytes]] | None = None) -> bytes:
    """A snapshot as stored (stamped `routes`). `known` keeps entries' texts: of thousands, few change at once."""
    texts: dict[str, tuple[RouteEntry, bytes]] = {}
    for name, entry in snapshot.models.items():
        found = None if known is None else known.get(name)
        same = found is not None and found[0] is entry
        texts[name] = found if found is not None and same else (entry, orjson.dumps(entry, option=_STORED))
    if known is not None:
        known.clear()
        known.update(texts)
    models = b",".join(orjson.dumps(name) + b":" + text for name, (_, text) in texts.items())
    head = orjson.dumps(stamped("routes", {"boot_id": boot_id, "epoch": snapshot.epoch}))
    return head[:-1] + b',"models":{' + models + b"}}"


def decode(
    data: bytes, boot_id: str, known: dict[str, tuple[Mapping[str, Any], RouteEntry]] | None = None
) -> RouteSnapshot:
    """Read a stored snapshot. Raises StateDamaged or FormatTooNew; another boot's snapshot is not trusted.

    `known` keeps what was read: of thousands of entries, few change at once, and the others need not be made anew.
    """
    try:
        document = orjson.loads(data)
        check_stamp("routes", document)
        read: dict[str, tuple[Mapping[str, Any], RouteEntry]] = {}
        for name, body in document["models"].items():
            found = None if known is None else known.get(name)
            read[name] = found if found is not None and found[0] == body else (body, _entry(body))
        if known is not None:
            known.clear()
            known.update(read)
        models = {name: entry for name, (_, entry) in read.items()}
        return RouteSnapshot(int(document["epoch"]), models, trusted=document["boot_id"] == boot_id)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateDamaged(f"the route snapshot cannot be read: {error}") from error


def _entry(body: Mapping[str, Any]) -> RouteEntry:
    known = {name: body[name] for name in RouteEntry.__dataclass_fields__ if name in body}
    known["aspired"] = {int(version): _aspired(spec) for version, spec in body["aspired"].items()}
    known["aliases"] = {alias: int(version) for alias, version in body["aliases"].items()}
    return RouteEntry(**known)


def _aspired(spec: Mapping[str, Any]) -> AspiredVersion:
    limits = spec.get("output_limits")
    pairs = None if limits is None else tuple(None if pair is None else (pair[0], pair[1]) for pair in limits)
    return AspiredVersion(
        spec["model_path"],
        spec["manifest_path"],
        pairs,
        spec.get("sample_path"),
        int(spec.get("file_bytes", 0)),
        bool(spec.get("resident", False)),
        spec.get("golden_path"),
    )


class RouteReader:
    """A worker's view of the table. Only its event loop calls it."""

    def __init__(self, run: Path, boot_id: str, clock: Clock) -> None:
        self._run = run
        self._boot_id = boot_id
        self._boot = int.from_bytes(bytes.fromhex(boot_id), "little")
        self._clock = clock
        self._header: memoryview | None = None
        self._retry_at_ns = 0
        self._known: dict[str, tuple[Mapping[str, Any], RouteEntry]] = {}
        self.snapshot = EMPTY
        self.failures = 0

    def _open(self) -> memoryview | None:
        try:
            descriptor = os.open(header_path(self._run), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            if os.fstat(descriptor).st_size < HEADER_BYTES:
                return None
            header = memoryview(mmap.mmap(descriptor, HEADER_BYTES, prot=mmap.PROT_READ)).cast("q")
        finally:
            os.close(descriptor)
        return header if header[WORD_MAGIC] == MAGIC else None

    def current(self) -> RouteSnapshot:
        """The newest snapshot that can be read. A request routed after a newer epoch was stored obeys it."""
        header = self._header
        if header is None:
            header = self._header = self._open()
            if header is None:
                return self.snapshot
        if header[WORD_EPOCH] != self.snapshot.epoch or not self.snapshot.trusted:
            self._reload(header)
        return self.snapshot

    def _reload(self, header: memoryview) -> None:
        epoch, now_ns = header[WORD_EPOCH], self._clock.host_ns()
        if epoch == self.snapshot.epoch and now_ns < self._retry_at_ns:
            return
        if epoch == 0:
            return
        self._retry_at_ns = now_ns + RETRY_EVERY_NS
        old = self.snapshot
        try:
            if epoch < old.epoch:
                raise StateDamaged(f"the route table went back from epoch {old.epoch} to {epoch}")
            fresh = decode(snapshot_path(self._run, epoch).read_bytes(), self._boot_id, self._known)
            if fresh.epoch != epoch:
                raise StateDamaged(f"the snapshot of epoch {epoch} says that it is of epoch {fresh.epoch}")
            trusted = fresh.trusted and self._header_boot(header) == self._boot
            self.snapshot = RouteSnapshot(fresh.epoch, fresh.models, trusted)
        except (OSError, ServingError) as error:
            self.failures += 1
            self.snapshot = RouteSnapshot(old.epoch, old.models, trusted=False)
            if old.trusted:
                logger.warning("canaries are at 0: %s", error)

    @staticmethod
    def _header_boot(header: memoryview) -> int:
        low, high = header[WORD_BOOT], header[WORD_BOOT + 1]
        return (low & (2**64 - 1)) | (high & (2**64 - 1)) << 64

    def lease_left_ns(self) -> int:
        """Nanoseconds until canaries fall to 0 unless the controller renews; not positive: they are at 0."""
        if self._header is None:
            return 0
        return int(self._header[WORD_EXPIRY]) - self._clock.host_ns()
