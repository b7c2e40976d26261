"""Books every outcome in the worker page: latencies, stages, codes, and the evidence of a rollout.

Called once a run with all its requests, before their answers are released, so that what a client has seen is counted.
Numbers are cheap in bulk and dear one by one: from a handful of requests on, numpy does the counting.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.data import keys
from gateway.data import page_layout as layout
from gateway.data.page import WorkerPage
from gateway.data.traffic import Arm, Evidence
from registry.clock import Clock

_LATENCY_EDGES_NS = [edge * 1000.0 for edge in layout.LATENCY_EDGES_US]
_STAGE_EDGES_NS = [edge * 1000.0 for edge in layout.STAGE_EDGES_US]
_LATENCY_ARRAY = np.array(_LATENCY_EDGES_NS)
_STAGE_ARRAY = np.array(_STAGE_EDGES_NS)
_DECODE, _QUEUE, _INFER, _ENCODE = range(4)
_CODES = {code: i for i, code in enumerate(layout.CODES)}
_PROTOCOLS = {protocol: i for i, protocol in enumerate(layout.PROTOCOLS)}
_FEW = 6  # below this, counting in Python is faster than numpy's fixed costs

BREAKER_FAILURES = 20  # canary failures in a row that make this worker veto it: engineering, not statistics


def code_word(protocol: str, status: int) -> int:
    """Offset of the word that counts this protocol and status."""
    code = _CODES.get(str(status), _CODES["500"])
    return layout.CODE + _PROTOCOLS[protocol] * len(layout.CODES) + code


_V2 = "v2"
_OK = {protocol: code_word(protocol, 200) for protocol in layout.PROTOCOLS}
_V2_OK = _OK[_V2]


class Accounts:
    """The one writer of totals and segments. Event loop only."""

    def __init__(self, worker_page: WorkerPage, clock: Clock) -> None:
        self._page = worker_page
        self._clock = clock

    def kept(self, arm: Arm, *, hit: bool) -> None:
        """A request of a version that keeps answers: answered by a kept one, or by a run."""
        self._page.words[arm.totals + (layout.KEPT_HITS if hit else layout.KEPT_MISSES)] += 1

    def answered(
        self,
        arm: Arm,
        protocols: Sequence[str],
        arrived_ns: Sequence[int],
        decoded_ns: Sequence[int],
        started_ns: int,
        ended_ns: int,
        released_ns: int,
        rows: int,
    ) -> Sequence[int]:
        """Requests of one arm that one run answered with 200 → their latencies, for `evidence`.

        All times are of one monotonic clock, in ns.
        """
        words, base, count = self._page.words, arm.totals, len(arrived_ns)
        plain = protocols.count(_V2)
        words[base + _V2_OK] += plain
        if plain < count:
            for protocol in protocols:
                if protocol != _V2:
                    words[base + _OK[protocol]] += 1
        encode_ns = (released_ns - ended_ns) // count
        self._rows(base, rows)
        infer_ns = ended_ns - started_ns
        self._stage(base, _INFER, infer_ns, count)
        self._stage(base, _ENCODE, encode_ns, count)
        if count < _FEW:
            latencies = [released_ns - arrived for arrived in arrived_ns]
            for arrived, decoded, latency in zip(arrived_ns, decoded_ns, latencies, strict=True):
                words[base + layout.LATENCY + bisect_left(_LATENCY_EDGES_NS, latency)] += 1
                words[base + layout.LATENCY_SUM_NS] += latency
                self._stage(base, _DECODE, decoded - arrived, 1)
                self._stage(base, _QUEUE, started_ns - decoded, 1)
            return latencies
        array, since, ready = self._page.array, np.array(arrived_ns), np.array(decoded_ns)
        spent = released_ns - since
        _count(array, base + layout.LATENCY, _LATENCY_ARRAY, spent)
        words[base + layout.LATENCY_SUM_NS] += int(spent.sum())
        latencies = list(spent.tolist())
        for stage, spent in ((_DECODE, ready - since), (_QUEUE, started_ns - ready)):
            _count(array, base + layout.STAGE + stage * layout.STAGE_WIDTH, _STAGE_ARRAY, spent)
            words[base + layout.STAGE_SUM_NS + stage] += int(spent.sum())
        return latencies

    def failed(self, arm: Arm, protocol: str, status: int, latency_ns: int) -> None:
        """One routed request that was answered with an error."""
        words, base = self._page.words, arm.totals
        words[base + code_word(protocol, status)] += 1
        words[base + layout.LATENCY + bisect_left(_LATENCY_EDGES_NS, latency_ns)] += 1
        words[base + layout.LATENCY_SUM_NS] += latency_ns

    def run_failed(self, arm: Arm) -> None:
        """One request whose run failed, whoever answers it now."""
        self._page.words[arm.totals + layout.FAILED] += 1

    def overflowed(self, canary: Arm) -> None:
        """One request that a canary had no room or time for, and the champion took."""
        self._page.words[canary.totals + layout.OVERFLOWED] += 1

    def refused(self, model: str, protocol: str, status: int, shed: str | None = None) -> None:
        """One request that no version was chosen for; model is empty when there is no such model."""
        base = self._page.totals(model, 0, "")
        self._page.words[base + code_word(protocol, status)] += 1
        if shed is not None:
            self._page.words[base + layout.SHED + layout.SHED_REASONS.index(shed)] += 1

    def shadowed(self, model: str, version: int, rows: int, infer_ns: int) -> None:
        """One shadow run."""
        base = self._page.totals(model, version, "shadow")
        self._stage(base, _INFER, infer_ns, 1)
        self._rows(base, rows)

    def shadow_dropped(self, model: str, version: int, rows: int) -> None:
        """Rows that no shadow saw, because it would have hurt serving."""
        self._page.words[self._page.totals(model, version, "shadow") + layout.SHADOW_DROPPED] += rows

    def lane_less(self, arm_totals: int, rows: int) -> None:
        """Rows that found no lane file."""
        self._page.words[arm_totals + layout.LANELESS_OFFERED] += rows
        self._page.words[arm_totals + layout.LANELESS_DROPPED] += rows

    def evidence(
        self,
        arm: Arm,
        latencies_ns: Sequence[int],
        *,
        errors: int = 0,
        bad: NDArray[np.bool_] | None = None,
        key_rows: Sequence[int | None] | None = None,
    ) -> None:
        """Outcomes of one arm as evidence. Keyless requests count one each; keyed ones by their key's first event.

        bad: (requests,), answers with a missing or out-of-range output. errors: 0, or all of the requests.
        key_rows: a request's row in the key table, None without a key, negative for a key that is not counted.
        """
        state = arm.traffic.evidence
        if arm.segment is None or state is None or state.is_over:
            return
        self._watch_failures(arm, state, errors, len(latencies_ns))
        if state.burn_in_left > 0:
            if arm.is_canary:
                state.burn_in_left -= len(latencies_ns)
            return
        slow_above = arm.slow_above_ns
        words = self._page.words
        if key_rows is None:
            words[arm.segment + layout.REQUESTS] += len(latencies_ns)
            if errors:
                words[arm.segment + layout.ERRORS] += errors
            if max(latencies_ns) > slow_above:
                words[arm.segment + layout.SLOW] += sum([latency > slow_above for latency in latencies_ns])
            if bad is not None and bad.any():
                words[arm.segment + layout.BAD_OUTPUTS] += int(bad.sum())
            return
        for position, row in enumerate(key_rows):
            kinds = []
            if errors:
                kinds.append(keys.ERROR)
            if latencies_ns[position] > slow_above:
                kinds.append(keys.SLOW)
            if bad is not None and bad[position]:
                kinds.append(keys.BAD_OUTPUT)
            if row is None:
                words[arm.segment + layout.REQUESTS] += 1
                for kind in kinds:
                    words[arm.segment + layout.ERRORS + kind] += 1
            elif row >= 0 and state.keys is not None:
                for kind in kinds:
                    state.keys.event(row, kind, self._clock.host_ns(), arm.weight, arm.is_canary)

    def _watch_failures(self, arm: Arm, state: Evidence, errors: int, requests: int) -> None:
        if not arm.is_canary:
            if errors:  # the champion fails too: whatever it is, it is not the canary
                state.canary_failures_in_a_row = 0
            return
        state.canary_failures_in_a_row = state.canary_failures_in_a_row + requests if errors else 0
        if state.canary_failures_in_a_row >= BREAKER_FAILURES and not state.vetoed:
            state.vetoed = True
            self._page.veto(arm.loaded.servable.model, state.rollout_id)

    def _rows(self, base: int, rows: int) -> None:
        words = self._page.words
        words[base + layout.BATCH_ROWS + bisect_left(layout.BATCH_EDGES, rows)] += 1
        words[base + layout.BATCH_ROWS_SUM] += rows

    def _stage(self, base: int, stage: int, spent_ns: int, times: int) -> None:
        words = self._page.words
        words[base + layout.STAGE + stage * layout.STAGE_WIDTH + bisect_left(_STAGE_EDGES_NS, spent_ns)] += times
        words[base + layout.STAGE_SUM_NS + stage] += spent_ns * times


def _count(array: NDArray[np.int64], base: int, edges: NDArray[np.float64], values: NDArray[Any]) -> None:
    bins = np.bincount(np.searchsorted(edges, values))
    array[base : base + len(bins)] += bins
