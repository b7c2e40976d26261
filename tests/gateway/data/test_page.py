"""Worker pages: exact, cumulative, and left behind by their worker for its successor."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path

import pytest

from gateway.data import page_layout as layout
from gateway.data import page_reader, processes
from gateway.data.page import WorkerPage
from gateway.data.page_layout import page_path
from gateway.data.page_reader import read_page, read_pages
from gateway.data.run_mark import RunMark
from registry.errors import FormatTooNew
from registry.vocabulary import LoadState

BOOT = "ab" * 16


def test_latency_bins_are_narrow_and_hold_every_bucket_of_the_contract() -> None:
    assert max(high / low for low, high in pairwise(layout.LATENCY_EDGES_US)) <= 1.05 + 1e-9
    for bucket_ms in layout.REQUEST_BUCKETS_MS:
        assert bucket_ms * 1000.0 in layout.LATENCY_EDGES_US


def test_a_reader_sees_what_the_worker_wrote(tmp_path: Path) -> None:
    path = page_path(tmp_path, 3)
    mine = WorkerPage(path, 3, BOOT)
    base = mine.totals("m", 1, "champion")
    mine.words[base + layout.LATENCY + 5] += 2
    mine.words[base + layout.LATENCY_SUM_NS] += 5_000
    mine.words[base + layout.SHED] += 1
    segment = mine.segment("m", 2, "canary", "r-1", 0.05, True)
    assert segment is not None
    mine.words[segment + layout.ERRORS] += 4
    mine.set_load("m", 2, LoadState.FAILED, "no such file: é")
    mine.veto("m", "r-1")
    mine.acknowledge(17)
    mine.set_state(ready=True, draining=False)
    mine.heartbeat(99, 5)
    (seen,) = read_pages(tmp_path)
    assert (seen.slot, seen.pid, seen.alive, seen.boot_id) == (3, os.getpid(), True, BOOT)
    assert (seen.acked_epoch, seen.ready, seen.draining, seen.heartbeat_ns, seen.inflight) == (17, True, False, 99, 5)
    assert seen.totals["m", 1, "champion"].latency_counts[5] == 2
    assert seen.totals["m", 1, "champion"].latency_sum_us == 5.0
    assert seen.shed == {("m", "overloaded"): 1}
    (evidence,) = seen.segments
    assert (evidence.rollout_id, evidence.weight, evidence.errors) == ("r-1", 0.05, 4)
    assert seen.loads == {("m", 2): (LoadState.FAILED, "no such file: é")}
    assert seen.vetoes == {"m": "r-1"}


def test_a_run_that_ended_the_process_is_a_veto_until_the_rollout_is_over(tmp_path: Path) -> None:
    def begin(ended_by: int = 0) -> WorkerPage:
        return WorkerPage(page_path(tmp_path, 0), 0, BOOT, ended_by)

    def run(worker: WorkerPage, rollout: str) -> RunMark:
        mark = worker.run_mark("m", rollout)
        assert mark is not None
        mark.__enter__()
        return mark

    run(begin(), "r-1").__exit__()
    begin(8)  # ended, but not in a run
    assert read_pages(tmp_path)[0].vetoes == {}
    run(begin(), "r-1")
    begin()  # somebody else ended it
    assert read_pages(tmp_path)[0].vetoes == {}
    run(begin(), "r-1")
    for ended_by in (8, 0, 11):  # the controller may not have looked before it ends again
        mine = begin(ended_by)
        assert mine.is_vetoed("m", "r-1")
        assert not mine.is_vetoed("m", "r-2")
        (seen,) = read_pages(tmp_path)
        assert (seen.vetoes, seen.ended_by) == ({"m": "r-1"}, {"m": 8})
    mine.keep_segments({"r-1"})
    assert mine.is_vetoed("m", "r-1")
    mine.keep_segments(set())
    assert not mine.is_vetoed("m", "r-1")
    assert read_pages(tmp_path)[0].vetoes == {}


def test_a_mark_that_is_closed_writes_nothing_more(tmp_path: Path) -> None:
    mine = WorkerPage(page_path(tmp_path, 0), 0, BOOT)
    mark = mine.run_mark("m", "r-1")
    assert mark is not None
    mark.__enter__()
    mark.close()
    mine.keep_segments({"r-2"})
    other = mine.run_mark("n", "r-2")  # in the place that is free now
    assert other is not None
    with other:
        mark.__exit__()
        WorkerPage(page_path(tmp_path, 0), 0, BOOT, 8)
    assert read_pages(tmp_path)[0].vetoes == {"n": "r-2"}


def test_a_page_says_what_holding_a_version_costs_and_what_was_loaded(tmp_path: Path) -> None:
    mine = WorkerPage(page_path(tmp_path, 0), 0, BOOT)
    mine.set_load("m", 1, LoadState.READY, "it runs on cpu", size_bytes=5_000, load_us=70)
    mine.set_load("m", 2, LoadState.LOADING)
    mine.set_memory(used_bytes=9, budget_bytes=10, loaded=1, waiting=3)
    mine.count_load(70)
    mine.count_load(30, failed=True)
    mine.count_eviction()
    mine.count_refused_load()
    mine.close()
    mine = WorkerPage(page_path(tmp_path, 0), 0, BOOT)
    mine.set_load("m", 1, LoadState.READY, "it runs on cpu", size_bytes=5_000, load_us=70)
    (seen,) = read_pages(tmp_path)
    assert seen.loads == {("m", 1): (LoadState.READY, "it runs on cpu")}
    assert seen.held == {("m", 1): page_reader.Held(5_000, 70)}
    assert seen.memory == page_reader.MemoryUse(loads=1, failed=1, load_us=100, evictions=1, refused=1)


def test_thousands_of_versions_have_room_and_only_what_is_used_is_read(tmp_path: Path) -> None:
    mine = WorkerPage(page_path(tmp_path, 0), 0, BOOT)
    for i in range(2000):
        mine.words[mine.totals(f"m{i}", 1, "champion") + layout.LATENCY] += i
        mine.set_load(f"m{i}", 1, LoadState.READY)
    mine.clear_load("m7", 1)
    (seen,) = read_pages(tmp_path)
    assert (seen.no_room, len(seen.loads), len(seen.totals)) == (0, 1999, 2001)
    assert seen.totals["m1999", 1, "champion"].latency_counts[0] == 1999
    assert ("m2000", 1, "champion") not in seen.totals


def test_a_page_that_becomes_shorter_while_it_is_read_is_skipped(tmp_path: Path) -> None:
    path = page_path(tmp_path, 0)
    WorkerPage(path, 0, BOOT).close()
    with path.open("r+b") as file:
        real = os.fstat(file.fileno()).st_size
        file.truncate(8192)
        assert page_reader._pread(file.fileno(), 8, 0)
        with pytest.raises(page_reader._Torn):
            page_reader._pread(file.fileno(), real, 0)
    assert read_page(path) is None


def test_the_successor_of_a_dead_worker_goes_on_counting_and_starts_with_nothing_loaded(tmp_path: Path) -> None:
    path = page_path(tmp_path, 0)
    first = WorkerPage(path, 0, BOOT)
    first.words[first.totals("m", 1, "champion") + layout.LATENCY] += 7
    first.set_load("m", 1, LoadState.READY)
    first.acknowledge(5)
    first.close()
    second = WorkerPage(path, 0, BOOT)
    second.words[second.totals("m", 1, "champion") + layout.LATENCY] += 1
    seen = read_page(path)
    assert seen is not None
    assert seen.totals["m", 1, "champion"].latency_counts[0] == 8
    assert seen.loads == {}
    assert seen.acked_epoch == 0


def test_segments_of_ended_rollouts_are_freed_and_start_at_zero_when_used_again(tmp_path: Path) -> None:
    mine = WorkerPage(page_path(tmp_path, 0), 0, BOOT)
    for i in range(3000):  # more than the table holds
        mine.keep_segments({f"r{i}"})
        segment = mine.segment("m", 1, "champion", f"r{i}", 0.5, True)
        assert segment is not None
        assert mine.words[segment] == 0
        mine.words[segment] += 1
    seen = read_page(mine.path)
    assert seen is not None
    assert [s.rollout_id for s in seen.segments] == ["r2999"]
    assert seen.no_room == 0


def test_a_full_table_is_counted_and_shares_one_entry_instead_of_failing(tmp_path: Path) -> None:
    mine = WorkerPage(page_path(tmp_path, 0), 0, BOOT)
    entries = {mine.totals(f"m{i}", 1, "champion") for i in range(5000)}
    assert len(entries) == layout.ENTRIES[0]
    mine.make_room({("m0", 1), ("m5", 1)})
    kept = read_page(mine.path)
    assert kept is not None
    assert set(kept.totals) == {("", 0, ""), ("m0", 1, "champion"), ("m5", 1, "champion")}
    seen = read_page(mine.path)
    assert seen is not None
    assert seen.no_room > 0


def test_a_page_of_another_layout_is_begun_anew_and_a_newer_one_is_refused_by_name(tmp_path: Path) -> None:
    path = page_path(tmp_path, 0)
    WorkerPage(path, 0, BOOT).close()
    data = bytearray(path.read_bytes())
    header = json.dumps({"format": "driftgate.page", "v": 2}).encode()
    data[8:16] = len(header).to_bytes(8, "little")
    data[16 : 16 + len(header)] = header
    path.write_bytes(data)
    with pytest.raises(FormatTooNew, match=r"driftgate\.page v2"):
        read_page(path)
    WorkerPage(path, 0, BOOT).close()
    assert read_page(path) is not None


def test_a_page_that_is_just_being_made_is_skipped(tmp_path: Path) -> None:
    page_path(tmp_path, 0).write_bytes(b"")
    assert read_pages(tmp_path) == []


def test_a_process_that_ended_is_not_alive_nor_is_one_that_took_its_number() -> None:
    assert processes.is_alive(os.getpid(), processes.process_start(os.getpid()))
    assert not processes.is_alive(os.getpid(), processes.process_start(os.getpid()) + 1)
    assert not processes.is_alive(0, 0)
