"""Metrics of runs that fail, and of who answers then. Counters come from worker pages, as all of `metrics.py`'s.

Invariant: only what has happened is shown, so a version that never failed adds no series. Called by `metrics.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from gateway.data.page_reader import PageSnapshot, Totals, TotalsKey


def failure_families(totals: Mapping[TotalsKey, Totals]) -> Iterator[Metric]:
    """Families of all workers' failed runs, breakers and constant answers. totals: by (model, version, role)."""
    failed = CounterMetricFamily(
        "driftgate_run_failures",
        "Requests whose run failed or returned a forbidden number, whoever answered them then.",
        labels=("model", "version", "role"),
    )
    for (model, version, role), total in totals.items():
        if total.failed:
            failed.add_metric([model, str(version), role], total.failed)
    yield failed
    yield _per_version(
        "driftgate_breaker_opened",
        "Times that a worker stopped trying a version: its runs failed one after the other, or ended the worker.",
        totals,
        {key: total.breaker_opened for key, total in totals.items()},
    )
    yield _per_version(
        "driftgate_fatal_runs",
        "Times that a worker ended while it ran or loaded a version, and then did not try it for a while.",
        totals,
        {key: total.fatal for key, total in totals.items()},
    )
    yield _per_version(
        "driftgate_constant_answers",
        "Requests answered by the constant that a version's options name.",
        totals,
        {key: total.constants for key, total in totals.items()},
    )
    yield _per_version(
        "driftgate_canary_overflow",
        "Requests that a canary had no room or time for, and the champion took.",
        totals,
        {key: total.overflowed for key, total in totals.items()},
    )


def _per_version(
    name: str, text: str, totals: Mapping[TotalsKey, Totals], counts: Mapping[TotalsKey, int]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=("model", "version"))
    sums: dict[tuple[str, int], int] = {}
    for model, version, role in totals:
        sums[model, version] = sums.get((model, version), 0) + counts[model, version, role]
    for (model, version), count in sums.items():
        if count:
            family.add_metric([model, str(version)], count)
    return family


def open_breakers(living: Sequence[PageSnapshot]) -> Metric:
    """How many versions each worker does not try now."""
    family = GaugeMetricFamily(
        "driftgate_open_breakers", "Versions that a worker does not try now.", labels=("worker",)
    )
    for page in living:
        family.add_metric([str(page.slot)], page.open_breakers)
    return family
