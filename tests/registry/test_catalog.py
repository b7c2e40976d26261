"""The registry's database: versions, aliases, rollouts and events, also from many threads and processes."""

from __future__ import annotations

import itertools
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from registry import schema
from registry.catalog import ANY, Catalog
from registry.errors import (
    AliasMoved,
    FormatTooNew,
    IllegalTransition,
    InvalidSetting,
    MalformedRequest,
    ModelNotFound,
    RolloutActive,
    RolloutNotFound,
    StateDamaged,
    StorageFailed,
    VersionNotFound,
)
from tests.support.models import manifest_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog.open(f"sqlite:///{tmp_path / 'registry.db'}")


def rollout(identity: str = "r1", state: str = "canary", revision: int = 1, model: str = "m") -> dict[str, object]:
    return {"id": identity, "model": model, "state": state, "revision": revision, "weight_pct": 5.0}


def test_versions_are_numbered_from_one_and_the_same_digest_is_the_same_version(catalog: Catalog) -> None:
    first, created = catalog.add_version("m", manifest_of("a"), actor="ann", tags={"team": "x"}, warnings=["w"])
    assert (first.version, created, first.tags, first.warnings, first.actor) == (1, True, {"team": "x"}, ("w",), "ann")
    again, created = catalog.add_version("m", manifest_of("a"), actor="bob", tags={"team": "y"})
    assert (again.version, created, again.tags, again.actor) == (1, False, {"team": "y"}, "ann")
    second, created = catalog.add_version("m", manifest_of("b"), actor="ann")
    assert (second.version, created) == (2, True)
    third, created = catalog.add_version("m", manifest_of("a"), actor="ann", new_version=True)
    assert (third.version, created, third.digest) == (3, True, first.digest)
    assert [row.version for row in catalog.versions("m")] == [1, 2, 3]
    assert catalog.version("m", 2).manifest == manifest_of("b")
    assert [(row.model, row.versions, row.latest) for row in catalog.models()] == [("m", 3, 3)]


def test_the_same_digest_under_another_name_is_another_version(catalog: Catalog) -> None:
    catalog.add_version("m", manifest_of("a"), actor="ann")
    row, created = catalog.add_version("n", manifest_of("a"), actor="ann")
    assert (row.model, row.version, created) == ("n", 1, True)


def test_unknown_names_say_what_is_missing(catalog: Catalog) -> None:
    with pytest.raises(ModelNotFound, match="no model 'm'"):
        catalog.versions("m")
    with pytest.raises(ModelNotFound):
        catalog.aliases("m")
    catalog.add_version("m", manifest_of("a"), actor="ann")
    with pytest.raises(VersionNotFound, match="no version 2"):
        catalog.version("m", 2)
    with pytest.raises(VersionNotFound):
        catalog.set_alias("m", "champion", 2, expected=None, actor="ann")
    with pytest.raises(RolloutNotFound):
        catalog.rollout("none")
    assert catalog.latest_rollout("m") is None


@pytest.mark.parametrize("name", ["", "-x", "a b", "x" * 101, "../etc", "a/b"])
def test_a_bad_model_name_is_refused(catalog: Catalog, name: str) -> None:
    with pytest.raises(MalformedRequest):
        catalog.add_version(name, manifest_of("a"), actor="ann")


@pytest.mark.parametrize("alias", ["", "7", "latest", "Champion", "a b"])
def test_a_bad_alias_is_refused(catalog: Catalog, alias: str) -> None:
    catalog.add_version("m", manifest_of("a"), actor="ann")
    with pytest.raises(MalformedRequest):
        catalog.set_alias("m", alias, 1, expected=ANY, actor="ann")


