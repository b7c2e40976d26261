"""Tiles and windows: counts of a slice of time, and their sums.

Why: a window of any length, over any set of roles and workers, is a sum of tiles, so nothing is counted twice for it
and it can be computed again from what is stored. Invariants: a tile holds the rows whose wall time lies in
[start_s, start_s + width_s) of one model, version and role under one set of bins; only equal bins merge; what is kept
in memory is bounded, and what left it is in the store. Called by the monitor's step; read by drift and by the store.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from monitor.counts import BinSet, Counts
from registry.errors import StateDamaged
from registry.formats import check_stamp, stamped

MEMORY_BYTES = 8 * 1024 * 1024  # of tiles of one model, version and role; at least MIN_TILES stay whatever their size
MIN_TILES = 2
MAX_TILES = 360  # an hour of ten-second tiles

TileKey = tuple[str, int, str]  # model, version, role


@dataclass(frozen=True)
class VersionBins:
    """The bins of a version's rows: from its reference profile, or one bin a column without one."""

    inputs: BinSet
    outputs: BinSet
    has_profile: bool = True

    @property
    def edges(self) -> str:
        """One digest of both sides, under which tiles are stored."""
        return hashlib.sha256((self.inputs.digest + self.outputs.digest).encode()).hexdigest()


@dataclass
class Tile:
    """Counts of one slice of time. `rows` counts errored requests too; bins hold the answered rows alone."""

    model: str
    version: int
    role: str
    start_s: int
    width_s: int
    edges: str
    errors: int
    inputs: Counts
    outputs: Counts

    @classmethod
    def empty(cls, key: TileKey, start_s: int, width_s: int, bins: VersionBins, edges: str) -> Tile:
        return cls(*key, start_s, width_s, edges, 0, Counts.empty(bins.inputs), Counts.empty(bins.outputs))

    @property
    def rows(self) -> int:
        return self.inputs.rows + self.errors

    @property
    def nbytes(self) -> int:
        return self.inputs.counts.nbytes + self.outputs.counts.nbytes + 4096

    def merge(self, other: Tile) -> Tile:
        """Add the other's counts. Raises ValueError under other bins."""
        self.inputs.merge(other.inputs)
        self.outputs.merge(other.outputs)
        self.errors += other.errors
        return self

    def to_bytes(self) -> bytes:
        body = {
            **{name: getattr(self, name) for name in ("model", "version", "role", "start_s", "width_s", "edges")},
            "rows": self.rows,
            "errors": self.errors,
            "inputs": self.inputs.to_dict(),
            "outputs": self.outputs.to_dict(),
        }
        return json.dumps(stamped("tile", body), separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes, bins: VersionBins) -> Tile:
        """Raises StateDamaged (also for other bins) or FormatTooNew."""
        try:
            document: Mapping[str, Any] = json.loads(data)
            check_stamp("tile", document)
            return cls(
                str(document["model"]),
                int(document["version"]),
                str(document["role"]),
                int(document["start_s"]),
                int(document["width_s"]),
                str(document["edges"]),
                int(document["errors"]),
                Counts.from_dict(document["inputs"], bins.inputs),
                Counts.from_dict(document["outputs"], bins.outputs),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StateDamaged(f"a tile cannot be read: {error!r}") from None


@dataclass
class Window:
    """The sum of some tiles of one model and version."""

    since_s: int
    until_s: int
    errors: int
    inputs: Counts
    outputs: Counts

    @property
    def rows(self) -> int:
        """Answered rows."""
        return self.inputs.rows


# What the store answers: tiles of (model, version) with these bins that start in [since_s, until_s).
Load = Callable[[str, int, VersionBins, int, int], Iterable[Tile]]


class Windows:
    """The recent tiles, by model, version and role. One thread."""

    def __init__(self, width_s: int, load: Load) -> None:
        self.width_s = width_s
        self._load = load
        self._tiles: dict[TileKey, dict[int, Tile]] = {}
        # By version: every tile that starts at this or later is in memory; earlier ones may be in the store alone.
        self._complete_from_s: dict[tuple[str, int], int] = {}
        self._outdated: list[Tile] = []  # changed tiles under bins that no longer hold, until they are stored
        self._dirty: set[tuple[TileKey, int]] = set()
        self._edges: dict[tuple[str, int], tuple[VersionBins, str]] = {}

    def start_of(self, wall_s: int) -> int:
        return wall_s - wall_s % self.width_s

    def tile(self, key: TileKey, bins: VersionBins, wall_s: int) -> Tile:
        """The tile to count a row of this time into; it is stored by the next checkpoint.

        A tile that was stored before, by an earlier process or before it left memory, goes on from what was stored.
        """
        start_s = self.start_of(wall_s)
        edges = self._edges_of(key, bins)
        tiles = self._tiles.setdefault(key, {})
        tile = tiles.get(start_s)
        self._dirty.add((key, start_s))  # before anything is evicted
        if tile is None:
            stored = self._load(key[0], key[1], bins, start_s, start_s + 1)
            tile = next((t for t in stored if t.role == key[2] and t.width_s == self.width_s), None)
            tile = tile or Tile.empty(key, start_s, self.width_s, bins, edges)
            tiles[start_s] = tile
            self._complete_from_s.setdefault(key[:2], start_s + self.width_s)
            self._evict(key)
        return tile

    def _edges_of(self, key: TileKey, bins: VersionBins) -> str:
        known = self._edges.get(key[:2])
        if known is not None and known[0] is bins:
            return known[1]
        edges = bins.edges
        if known is not None and known[1] != edges:  # another profile: tiles under the old bins are in the store
            for other in [k for k in self._tiles if k[:2] == key[:2]]:
                self._forget(other)
        self._edges[key[:2]] = (bins, edges)
        return edges

    def _forget(self, key: TileKey) -> None:
        gone = self._tiles.pop(key)
        self._complete_from_s.pop(key[:2], None)
        self._outdated += [gone[start_s] for changed, start_s in self._dirty if changed == key]
        self._dirty = {item for item in self._dirty if item[0] != key}

    def _evict(self, key: TileKey) -> None:
        tiles = self._tiles[key]
        size = sum(tile.nbytes for tile in tiles.values())
        for start_s in sorted(tiles):
            if len(tiles) <= MIN_TILES or (size <= MEMORY_BYTES and len(tiles) <= MAX_TILES):
                return
            if (key, start_s) not in self._dirty:
                size -= tiles.pop(start_s).nbytes
                after_s = start_s + self.width_s
                self._complete_from_s[key[:2]] = max(self._complete_from_s.get(key[:2], after_s), after_s)

    def dirty(self) -> list[Tile]:
        """Tiles that changed since `stored`."""
        return self._outdated + [self._tiles[key][start_s] for key, start_s in self._dirty]

    def stored(self) -> None:
        """What `dirty` gave is in the database now."""
        self._dirty.clear()
        self._outdated.clear()

    def roles(self, model: str, version: int) -> list[str]:
        """Roles with recent tiles."""
        return sorted(key[2] for key in self._tiles if key[:2] == (model, version))

    def window(
        self,
        model: str,
        version: int,
        bins: VersionBins,
        since_s: int,
        until_s: int,
        roles: Iterable[str] | None = None,
    ) -> Window:
        """The sum of the tiles that start in [since_s, until_s), of these roles or all. Loads what has left memory."""
        wanted = None if roles is None else set(roles)
        result = Window(since_s, until_s, 0, Counts.empty(bins.inputs), Counts.empty(bins.outputs))
        edges = self._edges_of((model, version, ""), bins)
        self._back_fill(model, version, bins, edges, since_s, until_s)
        complete_from_s = self._complete_from_s.get((model, version), until_s)
        seen: set[tuple[str, int]] = set()
        for key, tiles in self._tiles.items():
            if key[:2] == (model, version) and (wanted is None or key[2] in wanted):
                for start_s, tile in tiles.items():
                    if since_s <= start_s < until_s and tile.edges == edges:
                        self._sum(result, tile)
                        seen.add((tile.role, start_s))
        if since_s < complete_from_s:
            for tile in self._load(model, version, bins, since_s, min(until_s, complete_from_s)):
                if (tile.role, tile.start_s) not in seen and (wanted is None or tile.role in wanted):
                    self._sum(result, tile)
        return result

    def _back_fill(self, model: str, version: int, bins: VersionBins, edges: str, since_s: int, until_s: int) -> None:
        """Load a short window's missing tiles for good: after a restart it is asked for each second."""
        complete_from_s = self._complete_from_s.get((model, version))
        if complete_from_s is None or since_s >= complete_from_s:
            return
        if until_s - since_s > MAX_TILES * self.width_s // 2:
            return
        keys = set()
        for tile in self._load(model, version, bins, since_s, complete_from_s):
            key = (model, version, tile.role)
            if tile.edges == edges and tile.width_s == self.width_s:
                self._tiles.setdefault(key, {}).setdefault(tile.start_s, tile)
                keys.add(key)
        self._complete_from_s[model, version] = since_s
        for key in keys:
            self._evict(key)

    @staticmethod
    def _sum(into: Window, tile: Tile) -> None:
        into.inputs.merge(tile.inputs)
        into.outputs.merge(tile.outputs)
        into.errors += tile.errors
