"""A tile: what was counted of one version in one role in one slice of time, as it grows and as it is kept.

Why: a version has a hundred tiles, of which one grows and the others are only summed, so those are kept in a quarter of
the memory. Invariants: a tile holds rows of one model, version and role under one set of bins; packing and opening
change no number. Made and kept by `monitor/windows.py`; stored by `monitor/store.py`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitor.counts import BinSet, Counts
from registry.errors import StateDamaged
from registry.formats import check_stamp, stamped

TileKey = tuple[str, int, str]  # model, version, role
_OBJECT_BYTES = 400  # of the objects around the numbers of one packed tile, about


class Place(NamedTuple):
    """Which tile in the store."""

    model: str
    version: int
    role: str
    start_s: int
    width_s: int
    edges: str


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


@dataclass(slots=True)
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
    def end_s(self) -> int:
        return self.start_s + self.width_s

    @property
    def nbytes(self) -> int:
        return self.inputs.counts.nbytes + self.outputs.counts.nbytes + 4096

    def packed(self) -> PackedTile:
        """The same tile, to be kept."""
        sides = PackedCounts.of(self.inputs), PackedCounts.of(self.outputs)
        return PackedTile(self.start_s, self.width_s, self.errors, *sides)

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


@dataclass(frozen=True, slots=True)
class PackedCounts:
    """Counts in as few bytes as hold them, and in few objects: many small ones that live for minutes split the heap."""

    rows: int
    dtypes: str  # of the arrays of `Counts`, side by side; empty: all zero
    content: bytes  # theirs, one after the other

    @classmethod
    def of(cls, counts: Counts) -> PackedCounts:
        packed = [_narrowest(getattr(counts, name)) for name in _ARRAYS]
        dtypes = sys.intern(" ".join("" if array is None else array.dtype.str for array in packed))
        return cls(counts.rows, dtypes, b"".join(array.tobytes() for array in packed if array is not None))

    def open(self, bins: BinSet) -> Counts:
        counts = Counts.empty(bins)
        counts.rows, at = self.rows, 0
        for name, dtype in zip(_ARRAYS, self.dtypes.split(" "), strict=True):
            if dtype:
                array = getattr(counts, name)
                found = np.frombuffer(self.content, dtype, array.size, at)
                array[...] = found.reshape(array.shape)
                at += found.nbytes
        return counts

    @property
    def nbytes(self) -> int:
        return len(self.content)


@dataclass(frozen=True, slots=True)
class PackedTile:
    """A tile that only waits to be summed, rolled up, or counted into once more."""

    start_s: int
    width_s: int
    errors: int
    inputs: PackedCounts
    outputs: PackedCounts

    @property
    def end_s(self) -> int:
        return self.start_s + self.width_s

    @property
    def nbytes(self) -> int:
        return self.inputs.nbytes + self.outputs.nbytes + _OBJECT_BYTES

    def open(self, key: TileKey, bins: VersionBins, edges: str) -> Tile:
        """The tile as it was; the bins are those under which it was counted."""
        sides = self.inputs.open(bins.inputs), self.outputs.open(bins.outputs)
        return Tile(*key, self.start_s, self.width_s, edges, self.errors, *sides)


_ARRAYS = tuple(field.name for field in fields(Counts) if field.name not in ("bins", "rows"))


def _narrowest(array: NDArray[Any]) -> NDArray[Any] | None:
    """The same numbers in the narrowest type; None where all are zero."""
    if not array.any():
        return None
    if array.dtype.kind != "i":
        return array
    least, most = np.min_scalar_type(int(array.min())), np.min_scalar_type(int(array.max()))
    return array.astype(np.promote_types(least, most))
