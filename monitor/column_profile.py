"""One column of a reference profile: its bins, what they held, and how its rows depended on their neighbours.

Why apart: the profile is a list of these, and detectors, limits and reports read one column at a time. Invariants:
counts has one entry per bin; missing + sum(counts) is the rows that were counted; a stored v1 column is read with the
defaults of an order that nobody knew. Made by `monitor/profile.py`; pure values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from monitor.bins import BinSet, ColumnBins
from monitor.season import Season

ColumnType = Literal["numeric", "integer", "categorical", "boolean", "text_length", "tensor_summary"]
TYPES: tuple[str, ...] = get_args(ColumnType)
WIDEN = 0.10  # of the range seen, either way, before an output is called out of range


@dataclass(frozen=True, slots=True)
class ColumnProfile:
    """One column of the reference rows. low, high, mean, sd are of finite values, None when there were none.

    `complete` says that every category seen has a bin of its own, so another one is unseen.

    Design effects: how many rows say as much as one independent row. `deff` is that of the column (for statistics of
    all bins together), bin_deffs (B,), edge_deffs (B - 1,) and missing_deff those of the events "in bin k", "in a bin
    up to k" and "missing"; edge_deffs is empty for categories. `block_rows`: how long a tile must be for the next one
    to be as good as independent; 1 for independent rows, None where that is unknown, a lower bound where `levelled` is
    False: their variance was still growing at the longest blocks that the reference has.
    `season`: how the bins' shares follow the time of day and week, None where they do not or where nobody could tell.
    """

    bins: ColumnBins
    counts: tuple[int, ...]
    missing: int
    infinite: int
    low: float | None
    high: float | None
    mean: float | None
    sd: float | None
    complete: bool
    deff: float
    hashed: bool
    type: ColumnType = "numeric"
    bin_deffs: tuple[float, ...] = ()
    edge_deffs: tuple[float, ...] = ()
    missing_deff: float = 1.0
    block_rows: int | None = None
    levelled: bool = True
    season: Season | None = None

    @property
    def name(self) -> str:
        return self.bins.name

    @property
    def rows(self) -> int:
        """Reference rows that were counted in this column: inputs may have more than outputs."""
        return sum(self.counts) + self.missing

    def never_seen(self, deff: float) -> tuple[float, float]:
        """About how many of as many further rows have a category that the reference never had, and a design effect
        for that number: as many as have one that came once (Good, 1953); it varies with those that came twice, too.
        """
        if self.bins.kind != "category":
            return 0.0, 1.0
        came = [count / deff for count in self.counts[:-1]]
        once, twice = [c for c in came if 0.0 < c < 1.5], sum(1.5 <= c < 2.5 for c in came)
        return self.counts[-1] + deff * sum(once), deff * (1.0 + 2.0 * twice / max(len(once), twice, 1))

    @property
    def noun(self) -> str:
        """What the column's values are, in words."""
        return "lengths" if self.type == "text_length" else "values"

    def limits(self) -> tuple[float, float] | None:
        """The range outside of which an output is bad; None where the reference says too little to tell."""
        if self.low is None or self.high is None or self.hashed:
            return None
        if self.bins.kind == "category":
            return self.low, self.high
        span = self.high - self.low
        return (self.low - WIDEN * span, self.high + WIDEN * span) if 0.0 < span < math.inf else None

    def to_dict(self) -> dict[str, Any]:
        """As stored. Design effects that are all the column's own are left out: a wide model has 100,000 bins."""
        document: dict[str, Any] = {
            "name": self.name,
            "kind": self.bins.kind,
            "type": self.type,
            "edges": list(self.bins.edges),
            "values": list(self.bins.values),
            "counts": list(self.counts),
            "missing": self.missing,
            "infinite": self.infinite,
            "low": self.low,
            "high": self.high,
            "mean": self.mean,
            "sd": self.sd,
            "complete": self.complete,
            "deff": self.deff,
            "missing_deff": self.missing_deff,
            "block_rows": self.block_rows,
            "levelled": self.levelled,
            "hashed": self.hashed,
        }
        if self.bins.whole:  # release 0.1 stored none, so its bins keep their digest
            document["whole"] = True
        if any(deff != self.deff for deff in (*self.bin_deffs, *self.edge_deffs)):
            document |= {"bin_deffs": list(self.bin_deffs), "edge_deffs": list(self.edge_deffs)}
        if self.season is not None:
            document["season"] = self.season.to_dict()
        return document

    @classmethod
    def from_dict(cls, item: Mapping[str, Any]) -> ColumnProfile:
        """Raises KeyError, TypeError or ValueError for what `to_dict` never wrote, in this release or an older one."""
        bins = BinSet.from_list([item]).columns[0]
        counts = tuple(int(count) for count in item["counts"])
        if len(counts) != bins.bins or min(counts) < 0:
            raise ValueError(f"{bins.name!r} has {len(counts)} counts for {bins.bins} bins")
        low, high, mean, sd = (None if item[k] is None else float(item[k]) for k in ("low", "high", "mean", "sd"))
        deff = _deff(item["deff"])
        edges = bins.bins - 1 if bins.kind == "number" else 0
        kind = item.get("type", "categorical" if bins.kind == "category" else "numeric")
        if kind not in TYPES:
            raise ValueError(f"{bins.name!r} is of type {kind!r}")
        block_rows = item.get("block_rows")
        season = item.get("season")
        return cls(
            bins=bins,
            counts=counts,
            missing=int(item["missing"]),
            infinite=int(item["infinite"]),
            low=low,
            high=high,
            mean=mean,
            sd=sd,
            complete=bool(item["complete"]),
            deff=deff,
            hashed=bool(item["hashed"]),
            type=kind,
            bin_deffs=_deffs(item.get("bin_deffs"), bins.bins, deff),
            edge_deffs=_deffs(item.get("edge_deffs"), edges, deff),
            missing_deff=_deff(item.get("missing_deff", deff)),
            block_rows=None if block_rows is None else max(int(block_rows), 1),
            levelled=bool(item.get("levelled", True)),
            season=None if season is None else Season.from_dict(season, bins.bins),
        )


def _deff(value: Any) -> float:
    deff = float(value)
    if not 1.0 <= deff < math.inf:
        raise ValueError(f"a design effect of {deff}")
    return deff


def _deffs(values: Any, count: int, default: float) -> tuple[float, ...]:
    if values is None:
        return (default,) * count
    if len(values) != count:
        raise ValueError(f"{len(values)} design effects for {count} events")
    return tuple(map(_deff, values))
