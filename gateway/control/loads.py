"""Two-phase loads: a version is aspired first, gets traffic when every live worker holds it, and leaves in order.

Invariant: a version is unaspired only after every live worker has acknowledged an epoch that does not route to it.
Making a version's files ready for workers may take long (a remote artifact store), so it happens on a thread of its
own; until then the version is not aspired. The controller owns both objects and calls them from one thread.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.data.blame import Blame
from gateway.data.page_reader import PageSnapshot
from gateway.data.routes import AspiredVersion
from monitor.record import LogSchema
from monitor.rollout import Readiness
from registry.artifacts import ArtifactStore
from registry.catalog import VersionRow
from registry.clock import Clock
from registry.errors import ServingError
from registry.vocabulary import LoadState

if TYPE_CHECKING:
    from monitor.profile import ReferenceProfile

logger = logging.getLogger(__name__)

_RETRY_S = 5.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """A version whose files lie ready on this machine."""

    aspired: AspiredVersion
    profile_sha256: str | None


class Preparer:
    """Fetches versions' files on a thread of its own, each once."""

    def __init__(self, artifacts: ArtifactStore, run: Path, clock: Clock) -> None:
        self._artifacts = artifacts
        self._folder = run / "manifests"
        self._clock = clock
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        self._work: dict[tuple[str, int, str | None], Future[Prepared]] = {}
        self._failed_s: dict[tuple[str, int, str | None], float] = {}

    def get(self, row: VersionRow, profile: str | None) -> Prepared | None:
        """The prepared version with this profile, or None while that takes time (or after it failed; tried again)."""
        key = (row.digest, row.version, profile)
        work = self._work.get(key)
        if work is None:
            if self._clock.now_s() < self._failed_s.get(key, float("-inf")) + _RETRY_S:
                return None
            self._work[key] = self._pool.submit(self._prepare, row, profile)
            return None
        if not work.done():
            return None
        error = work.exception()
        if error is not None:
            del self._work[key]
            self._failed_s[key] = self._clock.now_s()
            logger.error("%s:%d cannot be made ready: %s", row.model, row.version, describe(error))
            return None
        return work.result()

    def _prepare(self, row: VersionRow, profile_sha256: str | None) -> Prepared:
        model_path = self._artifacts.materialise(row.manifest)
        self._folder.mkdir(parents=True, exist_ok=True)
        manifest_path = self._folder / f"{row.digest}-{row.version}.json"
        aside = manifest_path.with_suffix(".tmp")
        aside.write_text(row.manifest.to_json(), encoding="utf-8")
        os.replace(aside, manifest_path)
        profile = None
        if profile_sha256 is not None:
            from monitor.profile import ReferenceProfile

            profile = ReferenceProfile.from_bytes(self._artifacts.read(profile_sha256))
        limits = _output_limits(row, profile)
        file_bytes = sum(item.bytes for item in row.manifest.files)
        sample, golden = (self._local(digest) for digest in (row.manifest.reference_rows, row.manifest.golden))
        aspired = AspiredVersion(
            str(model_path), str(manifest_path), limits, sample, file_bytes=file_bytes, golden_path=golden
        )
        return Prepared(aspired, profile_sha256)

    def _local(self, digest: str | None) -> str | None:
        """Where given rows lie; None when there are none, or none that can be read."""
        if digest is None:
            return None
        try:
            return str(self._artifacts.path(digest))
        except (ServingError, OSError) as error:  # they are wanted to warm up and for an example only
            logger.warning("the rows %s cannot be read: %s", digest, error)
            return None

    def close(self) -> None:
        """Stop the thread; what it does is finished first."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _output_limits(row: VersionRow, profile: ReferenceProfile | None) -> tuple[tuple[float, float] | None, ...] | None:
    """Per logged output column; what `--options` says goes before what the profile has seen."""
    said = {name: (low, high) for name, low, high in row.manifest.options.output_limits}
    schema = row.manifest.log_schema
    names = [] if schema is None else [column.name for column in LogSchema.from_dict(schema).outputs]
    if profile is None:
        return tuple(said.get(name) for name in names) if said else None
    seen = profile.output_limits()
    if len(seen) != len(names):
        return None
    pairs = (said.get(name, limit) for name, limit in zip(names, seen, strict=True))
    return tuple(None if pair is None else (float(pair[0]), float(pair[1])) for pair in pairs)


def live(pages: Iterable[PageSnapshot], boot_id: str) -> list[PageSnapshot]:
    """Pages of workers of this server that run and go on running."""
    return [page for page in pages if page.alive and page.boot_id == boot_id and not page.draining]


def readiness(workers: Sequence[PageSnapshot], model: str, version: int) -> tuple[Readiness, str]:
    """What all live workers together say of a version, and the first one's reason when it failed."""
    if not workers:
        return Readiness.LOADING, "no worker is up"
    states = [(page.slot, *page.loads.get((model, version), (LoadState.LOADING, ""))) for page in workers]
    for slot, state, reason in states:
        if state is LoadState.FAILED:
            return Readiness.FAILED, f"worker {slot}: {reason}"
    waiting = [str(slot) for slot, state, _ in states if state is not LoadState.READY]
    if waiting:
        return Readiness.LOADING, f"waiting for worker {', '.join(waiting)}"
    return Readiness.READY, ""


