"""The text of metrics against prometheus_client's own writers and parsers."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from gateway.control.exposition import negotiated, open_metrics, plain_text

texts = st.text(max_size=8)
numbers = st.one_of(st.floats(), st.integers(-(2**70), 2**70))
values = st.lists(st.tuples(texts, texts, numbers), max_size=5)


class Families(Collector):
    """Given families as a collector."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def registry_of(families: list[Metric]) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(Families(families))
    return registry


@given(values, values, values, texts)
def test_the_bytes_are_those_of_the_library_in_both_formats(
    counts: list[tuple[str, str, float]],
    gauges: list[tuple[str, str, float]],
    observed: list[tuple[str, str, float]],
    documentation: str,
) -> None:
    counter = CounterMetricFamily("driftgate_alarms", documentation, labels=("model", "feature"))
    gauge = GaugeMetricFamily("driftgate_weight", documentation, labels=("version", "feature"))  # not in sorted order
    histogram = HistogramMetricFamily("driftgate_seconds", documentation, labels=("model", "stage"))
    for first, second, number in counts:
        counter.add_metric([first, second], number)
    for first, second, number in gauges:
        gauge.add_metric([first, second], number)
    for first, second, number in observed:
        histogram.add_metric([first, second], [("0.5", number), ("+Inf", number)], sum_value=number)
    plain = GaugeMetricFamily("driftgate_epoch", "Without labels.", value=3)
    families: list[Metric] = [counter, gauge, histogram, plain]
    assert plain_text(families) == generate_latest(registry_of(families))
    assert open_metrics(families) == openmetrics.generate_latest(  # type: ignore[no-untyped-call]
        registry_of(families), version="1.0.0"
    )


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/plain; version=0.0.4"),
        ("*/*", "text/plain; version=0.0.4"),
        (
            "application/openmetrics-text; version=1.0.0; q=0.5,text/plain;version=0.0.4;q=0.3",
            "application/openmetrics",
        ),
        ("text/plain;version=1.0.0", "text/plain; version=1.0.0"),
    ],
)
def test_a_caller_gets_the_format_that_it_accepts(accept: str, kind: str) -> None:
    write, content_type = negotiated(accept)
    assert content_type.startswith(kind)
    assert write([]) == (b"# EOF\n" if "openmetrics" in kind else b"")
