"""Every metric of the contract, for the whole host, made from snapshots at the moment of the scrape.

Invariant: nothing is counted here. Counters come from worker pages and the monitor, which go on over restarts, so a
scrape never misses an increment and a restart never resets one that matters. Cardinality is bounded by models,
versions and roles; features are the monitor's worst K. Called by `api.py`, with a registry of its own.
"""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as release_of
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from gateway.control.controller import Controller
from gateway.control.failure_metrics import failure_families, open_breakers
from gateway.control.load_metrics import load_families
from gateway.data.page_layout import BATCH_EDGES, LATENCY_EDGES_US, REQUEST_BUCKETS_MS, STAGE_BUCKETS_MS, STAGES
from gateway.data.page_reader import PageSnapshot, Totals, read_pages
from gateway.problems import GRPC_STATUS
from monitor.rollout import RolloutRecord
from registry.vocabulary import Role, RolloutState

Buckets = list[tuple[str, float]]

# Places of the request buckets' bounds among the fine edges: a bin holds what is at most its edge.
_REQUEST_PLACES = [LATENCY_EDGES_US.index(ms * 1000.0) for ms in REQUEST_BUCKETS_MS]


class DriftgateCollector(Collector):
    """What `/metrics` shows."""

    def __init__(self, controller: Controller, version: str) -> None:
        self._controller = controller
        self._version = version

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering this collector must not scrape it."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All families."""
        pages = read_pages(self._controller.run_folder)
        yield from _traffic(pages)
        yield from self._routing(pages)
        yield open_breakers(self._controller.workers(pages))
        yield from load_families(pages, self._controller.workers(pages))
        yield from self._rollouts()
        with self._controller.watch_lock:
            families = list(self._controller.watch.families(_lane_less(pages)))
        yield from families
        yield self._build()

    def _routing(self, pages: Sequence[PageSnapshot]) -> Iterator[Metric]:
        controller = self._controller
        living = controller.workers(pages)
        inflight = GaugeMetricFamily("driftgate_inflight_requests", "Requests inside workers now.")
        inflight.add_metric([], sum(page.inflight for page in living))
        yield inflight
        weights = GaugeMetricFamily(
            "driftgate_traffic_weight",
            "Share of split traffic, 0 to 1, as the route table says it.",
            labels=("model", "version", "role"),
        )
        with controller.lock:
            entries = {name: state.entry for name, state in controller.models.items() if state.entry is not None}
            epoch = controller.table.epoch
        for name, entry in sorted(entries.items()):
            if entry.champion is not None:
                weights.add_metric([name, str(entry.champion), Role.CHAMPION], 1.0 - entry.weight)
            if entry.candidate is not None:
                weights.add_metric([name, str(entry.candidate), Role.CANARY], entry.weight)
                weights.add_metric([name, str(entry.candidate), Role.SHADOW], float(entry.shadow))
        yield weights
        yield _gauge("driftgate_route_epoch", "Number of the route table that workers obey.", epoch)
        age_s = controller.table.lease_age_s(controller.settings.gateway.lease_s)
        yield _gauge("driftgate_controller_lease_age_seconds", "Since the canary lease was renewed.", age_s)
        workers = GaugeMetricFamily("driftgate_workers", "Worker processes.", labels=("state",))
        workers.add_metric(["ready"], sum(page.ready for page in living))
        workers.add_metric(["live"], len(living))
        yield workers
        health = controller.health
        yield _gauge("driftgate_controller_tick_seconds", "What the controller's last tick took.", health.spent_s)
        yield _counter("driftgate_controller_ticks", "Finished ticks of the controller.", health.ticks)
        yield _counter("driftgate_controller_failures", "Ticks or rollout steps that failed.", health.failures)

    def _rollouts(self) -> Iterator[Metric]:
        labels = ("model", "version", "guardrail", "decision")
        evidence = GaugeMetricFamily(
            "driftgate_guardrail_evidence_log10", "Evidence so far; it decides at its limit.", labels=labels
        )
        limits = GaugeMetricFamily("driftgate_guardrail_limit_log10", "Evidence that decides.", labels=labels)
        step = GaugeMetricFamily("driftgate_rollout_step", "Step of the running rollout, from 0.", labels=("model",))
        state = GaugeMetricFamily(
            "driftgate_rollout_state", "1 for the state of the model's newest rollout.", labels=("model", "state")
        )
        rollbacks = CounterMetricFamily("driftgate_rollbacks", "Rollouts rolled back.", labels=("model", "reason"))
        promotions = CounterMetricFamily("driftgate_promotions", "Rollouts promoted.", labels=("model",))
        for model, record, back, promoted in self._records():
            promotions.add_metric([model], promoted)
            for reason, count in sorted(back.items()):
                rollbacks.add_metric([model, reason], count)
            if record is None:
                continue
            step.add_metric([model], record.step)
            for each in RolloutState:
                state.add_metric([model, each], float(record.state is each))
            for report in record.guardrails:
                pairs = (
                    ("rollback", report.evidence_log10, report.limit_log10),
                    ("promotion", report.promotion_evidence_log10, report.promotion_limit_log10),
                )
                for decision, value, limit in pairs:
                    if value is not None and limit is not None:
                        named = [model, str(record.candidate), report.name, decision]
                        evidence.add_metric(named, value)
                        limits.add_metric(named, limit)
        yield from (evidence, limits, step, state, rollbacks, promotions)

    def _records(self) -> list[tuple[str, RolloutRecord | None, dict[str, int], int]]:
        controller = self._controller
        with controller.lock:
            return [
                (name, state.record or state.last_record, dict(state.rollbacks), state.promotions)
                for name, state in sorted(controller.models.items())
            ]

    def _build(self) -> Metric:
        family = GaugeMetricFamily(
            "driftgate_build_info", "Always 1.", labels=("version", "python", "onnxruntime", "numpy")
        )
        family.add_metric([self._version, platform.python_version(), _release_of("onnxruntime"), np.__version__], 1)
        return family