def elsewhere(workers: Iterable[PageSnapshot]) -> dict[tuple[str, int], str]:
    """Versions that run where they were not meant to, on some worker, and its sentence about it."""
    return {
        key: reason
        for page in workers
        for key, (state, reason) in page.loads.items()
        if state is LoadState.READY and reason
    }


def held_against(slot: int, blame: Blame) -> str:
    """A sentence about a worker that ended while it ran or loaded a version, without its full stop."""
    what, name = "loaded" if blame.in_load else "ran", signal.Signals(blame.ended_by).name
    then = f", and does not try it for {blame.block_ns / 1e9:g} s" if blame.block_ns else ""
    others = "" if blame.is_alone else " and others"
    return f"worker {slot} was ended by {name} while it {what} this version{others}{then}"


def where(workers: Sequence[PageSnapshot], model: str, version: int, now_ns: int) -> dict[str, Any]:
    """How many workers hold a version, what it takes in one of them, and what is not as it should be.

    now_ns: of the host's clock.
    """
    holding = [page.held[model, version] for page in workers if (model, version) in page.held]
    note = elsewhere(workers).get((model, version))
    blames = [(page.slot, page.blames[model, version]) for page in workers if (model, version) in page.blames]
    told = [held_against(slot, blame) for slot, blame in blames if blame.points_left(now_ns)]
    return {
        "loaded_workers": len(holding),
        "memory_bytes": max((held.size_bytes for held in holding), default=None),
        "notes": told if note is None else [note, *told],
    }


class Leaving:
    """Versions that nothing routes to any more and that some worker may still have to let go of."""

    def __init__(self) -> None:
        self._last: dict[str, dict[int, AspiredVersion]] = {}
        self._left_at: dict[tuple[str, int], int] = {}  # the first epoch that does not route to it

    def aspired(
        self, model: str, wanted: Mapping[int, AspiredVersion], workers: Sequence[PageSnapshot]
    ) -> dict[int, AspiredVersion]:
        """The versions to aspire: those wanted, and those that may not leave yet."""
        kept = dict(wanted)
        for version, spec in self._last.get(model, {}).items():
            if version in wanted:
                self._left_at.pop((model, version), None)
                continue
            epoch = self._left_at.get((model, version))
            if epoch is None or any(page.acked_epoch < epoch for page in workers):
                kept[version] = spec
            else:
                del self._left_at[model, version]
        return kept

    def published(self, model: str, wanted: Iterable[int], aspired: Mapping[int, AspiredVersion], epoch: int) -> None:
        """Remember what an epoch said."""
        self._last[model] = dict(aspired)
        for version in set(aspired) - set(wanted):
            self._left_at.setdefault((model, version), epoch)

    def restore(self, model: str, aspired: Mapping[int, AspiredVersion]) -> None:
        """What the table of a former controller of this server said."""
        self._last[model] = dict(aspired)

    def is_waiting(self, model: str) -> bool:
        """Whether some version of this model is leaving."""
        return any(name == model for name, _ in self._left_at)


def describe(error: BaseException) -> str:
    """An error's message for an event: ours as it is, others with their type."""
    return error.message if isinstance(error, ServingError) else f"{type(error).__name__}: {error}"
