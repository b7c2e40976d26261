"""A POST with an Idempotency-Key is done at most once: repeats get the first answer.

Invariant: a key means one request of one principal. Answers are kept for a day in the registry's database, so a
repeat after a restart is known too. Refusals are not kept: the caller may mend the cause and use the key again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

import sqlalchemy as sa

from registry import schema
from registry.catalog import Catalog
from registry.clock import Clock
from registry.errors import Conflict, MalformedRequest
from registry.vocabulary import DEFAULT_TENANT

KEPT_NS = 24 * 3600 * 1_000_000_000
_VISIBLE = frozenset(range(0x21, 0x7F))


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered."""

    status: int
    body: str
    repeated: bool = False


class Idempotency:
    """The memory of keys. Any thread."""

    def __init__(self, catalog: Catalog, clock: Clock) -> None:
        self._catalog = catalog
        self._clock = clock
        self._lock = threading.Lock()
        self._running: set[tuple[str, str]] = set()

    def once(self, principal: str, key: str, digest: str, do: Callable[[], Answer]) -> Answer:
        """do()'s answer, now or from the first time. Raises Conflict for a key of another, or a running, request."""
        if not 0 < len(key) <= 255 or not all(ord(sign) in _VISIBLE for sign in key):
            raise MalformedRequest("Idempotency-Key must be 1 to 255 visible ASCII characters")
        with self._lock:
            if (principal, key) in self._running:
                raise Conflict("a request with this Idempotency-Key is still being done", key=key)
            self._running.add((principal, key))
        try:
            known = self._find(principal, key, digest)
            if known is not None:
                return known
            answer = do()
            self._keep(principal, key, digest, answer)
            return answer
        finally:
            with self._lock:
                self._running.discard((principal, key))

    def _find(self, principal: str, key: str, digest: str) -> Answer | None:
        table = schema.idempotency_keys
        query = sa.select(table.c.request, table.c.status, table.c.body, table.c.time_ns).where(
            table.c.tenant == DEFAULT_TENANT, table.c.principal == principal, table.c.key == key
        )
        with self._catalog.reading() as connection:
            row = connection.execute(query).first()
        if row is None or row.time_ns < self._clock.wall_ns() - KEPT_NS:
            return None
        if row.request != digest:
            raise Conflict("this Idempotency-Key was used for another request", key=key)
        return replace(Answer(row.status, row.body), repeated=True)

    def _keep(self, principal: str, key: str, digest: str, answer: Answer) -> None:
        table = schema.idempotency_keys
        mine = (table.c.tenant == DEFAULT_TENANT) & (table.c.principal == principal) & (table.c.key == key)
        now_ns = self._clock.wall_ns()
        with self._catalog.transaction() as connection:
            connection.execute(table.delete().where(sa.or_(mine, table.c.time_ns < now_ns - KEPT_NS)))
            connection.execute(
                table.insert().values(
                    tenant=DEFAULT_TENANT,
                    principal=principal,
                    key=key,
                    request=digest,
                    status=answer.status,
                    body=answer.body,
                    time_ns=now_ns,
                )
            )
