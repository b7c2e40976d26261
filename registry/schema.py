"""The database's tables, as SQLAlchemy sees them. `migrations/` makes them; a test compares the two.

SQL stays portable (SQLite and PostgreSQL): times are nanoseconds since 1970 in BIGINT, documents are JSON in TEXT or
BLOB, never a database's own JSON type. Every table carries `tenant`, which is `default` until it is used.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from registry.vocabulary import DEFAULT_TENANT

# The newest migration. A database at this revision is opened without importing alembic.
HEAD = "0002"

metadata = MetaData()
_ID = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers only INTEGER PRIMARY KEY by itself


def _tenant() -> Column[str]:
    return Column("tenant", String(100), nullable=False, server_default=DEFAULT_TENANT)


models = Table(
    "models",
    metadata,
    _tenant(),
    Column("model", String(100), nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("next_version", Integer, nullable=False),
    PrimaryKeyConstraint("tenant", "model"),
)

versions = Table(
    "versions",
    metadata,
    _tenant(),
    Column("model", String(100), nullable=False),
    Column("version", Integer, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("manifest", Text, nullable=False),
    Column("warnings", Text, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    PrimaryKeyConstraint("tenant", "model", "version"),
    ForeignKeyConstraint(["tenant", "model"], ["models.tenant", "models.model"]),
    Index("versions_digest", "tenant", "model", "digest"),
)

# A tag is never deleted: without a value it is gone, and its history tells when.
version_tags = Table(
    "version_tags",
    metadata,
    _tenant(),
    Column("model", String(100), nullable=False),
    Column("version", Integer, nullable=False),
    Column("key", String(200), nullable=False),
    Column("value", Text),
    PrimaryKeyConstraint("tenant", "model", "version", "key"),
)

tag_history = Table(
    "tag_history",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    _tenant(),
    Column("model", String(100), nullable=False),
    Column("version", Integer, nullable=False),
    Column("key", String(200), nullable=False),
    Column("value", Text),
    Column("time_ns", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Index("tag_history_version", "tenant", "model", "version"),
    sqlite_autoincrement=True,
)

# A removed alias keeps its row, without a version, so that its revision goes on rising.
aliases = Table(
    "aliases",
    metadata,
    _tenant(),
    Column("model", String(100), nullable=False),
    Column("alias", String(100), nullable=False),
    Column("version", Integer),
    Column("since_ns", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    PrimaryKeyConstraint("tenant", "model", "alias"),
)

alias_history = Table(
    "alias_history",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    _tenant(),
    Column("model", String(100), nullable=False),
    Column("alias", String(100), nullable=False),
    Column("version", Integer),
    Column("previous", Integer),
    Column("revision", BigInteger, nullable=False),
    Column("time_ns", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Index("alias_history_model", "tenant", "model", "alias", "time_ns"),
    sqlite_autoincrement=True,
)

profiles = Table(
    "profiles",
    metadata,
    _tenant(),
    Column("model", String(100), nullable=False),
    Column("version", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("source", Text, nullable=False),
    Column("time_ns", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    PrimaryKeyConstraint("tenant", "model", "version", "number"),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("seq", _ID, primary_key=True, autoincrement=True),
    _tenant(),
    Column("id", String(100), nullable=False),
    Column("model", String(100), nullable=False),
    Column("state", String(40), nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("document", Text, nullable=False),
    UniqueConstraint("id", name="rollouts_id"),
    Index("rollouts_model", "tenant", "model", "seq"),
    sqlite_autoincrement=True,
)

events = Table(
    "events",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    _tenant(),
    Column("time_ns", BigInteger, nullable=False),
    Column("type", String(100), nullable=False),
    Column("model", String(100)),
    Column("version", Integer),
    Column("actor", Text, nullable=False),
    Column("data", Text, nullable=False),
    Index("events_model", "tenant", "model", "id"),
    sqlite_autoincrement=True,
)

# One counter rises in every transaction that changes what is routed; it also puts writers in a queue on PostgreSQL.
changes = Table(
    "changes",
    metadata,
    _tenant(),
    Column("name", String(40), nullable=False),
    Column("value", BigInteger, nullable=False),
    PrimaryKeyConstraint("tenant", "name"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    _tenant(),
    Column("principal", String(200), nullable=False),
    Column("key", String(255), nullable=False),
    Column("request", String(64), nullable=False),  # digest of method, path and body: the same key must mean the same
    Column("status", Integer, nullable=False),
    Column("body", Text, nullable=False),
    Column("time_ns", BigInteger, nullable=False),
    PrimaryKeyConstraint("tenant", "principal", "key"),
    Index("idempotency_keys_time", "time_ns"),
)

# The monitor's tables. `monitor/store.py` reads and writes them, in the catalog's transactions.
lane_positions = Table(
    "lane_positions",
    metadata,
    Column("lane", String(255), nullable=False),
    _tenant(),
    Column("position", BigInteger, nullable=False),
    Column("time_ns", BigInteger, nullable=False),
    Column("document", Text, nullable=False, server_default="{}"),
    PrimaryKeyConstraint("lane"),
)

tiles = Table(
    "tiles",
    metadata,
    _tenant(),
    Column("model", String(100), nullable=False),
    Column("version", Integer, nullable=False),
    Column("role", String(20), nullable=False),
    Column("start_s", BigInteger, nullable=False),
    Column("width_s", Integer, nullable=False),
    Column("edges", String(64), nullable=False),  # digest of the bin edges: only equal digests merge
    Column("document", LargeBinary, nullable=False),
    PrimaryKeyConstraint("tenant", "model", "version", "role", "start_s", "width_s", "edges"),
    Index("tiles_start", "start_s"),
)

evidence = Table(
    "evidence",
    metadata,
    _tenant(),
    Column("rollout_id", String(100), nullable=False),
    Column("name", String(100), nullable=False),
    Column("document", Text, nullable=False),
    PrimaryKeyConstraint("tenant", "rollout_id", "name"),
)

# What detectors remember of a version's stream, written with the tiles and positions that it came from.
detectors = Table(
    "detectors",
    metadata,
    _tenant(),
    Column("model", String(100), nullable=False),
    Column("version", Integer, nullable=False),
    Column("name", String(100), nullable=False),
    Column("document", LargeBinary, nullable=False),
    PrimaryKeyConstraint("tenant", "model", "version", "name"),
)
