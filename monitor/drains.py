"""The lanes of a run folder, as one list: found, opened at the right row, drained in order, removed when done.

Why: workers come and go, and each makes, continues and outgrows lane files on its own. Invariants: a lane's generations
are drained oldest first; a file is removed only when a newer generation exists (or its version is retired and nobody
writes) and all its rows are stored. Called by the monitor's step and checkpoint, in its thread.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from monitor.lane import LaneReader, LaneStatistics
from monitor.lane_file import is_locked
from registry.errors import FormatTooNew, StateDamaged
from registry.vocabulary import Role

logger = logging.getLogger(__name__)

PRESSED = 0.33  # of a lane: a stall of the monitor may last as long as the rest of it takes to fill

LaneKey = tuple[str, int, str]  # model, version, role


def lane_files(folder: Path) -> list[Path]:
    """The lanes' files of a folder, by name; none where there is no folder."""
    return sorted(path for path in folder.glob("*.lane") if not path.name.startswith("."))


class Drains:
    """Every readable lane of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._readers: dict[str, tuple[int, LaneReader]] = {}  # file name → inode, reader
        self._refused: set[tuple[str, int]] = set()
        self._families: list[list[LaneReader]] = []
        self._retired: set[tuple[str, int]] = set()
        self._gone: dict[LaneKey, LaneStatistics] = {}
        self.damaged = 0  # files set aside

    def look(self, positions: Mapping[str, int]) -> list[LaneReader]:
        """Open lanes that are new, at the stored positions; forget those that went. Returns the new ones."""
        found: dict[str, int] = {}
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    if entry.name.endswith(".lane") and not entry.name.startswith("."):
                        found[entry.name] = entry.inode()
        except FileNotFoundError:
            pass
        opened = []
        changed = False
        for name, (inode, reader) in list(self._readers.items()):
            if found.get(name) != inode:
                reader.close()
                del self._readers[name]
                changed = True
        for name, inode in found.items():
            if name in self._readers or (name, inode) in self._refused:
                continue
            reader_or_none = self._open(self._folder / name, inode)
            if reader_or_none is not None:
                reader_or_none.skip_to(positions.get(reader_or_none.header.key, 0))
                self._readers[name] = (inode, reader_or_none)
                opened.append(reader_or_none)
                changed = True
        if changed:
            self._group()
        return opened

    def _open(self, path: Path, inode: int) -> LaneReader | None:
        try:
            return LaneReader.open(path)
        except FileNotFoundError:
            return None
        except FormatTooNew as error:
            self._refused.add((path.name, inode))
            logger.warning("%s", error)
        except StateDamaged as error:
            self._refused.add((path.name, inode))
            self.damaged += 1
            logger.warning("%s: set aside", error)
            if not is_locked(path):  # a worker that still writes keeps its file; nobody reads it
                path.rename(path.with_name(f"{path.name}.{inode}.damaged"))
        return None

    def _group(self) -> None:
        families: dict[tuple[int, str, int, str], list[LaneReader]] = {}
        for _, reader in self._readers.values():
            h = reader.header
            families.setdefault((h.slot, h.model, h.version, h.role), []).append(reader)
        for family in families.values():
            family.sort(key=lambda reader: reader.header.generation)
        # Answers before shadows, so that a shadow row finds the answer that it copies in the same step.
        self._families = [families[key] for key in sorted(families, key=lambda k: (k[3] == Role.SHADOW, k))]

    def ready(self) -> Iterator[LaneReader]:
        """The lanes that may be read now: the oldest generation of each that still has rows."""
        for family in self._families:
            for reader in family:
                if reader.waiting > 0:
                    yield reader
                    break

    @property
    def is_pressed(self) -> bool:
        """A lane has given so many rows since the last release that its writer may soon find no room."""
        return any(
            reader.position - reader.head > PRESSED * reader.capacity for family in self._families for reader in family
        )

    def keys(self) -> set[str]:
        """The lane keys of all files that are open, of each generation."""
        return {reader.header.key for _, reader in self._readers.values()}

    def positions(self) -> dict[str, int]:
        """By lane key, the first row that has not been read: what a checkpoint stores."""
        result: dict[str, int] = {}
        for family in self._families:
            for reader in family:
                result[reader.header.key] = reader.position
                if reader.waiting > 0:
                    break
        return result

    def release(self) -> None:
        """After a checkpoint: give the space back, and remove the files that nobody needs."""
        removed = []
        for family in self._families:
            for reader in family:
                if reader.position != reader.head or reader.torn:
                    reader.release(reader.position)
            while len(family) > 1 and family[0].unreleased == 0:
                old = family.pop(0)
                family[0].torn += old.torn
                removed.append(old)
            last = family[0]
            h = last.header
            if (h.model, h.version) in self._retired and last.unreleased == 0 and not is_locked(last.path):
                key = (h.model, h.version, str(h.role))
                self._gone[key] = _sum(self._gone.get(key), last.statistics())
                removed.append(family.pop())
        for reader in removed:
            reader.path.unlink(missing_ok=True)
            self._readers.pop(reader.path.name, None)
            reader.close()
        if removed:
            self._group()

    def retire(self, model: str, version: int) -> None:
        """This version is unloaded everywhere: its lanes go once they are drained."""
        self._retired.add((model, version))

    def revive(self, model: str, version: int) -> None:
        """This version is loaded again."""
        self._retired.discard((model, version))

    def ended(self) -> set[tuple[str, int]]:
        """The versions that are unloaded everywhere and whose lanes are gone: no row of theirs will come."""
        return self._retired - {(reader.header.model, reader.header.version) for _, reader in self._readers.values()}

    def statistics(self) -> dict[LaneKey, LaneStatistics]:
        """Counts by model, version and role, over all worker slots."""
        result = dict(self._gone)
        for family in self._families:
            newest = family[-1].statistics()
            older = [reader.statistics() for reader in family[:-1]]
            waiting = newest.waiting + sum(item.waiting for item in older)
            whole = LaneStatistics(
                offered=newest.offered,
                committed=newest.committed,
                dropped=newest.dropped,
                sampled=newest.sampled,
                consumed=newest.committed - waiting,
                waiting=waiting,
                torn=newest.torn + sum(item.torn for item in older),
            )
            h = family[-1].header
            key = (h.model, h.version, str(h.role))
            result[key] = _sum(result.get(key), whole)
        return result

    def close(self) -> None:
        for _, reader in self._readers.values():
            reader.close()
        self._readers.clear()
        self._families.clear()


def _sum(left: LaneStatistics | None, right: LaneStatistics) -> LaneStatistics:
    if left is None:
        return right
    return LaneStatistics(*(getattr(left, name) + getattr(right, name) for name in LaneStatistics.__slots__))
