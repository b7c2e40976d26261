"""A reference profile of what a version saw lately: from stored tiles, or from the rows that its lanes still hold.

Why two ways: tiles are all of the traffic, as long as they are kept, but they are counts in the bins of the profile in
use. So a profile of tiles has those bins: it can say how much lay in each, the moments, and how tiles differ, and it
cannot say how values lie inside a bin or how far out beyond the last. Without a profile there are no bins, and the rows
in the lanes (the last minutes) are fitted as any reference. Invariants: nothing is guessed: a range whose end is not
known is None; nothing here writes to a lane. Called by `driftgate profile --from-traffic`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monitor.column_profile import ColumnProfile
from monitor.counts import Counts
from monitor.design_effect import Dependence, dependence_of_tiles
from monitor.drains import lane_files
from monitor.feature_types import DISTINCT
from monitor.lane import LaneReader
from monitor.profile import ReferenceProfile, fit
from monitor.record import ERROR, LogSchema
from monitor.reference_order import Order
from monitor.windows import Tile
from registry.errors import ArtifactRejected, FormatTooNew, StateDamaged
from registry.vocabulary import Role

ROLES = (Role.CHAMPION, Role.CANARY, Role.SHADOW)  # not direct: somebody's experiments are not the traffic
LEAST_ROWS = 1_000
_LEAST_TILES = 24
_TOLD_OUTSIDE = 0.01
_MOST_NAMED = 5
_NOT_TOGETHER = "counts do not say how inputs go together, so that is watched no more; give --reference"


def profile_of_tiles(used: ReferenceProfile, tiles: Iterable[Tile]) -> tuple[ReferenceProfile, tuple[str, ...]]:
    """The profile of tiles under the bins of the profile in use, and what its owner should know.

    Raises ArtifactRejected when there are fewer than LEAST_ROWS answered rows.
    """
    parts = _by_time([tile for tile in tiles if tile.role in ROLES])
    inputs, outputs = Counts.empty(used.input_bins()), Counts.empty(used.output_bins())
    for tile in parts:
        inputs.merge(tile.inputs)
        outputs.merge(tile.outputs)
    if inputs.rows < LEAST_ROWS:
        raise ArtifactRejected(
            f"the traffic of that time is {inputs.rows:,} rows under this version's profile; at least {LEAST_ROWS:,} "
            "are needed: say a longer time, or give --reference",
            rows=inputs.rows,
        )
    even = _evenly(parts)
    profile = ReferenceProfile(
        rows=inputs.rows,
        inputs=_side(used.inputs, inputs, [tile.inputs for tile in even]),
        outputs=_side(used.outputs, outputs, [tile.outputs for tile in even]),
        ordered=True,
        since_s=float(min(tile.start_s for tile in parts)),
        until_s=float(max(tile.end_s for tile in parts)),
    )
    lost = () if used.together is None else (_NOT_TOGETHER,)
    return profile, (*_notes(profile, inputs, outputs, len(even)), *lost)


def profile_of_lanes(folder: Path, model: str, version: int, schema: LogSchema, since_s: float) -> ReferenceProfile:
    """The profile of the answered rows since then that this folder's lanes still hold, fitted as any reference.

    Raises ArtifactRejected when there are fewer than LEAST_ROWS.
    """
    features, outputs, times = [], [], []
    for path in lane_files(folder):
        try:
            reader = LaneReader.open(path)
        except (OSError, StateDamaged, FormatTooNew):
            continue  # it went, or it is not of this release: the monitor tells of it
        try:
            header = reader.header
            if (header.model, header.version) != (model, version) or header.role not in ROLES:
                continue
            if (header.schema.inputs, header.schema.outputs) != (schema.inputs, schema.outputs):
                continue
            reader.skip_to(1 << 63)  # the end: all that the ring holds is history
            rows = reader.history(reader.capacity)
            good = rows[((rows["flags"] & ERROR) == 0) & (rows["wall_ns"] >= since_s * 1e9)]
            features.append(np.array(good["features"]))
            outputs.append(np.array(good["outputs"]))
            times.append(good["wall_ns"].astype(np.float64) / 1e9)
        finally:
            reader.close()
    count = sum(map(len, times))
    if count < LEAST_ROWS:
        raise ArtifactRejected(
            f"the lanes hold {count:,} rows of that time; at least {LEAST_ROWS:,} are needed. Without a profile there "
            "are no bins to count traffic in, so only the last rows can be used: try again under load, or give "
            "--reference",
            rows=count,
        )
    at = np.concatenate(times)
    by_time = np.argsort(at, kind="stable")
    order = Order(True, at[by_time])
    return fit(schema, np.concatenate(features)[by_time], np.concatenate(outputs)[by_time], order=order, together=True)


def free_texts(profile: ReferenceProfile) -> list[str]:
    """Notes on inputs that are logged as categories, and hold more different texts than there are bins for."""
    return [
        f"{column.name}: {column.counts[-1] / max(column.rows, 1):.0%} of its rows hold other texts than the "
        f"{column.bins.bins - 1} most frequent; a version whose options call it text_length watches how long they are"
        for column in profile.inputs
        if column.hashed and column.counts[-1] > DISTINCT * column.rows
    ]


def _by_time(tiles: Sequence[Tile]) -> list[Tile]:
    """The tiles of all roles added up, oldest first."""
    slots: dict[tuple[int, int], Tile] = {}
    for tile in tiles:
        slot = (tile.start_s, tile.width_s)
        if slot in slots:
            slots[slot].merge(tile)
        else:
            slots[slot] = replace(tile, inputs=tile.inputs.copy(), outputs=tile.outputs.copy())
    return [slots[slot] for slot in sorted(slots)]


def _evenly(tiles: Sequence[Tile]) -> list[Tile]:
    """Tiles of one width, the narrowest of which there are enough to tell how they differ; none without."""
    for width in sorted({tile.width_s for tile in tiles}):
        alike = [tile for tile in tiles if tile.width_s == width]
        if len(alike) >= _LEAST_TILES:
            return alike
    return []


def _side(columns: Sequence[ColumnProfile], total: Counts, tiles: Sequence[Counts]) -> tuple[ColumnProfile, ...]:
    return tuple(_column(column, at, total, tiles) for at, column in enumerate(columns))


def _column(column: ColumnProfile, at: int, total: Counts, tiles: Sequence[Counts]) -> ColumnProfile:
    counts = total.of(at)
    depends = Dependence.same(column.bins, 1.0, None)
    if tiles:
        parts = np.stack([tile.of(at) for tile in tiles])
        depends = dependence_of_tiles(column.bins, parts, np.array([tile.missing[at] for tile in tiles]))
    some = int(total.finite[at]) > 0
    low, high = _range(column, counts)
    mean, sd = float(total.mean[at]), float(total.sd[at])
    return replace(
        column,
        counts=tuple(int(count) for count in counts),
        missing=int(total.missing[at]),
        infinite=int(total.infinite[at]),
        low=low,
        high=high,
        mean=mean if some and np.isfinite(mean) else None,
        sd=sd if some and np.isfinite(sd) else None,
        complete=column.complete and int(counts[-1]) == 0,
        deff=depends.deff,
        bin_deffs=depends.bins,
        edge_deffs=depends.edges,
        missing_deff=depends.missing,
        block_rows=depends.block_rows,
        levelled=depends.levelled,
        season=None,
    )


def _range(column: ColumnProfile, counts: NDArray[np.int64]) -> tuple[float | None, float | None]:
    """The ends of the bins that held something; unknown where values lay beyond the last edge or had no bin."""
    held = np.flatnonzero(counts)
    if not len(held):
        return None, None
    if column.bins.kind == "category":
        values = column.bins.values
        return (None, None) if held[-1] == len(values) else (values[held[0]], values[held[-1]])
    if held[0] == 0 or held[-1] == len(counts) - 1:
        return None, None
    edges = column.bins.edges
    low, high = edges[held[0] - 1], edges[held[-1]]
    # The first and last edge are the ends of what the older reference saw, just beyond its largest value.
    return low, column.high if held[-1] == len(counts) - 2 and column.high is not None else high


def _notes(profile: ReferenceProfile, inputs: Counts, outputs: Counts, tiles: int) -> Iterable[str]:
    yield "made from counts in the bins of the profile in use, so where values lie inside a bin is not known"
    if tiles == 0:
        yield f"fewer than {_LEAST_TILES} tiles of one length: how rows depend on each other is unknown"
    far = [
        column.name
        for columns, counts in ((profile.inputs, inputs), (profile.outputs, outputs))
        for at, column in enumerate(columns)
        if int(counts.outside[at].sum() + counts.unseen[at]) > _TOLD_OUTSIDE * max(counts.rows, 1)
    ]
    if far:
        more = f" and {len(far) - _MOST_NAMED} more" if len(far) > _MOST_NAMED else ""
        yield (
            f"{', '.join(far[:_MOST_NAMED])}{more}: over {_TOLD_OUTSIDE:.0%} of the values have no bin of their own in "
            "these bins, so further drift among them cannot be seen; give --reference for new bins"
        )
