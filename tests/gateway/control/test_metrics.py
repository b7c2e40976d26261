"""Every metric family that the controller makes itself, from pages and rollouts."""

from __future__ import annotations

import signal

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gateway.control.loads import where
from gateway.control.metrics import DriftgateCollector
from gateway.data import page_layout as layout
from gateway.data.blame import FORGOTTEN_AFTER_S
from gateway.data.fatal_runs import FatalRuns
from gateway.data.page import WorkerPage
from gateway.problems import GRPC_STATUS, STATUS
from registry.vocabulary import LoadState
from tests.gateway.control.world import BOOT, QUICK_PLAN, Worker, World

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(world: World) -> Samples:
    registry = CollectorRegistry()
    registry.register(DriftgateCollector(world.controller, "1.2.3"))
    text = generate_latest(registry).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


def test_traffic_of_living_and_dead_workers_adds_up(world: World) -> None:
    world.add("one")
    world.champion(1)
    first, second = Worker(world.home.run, 0), Worker(world.home.run, 1)
    world.settle(first, second)
    for worker, latency_us in ((first, 400.0), (second, 9_000.0)):
        worker.answer("champion", 10, latency_us=latency_us)
        totals = worker.page.totals("m", 1, "champion")
        code = layout.CODE + layout.PROTOCOLS.index("v2") * len(layout.CODES) + layout.CODES.index("200")
        worker.page.words[totals + code] += 10
        worker.page.words[totals + layout.LATENCY_SUM_NS] += int(10 * latency_us * 1000)
        worker.page.words[totals + layout.STAGE + 2 * layout.STAGE_WIDTH] += 10
        worker.page.words[totals + layout.BATCH_ROWS + 3] += 5
        worker.page.words[totals + layout.BATCH_ROWS_SUM] += 40
        worker.page.heartbeat(0, 3)
        refused = worker.page.totals("m", 0, "")
        worker.page.words[refused + layout.SHED + layout.SHED_REASONS.index("overloaded")] += 2
    found = scrape(world)
    who = {"model": "m", "version": "1"}
    assert value(found, "driftgate_requests_total", **who, role="champion", protocol="v2", code="200") == 20
    duration = "driftgate_request_duration_seconds"
    champion = {**who, "role": "champion"}
    assert value(found, f"{duration}_bucket", **champion, le="0.0005") == 10
    assert value(found, f"{duration}_bucket", **champion, le="0.005") == 10
    assert value(found, f"{duration}_bucket", **champion, le="0.01") == 20
    assert value(found, f"{duration}_bucket", **champion, le="+Inf") == 20
    assert value(found, f"{duration}_count", **champion) == 20
    assert value(found, f"{duration}_sum", **champion) == pytest.approx(0.094)
    assert value(found, "driftgate_stage_duration_seconds_bucket", **who, stage="infer", le="5e-06") == 20
    assert value(found, "driftgate_batch_rows_bucket", **who, le="8.0") == 10
    assert value(found, "driftgate_batch_rows_sum", **who) == 80
    assert value(found, "driftgate_shed_total", model="m", reason="overloaded") == 4
    assert value(found, "driftgate_inflight_requests") == 6
    assert value(found, "driftgate_workers", state="ready") == 2


def test_answers_over_grpc_are_told_by_grpcs_words(world: World) -> None:
    world.add("one")
    world.champion(1)
    worker = Worker(world.home.run, 0)
    world.settle(worker)
    totals = worker.page.totals("m", 1, "champion")
    first = totals + layout.CODE + layout.PROTOCOLS.index("grpc") * len(layout.CODES)
    for code, count in (("200", 5), ("413", 2), ("429", 3), ("503", 1)):
        worker.page.words[first + layout.CODES.index(code)] += count
    found = scrape(world)
    who = {"model": "m", "version": "1", "role": "champion", "protocol": "grpc"}
    told = {
        dict(labels)["code"]: n
        for (name, labels), n in found.items()
        if name == "driftgate_requests_total" and who.items() <= dict(labels).items()
    }
    assert told == {"OK": 5, "RESOURCE_EXHAUSTED": 5, "UNAVAILABLE": 1}


def test_every_status_of_ours_has_a_word_of_grpc() -> None:
    assert {int(code) for code in layout.CODES} <= set(GRPC_STATUS)
    assert set(STATUS.values()) <= set(GRPC_STATUS)


