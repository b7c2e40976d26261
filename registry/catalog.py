"""Models, versions, aliases, rollouts and events in the database: the truth that every process agrees on.

Invariants: a version is never changed or renumbered; an alias moves only by compare-and-swap and keeps its whole
history; of two processes that write at once one waits, and neither loses anything. Each method is one transaction, or
part of the caller's: inside `with catalog.transaction():` all calls of the same thread commit together or not at all.
Called by the command line, the controller and the registration's process, from any thread; never by a worker.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from registry import database
from registry import schema as t
from registry.clock import Clock
from registry.entries import AliasChange, AliasRow, EventRow, ModelRow, ProfileRow, TagChange, VersionRow
from registry.errors import (
    AliasMoved,
    IllegalTransition,
    MalformedRequest,
    ModelNotFound,
    RolloutActive,
    RolloutNotFound,
    VersionNotFound,
)
from registry.journal import Journal
from registry.manifest import Manifest
from registry.vocabulary import CANARY_ALIAS, CHAMPION_ALIAS, FINAL_STATES, is_alias_name, is_model_name

__all__ = [
    "ANY",
    "AliasChange",
    "AliasRow",
    "Catalog",
    "EventRow",
    "Expected",
    "ModelRow",
    "ProfileRow",
    "TagChange",
    "VersionRow",
    "check_alias",
]

_FINAL = frozenset(str(state) for state in FINAL_STATES)


class _Any(enum.Enum):
    ANY = "any"


ANY: Final = _Any.ANY  # set_alias: whatever it points to now
Expected = int | None | Literal[_Any.ANY]


def check_alias(alias: str) -> None:
    """Raises MalformedRequest for what cannot be an alias, IllegalTransition for one that only rollouts move."""
    if not is_alias_name(alias):
        raise MalformedRequest(
            f"{alias!r} cannot be an alias: lower case letters, digits, '.', '_' and '-', not a number or 'latest'"
        )
    if alias == CANARY_ALIAS:
        raise IllegalTransition("the alias 'canary' moves only by a rollout: driftgate rollout start", alias=alias)


class Catalog(Journal):
    """The registry's database: models, versions, tags, profiles, aliases and rollouts; events come with the journal."""

    @classmethod
    def open(cls, url: str, clock: Clock | None = None) -> Catalog:
        """Open the database at this URL, making or upgrading its tables under a lock.

        Raises InvalidSetting (URL, driver, folder), FormatTooNew (a newer release's), StateDamaged (no database).
        """
        engine = database.make_engine(url)
        try:
            database.migrate(engine)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine, clock)

    # --- models and versions -------------------------------------------------------------------------------------

    def models(self) -> tuple[ModelRow, ...]:
        """Every model, by name."""
        query = (
            sa.select(
                t.models.c.model,
                t.models.c.created_ns,
                sa.func.count(t.versions.c.version),
                sa.func.max(t.versions.c.version),
            )
            .select_from(
                t.models.outerjoin(
                    t.versions,
                    sa.and_(t.versions.c.tenant == t.models.c.tenant, t.versions.c.model == t.models.c.model),
                )
            )
            .where(t.models.c.tenant == self._tenant)
            .group_by(t.models.c.model, t.models.c.created_ns)
            .order_by(t.models.c.model)
        )
        with self.reading() as connection:
            return tuple(ModelRow(*row) for row in connection.execute(query))

    def versions(self, model: str) -> tuple[VersionRow, ...]:
        """Every version of a model, oldest first. Raises ModelNotFound."""
        with self.reading() as connection:
            self._require_model(connection, model)
            return self._version_rows(connection, model)

    def version(self, model: str, number: int) -> VersionRow:
        """One version. Raises ModelNotFound, VersionNotFound."""
        with self.reading() as connection:
            rows = self._version_rows(connection, model, t.versions.c.version == number)
            if not rows:
                self._require_version(connection, model, number)
            return rows[0]

    def find_digest(self, model: str, digest: str) -> VersionRow | None:
        """The oldest version of this model with that digest, if any."""
        with self.reading() as connection:
            rows = self._version_rows(connection, model, t.versions.c.digest == digest)
            return rows[0] if rows else None

    def add_version(
        self,
        model: str,
        manifest: Manifest,
        *,
        actor: str,
        tags: Mapping[str, str] | None = None,
        warnings: Sequence[str] = (),
        new_version: bool = False,
    ) -> tuple[VersionRow, bool]:
        """Store a version under the next number → (its row, True), or the present one of the same digest and False.

        Tags given for a present version are set on it. A created version is told as `version.registered`.
        """
        if not is_model_name(model):
            raise MalformedRequest(f"{model!r} cannot name a model: letters, digits, '.', '_' and '-', up to 100")
        digest = manifest.digest
        now = self._clock.wall_ns()
        with self.transaction() as connection:
            self._changed(connection)  # first: on PostgreSQL this queues writers, as BEGIN IMMEDIATE does on SQLite
            present = None if new_version else self.find_digest(model, digest)
            if present is None:
                number = self._next_number(connection, model, now)
                connection.execute(
                    t.versions.insert().values(
                        tenant=self._tenant,
                        model=model,
                        version=number,
                        digest=digest,
                        manifest=manifest.to_json(),
                        warnings=json.dumps(list(warnings)),
                        created_ns=now,
                        actor=actor,
                    )
                )
                data = {"digest": digest, "warnings": list(warnings)}
                self.append_event(
                    "version.registered", model=model, version=number, actor=actor, data=data, time_ns=now
                )
                if manifest.profile is not None:
                    self.add_profile(model, number, manifest.profile, source="registration", actor=actor)
            else:
                number = present.version
            for key, value in (tags or {}).items():
                self.set_tag(model, number, key, value, actor=actor)
            return self.version(model, number), present is None

    def set_tag(self, model: str, version: int, key: str, value: str | None, *, actor: str) -> None:
        """Set a tag, or remove it with None; unchanged values leave no trace. Raises VersionNotFound."""
        if not key or len(key) > 200:
            raise MalformedRequest("a tag's key has 1 to 200 characters")
        now = self._clock.wall_ns()
        where = self._of(t.version_tags, model, version) & (t.version_tags.c.key == key)
        with self.transaction() as connection:
            self._require_version(connection, model, version)
            row = connection.execute(sa.select(t.version_tags.c.value).where(where)).first()
            if (row[0] if row else None) == value:
                return
            names = {"tenant": self._tenant, "model": model, "version": version, "key": key, "value": value}
            if row is None:
                connection.execute(t.version_tags.insert().values(names))
            else:
                connection.execute(t.version_tags.update().where(where).values(value=value))
            connection.execute(t.tag_history.insert().values(**names, time_ns=now, actor=actor))

    def tag_history(self, model: str, version: int) -> tuple[TagChange, ...]:
        """Every change of a version's tags, oldest first."""
        c = t.tag_history.c
        query = sa.select(c.version, c.key, c.value, c.time_ns, c.actor).where(self._of(t.tag_history, model, version))
        with self.reading() as connection:
            return tuple(TagChange(*row) for row in connection.execute(query.order_by(c.id)))

    # --- profiles ------------------------------------------------------------------------------------------------

    def add_profile(self, model: str, version: int, sha256: str, *, source: str, actor: str) -> ProfileRow:
        """Bind another reference profile (an artifact's digest) to a version, under the next number."""
        now = self._clock.wall_ns()
        with self.transaction() as connection:
            self._changed(connection)
            self._require_version(connection, model, version)
            rows = self.profiles(model, version)
            row = ProfileRow(len(rows) + 1, sha256, source, now, actor)
            connection.execute(
                t.profiles.insert().values(
                    tenant=self._tenant,
                    model=model,
                    version=version,
                    number=row.number,
                    sha256=sha256,
                    source=source,
                    time_ns=now,
                    actor=actor,
                )
            )
            return row

    def profiles(self, model: str, version: int) -> tuple[ProfileRow, ...]:
        """A version's profiles, by number; the last is the one in use."""
        c = t.profiles.c
        query = sa.select(c.number, c.sha256, c.source, c.time_ns, c.actor).where(self._of(t.profiles, model, version))
        with self.reading() as connection:
            return tuple(ProfileRow(*row) for row in connection.execute(query.order_by(c.number)))

    # --- aliases -------------------------------------------------------------------------------------------------

    def aliases(self, model: str) -> dict[str, AliasRow]:
        """Where each alias of a model points now. Raises ModelNotFound."""
        c = t.aliases.c
        query = sa.select(c.alias, c.version, c.since_ns, c.revision).where(
            c.tenant == self._tenant, c.model == model, c.version.is_not(None)
        )
        with self.reading() as connection:
            self._require_model(connection, model)
            return {row.alias: AliasRow(*row) for row in connection.execute(query.order_by(c.alias))}

    def alias_history(self, model: str, alias: str | None = None, at: int | None = None) -> tuple[AliasChange, ...]:
        """Every move, oldest first; with `at` (wall ns) only the last move of each alias up to then.

        Raises ModelNotFound.
        """
        c = t.alias_history.c
        query = sa.select(c.alias, c.version, c.previous, c.revision, c.time_ns, c.actor, c.reason).where(
            c.tenant == self._tenant, c.model == model
        )
        if alias is not None:
            query = query.where(c.alias == alias)
        if at is not None:
            query = query.where(c.time_ns <= at)
        with self.reading() as connection:
            self._require_model(connection, model)
            changes = tuple(AliasChange(*row) for row in connection.execute(query.order_by(c.id)))
        if at is not None:
            return tuple({change.alias: change for change in changes}.values())
        return changes

    def set_alias(
        self,
        model: str,
        alias: str,
        version: int | None,
        *,
        expected: Expected,
        actor: str,
        reason: str = "",
        rollout_id: str | None = None,
    ) -> AliasRow | None:
        """Move an alias from the version expected (None: not set; ANY: whatever) to another (None: remove it).

        `canary`, and `champion` while a rollout runs, move only for that rollout, which passes its id. Moving to where
        it already points does nothing. Every move is told as `alias.moved`. Raises AliasMoved when it points elsewhere,
        RolloutActive, IllegalTransition, VersionNotFound, ModelNotFound, MalformedRequest.
        """
        if alias != CANARY_ALIAS or rollout_id is None:
            check_alias(alias)
        now = self._clock.wall_ns()
        where = (t.aliases.c.tenant == self._tenant) & (t.aliases.c.model == model) & (t.aliases.c.alias == alias)
        with self.transaction() as connection:
            self._changed(connection)
            self._require_model(connection, model)
            if version is not None:
                self._require_version(connection, model, version)
            self.check_no_rollout(model, alias, rollout_id)
            row = connection.execute(sa.select(t.aliases).where(where)).first()
            current: int | None = row.version if row else None
            if expected is not ANY and current != expected:
                raise AliasMoved(
                    f"alias {alias!r} of {model!r} points to {_pointed(current)}, not to {_pointed(expected)}",
                    alias=alias,
                    version=current,
                    expected=expected,
                )
            if current == version:
                return None if row is None or version is None else AliasRow(alias, version, row.since_ns, row.revision)
            revision = row.revision + 1 if row else 1
            values = {"version": version, "since_ns": now, "revision": revision}
            names = {"tenant": self._tenant, "model": model, "alias": alias}
            if row is None:
                connection.execute(t.aliases.insert().values({**names, **values}))
            else:
                connection.execute(t.aliases.update().where(where).values(values))
            connection.execute(
                t.alias_history.insert().values(
                    **names,
                    version=version,
                    previous=current,
                    revision=revision,
                    time_ns=now,
                    actor=actor,
                    reason=reason,
                )
            )
            data = {"alias": alias, "version": version, "previous": current, "reason": reason}
            self.append_event("alias.moved", model=model, version=version, actor=actor, data=data, time_ns=now)
            return None if version is None else AliasRow(alias, version, now, revision)

    def check_no_rollout(self, model: str, alias: str, rollout_id: str | None = None) -> None:
        """Raises RolloutActive when a rollout, other than this one, holds the alias."""
        if alias in (CHAMPION_ALIAS, CANARY_ALIAS):
            for document in self.active_rollouts(model):
                if document["id"] != rollout_id:
                    raise RolloutActive(
                        f"a rollout of {model!r} is running ({document['state']}); end it first",
                        rollout=document["id"],
                        state=document["state"],
                    )

    # --- rollouts ------------------------------------------------------------------------------------------------

    def latest_rollout(self, model: str) -> dict[str, Any] | None:
        """The model's newest rollout, running or ended; None if there never was one."""
        c = t.rollouts.c
        query = sa.select(c.document).where(c.tenant == self._tenant, c.model == model).order_by(c.seq.desc()).limit(1)
        with self.reading() as connection:
            row = connection.execute(query).first()
            return None if row is None else json.loads(row[0])

    def rollout(self, rollout_id: str) -> dict[str, Any]:
        """One rollout. Raises RolloutNotFound."""
        c = t.rollouts.c
        with self.reading() as connection:
            row = connection.execute(sa.select(c.document).where(c.tenant == self._tenant, c.id == rollout_id)).first()
        if row is None:
            raise RolloutNotFound(f"no rollout {rollout_id!r}")
        document: dict[str, Any] = json.loads(row[0])
        return document

    def rollouts(self, model: str, limit: int = 100) -> list[dict[str, Any]]:
        """A model's rollouts, newest first."""
        c = t.rollouts.c
        query = sa.select(c.document).where(c.tenant == self._tenant, c.model == model)
        with self.reading() as connection:
            rows = connection.execute(query.order_by(c.seq.desc()).limit(limit))
            return [json.loads(row[0]) for row in rows]

    def active_rollouts(self, model: str | None = None) -> list[dict[str, Any]]:
        """Every rollout that has not ended, oldest first; of one model, or of all."""
        c = t.rollouts.c
        query = sa.select(c.document).where(c.tenant == self._tenant, c.state.not_in(sorted(_FINAL))).order_by(c.seq)
        if model is not None:
            query = query.where(c.model == model)
        with self.reading() as connection:
            return [json.loads(row[0]) for row in connection.execute(query)]

    def save_rollout(self, document: Mapping[str, Any], *, expected_revision: int | None) -> None:
        """Store a rollout (keys id, model, revision, state) over the revision expected; None: it is new.

        Raises RolloutActive when a new one meets another that has not ended, IllegalTransition when somebody changed
        it first, RolloutNotFound, ModelNotFound.
        """
        identity, model, state = document["id"], document["model"], str(document["state"])
        values = {"state": state, "revision": document["revision"], "document": json.dumps(dict(document))}
        with self.transaction() as connection:
            self._changed(connection)
            if expected_revision is None:
                self._require_model(connection, model)
                others = [other for other in self.active_rollouts(model) if other["id"] != identity]
                if others and state not in _FINAL:
                    raise RolloutActive(
                        f"a rollout of {model!r} is already running ({others[0]['state']})",
                        rollout=others[0]["id"],
                        state=others[0]["state"],
                    )
                try:
                    connection.execute(
                        t.rollouts.insert().values(tenant=self._tenant, id=identity, model=model, **values)
                    )
                except sa.exc.IntegrityError:
                    raise IllegalTransition(f"rollout {identity!r} already exists") from None
                return
            done = connection.execute(
                t.rollouts.update()
                .where(
                    t.rollouts.c.tenant == self._tenant,
                    t.rollouts.c.id == identity,
                    t.rollouts.c.revision == expected_revision,
                )
                .values(values)
            )
            if done.rowcount != 1:
                found = self.rollout(identity)
                raise IllegalTransition(
                    f"rollout {identity!r} is at revision {found['revision']}, not {expected_revision}: it was changed "
                    "meanwhile",
                    revision=found["revision"],
                    expected=expected_revision,
                )

    # --- helpers -------------------------------------------------------------------------------------------------

    def _of(self, table: sa.Table, model: str, version: int) -> sa.ColumnElement[bool]:
        return (table.c.tenant == self._tenant) & (table.c.model == model) & (table.c.version == version)

    def _require_model(self, connection: Connection, model: str) -> None:
        query = sa.select(t.models.c.model).where(t.models.c.tenant == self._tenant, t.models.c.model == model)
        if connection.execute(query).first() is None:
            raise ModelNotFound(f"no model {model!r}", model=model)

    def _require_version(self, connection: Connection, model: str, version: int) -> None:
        self._require_model(connection, model)
        query = sa.select(t.versions.c.version).where(self._of(t.versions, model, version))
        if connection.execute(query).first() is None:
            raise VersionNotFound(f"model {model!r} has no version {version}", model=model, version=version)

    def _next_number(self, connection: Connection, model: str, now: int) -> int:
        where = (t.models.c.tenant == self._tenant) & (t.models.c.model == model)
        row = connection.execute(sa.select(t.models.c.next_version).where(where)).first()
        if row is None:
            connection.execute(
                t.models.insert().values(tenant=self._tenant, model=model, created_ns=now, next_version=2)
            )
            return 1
        connection.execute(t.models.update().where(where).values(next_version=row[0] + 1))
        return int(row[0])

    def _version_rows(
        self, connection: Connection, model: str, *where: sa.ColumnElement[bool]
    ) -> tuple[VersionRow, ...]:
        tags: dict[int, dict[str, str]] = {}
        query = sa.select(t.version_tags).where(
            t.version_tags.c.tenant == self._tenant,
            t.version_tags.c.model == model,
            t.version_tags.c.value.is_not(None),
        )
        for row in connection.execute(query.order_by(t.version_tags.c.key)):
            tags.setdefault(row.version, {})[row.key] = row.value
        found = sa.select(t.versions).where(t.versions.c.tenant == self._tenant, t.versions.c.model == model, *where)
        rows = connection.execute(found.order_by(t.versions.c.version))
        return tuple(_version_row(row, tags.get(row.version, {})) for row in rows)


def _version_row(row: Row[Any], tags: Mapping[str, str]) -> VersionRow:
    return VersionRow(
        model=row.model,
        version=row.version,
        digest=row.digest,
        manifest=Manifest.from_json(row.manifest),
        created_ns=row.created_ns,
        actor=row.actor,
        tags=tags,
        warnings=tuple(json.loads(row.warnings)),
    )


def _pointed(version: object) -> str:
    return "nothing" if version is None else f"version {version}"
