"""The route table's one writer. Write the snapshot, rename, then store the epoch: a reader sees all of it or none.

A file of the size of two snapshots is kept beside them, and on a full disk the next snapshot is written over it: a
canary must be taken out then too.

Invariant: epochs rise, also over restarts of the controller (the header stays on disk). Storing the epoch is the
acknowledgement: a request whose first byte is sent after `publish` returned is routed by the new table.
"""

from __future__ import annotations

import contextlib
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
_SPARE_BYTES = 16 * 1024
_SNAPSHOT = re.compile(r"routes-(\d+)\.json")


class RouteTable:
    """The header page and the snapshots beside it."""

    def __init__(self, run: Path, boot_id: str, clock: Clock) -> None:
        run.mkdir(parents=True, exist_ok=True)
        self._run = run
        self._spare = run / "routes.spare"
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
        data = encode(RouteSnapshot(epoch, models), self._boot_id, self._texts)
        kept = KEPT_SNAPSHOTS
        try:
            aside.write_bytes(data)
        except OSError:
            self._write_over_spare(aside, data)
            kept = 2  # the others' room is the next spare file's
        os.replace(aside, path)
        self._words[WORD_EPOCH] = epoch
        self._forget(epoch - kept)
        self._keep_spare(2 * len(data))
        return epoch

    def _write_over_spare(self, aside: Path, data: bytes) -> None:
        try:
            with contextlib.suppress(FileNotFoundError):
                os.replace(self._spare, aside)
            with aside.open("r+b") as file:
                file.write(data)
                file.truncate()
        except OSError:
            aside.unlink(missing_ok=True)  # or each try would leave one more
            raise

    def _keep_spare(self, size: int) -> None:
        """See that there is a spare file of this size at least. A disk without room for it is left as it is."""
        with contextlib.suppress(OSError):
            if self._spare.exists() and self._spare.stat().st_size >= size:
                return
            aside = self._spare.with_suffix(".tmp")
            try:
                with aside.open("wb") as file:
                    file.write(bytes(max(size, _SPARE_BYTES)))  # written, not promised: also where fallocate is none
                os.replace(aside, self._spare)
            finally:
                aside.unlink(missing_ok=True)

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