def _traffic(pages: Sequence[PageSnapshot]) -> Iterator[Metric]:
    merged = _merge(pages)
    requests = CounterMetricFamily(
        "driftgate_requests",
        "Answers, by HTTP status or gRPC status name. version 0: no version was chosen.",
        labels=("model", "version", "role", "protocol", "code"),
    )
    durations = HistogramMetricFamily(
        "driftgate_request_duration_seconds", "From first byte to answer.", labels=("model", "version", "role")
    )
    for (model, version, role), total in merged.items():
        for (protocol, code), count in sorted(_told(total.codes).items()):
            requests.add_metric([model, str(version), role, protocol, code], count)
        if total.latency_counts.any():
            durations.add_metric(
                [model, str(version), role], request_buckets(total.latency_counts), total.latency_sum_us / 1e6
            )
    yield requests
    yield durations
    yield from _per_version(merged)
    shed = CounterMetricFamily("driftgate_shed", "Requests refused to protect the others.", labels=("model", "reason"))
    sheds: dict[tuple[str, str], int] = defaultdict(int)
    for (model, _, _), total in merged.items():
        for reason, count in total.shed.items():
            sheds[model, reason] += count
    for (model, reason), count in sorted(sheds.items()):
        if model:
            shed.add_metric([model, reason], count)
    yield shed
    dropped = CounterMetricFamily(
        "driftgate_shadow_dropped", "Rows that no shadow saw, to protect serving.", labels=("model", "version")
    )
    for (model, version, role), total in merged.items():
        if role == Role.SHADOW:
            dropped.add_metric([model, str(version)], total.shadow_dropped)
    yield dropped
    kept = CounterMetricFamily(
        "driftgate_answer_cache",
        "Requests of versions that keep answers: answered by a kept one (hit), or by a run (miss).",
        labels=("model", "version", "role", "outcome"),
    )
    for (model, version, role), total in merged.items():
        if any(total.kept):
            for outcome, count in zip(("hit", "miss"), total.kept, strict=True):
                kept.add_metric([model, str(version), role, outcome], count)
    yield kept
    yield from failure_families(merged)
    full = sum(page.no_room for page in pages)
    yield _counter("driftgate_page_full", "Entries that found a worker page full; evidence is then unknown.", full)


