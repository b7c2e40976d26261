"""How the registry's database is opened: SQLite with sane settings or PostgreSQL by URL, and its migrations.

Two invariants. On SQLite a writing transaction takes the write lock when it begins (BEGIN IMMEDIATE), so it never fails
half way because somebody else wrote first. Migrations run under a lock, so two processes may open a new database at the
same moment. Called by `registry/catalog.py` only.
"""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

from registry import schema
from registry.errors import FormatTooNew, InvalidSetting, StateDamaged, StorageFailed

WRITE = "driftgate_write"  # execution option of a connection that is about to write
_BUSY_TIMEOUT_MS = 30_000
_CACHE_KIB = 512  # of pages, for each connection; SQLite's own 2,000 fill over minutes, and the kernel keeps the same
_IN_MEMORY = (None, "", ":memory:")  # SQLite's names for no file
_PASSING = frozenset(  # SQLite's results for what may be gone the next time
    (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    )
)
_ADVISORY_LOCK = 0x6472696674  # "drift"


def make_engine(url: str) -> Engine:
    """An engine for this URL. Raises InvalidSetting when the URL or its driver cannot be used."""
    try:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() == "sqlite":
            # One connection is kept: more, with a page cache each, are opened when threads need them, and closed after.
            pool = {} if parsed.database in _IN_MEMORY else {"pool_size": 1, "max_overflow": 14}
            engine = sa.create_engine(parsed, connect_args={"timeout": _BUSY_TIMEOUT_MS / 1000}, **pool)
            _listen(engine)
        else:
            engine = sa.create_engine(parsed, pool_pre_ping=True)
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ImportError) as error:
        raise InvalidSetting(f"the registry's database URL cannot be used: {error}") from None
    _tell_failures(engine)
    return engine


def _listen(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _connected(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself; we do, below
        cursor = connection.cursor()
        busy, cache = f"busy_timeout={_BUSY_TIMEOUT_MS}", f"cache_size=-{_CACHE_KIB}"
        for setting in (busy, cache, "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {setting}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        writes = connection.get_execution_options().get(WRITE)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _tell_failures(engine: Engine) -> None:
    """Raise StorageFailed for what is nobody's mistake: a full disk, a lock that is held too long, a lost server."""

    @event.listens_for(engine, "handle_error")
    def _failed(context: sa.engine.ExceptionContext) -> None:
        original = context.original_exception
        if not isinstance(context.sqlalchemy_exception, sa.exc.OperationalError):
            return
        code = getattr(original, "sqlite_errorcode", None)
        if not isinstance(original, sqlite3.Error) or (code is not None and code & 0xFF in _PASSING):
            told = str(original).splitlines() or [type(original).__name__]
            raise StorageFailed(f"the registry's database cannot be used now: {told[0]}", retry_after_s=5.0)


def migrate(engine: Engine) -> None:
    """Bring the database to this release's tables. Idempotent; safe from many processes at once.

    Raises FormatTooNew for a database of a newer release, StateDamaged when the file is no database.
    """
    try:
        with _migration_lock(engine):
            if engine.dialect.name == "sqlite":
                _use_wal(engine)
            with engine.connect().execution_options(**{WRITE: True}) as connection, connection.begin():
                present = _revision(connection)
                if present == schema.HEAD:
                    return
                _upgrade(connection, present)
    except (sa.exc.DatabaseError, sqlite3.DatabaseError) as error:
        reason = getattr(error, "orig", None) or error
        raise StateDamaged(f"the registry's database cannot be used: {reason}") from error


def _revision(connection: Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    row = connection.execute(sa.text("SELECT version_num FROM alembic_version")).first()
    return None if row is None else str(row[0])


def _upgrade(connection: Connection, present: str | None) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if present is not None and present not in known:
        raise FormatTooNew(
            f"the registry's database is at revision {present}, which a newer release wrote; this one knows up to "
            f"{schema.HEAD}"
        )
    command.upgrade(config, "head")


def _use_wal(engine: Engine) -> None:
    raw = engine.raw_connection()
    try:
        raw.cursor().execute("PRAGMA journal_mode=WAL")
    finally:
        raw.close()


@contextmanager
def _migration_lock(engine: Engine) -> Iterator[None]:
    """Held by one process at a time: a lock file beside a SQLite file, an advisory lock on PostgreSQL."""
    database: Any = engine.url.database
    if engine.dialect.name == "sqlite" and database not in _IN_MEMORY:
        path = Path(database)
        if not path.parent.is_dir():
            raise InvalidSetting(f"the registry's folder {path.parent} does not exist")
        with path.with_name(path.name + ".lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
    elif engine.dialect.name == "postgresql":
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
            try:
                yield
            finally:
                connection.execute(sa.text("SELECT pg_advisory_unlock(:key)"), {"key": _ADVISORY_LOCK})
    else:
        yield