def test_tags_keep_their_history(catalog: Catalog) -> None:
    catalog.add_version("m", manifest_of("a"), actor="ann", tags={"k": "1"})
    catalog.set_tag("m", 1, "k", "1", actor="bob")  # unchanged: no trace
    catalog.set_tag("m", 1, "k", None, actor="bob")
    catalog.set_tag("m", 1, "k", "2", actor="cid")
    assert catalog.version("m", 1).tags == {"k": "2"}
    assert [(c.value, c.actor) for c in catalog.tag_history("m", 1)] == [("1", "ann"), (None, "bob"), ("2", "cid")]


def test_an_alias_moves_only_from_where_the_mover_thinks_it_is(catalog: Catalog) -> None:
    for seed in "abc":
        catalog.add_version("m", manifest_of(seed), actor="ann")
    row = catalog.set_alias("m", "champion", 1, expected=None, actor="ann", reason="first")
    assert row is not None
    assert (row.version, row.revision) == (1, 1)
    with pytest.raises(AliasMoved, match="points to version 1, not to nothing"):
        catalog.set_alias("m", "champion", 2, expected=None, actor="bob")
    catalog.set_alias("m", "champion", 2, expected=1, actor="bob")
    catalog.set_alias("m", "champion", 2, expected=2, actor="bob")  # already there: no trace
    catalog.set_alias("m", "champion", None, expected=ANY, actor="cid")
    assert catalog.aliases("m") == {}
    catalog.set_alias("m", "champion", 3, expected=None, actor="dan")
    history = catalog.alias_history("m", "champion")
    assert [(c.version, c.previous, c.revision, c.actor) for c in history] == [
        (1, None, 1, "ann"),
        (2, 1, 2, "bob"),
        (None, 2, 3, "cid"),
        (3, None, 4, "dan"),
    ]
    assert [c.version for c in catalog.alias_history("m", at=history[1].time_ns)] == [2]
    assert catalog.alias_history("m", at=history[0].time_ns - 1) == ()


def test_champion_and_canary_move_only_for_the_rollout_that_runs(catalog: Catalog) -> None:
    catalog.add_version("m", manifest_of("a"), actor="ann")
    with pytest.raises(IllegalTransition, match="only by a rollout"):
        catalog.set_alias("m", "canary", 1, expected=ANY, actor="ann")
    catalog.save_rollout(rollout("r1"), expected_revision=None)
    with pytest.raises(RolloutActive):
        catalog.set_alias("m", "champion", 1, expected=ANY, actor="ann")
    with pytest.raises(RolloutActive):
        catalog.set_alias("m", "canary", 1, expected=ANY, actor="ann", rollout_id="r0")
    catalog.set_alias("m", "canary", 1, expected=None, actor="ann", rollout_id="r1")
    catalog.set_alias("m", "staging", 1, expected=None, actor="ann")
    assert set(catalog.aliases("m")) == {"canary", "staging"}


def test_a_rollout_is_saved_over_the_revision_that_was_read(catalog: Catalog) -> None:
    catalog.add_version("m", manifest_of("a"), actor="ann")
    catalog.save_rollout(rollout("r1"), expected_revision=None)
    catalog.save_rollout(rollout("r1", revision=2), expected_revision=1)
    with pytest.raises(IllegalTransition, match="changed meanwhile"):
        catalog.save_rollout(rollout("r1", revision=2), expected_revision=1)
    with pytest.raises(RolloutActive):
        catalog.save_rollout(rollout("r2"), expected_revision=None)
    with pytest.raises(RolloutNotFound):
        catalog.save_rollout(rollout("r9"), expected_revision=3)
    catalog.save_rollout(rollout("r1", "rolled_back", 3), expected_revision=2)
    assert catalog.active_rollouts() == []
    catalog.save_rollout(rollout("r2"), expected_revision=None)
    latest = catalog.latest_rollout("m")
    assert latest is not None
    assert latest["id"] == "r2"
    assert catalog.rollout("r1")["state"] == "rolled_back"
    assert [document["id"] for document in catalog.rollouts("m")] == ["r2", "r1"]


