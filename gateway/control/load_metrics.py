"""Metrics of what workers hold in memory and load. Counters come from worker pages, which go on over restarts.

Invariant: cardinality is bounded: of thousands of versions only the largest are shown. Called by `metrics.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from gateway.control.loads import elsewhere
from gateway.data.page_reader import PageSnapshot

MOST_SHOWN = 50  # versions, by what they take of memory


def load_families(pages: Sequence[PageSnapshot], living: Sequence[PageSnapshot]) -> Iterator[Metric]:
    """Families of all workers' memory and loads."""
    used = GaugeMetricFamily("driftgate_worker_memory_bytes", "Resident memory of a worker.", labels=("worker",))
    budget = GaugeMetricFamily(
        "driftgate_worker_memory_budget_bytes", "What a worker may take; 0: no limit.", labels=("worker",)
    )
    loaded = GaugeMetricFamily("driftgate_loaded_versions", "Versions in a worker's memory.", labels=("worker",))
    waiting = GaugeMetricFamily(
        "driftgate_load_waiting_requests", "Requests that wait for a version to be loaded.", labels=("worker",)
    )
    for page in living:
        for family, value in (
            (used, page.memory.used_bytes),
            (budget, page.memory.budget_bytes),
            (loaded, page.memory.loaded),
            (waiting, page.memory.waiting),
        ):
            family.add_metric([str(page.slot)], value)
    yield from (used, budget, loaded, waiting)
    loads = CounterMetricFamily("driftgate_loads", "Loads of versions into workers.", labels=("outcome",))
    loads.add_metric(["loaded"], sum(page.memory.loads for page in pages))
    loads.add_metric(["failed"], sum(page.memory.failed for page in pages))
    yield loads
    yield _counter("driftgate_load_seconds", "Spent loading.", sum(page.memory.load_us for page in pages) / 1e6)
    yield _counter(
        "driftgate_load_evictions",
        "Versions that left memory so that others had room.",
        sum(page.memory.evictions for page in pages),
    )
    yield _counter(
        "driftgate_load_refused",
        "Requests refused because too many waited for loads, or no room could be made.",
        sum(page.memory.refused for page in pages),
    )
    sizes: dict[tuple[str, int], int] = {}
    for page in living:
        for key, held in page.held.items():
            sizes[key] = max(held.size_bytes, sizes.get(key, 0))
    taken = GaugeMetricFamily(
        "driftgate_version_memory_bytes",
        f"What a version takes of a worker's memory, measured when it was loaded; the largest {MOST_SHOWN}.",
        labels=("model", "version"),
    )
    for model, version in sorted(sizes, key=lambda key: (-sizes[key], key))[:MOST_SHOWN]:
        taken.add_metric([model, str(version)], sizes[model, version])
    yield taken
    fallen = GaugeMetricFamily(
        "driftgate_provider_fallback",
        "1: a version runs on the CPU because its execution provider is absent, as its options allow.",
        labels=("model", "version"),
    )
    for model, version in sorted(elsewhere(living))[:MOST_SHOWN]:
        fallen.add_metric([model, str(version)], 1)
    yield fallen


def _counter(name: str, text: str, value: float) -> Metric:
    family = CounterMetricFamily(name, text)
    family.add_metric([], value)
    return family
