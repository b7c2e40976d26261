"""What became of the requests of an open loop: one row each, and what figures are made of them.

Latency is counted from the intended send, not from the actual one: a caller that should have asked while the server
was stuck has waited too. Leaving such waits out is called coordinated omission, and hides most of an overload.
Called by scenarios.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NO_ANSWER, BROKEN, LEFT = 0, -1, -2  # in `status`: none in time; the connection broke; the caller left, as it was told

ROW = np.dtype(
    [
        ("stream", np.uint16),
        ("intended_s", np.float64),
        ("sent_s", np.float64),  # NaN: never sent
        ("done_s", np.float64),  # NaN: no answer
        ("status", np.int16),
        ("retry_after", np.bool_),
    ]
)


@dataclass(frozen=True)
class Outcomes:
    """All requests of one run, in the order of their intended sends. Times are seconds from the start."""

    rows: NDArray[np.void]
    streams: tuple[str, ...]
    cpu_share: float  # of the load's core that the load itself used

    def of(self, stream: str) -> Outcomes:
        """One stream's."""
        return Outcomes(self.rows[self.rows["stream"] == self.streams.index(stream)], self.streams, self.cpu_share)

    def between(self, start_s: float, end_s: float) -> Outcomes:
        """Those meant to be sent from start_s on and before end_s."""
        when = self.rows["intended_s"]
        return Outcomes(self.rows[(when >= start_s) & (when < end_s)], self.streams, self.cpu_share)

    def with_status(self, *statuses: int) -> Outcomes:
        """Those with one of these statuses."""
        return Outcomes(self.rows[np.isin(self.rows["status"], statuses)], self.streams, self.cpu_share)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def latency_ms(self) -> NDArray[np.float64]:
        """From intended send to answer."""
        return np.asarray((self.rows["done_s"] - self.rows["intended_s"]) * 1e3, dtype=np.float64)

    @property
    def answered(self) -> Outcomes:
        """Those that got an answer, whatever its status; only these have a latency."""
        return Outcomes(self.rows[self.rows["status"] > 0], self.streams, self.cpu_share)

    @property
    def lag_ms(self) -> NDArray[np.float64]:
        """From intended to actual send: the load's own doing, or all connections were taken."""
        lag = (self.rows["sent_s"] - self.rows["intended_s"]) * 1e3
        return np.asarray(lag[~np.isnan(lag)], dtype=np.float64)

    def percentile(self, share: float) -> float:
        """Of the latencies of what was answered, ms; 0 where nothing was."""
        latencies = self.answered.latency_ms
        return float(np.percentile(latencies, share)) if len(latencies) else 0.0

    def statuses(self) -> dict[str, int]:
        """How many of each status."""
        values, counts = np.unique(self.rows["status"], return_counts=True)
        names = {NO_ANSWER: "no answer", BROKEN: "connection broken", LEFT: "caller left"}
        return {names.get(int(v), str(v)): int(n) for v, n in zip(values, counts, strict=True)}

    def answered_per_s(self, start_s: float, end_s: float, within_ms: float = np.inf) -> float:
        """200s a second that arrived in this span and took at most so long: goodput."""
        good = self.with_status(200)
        done = (good.rows["done_s"] >= start_s) & (good.rows["done_s"] < end_s) & (good.latency_ms <= within_ms)
        return float(np.count_nonzero(done)) / (end_s - start_s)

    def per_slice(self, slice_s: float, end_s: float, within_ms: float = np.inf) -> tuple[list[float], list[float]]:
        """Goodput over time: the middle of each slice, and 200s a second that arrived in it."""
        edges = np.arange(0.0, end_s + slice_s / 2, slice_s)
        good = self.with_status(200)
        counts, _ = np.histogram(good.rows["done_s"][good.latency_ms <= within_ms], edges)
        return ((edges[:-1] + edges[1:]) / 2).tolist(), (counts / slice_s).tolist()

    def histogram(self) -> str:
        """The latencies as an HdrHistogram (V2, base64, microseconds, three digits)."""
        from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

        histogram = HdrHistogram(1, 3_600_000_000, 3)
        micros = np.maximum(1, np.rint(self.answered.latency_ms * 1e3)).astype(np.int64)
        for value, count in zip(*np.unique(micros, return_counts=True), strict=True):
            histogram.record_value(int(value), int(count))
        encoded: bytes = histogram.encode()
        return encoded.decode()