def _told(codes: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    """Answers by protocol and the protocol's own word for the outcome: two of HTTP's may be one of gRPC's."""
    told: dict[tuple[str, str], int] = defaultdict(int)
    for (protocol, code), count in codes.items():
        told[protocol, GRPC_STATUS.get(int(code), "INTERNAL") if protocol == "grpc" else code] += count
    return told


def _lane_less(pages: Sequence[PageSnapshot]) -> dict[tuple[str, int, str], tuple[int, int]]:
    """Rows offered and dropped where no lane file could be made."""
    found: dict[tuple[str, int, str], tuple[int, int]] = {}
    for page in pages:
        for key, total in page.totals.items():
            if any(total.lane_less):
                offered, dropped = found.get(key, (0, 0))
                found[key] = (offered + total.lane_less[0], dropped + total.lane_less[1])
    return found


def _per_version(merged: dict[tuple[str, int, str], Totals]) -> Iterator[Metric]:
    stages = HistogramMetricFamily(
        "driftgate_stage_duration_seconds", "Parts of a request.", labels=("model", "version", "stage")
    )
    batches = HistogramMetricFamily("driftgate_batch_rows", "Rows of one run.", labels=("model", "version"))
    versions: dict[tuple[str, int], list[Totals]] = defaultdict(list)
    for (model, version, _), total in merged.items():
        versions[model, version].append(total)
    for (model, version), totals in versions.items():
        counts = np.sum([total.stage_counts for total in totals], axis=0)
        for index, stage in enumerate(STAGES):
            if counts[index].any():
                spent_s = sum(total.stage_sum_us[index] for total in totals) / 1e6
                bounds = [str(ms / 1000.0) for ms in STAGE_BUCKETS_MS]
                stages.add_metric([model, str(version), stage], _cumulative(bounds, counts[index]), spent_s)
        rows = np.sum([total.batch_rows_counts for total in totals], axis=0)
        if rows.any():
            bounds = [f"{edge}.0" for edge in BATCH_EDGES]
            batches.add_metric(
                [model, str(version)], _cumulative(bounds, rows), sum(total.batch_rows_sum for total in totals)
            )
    yield stages
    yield batches


def request_buckets(counts: NDArray[np.int64]) -> Buckets:
    """The contract's buckets, cumulative, from the fine ones."""
    running = np.cumsum(counts)
    buckets: Buckets = [
        (str(ms / 1000.0), float(running[place])) for ms, place in zip(REQUEST_BUCKETS_MS, _REQUEST_PLACES, strict=True)
    ]
    return [*buckets, ("+Inf", float(running[-1]))]


def _cumulative(bounds: Sequence[str], counts: Any) -> Buckets:
    return [(bound, float(count)) for bound, count in zip([*bounds, "+Inf"], np.cumsum(counts), strict=True)]


def _merge(pages: Sequence[PageSnapshot]) -> dict[tuple[str, int, str], Totals]:
    """Totals of all workers, living and dead."""
    found: dict[tuple[str, int, str], list[Totals]] = defaultdict(list)
    for page in pages:
        for key, total in page.totals.items():
            found[key].append(total)
    return {key: totals[0] if len(totals) == 1 else _sum(totals) for key, totals in sorted(found.items())}


def _sum(totals: Sequence[Totals]) -> Totals:
    codes: dict[tuple[str, str], int] = defaultdict(int)
    shed: dict[str, int] = defaultdict(int)
    for total in totals:
        for code, count in total.codes.items():
            codes[code] += count
        for reason, count in total.shed.items():
            shed[reason] += count
    return Totals(
        latency_counts=np.sum([total.latency_counts for total in totals], axis=0),
        latency_sum_us=sum(total.latency_sum_us for total in totals),
        stage_counts=np.sum([total.stage_counts for total in totals], axis=0),
        stage_sum_us=tuple(float(spent) for spent in np.sum([total.stage_sum_us for total in totals], axis=0)),
        batch_rows_counts=np.sum([total.batch_rows_counts for total in totals], axis=0),
        batch_rows_sum=sum(total.batch_rows_sum for total in totals),
        codes=dict(codes),
        lane_less=(sum(total.lane_less[0] for total in totals), sum(total.lane_less[1] for total in totals)),
        shed=dict(shed),
        shadow_dropped=sum(total.shadow_dropped for total in totals),
        kept=(sum(total.kept[0] for total in totals), sum(total.kept[1] for total in totals)),
        failed=sum(total.failed for total in totals),
        breaker_opened=sum(total.breaker_opened for total in totals),
        constants=sum(total.constants for total in totals),
        overflowed=sum(total.overflowed for total in totals),
        fatal=sum(total.fatal for total in totals),
    )


def _release_of(distribution: str) -> str:
    try:
        return release_of(distribution)
    except PackageNotFoundError:
        return "none"


def _gauge(name: str, text: str, value: float) -> Metric:
    family = GaugeMetricFamily(name, text)
    family.add_metric([], value)
    return family


def _counter(name: str, text: str, value: float) -> Metric:
    family = CounterMetricFamily(name, text)
    family.add_metric([], value)
    return family
