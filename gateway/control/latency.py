"""The champion's 99th percentile over closed windows: what a rollout calls slow.

Invariant: a threshold comes from a window that had closed before the requests that it judges, so it is no choice made
after looking at them. Pure bookkeeping over cumulative counters of the worker pages; the controller owns it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateway.data.page_layout import LATENCY_EDGES_US

LEAST_REQUESTS = 100  # a p99 of fewer is the slowest request, not a quantile; the window goes on until it has them


@dataclass(slots=True)
class LatencyWindow:
    """One champion's window. `threshold_us` is the p99 of the last closed one, None before one has closed."""

    version: int
    threshold_us: float | None = None
    _start_s: float | None = None
    _start_counts: NDArray[np.int64] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it has begun before anybody was answered."""
        return self._start_counts is not None and not self._start_counts.any()

    def observe(self, counts: NDArray[np.int64], now_s: float, length_s: float) -> None:
        """Look at the cumulative latency counters, (len(LATENCY_EDGES_US) + 1,); close the window when it is over."""
        if self._start_s is None or self._start_counts is None or counts.sum() < self._start_counts.sum():
            self._start_s, self._start_counts = now_s, counts
            return
        if now_s - self._start_s < length_s:
            return
        within = counts - self._start_counts
        if within.sum() < LEAST_REQUESTS:
            return
        self.threshold_us = percentile_us(within, 0.99)
        self._start_s, self._start_counts = now_s, counts


def percentile_us(counts: NDArray[np.int64], share: float) -> float:
    """The upper edge of the bin that holds this quantile, at most 5 % too high.

    >>> counts = np.zeros(len(LATENCY_EDGES_US) + 1, dtype=np.int64)
    >>> counts[LATENCY_EDGES_US.index(1000.0)] = 100
    >>> percentile_us(counts, 0.99)
    1000.0
    """
    total = int(counts.sum())
    place = int(np.searchsorted(np.cumsum(counts), share * total))
    return LATENCY_EDGES_US[min(place, len(LATENCY_EDGES_US) - 1)]
