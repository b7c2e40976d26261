"""Transactions, events and the change counter of the registry's database: what the catalog is built on.

Invariants: event ids rise in the order of commits and are never reused, so a reader that asks for what came after an id
misses nothing; the change counter rises in the same transaction as what it tells of. One thread has at most one
transaction at a time, and everything that it calls joins it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from registry import database
from registry import schema as t
from registry.clock import Clock, SystemClock
from registry.entries import EventRow
from registry.vocabulary import DEFAULT_TENANT

_MOST_EVENTS = 1000


class Journal:
    """A database with transactions that nest, and the events that happened."""

    def __init__(self, engine: Engine, clock: Clock | None = None, tenant: str = DEFAULT_TENANT) -> None:
        self.engine = engine
        self._clock = clock or SystemClock()
        self._tenant = tenant
        self._local = threading.local()

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A writing transaction. Nested calls of the same thread, and this catalog's methods, join it."""
        current: Connection | None = getattr(self._local, "connection", None)
        if current is not None:
            yield current
            return
        with self.engine.connect().execution_options(**{database.WRITE: True}) as connection, connection.begin():
            self._local.connection = connection
            try:
                yield connection
            finally:
                self._local.connection = None

    @property
    def tenant(self) -> str:
        """Whose rows these are."""
        return self._tenant

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A consistent view for reading; inside a transaction of this thread, that transaction."""
        current: Connection | None = getattr(self._local, "connection", None)
        if current is not None:
            yield current
            return
        with self.engine.connect() as connection, connection.begin():
            yield connection

    def append_event(
        self,
        type: str,
        *,
        model: str | None = None,
        version: int | None = None,
        actor: str,
        data: Mapping[str, Any] | None = None,
        time_ns: int | None = None,
    ) -> int:
        """Tell that something happened → its id. Ids rise in the order of commits."""
        values = {
            "tenant": self._tenant,
            "time_ns": self._clock.wall_ns() if time_ns is None else time_ns,
            "type": type,
            "model": model,
            "version": version,
            "actor": actor,
            "data": json.dumps(dict(data or {})),
        }
        with self.transaction() as connection:
            if connection.dialect.name != "sqlite":
                # Without the lock two transactions could commit their ids out of order, and a reader that asks for
                # "after 7" would never see 6.
                self._changed(connection, "events")
            key = connection.execute(t.events.insert().values(values)).inserted_primary_key
            return int(key[0]) if key else 0

    def events(self, after: int = 0, limit: int = 100, model: str | None = None) -> list[EventRow]:
        """Events with an id above `after`, oldest first, at most `limit` (1000)."""
        c = t.events.c
        query = sa.select(c.id, c.time_ns, c.type, c.model, c.version, c.actor, c.data).where(
            c.tenant == self._tenant, c.id > after
        )
        if model is not None:
            query = query.where(c.model == model)
        with self.reading() as connection:
            rows = connection.execute(query.order_by(c.id).limit(max(0, min(limit, _MOST_EVENTS))))
            return [EventRow(*row[:6], data=json.loads(row.data)) for row in rows]

    def latest_event_id(self) -> int:
        """The newest event's id, 0 without events: where "from now on" begins."""
        with self.reading() as connection:
            row = connection.execute(sa.select(sa.func.max(t.events.c.id)).where(t.events.c.tenant == self._tenant))
            return int(row.scalar() or 0)

    def change_token(self) -> str:
        """Differs when versions, profiles, aliases or rollouts changed. One row: cheap enough for each second."""
        query = sa.select(t.changes.c.value).where(t.changes.c.tenant == self._tenant, t.changes.c.name == "routing")
        with self.reading() as connection:
            return str(connection.execute(query).scalar() or 0)

    def _changed(self, connection: Connection, name: str = "routing") -> None:
        where = (t.changes.c.tenant == self._tenant) & (t.changes.c.name == name)
        step = t.changes.update().where(where).values(value=t.changes.c.value + 1)
        if connection.execute(step).rowcount == 0:
            try:
                with connection.begin_nested():
                    connection.execute(t.changes.insert().values(tenant=self._tenant, name=name, value=1))
            except sa.exc.IntegrityError:  # somebody made the row first
                connection.execute(step)
