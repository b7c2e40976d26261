"""The route table's one writer. Write the snapshot, rename, then store the epoch: a reader sees all of it or none.

Invariant: epochs rise, also over restarts of the controller (the header stays on disk). Storing the epoch is the
acknowledgement: a request whose first byte is sent after `publish` returned is routed by the new table.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Mapping
from pathlib import Path

from gateway.data.routes import (
    HEADER_BYTES,
    MAGIC,
    WORD_BOOT,
    WORD_EPOCH,
    WORD_EXPIRY,
    WORD_MAGIC,
    RouteEntry,
    RouteSnapshot,
    encode,
    header_path,
    snapshot_path,
)
from registry.clock import Clock

KEPT_SNAPSHOTS = 16  # a reader may be between reading the epoch and opening its snapshot
_SNAPSHOT = re.compile(r"routes-(\d+)\.json")


class RouteTable:
    """The header page and the snapshots beside it."""

    def __init__(self, run: Path, boot_id: str, clock: Clock) -> None:
        run.mkdir(parents=True, exist_ok=True)
        self._run = run
        self._boot_id = boot_id
        self._clock = clock
        descriptor = os.open(header_path(run), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < HEADER_BYTES:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(descriptor, 0, HEADER_BYTES)
                else:
                    os.ftruncate(descriptor, HEADER_BYTES)
            self._mm = mmap.mmap(descriptor, HEADER_BYTES)
        finally:
            os.close(descriptor)
        self._words = memoryview(self._mm).cast("q")
        self._texts: dict[str, tuple[RouteEntry, bytes]] = {}
        written = [int(match[1]) for path in run.iterdir() if (match := _SNAPSHOT.fullmatch(path.name))]
        self._next = max([self._words[WORD_EPOCH], *written], default=0) + 1
        boot = bytes.fromhex(boot_id)
        if self._mm[8 * WORD_BOOT : 8 * WORD_BOOT + 16] != boot:
            self._words[WORD_EXPIRY] = 0  # another serve's lease means nothing now
            self._mm[8 * WORD_BOOT : 8 * WORD_BOOT + 16] = boot
        self._words[WORD_MAGIC] = MAGIC

    @property
    def epoch(self) -> int:
        """The epoch that workers are asked to obey; 0 before the first publish."""
        return int(self._words[WORD_EPOCH])

    def publish(self, models: Mapping[str, RouteEntry]) -> int:
        """Make this the table; returns its epoch. Obeyed by every request routed after the return."""
        epoch = self._next
        self._next += 1
        path = snapshot_path(self._run, epoch)
        aside = path.with_suffix(".tmp")
        aside.write_bytes(encode(RouteSnapshot(epoch, models), self._boot_id, self._texts))
        os.replace(aside, path)
        self._words[WORD_EPOCH] = epoch
        self._forget(epoch - KEPT_SNAPSHOTS)
        return epoch

    def renew(self, lease_s: float) -> None:
        """Let canaries keep their weight for lease_s from now."""
        self._words[WORD_EXPIRY] = self._clock.host_ns() + int(lease_s * 1e9)

    def lease_age_s(self, lease_s: float) -> float:
        """Seconds since the last renewal that granted lease_s."""
        return max(0.0, (self._clock.host_ns() - self._words[WORD_EXPIRY]) / 1e9 + lease_s)

    def _forget(self, before: int) -> None:
        for path in self._run.iterdir():
            match = _SNAPSHOT.fullmatch(path.name)
            if match and int(match[1]) <= before:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let the header go; it stays on disk."""
        self._words.release()
        self._mm.close()
