"""What the monitor keeps in the database: tiles, lane positions, a rollout's counts and detectors' states, together.

Why: a position says which rows the tiles, counts and detectors have seen, so they are true only if one transaction
writes all of them; then `kill -9` at any moment loses nothing, counts nothing twice and tells no alarm twice.
Invariant: nothing here is updated outside `save`.
Called by the monitor alone, in its thread.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from monitor.pauses import pause
from monitor.windows import Place, Slot, Tile, VersionBins
from registry.catalog import Catalog
from registry.errors import StateDamaged
from registry.schema import detectors, evidence, lane_positions, tiles
from registry.vocabulary import DEFAULT_TENANT

ACTOR = "driftgate"  # of what nobody asked for
_SIGNED = 1 << 63  # positions are unsigned words, the column is signed


StateKey = tuple[str, int, str]  # model, version, name


@dataclass(frozen=True, slots=True)
class Told:
    """An event to tell."""

    type: str
    model: str
    version: int
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Saved:
    """One checkpoint's content."""

    tiles: list[Tile]
    positions: Mapping[str, int]  # lane key → first row that is not in the counts
    evidence: Mapping[tuple[str, str], Mapping[str, Any]]  # (rollout id, name) → document
    removed: Sequence[Place] = ()  # tiles that were rolled up into others; gone before `tiles` are written
    states: Mapping[StateKey, bytes] = field(default_factory=dict)  # what detectors remember
    events: Sequence[Told] = ()


class MonitorStore:
    """The monitor's tables."""

    def __init__(self, catalog: Catalog, tenant: str = DEFAULT_TENANT) -> None:
        self._catalog = catalog
        self._tenant = tenant
        self._upserts: dict[sa.Table, sa.Insert] = {}
        same_place = [tiles.c[name] == sa.bindparam(f"k_{name}") for name in Place._fields]
        self._delete = tiles.delete().where(tiles.c.tenant == tenant, *same_place)

    def save(self, saved: Saved, time_ns: int) -> None:
        """Write a checkpoint in one transaction."""
        places = [{f"k_{name}": v for name, v in place._asdict().items()} for place in saved.removed]
        counted = [self._row_of(tile) for tile in saved.tiles]
        with self._catalog.transaction() as connection:
            if places:
                connection.execute(self._delete, places)
            self._upsert(connection, tiles, counted)
            self._upsert(
                connection,
                lane_positions,
                [
                    {"lane": lane, "position": _to_signed(position), "time_ns": time_ns, "document": "{}"}
                    for lane, position in saved.positions.items()
                ],
            )
            self._upsert(
                connection,
                evidence,
                [
                    {"rollout_id": rollout_id, "name": name, "document": json.dumps(document, separators=(",", ":"))}
                    for (rollout_id, name), document in saved.evidence.items()
                ],
            )
            self._upsert(
                connection,
                detectors,
                [
                    {"model": model, "version": version, "name": name, "document": document}
                    for (model, version, name), document in saved.states.items()
                ],
            )
            for told in saved.events:
                self._catalog.append_event(
                    told.type, model=told.model, version=told.version, actor=ACTOR, data=told.data, time_ns=time_ns
                )

    @staticmethod
    def _row_of(tile: Tile) -> dict[str, Any]:
        pause()
        own = {name: getattr(tile, name) for name in ("model", "version", "role", "start_s", "width_s", "edges")}
        return {**own, "document": tile.to_bytes()}

    def _upsert(self, connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
        if not rows:
            return
        if table not in self._upserts:
            insert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)
            key = [column.name for column in table.primary_key]
            rest = {column.name: insert.excluded[column.name] for column in table.c if column.name not in key}
            self._upserts[table] = insert.on_conflict_do_update(index_elements=key, set_=rest)
        connection.execute(self._upserts[table], [{"tenant": self._tenant, **row} for row in rows])

    def positions(self) -> dict[str, int]:
        """Where each lane's counting stands."""
        query = sa.select(lane_positions.c.lane, lane_positions.c.position).where(
            lane_positions.c.tenant == self._tenant
        )
        with self._catalog.reading() as connection:
            return {lane: _from_signed(position) for lane, position in connection.execute(query)}

    def forget_lanes(self, lanes: Iterable[str]) -> None:
        """Drop the positions of lanes whose files are gone for good."""
        rows = [{"k_lane": lane} for lane in lanes]
        if rows:
            with self._catalog.transaction() as connection:
                connection.execute(lane_positions.delete().where(lane_positions.c.lane == sa.bindparam("k_lane")), rows)

    def tiles(
        self, model: str, version: int, bins: VersionBins, since_s: int, until_s: int, skip: Container[Slot] = ()
    ) -> list[Tile]:
        """The tiles under these bins that touch [since_s, until_s), oldest first, but those that are not wanted."""
        query = (
            sa.select(tiles.c.role, tiles.c.start_s, tiles.c.width_s, tiles.c.document)
            .where(
                tiles.c.tenant == self._tenant,
                tiles.c.model == model,
                tiles.c.version == version,
                tiles.c.start_s + tiles.c.width_s > since_s,
                tiles.c.start_s < until_s,
                tiles.c.edges == bins.edges,
            )
            .order_by(tiles.c.start_s)
        )
        with self._catalog.reading() as connection:
            found = [row.document for row in connection.execute(query) if row[:3] not in skip]
        return [Tile.from_bytes(document, bins) for document in found]

    def states(self, model: str, version: int) -> dict[str, bytes]:
        """What detectors of this version remember, by name."""
        query = sa.select(detectors.c.name, detectors.c.document).where(
            detectors.c.tenant == self._tenant, detectors.c.model == model, detectors.c.version == version
        )
        with self._catalog.reading() as connection:
            return {row.name: row.document for row in connection.execute(query)}

    def remembered(self) -> set[tuple[str, int]]:
        """The versions of which detectors remember something."""
        query = sa.select(detectors.c.model, detectors.c.version).where(detectors.c.tenant == self._tenant).distinct()
        with self._catalog.reading() as connection:
            return {(row.model, row.version) for row in connection.execute(query)}

    def evidence(self, rollout_id: str) -> dict[str, dict[str, Any]]:
        """A rollout's documents by name. Raises StateDamaged."""
        query = sa.select(evidence.c.name, evidence.c.document).where(
            evidence.c.tenant == self._tenant, evidence.c.rollout_id == rollout_id
        )
        with self._catalog.reading() as connection:
            try:
                return {name: json.loads(document) for name, document in connection.execute(query)}
            except ValueError:
                raise StateDamaged(f"the evidence of rollout {rollout_id} cannot be read") from None

    def watches(self) -> list[dict[str, Any]]:
        """The "watch" documents of the rollouts that still run."""
        found = (self.evidence(str(document["id"])).get("watch") for document in self._catalog.active_rollouts())
        return [document for document in found if document is not None]

    def prune(self, before_s: int) -> int:
        """Delete tiles that ended before this time; how many."""
        with self._catalog.transaction() as connection:
            done = connection.execute(
                tiles.delete().where(tiles.c.tenant == self._tenant, tiles.c.start_s + tiles.c.width_s <= before_s)
            )
            return done.rowcount


def _to_signed(position: int) -> int:
    return position - (1 << 64) if position >= _SIGNED else position


def _from_signed(position: int) -> int:
    return position + (1 << 64) if position < 0 else position
