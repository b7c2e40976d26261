"""The champion's p99 over closed windows."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gateway.control.latency import LatencyWindow, percentile_us
from gateway.data.page_layout import LATENCY_EDGES_US

BINS = len(LATENCY_EDGES_US) + 1


def counts(**places: int) -> NDArray[np.int64]:
    found = np.zeros(BINS, dtype=np.int64)
    for name, count in places.items():
        found[int(name[1:])] = count
    return found


def test_a_window_gives_its_p99_when_it_closes_and_not_before() -> None:
    window = LatencyWindow(1)
    window.observe(counts(), 0.0, 60.0)
    window.observe(counts(b10=990, b20=10), 59.0, 60.0)
    assert [window.threshold_us] == [None]
    window.observe(counts(b10=1980, b20=20), 60.0, 60.0)
    assert window.threshold_us == LATENCY_EDGES_US[10]
    window.observe(counts(b10=1980, b20=20, b30=1000), 121.0, 60.0)
    assert window.threshold_us == LATENCY_EDGES_US[30]


def test_a_window_is_empty_when_it_has_begun_without_answers() -> None:
    window, seen = LatencyWindow(1), []
    for moment_s, answers in ((0.0, 0), (60.0, 200), (120.0, 400)):
        seen.append(window.is_empty)
        window.observe(counts(b10=answers), moment_s, 60.0)
    assert [*seen, window.is_empty] == [False, True, False, False]


def test_a_window_with_few_requests_goes_on_until_it_has_enough() -> None:
    window = LatencyWindow(1)
    window.observe(counts(), 0.0, 60.0)
    window.observe(counts(b5=99), 100.0, 60.0)
    assert [window.threshold_us] == [None]
    window.observe(counts(b5=100), 101.0, 60.0)
    assert window.threshold_us == LATENCY_EDGES_US[5]


def test_counters_that_were_lost_begin_a_new_window() -> None:
    window = LatencyWindow(1, 77.0)
    window.observe(counts(b5=500), 0.0, 60.0)
    window.observe(counts(b5=3), 61.0, 60.0)
    window.observe(counts(b5=400), 100.0, 60.0)
    assert window.threshold_us == 77.0


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(21.0, 9e6), min_size=100, max_size=400))
def test_the_percentile_is_at_most_five_percent_above_the_true_one(latencies: list[float]) -> None:
    found = np.bincount(np.searchsorted(LATENCY_EDGES_US, latencies), minlength=BINS)
    true = float(np.quantile(latencies, 0.99, method="inverted_cdf"))
    assert true <= percentile_us(found, 0.99) <= true * 1.05 + 1e-6