def test_events_rise_and_are_read_in_pages(catalog: Catalog) -> None:
    ids = [catalog.append_event("x.y", model="m" if i % 2 else "n", actor="ann", data={"i": i}) for i in range(5)]
    assert ids == sorted(set(ids))
    assert [event.data["i"] for event in catalog.events(after=ids[1], limit=2)] == [2, 3]
    assert [event.data["i"] for event in catalog.events(model="m")] == [1, 3]
    assert catalog.latest_event_id() == ids[-1]


def test_registering_and_moving_are_told_as_events(catalog: Catalog) -> None:
    catalog.add_version("m", manifest_of("a"), actor="ann")
    catalog.add_version("m", manifest_of("a"), actor="ann")
    catalog.set_alias("m", "champion", 1, expected=None, actor="ann", reason="why not")
    assert [event.type for event in catalog.events()] == ["version.registered", "alias.moved"]
    assert catalog.events()[-1].data["reason"] == "why not"


def test_the_change_token_moves_with_what_is_routed_and_only_then(catalog: Catalog) -> None:
    tokens = [catalog.change_token()]
    catalog.add_version("m", manifest_of("a"), actor="ann")
    tokens.append(catalog.change_token())
    catalog.set_alias("m", "champion", 1, expected=None, actor="ann")
    tokens.append(catalog.change_token())
    catalog.save_rollout(rollout(), expected_revision=None)
    tokens.append(catalog.change_token())
    assert len(set(tokens)) == 4
    catalog.append_event("note", actor="ann")
    assert catalog.change_token() == tokens[-1]


def test_calls_inside_a_transaction_commit_together_or_not_at_all(catalog: Catalog) -> None:
    catalog.add_version("m", manifest_of("a"), actor="ann")

    def interrupted() -> None:
        with catalog.transaction():
            catalog.set_alias("m", "champion", 1, expected=None, actor="ann")
            catalog.append_event("x", actor="ann")
            assert "champion" in catalog.aliases("m")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        interrupted()
    assert catalog.aliases("m") == {}
    assert [event.type for event in catalog.events()] == ["version.registered"]


def test_profiles_are_numbered_and_the_first_comes_with_the_registration(catalog: Catalog) -> None:
    catalog.add_version("m", manifest_of("a", profile="f" * 64), actor="ann")
    catalog.add_profile("m", 1, "e" * 64, source="jan.csv", actor="bob")
    assert [(p.number, p.sha256[0], p.source) for p in catalog.profiles("m", 1)] == [
        (1, "f", "registration"),
        (2, "e", "jan.csv"),
    ]


def test_threads_that_move_one_alias_at_once_leave_an_unbroken_history(catalog: Catalog) -> None:
    for seed in "ab":
        catalog.add_version("m", manifest_of(seed), actor="ann")
    catalog.set_alias("m", "champion", 1, expected=None, actor="ann")
    lost: list[int] = []

    def move(who: str) -> None:
        for _ in range(10):
            current = catalog.aliases("m")["champion"].version
            try:
                catalog.set_alias("m", "champion", 3 - current, expected=current, actor=who)
            except AliasMoved:
                lost.append(1)

    threads = [threading.Thread(target=move, args=(str(i),)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    history = catalog.alias_history("m", "champion")
    assert len(history) + len(lost) == 31
    assert [change.revision for change in history] == list(range(1, len(history) + 1))
    assert all(b.previous == a.version for a, b in itertools.pairwise(history))


_PROCESS = """
import sys
from registry.catalog import Catalog
from tests.support.models import manifest_of
catalog = Catalog.open(sys.argv[1])
for i in range(15):
    catalog.add_version("m", manifest_of(f"{sys.argv[2]}-{i}"), actor=sys.argv[2], tags={"who": sys.argv[2]})
    catalog.add_version("m", manifest_of(f"shared-{i}"), actor=sys.argv[2])
"""


def test_processes_that_open_a_new_database_and_register_at_once_lose_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'registry.db'}"
    processes = [
        subprocess.Popen([sys.executable, "-c", _PROCESS, url, who], cwd=ROOT, stderr=subprocess.PIPE)
        for who in ("ann", "bob", "cid")
    ]
    for process in processes:
        assert process.communicate(timeout=60)[1] == b""
        assert process.returncode == 0
    rows = Catalog.open(url).versions("m")
    assert [row.version for row in rows] == list(range(1, 61))  # 3 x 15 of their own, 15 shared once
    assert len({row.digest for row in rows}) == 60
    assert sorted(row.tags["who"] for row in rows if row.tags) == sorted(["ann", "bob", "cid"] * 15)


def test_migrations_make_the_tables_of_the_schema(catalog: Catalog) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    with catalog.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, schema.metadata) == []
        assert context.get_current_revision() == schema.HEAD
    assert ScriptDirectory(str(ROOT / "registry" / "migrations")).get_current_head() == schema.HEAD


