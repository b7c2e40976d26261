"""Routing keys as units of evidence: first assignment, first event, bounded."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.data import keys
from gateway.data.keys import KeyTable, key_number, read_keys


def test_a_keys_first_event_stays_with_the_arm_and_weight_of_its_moment(tmp_path: Path) -> None:
    table = KeyTable(tmp_path, 0, "a-b.c", "r1")
    row = table.assigned(key_number(b"u"), 10, 0.05, False, True)
    assert row is not None
    assert table.assigned(key_number(b"u"), 20, 0.5, True, False) == row
    table.event(row, keys.ERROR, 30, 0.5, True)
    table.event(row, keys.ERROR, 40, 0.9, False)
    (seen,) = read_keys(tmp_path)
    assert (seen.slot, seen.model, seen.rollout_id, seen.full) == (0, "a-b.c", "r1", False)
    (entry,) = seen.rows
    assert (entry["assigned_ns"], entry["assigned_weight"], entry["assigned_canary"]) == (10, 0.05, 0)
    assert entry["assigned_judged"] == 1
    assert (entry["event_ns"][keys.ERROR], entry["event_weight"][keys.ERROR]) == (30, 0.5)
    assert entry["event_canary"].tolist() == [1, 0, 0]
    assert entry["event_ns"][keys.SLOW] == 0


def test_a_successor_goes_on_with_the_same_rollout_and_another_rollout_starts_empty(tmp_path: Path) -> None:
    first = KeyTable(tmp_path, 0, "m", "r1")
    first.assigned(1, 10, 0.5, True, True)
    first.close()
    second = KeyTable(tmp_path, 0, "m", "r1")
    assert second.assigned(1, 99, 0.5, True, True) == 0
    assert read_keys(tmp_path)[0].rows["assigned_ns"].tolist() == [10]
    second.close()
    KeyTable(tmp_path, 0, "m", "r2").close()
    assert len(read_keys(tmp_path)[0].rows) == 0


def test_a_full_table_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "CAPACITY", 2)
    table = KeyTable(tmp_path, 0, "m", "r1")
    assert [table.assigned(key, 1, 0.5, True, True) for key in (1, 2, 3, 1)] == [0, 1, None, 0]
    assert read_keys(tmp_path)[0].full
