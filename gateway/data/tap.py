"""Rows of answered requests into lanes: gathered a run at a time, published with one store, never waiting.

Invariant: rows are committed or counted (dropped, sampled) before the answer is released. A lane that cannot be made
(a full disk) costs its rows, which are counted in the page, and never an answer.
"""

from __future__ import annotations

import logging
import math
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.data.accounts import Accounts
from gateway.data.page import WorkerPage
from gateway.data.traffic import Loaded
from monitor import record
from monitor.lane import LaneWriter
from monitor.settings import LaneSettings
from registry.clock import Clock
from registry.errors import ServingError

logger = logging.getLogger(__name__)

REOPEN_AFTER_S = 5.0  # a lane that could not be made is tried again after this long
LOOK_EVERY_S = 1.0  # at how fast lanes fill


class Tap:
    """The lanes of one worker. Event loop only."""

    def __init__(
        self,
        run: Path,
        slot: int,
        boot_id: str,
        settings: LaneSettings,
        page: WorkerPage,
        accounts: Accounts,
        clock: Clock,
        rng: np.random.Generator,
    ) -> None:
        self._folder = run / "lanes"
        self._slot = slot
        self._boot_id = boot_id
        self._settings = settings
        self._page = page
        self._accounts = accounts
        self._clock = clock
        self._rng = rng
        self._lanes: dict[tuple[str, int, str], LaneWriter] = {}
        self._retry_at_s: dict[tuple[str, int, str], float] = {}
        self._looked_s = clock.now_s()
        self._offered: dict[tuple[str, int, str], int] = {}  # rows at the last look

    def record(
        self,
        loaded: Loaded,
        role: str,
        epoch: int,
        hashes: Sequence[bytes],
        counts: Sequence[int],
        features: NDArray[Any],
        outputs: NDArray[Any],
        decoded_ns: Sequence[int] | None,
        started_ns: int,
        infer_us: float,
        flags: int = 0,
    ) -> None:
        """Log the rows of one run. hashes, counts, decoded_ns: one a request; features, outputs: one a row.

        decoded_ns: since when each request waited for the run, which started at started_ns; None: none waited.
        """
        total = len(features)
        lane = self._lane(loaded, role, total)
        if lane is None:
            return
        try:
            wall_ns = self._clock.wall_ns()
            if len(counts) == total:  # every request is one row
                together, times = b"".join(hashes), None if decoded_ns is None else array("q", decoded_ns)
                kept = lane.offer(together, wall_ns, epoch, flags, started_ns, infer_us, times, None, features, outputs)
                is_short = kept < total
            else:
                is_short = self._offer(
                    lane, wall_ns, epoch, hashes, counts, features, outputs, decoded_ns, started_ns, infer_us, flags
                )
            if is_short and lane.is_full and self._settings.lane_seconds:
                servable = loaded.servable
                self._overflowed((servable.model, servable.version, role), lane)
        except Exception:  # logging never harms an answer that was right
            logger.exception("rows of %s:%d could not be logged", loaded.servable.model, loaded.servable.version)
            servable = loaded.servable
            self._accounts.lane_less(self._page.totals(servable.model, servable.version, role), total)

    def _offer(
        self,
        lane: LaneWriter,
        wall_ns: int,
        epoch: int,
        hashes: Sequence[bytes],
        counts: Sequence[int],
        features: NDArray[Any],
        outputs: NDArray[Any],
        decoded_ns: Sequence[int] | None,
        started_ns: int,
        infer_us: float,
        flags: int,
    ) -> bool:
        """Requests of several rows: each row says which of how many it is; of very many rows, some are chosen.

        Whether some of them found no room.
        """
        row, rows, owner = self._spread(counts)
        if max(counts) > self._settings.lane_rows_per_request:
            kept = self._sample(counts)
            lane.count_sampled(len(features) - len(kept))
            row, rows, owner, features, outputs = row[kept], rows[kept], owner[kept], features[kept], outputs[kept]
            flags |= record.SAMPLED
        pairs = np.frombuffer(b"".join(hashes), np.uint64).reshape(-1, 2)[owner]
        times = None if decoded_ns is None else np.array(decoded_ns, np.int64)[owner]
        places = row.tobytes() + rows.tobytes()
        offered = pairs.tobytes(), wall_ns, epoch, flags, started_ns, infer_us, times, places, features, outputs
        return lane.offer(*offered) < len(features)

    def record_error(self, loaded: Loaded, role: str, epoch: int, request_hash: bytes) -> None:
        """Log an errored request: one row with a flag, no inputs that could be trusted, and no outputs."""
        if loaded.schema is None:
            return
        features = np.full((1, len(loaded.schema.inputs)), np.nan, dtype=loaded.schema.input_dtype)
        outputs = np.full((1, len(loaded.schema.outputs)), np.nan, dtype=loaded.schema.output_dtype)
        self.record(loaded, role, epoch, [request_hash], [1], features, outputs, None, 0, 0.0, record.ERROR)

    @staticmethod
    def _spread(counts: Sequence[int]) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.intp]]:
        sizes = np.array(counts, dtype=np.intp)
        owner = np.repeat(np.arange(len(sizes)), sizes)
        starts = np.cumsum(sizes) - sizes
        row = (np.arange(len(owner)) - starts[owner]).astype(np.uint32)
        return row, sizes[owner].astype(np.uint32), owner

    def _sample(self, counts: Sequence[int]) -> NDArray[np.intp]:
        limit = self._settings.lane_rows_per_request
        kept, start = [], 0
        for count in counts:
            if count > limit:
                kept.append(start + np.sort(self._rng.choice(count, size=limit, replace=False)))
            else:
                kept.append(np.arange(start, start + count))
            start += count
        return np.concatenate(kept)

    def _lane(self, loaded: Loaded, role: str, rows: int) -> LaneWriter | None:
        servable = loaded.servable
        key = (servable.model, servable.version, role)
        lane = self._lanes.get(key)
        if lane is not None or loaded.schema is None:
            return lane
        if self._clock.now_s() >= self._retry_at_s.get(key, float("-inf")):
            try:
                lane = LaneWriter.open(
                    self._folder,
                    self._slot,
                    servable.model,
                    servable.version,
                    role,
                    loaded.schema,
                    self._settings.lane_bytes,
                    self._boot_id,
                )
                self._lanes[key] = lane
                return lane
            except (OSError, ServingError) as error:
                self._retry_at_s[key] = self._clock.now_s() + REOPEN_AFTER_S
                logger.warning("no lane for %s:%d %s, its rows are dropped and counted: %s", *key, error)
        self._accounts.lane_less(self._page.totals(*key), rows)
        return None

    def look(self) -> None:
        """Give lanes that fill fast larger files: the monitor may stall for longer then, and stores less often.

        Called with each heartbeat; looks once a second.
        """
        now_s = self._clock.now_s()
        elapsed_s = now_s - self._looked_s
        if elapsed_s < LOOK_EVERY_S:
            return
        self._looked_s, before = now_s, self._offered
        self._offered = {key: lane.offered for key, lane in self._lanes.items()}
        for key, lane in list(self._lanes.items()):
            rate = (self._offered[key] - before.get(key, self._offered[key])) / elapsed_s
            if now_s >= self._retry_at_s.get(key, float("-inf")):
                self._grow(key, lane, math.ceil(rate * self._settings.lane_seconds))

    def _overflowed(self, key: tuple[str, int, str], lane: LaneWriter) -> None:
        """Grow at once: all that comes until the next look would be lost as well."""
        now_s = self._clock.now_s()
        if now_s >= self._retry_at_s.get(key, float("-inf")):
            self._retry_at_s[key] = now_s + LOOK_EVERY_S  # where it cannot grow
            self._grow(key, lane, 2 * lane.capacity)

    def _grow(self, key: tuple[str, int, str], lane: LaneWriter, rows: int) -> None:
        try:
            grown = lane.grown(self._settings.lane_bytes, rows)
        except OSError as error:
            self._retry_at_s[key] = self._clock.now_s() + REOPEN_AFTER_S
            logger.warning("the lane of %s:%d %s stays as it is, though it fills fast: %s", *key, error)
            return
        if grown is not None:
            self._lanes[key] = grown
            self._retry_at_s.pop(key, None)
            lane.close()

    def forget(self, model: str, version: int) -> None:
        """Close the lanes of a version that is unloaded; their files stay until they are drained."""
        for key in [key for key in self._lanes if key[:2] == (model, version)]:
            self._lanes.pop(key).close()

    def close(self) -> None:
        """Close every lane."""
        for lane in self._lanes.values():
            lane.close()
        self._lanes.clear()
