"""Tiles and windows: counts of a slice of time, and their sums.

Why: a window of any length, over any set of roles and workers, is a sum of tiles, so nothing is counted twice for it
and it can be computed again from what is stored. Rows are counted into tiles of ten seconds; what grows old is added up
to tiles of a minute, five minutes, an hour and a day, so a week is at most 156 tiles and no count is lost. Invariants:
a tile holds rows whose wall time lies in [start_s, start_s + width_s) of one model, version and role under one set of
bins; a row is in exactly one tile; only equal bins merge; what is kept in memory is bounded, and what left it is in the
store. Called by the monitor's step; read by drift and by the store.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from itertools import pairwise

from monitor.counts import Counts
from monitor.tile import PackedTile, Place, Tile, TileKey, VersionBins

__all__ = ["Place", "Tile", "TileKey", "VersionBins", "Window", "Windows", "levels"]

MEMORY_BYTES = 64 * 1024 * 1024  # of tiles of one model, version and role; at least MIN_TILES stay whatever their size
MIN_TILES = 2
REACH_S = 9 * 86_400  # no window reaches back further; older tiles are in the store alone

Span = tuple[int, int]  # start_s, width_s
Slot = tuple[str, int, int]  # role, start_s, width_s


@dataclass(frozen=True, slots=True)
class Level:
    """Tiles of one width, and how long they are kept before they are added up to the next."""

    width_s: int
    keep_s: int


def levels(width_s: int) -> tuple[Level, ...]:
    """The widths of tiles, the narrowest being the largest divisor of a minute that is at most width_s.

    A window of five minutes is exact to the narrowest tile, one of an hour to five minutes, of a week to a day; and the
    hours of yesterday are there all day.

    >>> [level.width_s for level in levels(7)]
    [6, 60, 300, 3600, 86400]
    """
    narrow = max(divisor for divisor in range(1, 61) if 60 % divisor == 0 and divisor <= max(width_s, 1))
    wider = (Level(60, 900), Level(300, 7200), Level(3600, 86_400), Level(86_400, REACH_S))
    return (Level(narrow, 360), *wider) if narrow < 60 else wider


@dataclass
class Window:
    """The sum of the tiles of one model and version that touch a span of time.

    It begins with the earliest of them: up to a tile earlier than asked for, and the older the wider tiles are.
    """

    since_s: int
    until_s: int
    errors: int
    inputs: Counts
    outputs: Counts

    @property
    def rows(self) -> int:
        """Answered rows."""
        return self.inputs.rows


# What the store answers: tiles of (model, version) with these bins that touch [since_s, until_s), but those to skip.
Load = Callable[[str, int, VersionBins, int, int, Container[Slot]], Iterable[Tile]]


class Windows:
    """The tiles of the last `REACH_S`, by model, version and role. One thread."""

    def __init__(self, width_s: int, load: Load) -> None:
        self.levels = levels(width_s)
        self.width_s = self.levels[0].width_s
        self._load = load
        self._tiles: dict[TileKey, dict[Span, Tile | PackedTile]] = {}
        self._open: dict[tuple[TileKey, Span], Tile] = {}  # those that are not packed
        # By version: every tile that ends after this is in memory; earlier ones may be in the store alone.
        self._complete_from_s: dict[tuple[str, int], int] = {}
        self._shelved: dict[TileKey, set[Span]] = defaultdict(set)  # what left memory and may yet be rolled up
        self._outdated: list[Tile] = []  # changed tiles under bins that no longer hold, until they are stored
        self._dirty: set[tuple[TileKey, Span]] = set()
        self._removed: dict[tuple[str, int, str, int, int], str] = {}  # a stored tile's place → its edges
        self._edges: dict[tuple[str, int], tuple[VersionBins, str]] = {}

    # -- counting --------------------------------------------------------------------------------------------------

    def start_of(self, wall_s: int) -> int:
        return wall_s - wall_s % self.width_s

    def tile(self, key: TileKey, bins: VersionBins, wall_s: int) -> Tile:
        """The tile to count a row of this time into; it is stored by the next checkpoint.

        A tile that was stored before, by an earlier process or before it left memory, goes on from what was stored. A
        row that comes after its time was rolled up begins a small tile anew, which is rolled up in its turn.
        """
        start_s = self.start_of(wall_s)
        bins, edges = self._known(key[:2], bins, start_s)
        tiles = self._tiles.setdefault(key, {})
        span = (start_s, self.width_s)
        self._dirty.add((key, span))  # before anything is evicted
        known = tiles.get(span)
        if isinstance(known, Tile):
            return known
        if known is not None:
            return self._put(key, known.open(key, bins, edges))
        tile = None
        if start_s < self._complete_from_s[key[:2]]:
            stored = self._stored(key[:2], bins, start_s, start_s + self.width_s)
            tile = next((t for t in stored if t.role == key[2] and (t.start_s, t.width_s) == span), None)
        made = self._put(key, tile or Tile.empty(key, start_s, self.width_s, bins, edges))
        self._shelved[key].discard(span)
        self._evict(key)
        return made

    def _put(self, key: TileKey, tile: Tile) -> Tile:
        span = (tile.start_s, tile.width_s)
        self._tiles[key][span] = tile
        self._open[key, span] = tile
        return tile

    def _opened(self, key: TileKey, tile: Tile | PackedTile) -> Tile:
        """A tile to read."""
        return tile if isinstance(tile, Tile) else tile.open(key, *self._edges[key[:2]])

    def roll_up(self, wall_s: int, most: int = 1) -> int:
        """Merge tiles that are old enough into wider ones, at most so many wide ones; how many were made.

        A row is in exactly one tile before and after: the small ones go in the transaction that stores the wide one.
        """
        made = 0
        for key in list(self._tiles):
            for level, above in pairwise(self.levels):
                wide = above.width_s
                old = {
                    start_s - start_s % wide
                    for start_s, width_s in (*self._tiles[key], *self._shelved[key])
                    if width_s == level.width_s and start_s - start_s % wide + wide <= wall_s - level.keep_s
                }
                for start_s in sorted(old):
                    if made >= most:
                        return made
                    self._roll(key, start_s, wide)
                    made += 1
        return made

    def _roll(self, key: TileKey, start_s: int, width_s: int) -> None:
        bins, edges = self._edges[key[:2]]
        tiles = self._tiles[key]
        if start_s < self._complete_from_s[key[:2]]:  # some of them left memory
            for tile in self._stored(key[:2], bins, start_s, start_s + width_s):
                if tile.role == key[2]:
                    self._put(key, tile)
        span = (start_s, width_s)
        known = tiles.get(span)
        into = self._opened(key, known) if known is not None else Tile.empty(key, start_s, width_s, bins, edges)
        self._shelved[key] -= tiles.keys()
        for child in sorted(s for s in tiles if start_s <= s[0] < start_s + width_s and s[1] < width_s):
            into.merge(self._opened(key, self._take(key, child)))
            self._dirty.discard((key, child))
            self._removed[*key, *child] = edges
        self._put(key, into)
        self._dirty.add((key, span))

    def _take(self, key: TileKey, span: Span) -> Tile | PackedTile:
        self._open.pop((key, span), None)
        return self._tiles[key].pop(span)

    # -- what the store needs --------------------------------------------------------------------------------------

    def dirty(self) -> list[Tile]:
        """Tiles that changed since `stored`."""
        return self._outdated + [self._opened(key, self._tiles[key][span]) for key, span in self._dirty]

    def removed(self) -> list[Place]:
        """Tiles that were rolled up since `stored`: the store deletes them before it writes the dirty ones."""
        return [Place(*at, edges) for at, edges in self._removed.items()]

    def stored(self) -> None:
        """What `dirty` and `removed` gave is in the database now."""
        changed = self._dirty
        self._dirty = set()
        self._outdated.clear()
        self._removed.clear()
        self._pack(changed)
        for key in {key for key, _ in changed}:
            self._evict(key)

    def _pack(self, changed: Container[tuple[TileKey, Span]]) -> None:
        """Pack every tile but those that will go on growing: the newest of its version and role, if it just changed."""
        newest: dict[TileKey, Span] = {}
        for key, span in self._open:
            newest[key] = max(newest.get(key, span), span)
        for (key, span), tile in list(self._open.items()):
            if span != newest[key] or (key, span) not in changed:
                self._tiles[key][span] = tile.packed()
                del self._open[key, span]

    # -- reading ---------------------------------------------------------------------------------------------------

    def roles(self, model: str, version: int) -> list[str]:
        """Roles with recent tiles."""
        return sorted(key[2] for key in self._tiles if key[:2] == (model, version))

    @property
    def nbytes(self) -> int:
        """Memory of all tiles, about."""
        return sum(tile.nbytes for tiles in self._tiles.values() for tile in tiles.values())

    def window(
        self,
        model: str,
        version: int,
        bins: VersionBins,
        since_s: int,
        until_s: int,
        roles: Iterable[str] | None = None,
    ) -> Window:
        """The sum of the tiles that touch [since_s, until_s), of these roles or all. Loads what has left memory."""
        wanted = None if roles is None else set(roles)
        result = Window(since_s, until_s, 0, Counts.empty(bins.inputs), Counts.empty(bins.outputs))
        bins, _ = self._known((model, version), bins, until_s)
        for key, tiles in self._tiles.items():
            if key[:2] == (model, version) and (wanted is None or key[2] in wanted):
                for tile in tiles.values():
                    if tile.start_s < until_s and tile.end_s > since_s:
                        self._sum(result, self._opened(key, tile))
        if since_s < self._complete_from_s[model, version]:
            for tile in self._stored((model, version), bins, since_s, until_s):
                if wanted is None or tile.role in wanted:
                    self._sum(result, tile)
        return result

    @staticmethod
    def _sum(into: Window, tile: Tile) -> None:
        into.inputs.merge(tile.inputs)
        into.outputs.merge(tile.outputs)
        into.errors += tile.errors
        into.since_s = min(into.since_s, tile.start_s)

    # -- memory ----------------------------------------------------------------------------------------------------

    def forget(self, model: str, version: int) -> None:
        """Let go of a version of which no rows come any more. Asked for again, its tiles come from the store."""
        for key in [key for key in self._tiles if key[:2] == (model, version)]:
            self._forget(key)
        self._edges.pop((model, version), None)
        self._complete_from_s.pop((model, version), None)

    def _known(self, version: tuple[str, int], bins: VersionBins, wall_s: int) -> tuple[VersionBins, str]:
        """These bins and their digest, with the version's recent tiles under them in memory.

        Of bins that are equal the first are used, so that the tiles of a version that comes and goes share one object.
        """
        known = self._edges.get(version)
        if known is not None and known[0] is bins:
            return known
        edges = bins.edges
        if known is not None and known[1] == edges:
            return known
        if known is not None:  # another profile: tiles under the old bins are in the store
            for other in [key for key in self._tiles if key[:2] == version]:
                self._forget(other)
        self._edges[version] = (bins, edges)
        self._complete_from_s[version] = 2**62  # nothing is in memory yet
        since_s = wall_s - REACH_S
        for tile in self._stored(version, bins, since_s, 2**62):
            self._tiles.setdefault((*version, tile.role), {})[tile.start_s, tile.width_s] = tile.packed()
        self._complete_from_s[version] = since_s
        for key in [key for key in self._tiles if key[:2] == version]:
            self._evict(key)
        return bins, edges

    def _stored(self, version: tuple[str, int], bins: VersionBins, since_s: int, until_s: int) -> Iterable[Tile]:
        """Tiles that touch this time and are in the store alone."""
        skip = {(key[2], *span) for key, tiles in self._tiles.items() if key[:2] == version for span in tiles}
        skip |= {place[2:] for place in self._removed if place[:2] == version}
        return self._load(*version, bins, since_s, until_s, skip)

    def _forget(self, key: TileKey) -> None:
        self._outdated += [self._opened(key, self._tiles[key][span]) for changed, span in self._dirty if changed == key]
        del self._tiles[key]
        self._shelved.pop(key, None)
        self._dirty = {item for item in self._dirty if item[0] != key}
        self._open = {at: tile for at, tile in self._open.items() if at[0] != key}

    def _evict(self, key: TileKey) -> None:
        """Let go of the oldest tiles that are stored, as far as they are older than any window or too large."""
        tiles = self._tiles[key]
        size = sum(tile.nbytes for tile in tiles.values())
        newest_s = max((tile.end_s for tile in tiles.values()), default=0)
        for span in sorted(tiles):
            tile = tiles[span]
            if len(tiles) <= MIN_TILES or (size <= MEMORY_BYTES and tile.end_s >= newest_s - REACH_S):
                return
            if (key, span) not in self._dirty:
                size -= self._take(key, span).nbytes
                if tile.width_s < self.levels[-1].width_s:
                    self._shelved[key].add(span)
                self._complete_from_s[key[:2]] = max(self._complete_from_s[key[:2]], tile.end_s)