def test_a_rollout_shows_its_weights_state_and_evidence(world: World) -> None:
    world.add("one")
    world.add("two")
    world.champion(1)
    worker = Worker(world.home.run)
    world.settle(worker)
    assert value(scrape(world), "driftgate_rollbacks_total", model="m", reason="errors") == 0
    world.commands.start("m", 2, QUICK_PLAN, world.act)
    world.settle(worker)
    worker.shadow(50)
    worker.answer("champion", 50)
    world.tick(0.25, 3)
    found = scrape(world)
    assert value(found, "driftgate_traffic_weight", model="m", version="2", role="canary") == 0.05
    assert value(found, "driftgate_traffic_weight", model="m", version="1", role="champion") == 0.95
    assert value(found, "driftgate_rollout_state", model="m", state="canary") == 1
    assert value(found, "driftgate_rollout_state", model="m", state="shadow") == 0
    assert value(found, "driftgate_rollout_step", model="m") == 1
    assert value(found, "driftgate_route_epoch") == world.controller.table.epoch
    worker.answer("champion", 4000, errors=9)
    worker.answer("canary", 200, errors=40)
    world.tick()
    found = scrape(world)
    labels = {"model": "m", "version": "2", "guardrail": "errors", "decision": "rollback"}
    evidence = value(found, "driftgate_guardrail_evidence_log10", **labels)
    assert evidence >= value(found, "driftgate_guardrail_limit_log10", **labels)
    assert value(found, "driftgate_rollbacks_total", model="m", reason="errors") == 1
    assert value(found, "driftgate_rollout_state", model="m", state="rolled_back") == 1
    assert value(found, "driftgate_controller_lease_age_seconds") < 3
    assert value(found, "driftgate_promotions_total", model="m") == 0
    world.commands.start("m", 2, QUICK_PLAN, world.act)
    world.settle(worker)
    world.commands.promote("m", world.act)
    for _ in range(2):  # the second time after a restart
        found = scrape(world)
        assert value(found, "driftgate_rollbacks_total", model="m", reason="errors") == 1
        assert value(found, "driftgate_promotions_total", model="m") == 1
        world.restart()
        world.settle(worker)
    world.commands.roll_back("m", world.act)
    world.restart()
    world.settle(worker)
    found = scrape(world)
    assert value(found, "driftgate_rollbacks_total", model="m", reason="operator") == 1
    assert value(found, "driftgate_promotions_total", model="m") == 1


def test_memory_and_loads_of_all_workers_are_shown_and_a_fallback_is_told_once(world: World) -> None:
    world.add("one")
    world.champion(1)
    first, second = Worker(world.home.run, 0), Worker(world.home.run, 1)
    world.settle(first, second)
    for worker, size in ((first, 5), (second, 7)):
        worker.page.set_load("m", 1, LoadState.READY, "it runs on cpu: no cuda", size_bytes=size, load_us=10)
        worker.page.set_memory(used_bytes=100 + size, budget_bytes=200, loaded=1, waiting=2)
        worker.page.count_load(500_000)
        worker.page.count_eviction()
    first.page.count_load(0, failed=True)
    world.tick()
    world.tick()
    found = scrape(world)
    assert value(found, "driftgate_worker_memory_bytes", worker="1") == 107
    assert value(found, "driftgate_worker_memory_budget_bytes", worker="0") == 200
    assert value(found, "driftgate_loaded_versions", worker="0") == 1
    assert value(found, "driftgate_load_waiting_requests", worker="0") == 2
    assert value(found, "driftgate_loads_total", outcome="loaded") == 2
    assert value(found, "driftgate_loads_total", outcome="failed") == 1
    assert value(found, "driftgate_load_seconds_total") == 1.0
    assert value(found, "driftgate_load_evictions_total") == 2
    assert value(found, "driftgate_version_memory_bytes", model="m", version="1") == 7
    assert value(found, "driftgate_provider_fallback", model="m", version="1") == 1
    told = [event for event in world.catalog.events() if event.type == "version.provider_fallback"]
    assert [event.data["sentence"] for event in told] == ["Version 1 of m: it runs on cpu: no cuda."]


def test_an_end_of_a_worker_in_a_run_is_counted_told_once_and_noted_until_it_is_forgotten(world: World) -> None:
    world.add("one")
    world.champion(1)
    worker = Worker(world.home.run)
    world.settle(worker)
    mark = worker.page.load_mark(("m", 1), layout.RUNNING)
    assert mark is not None
    mark.__enter__()
    worker.page = WorkerPage(worker.page.path, 0, BOOT, signal.SIGSEGV)
    FatalRuns(worker.page, world.clock, signal.SIGSEGV)
    world.settle(worker)
    world.tick()
    world.restart()
    world.settle(worker)
    sentence = "worker 0 was ended by SIGSEGV while it ran this version, and does not try it for 10 s"
    told = [event for event in world.catalog.events() if event.type == "version.ended_worker"]
    assert [event.data["sentence"] for event in told] == [f"Version 1 of m: {sentence}."]
    assert value(scrape(world), "driftgate_fatal_runs_total", model="m", version="1") == 1

    def notes() -> object:
        return where(world.controller.workers(), "m", 1, world.clock.host_ns())["notes"]

    assert notes() == [sentence]
    world.clock.advance(10 + 2 * FORGOTTEN_AFTER_S)
    assert notes() == []
