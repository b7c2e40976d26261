"""The bins of a version's columns, which live and reference values fall into alike.

Invariants: bins are compared by the digest of their content, and counts of different digests never meet; a column's
edges are finite and rising. Made by the profile's fit, read by everything that counts or compares.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from monitor.record import Column
from registry.errors import StateDamaged


@dataclass(frozen=True, slots=True)
class ColumnBins:
    """One column's bins.

    A number has len(edges) + 1 bins, bin k holding edges[k-1] <= value < edges[k]; the first and last are the overflow
    and hold the infinities too. A category has a bin for each of `values` (rising) and a last one for all other values.
    """

    name: str
    kind: Literal["number", "category"]
    edges: tuple[float, ...] = ()  # strictly rising, finite
    values: tuple[float, ...] = ()  # strictly rising: the categories seen, as `record.category_code`
    whole: bool = False  # a number of whole values: one with a fraction is of the wrong type

    def __post_init__(self) -> None:
        marks = self.edges if self.kind == "number" else self.values
        if not all(np.isfinite(marks)) or any(low >= high for low, high in pairwise(marks)):
            raise ValueError(f"the bins of {self.name!r} are not finite and rising: {marks}")

    @property
    def bins(self) -> int:
        return len(self.edges if self.kind == "number" else self.values) + 1


@dataclass(frozen=True)
class BinSet:
    """The bins of one side (inputs or outputs) of a version's rows, in column order. Compared by `digest`."""

    columns: tuple[ColumnBins, ...]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hex."""
        text = json.dumps(self.to_list(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def width(self) -> int:
        """Bins of the column that has most."""
        return max((column.bins for column in self.columns), default=1)

    @cached_property
    def edge_table(self) -> NDArray[np.float64]:
        """(C, width - 1): each column's edges, the last one repeated to the end; 0 for a column without edges."""
        table = np.zeros((len(self.columns), max(self.width - 1, 0)))
        for at, column in enumerate(self.columns):
            if column.edges:
                table[at] = column.edges[-1]
                table[at, : len(column.edges)] = column.edges
        return table

    def to_list(self) -> list[dict[str, Any]]:
        """A JSON list; `whole` is named where it is true alone, so that older bins keep their digest."""
        return [
            {"name": c.name, "kind": c.kind, "edges": list(c.edges), "values": list(c.values)}
            | ({"whole": True} if c.whole else {})
            for c in self.columns
        ]

    @classmethod
    def from_list(cls, items: Sequence[Mapping[str, Any]]) -> BinSet:
        """Raises StateDamaged for what `to_list` never wrote."""
        try:
            return cls(
                tuple(
                    ColumnBins(
                        str(i["name"]),
                        i["kind"],
                        tuple(map(float, i["edges"])),
                        tuple(map(float, i["values"])),
                        bool(i.get("whole", False)),
                    )
                    for i in items
                )
            )
        except (KeyError, TypeError, ValueError) as error:
            raise StateDamaged(f"bins cannot be read: {error!r}") from None

    @classmethod
    def without_profile(cls, columns: Sequence[Column]) -> BinSet:
        """One bin a column: missing, infinite and moments are still counted."""
        return cls(tuple(ColumnBins(c.name, "category" if c.kind == "category" else "number") for c in columns))