def test_the_schema_also_compiles_for_postgresql() -> None:
    from sqlalchemy.dialects.postgresql.base import PGDialect
    from sqlalchemy.schema import CreateTable

    dialect: sa.Dialect = PGDialect()  # type: ignore[no-untyped-call]
    text = "".join(str(CreateTable(table).compile(dialect=dialect)) for table in schema.metadata.sorted_tables)
    assert "BIGSERIAL" in text


def test_opening_twice_does_not_import_alembic_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'registry.db'}"
    Catalog.open(url).close()
    code = f"import sys; from registry.catalog import Catalog; Catalog.open({url!r}); print('alembic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_newer_database_and_a_file_that_is_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    catalog = Catalog.open(f"sqlite:///{path}")
    with catalog.transaction() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    catalog.close()
    with pytest.raises(FormatTooNew, match="9999"):
        Catalog.open(f"sqlite:///{path}")
    other = tmp_path / "other.db"
    other.write_bytes(b"no database at all" * 100)
    with pytest.raises(StateDamaged):
        Catalog.open(f"sqlite:///{other}")


def test_a_database_url_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting):
        Catalog.open("nonsense")
    with pytest.raises(InvalidSetting, match="does not exist"):
        Catalog.open(f"sqlite:///{tmp_path / 'missing' / 'registry.db'}")


def _full(connection: sqlite3.Connection, _record: object, _proxy: object) -> None:
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count={pages}")


def test_a_full_disk_is_told_as_such_and_nothing_is_lost(tmp_path: Path) -> None:
    catalog = Catalog.open(f"sqlite:///{tmp_path / 'registry.db'}")
    sa.event.listen(catalog.engine, "checkout", _full)

    def tell_much() -> None:
        for number in range(1000):
            catalog.append_event("test.told", actor="t", data={"number": number, "long": "x" * 500})

    with pytest.raises(StorageFailed, match="cannot be used now: database or disk is full") as told:
        tell_much()
    assert told.value.retry_after_s
    before = [event.data["number"] for event in catalog.events(limit=1000)]
    assert before == list(range(len(before)))
    sa.event.remove(catalog.engine, "checkout", _full)
    with catalog.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1000000")
    catalog.append_event("test.told", actor="t", data={"number": len(before)})
    assert [event.data["number"] for event in catalog.events(limit=1000)] == [*before, len(before)]


def test_a_database_that_somebody_else_holds_is_told_as_such(tmp_path: Path) -> None:
    catalog = Catalog.open(f"sqlite:///{tmp_path / 'registry.db'}")
    sa.event.listen(catalog.engine, "checkout", lambda connection, *_: connection.execute("PRAGMA busy_timeout=1"))
    other = sqlite3.connect(tmp_path / "registry.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageFailed, match="database is locked"):
        catalog.append_event("test.told", actor="t")
    other.close()
    catalog.append_event("test.told", actor="t")


def test_a_mistake_of_ours_is_no_failure_of_the_storage(catalog: Catalog) -> None:
    with catalog.engine.connect() as connection, pytest.raises(sa.exc.OperationalError, match="no such table"):
        connection.exec_driver_sql("SELECT * FROM absent")
