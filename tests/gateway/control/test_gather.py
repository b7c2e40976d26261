"""Evidence from pages and key tables: what counts, once, and where it is booked."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.control.gather import Baseline, gather
from gateway.data.keys import ERROR, KeyTable, key_number, read_keys
from gateway.data.keys import SLOW as SLOW_KEY
from gateway.data.page import WorkerPage
from gateway.data.page_layout import ERRORS, REQUESTS, SLOW, page_path
from gateway.data.page_reader import read_pages
from monitor.facts import ArmFacts, SegmentFacts

BOOT = "cd" * 16


def book(page: WorkerPage, role: str, weight: float, rollout: str = "r", *, judged: bool = True, **counts: int) -> None:
    version = 1 if role == "champion" else 2
    first = page.segment("m", version, role, rollout, weight, judged)
    assert first is not None
    for name, word in (("requests", REQUESTS), ("errors", ERRORS), ("slow", SLOW)):
        page.words[first + word] += counts.get(name, 0)


def test_workers_living_and_dead_add_up_and_other_rollouts_do_not(tmp_path: Path) -> None:
    for slot in (0, 1):
        page = WorkerPage(page_path(tmp_path, slot), slot, BOOT)
        book(page, "champion", 0.05, requests=100, errors=1)
        book(page, "canary", 0.05, requests=5, errors=2)
        book(page, "canary", 0.05, rollout="older", requests=999)
        page.close()
    found = gather(read_pages(tmp_path), [], "m", "r")
    assert found.segments() == (SegmentFacts(0.05, ArmFacts(200, 2), ArmFacts(10, 4)),)
    assert (found.requests(False), found.requests(True)) == (200, 10)
    assert gather(read_pages(tmp_path), [], "other", "r").segments() == ()


def test_requests_without_a_latency_threshold_are_no_latency_evidence_whenever_they_came(tmp_path: Path) -> None:
    page = WorkerPage(page_path(tmp_path, 0), 0, BOOT)
    book(page, "champion", 0.05, requests=50, slow=1)
    book(page, "canary", 0.05, requests=5, slow=2)
    book(page, "champion", 0.05, judged=False, requests=100, errors=3)  # serve was started again: no threshold
    book(page, "canary", 0.05, judged=False, requests=10)
    book(page, "champion", 0.5, requests=8)
    assert gather(read_pages(tmp_path), [], "m", "r").segments() == (
        SegmentFacts(0.05, ArmFacts(100, 3), ArmFacts(10), has_latency_threshold=False),
        SegmentFacts(0.05, ArmFacts(50, 0, 1), ArmFacts(5, 0, 2)),
        SegmentFacts(0.5, ArmFacts(8), ArmFacts()),
    )


def test_a_baseline_of_an_earlier_release_is_read() -> None:
    assert Baseline.from_json({"shadow_rows": 7, "unjudged": {"0.05": [3, 1]}}) == Baseline(7)
    assert Baseline.from_json(json.loads(json.dumps(Baseline(7, (2, 1)).to_json()))) == Baseline(7, (2, 1))


def test_a_key_that_came_without_a_threshold_is_no_latency_evidence(tmp_path: Path) -> None:
    table = KeyTable(tmp_path, 0, "m", "r")
    for key, judged in ((1, False), (2, True)):
        row = table.assigned(key, key, 0.05, canary=True, judged=judged)
        assert row is not None
        for kind in (ERROR, SLOW_KEY):
            table.event(row, kind, 10 + key, 0.05, canary=True)
    assert gather([], read_keys(tmp_path), "m", "r").segments() == (
        SegmentFacts(0.05, ArmFacts(), ArmFacts(1, 1), has_latency_threshold=False),
        SegmentFacts(0.05, ArmFacts(), ArmFacts(1, 1, 2)),
    )


def test_a_key_that_two_workers_met_counts_once_where_it_was_first(tmp_path: Path) -> None:
    tables = [KeyTable(tmp_path, slot, "m", "r") for slot in (0, 1)]
    same, other = key_number(b"ana"), key_number(b"bo")
    late = tables[0].assigned(same, 200, 0.5, canary=True, judged=True)
    early = tables[1].assigned(same, 100, 0.05, canary=False, judged=True)
    row = tables[1].assigned(other, 150, 0.05, canary=True, judged=True)
    assert late is not None
    assert early is not None
    assert row is not None
    tables[0].event(late, ERROR, 210, 0.5, canary=True)
    tables[1].event(early, ERROR, 220, 0.5, canary=True)
    tables[1].event(row, ERROR, 160, 0.05, canary=True)
    found = gather([], read_keys(tmp_path), "m", "r")
    assert found.counts == {
        (0.05, True, False): [1, 0, 0, 0],
        (0.05, True, True): [1, 1, 0, 0],
        (0.5, True, True): [0, 1, 0, 0],
    }
    assert not found.key_table_full
    assert gather([], read_keys(tmp_path), "m", "another").counts == {}


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5), st.integers(1, 9), st.booleans()), max_size=40))
def test_keys_count_the_same_in_whatever_order_workers_are_read(rows: list[tuple[int, int, int, bool]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        tables = [KeyTable(Path(folder), slot, "m", "r") for slot in range(3)]
        for at, (slot, key, _, canary) in enumerate(rows):
            tables[slot].assigned(key, at + 1, 0.05, canary, judged=at % 2 == 0)
        snapshots = read_keys(Path(folder))
        forwards = gather([], snapshots, "m", "r").counts
        backwards = gather([], snapshots[::-1], "m", "r").counts
        for table in tables:
            table.close()
    assert forwards == backwards
    assert sum(counts[0] for counts in forwards.values()) == len({key for _, key, _, _ in rows})


def test_a_full_page_or_key_table_is_told(tmp_path: Path) -> None:
    page = WorkerPage(page_path(tmp_path, 0), 0, BOOT)
    assert page.segment("m" * 300, 1, "canary", "r", 0.5, True) is None
    assert gather(read_pages(tmp_path), [], "m", "r").key_table_full
