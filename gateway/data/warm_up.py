"""Before a version is READY: its own rows go through the session at growing sizes, and the largest that pays is chosen.

Invariant: where a version has reference or golden rows, only those are run; made-up ones are run where it has none.
Bounded in wall time. What is measured sets how many rows the batcher joins and is its first prediction of run times.
The choice is made in `curve.py`; the runs happen on the thread that loads. Called by `fleet.py`, and by a version's
breaker, which asks whether it still answers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.data.curve import Curve, Point, choose, sizes
from gateway.data.examples import example
from gateway.data.run_times import fit
from gateway.data.servable import Servable, Tensor
from registry.errors import LoadFailed, ServingError
from registry.probe_axes import InputAxes, singles_of
from registry.rows import Feeds, common_rows, one
from registry.tensors import load_tensors

logger = logging.getLogger(__name__)

_RUNS = 5  # timed runs of a size; their median counts
_UNPAID = 2  # sizes in a row that do not pay end the measurement
_MOST_ROWS = 64  # given rows that are used
_TRIES = 4  # given rows of which one must be answered
_GOLDEN_BYTES = 64 << 20
_MOST_MADE_UP = 1 << 24  # elements of a made-up request: an image of any usual size

Timer = Callable[[], int]


def warm_up(
    servable: Servable,
    sample: Path | None,
    golden: Path | None,
    *,
    latency_target_ms: float,
    budget_s: float,
    timer: Timer = perf_counter_ns,
) -> Curve | None:
    """Run a version's rows at growing sizes; None when it has no row that it answers and none was promised.

    Slow: takes budget_s at most, and a run more where one is longer than that. Raises LoadFailed when the version
    fails on the rows that it was registered with.
    """
    until_ns = timer() + int(budget_s * 1e9)
    source, given = _given(servable, sample, golden)
    requests = _singles(servable, given)
    answered, failure = _answered(servable, requests[:_TRIES])
    if answered is None:
        if failure and source != "made-up":
            raise LoadFailed(f"it fails on the {source} rows that it was registered with: {failure}", kind="warm_up")
        return None
    first = requests[answered]
    batches = _batches(servable, first, requests[answered:])
    target_ms = servable.manifest.options.latency_target_ms or latency_target_ms
    points = _measured(servable, batches, target_ms, until_ns, timer)
    if not points:
        return None
    line = fit([(point.rows, point.us, 1.0) for point in points])
    return Curve(source, points, choose(points, target_ms), line, servable.shape_bucket(first, servable.rows_of(first)))


def still_answers(servable: Servable, sample: Path | None, golden: Path | None) -> bool:
    """Whether a version answers any of the first rows that it was warmed up with. Slow; on any thread."""
    _, given = _given(servable, sample, golden)
    place, _ = _answered(servable, _singles(servable, given)[:_TRIES])
    return place is not None


def _answered(servable: Servable, requests: Sequence[Sequence[Tensor]]) -> tuple[int | None, str]:
    """The place of the first request that the version answers, and why it did not answer those before."""
    failure = ""
    for place, feeds in enumerate(requests):
        try:
            servable.run(feeds)
            return place, failure
        except ServingError as error:
            failure = failure or error.message
    return None, failure


def _measured(
    servable: Servable, batches: Iterator[tuple[int, Sequence[Tensor]]], target_ms: float, until_ns: int, timer: Timer
) -> tuple[Point, ...]:
    points: list[Point] = []
    for rows, feeds in batches:
        if points and timer() + 4000 * points[-1].us > until_ns:  # an untimed run of twice the rows, and a timed one
            break
        try:
            points.append(Point(rows, _median_us(servable, feeds, until_ns, timer)))
        except ServingError as error:  # no memory for so many rows, for example
            logger.warning("%s:%d: no runs of %d rows: %s", servable.model, servable.version, rows, error)
            break
        best = choose(points, target_ms)
        if sum(point.rows > best for point in points) >= _UNPAID:
            break
    return tuple(points)


def _median_us(servable: Servable, feeds: Sequence[Tensor], until_ns: int, timer: Timer) -> float:
    """The median of some runs. The first, in which buffers of this size are made, counts only when it is the last."""
    times: list[int] = []
    for _ in range(1 + _RUNS):
        started = timer()
        servable.run(feeds)
        ended = timer()
        times.append(ended - started)
        if ended + times[-1] > until_ns:
            break
    timed = sorted(times[1:]) or times
    return timed[len(timed) // 2] / 1000.0


def _given(servable: Servable, sample: Path | None, golden: Path | None) -> tuple[str, Sequence[Sequence[Tensor]]]:
    """Where the rows come from, and requests made of them, at most _MOST_ROWS."""
    for source, path in (("reference", sample), ("golden", golden)):
        if path is None:
            continue
        try:
            requests = _sampled(servable, path) if source == "reference" else _golden(path)
        except (ServingError, OSError, KeyError, ValueError) as error:  # a damaged file is no reason not to serve
            logger.warning("the %s rows of %s:%d: %s", source, servable.model, servable.version, error)
            continue
        if requests:
            return source, [_in_order(servable, feeds) for feeds in requests]
    is_proven = servable.manifest.probe.run == "proven"
    made_up = example(servable, None, lambda: True, _MOST_MADE_UP) if is_proven else None
    return "made-up", [] if made_up is None else [made_up]


def _sampled(servable: Servable, sample: Path) -> list[dict[str, NDArray[Any]]]:
    feeds = load_tensors(sample)
    count = common_rows(feeds) or 0
    step = max(1, count // _MOST_ROWS)
    return [one(feeds, servable.manifest.inputs, row) for row in range(0, count, step)][:_MOST_ROWS]


def _golden(path: Path) -> list[dict[str, NDArray[Any]]]:
    if path.stat().st_size > _GOLDEN_BYTES:
        return []
    cases: dict[str, dict[str, NDArray[Any]]] = {}
    for key, array in load_tensors(path).items():
        number, side, name = key.split(":", 2)
        if side == "in":
            cases.setdefault(number, {})[name] = array
    return list(islice(cases.values(), _MOST_ROWS))


def _in_order(servable: Servable, feeds: Feeds) -> list[Tensor]:
    return [np.asarray(feeds[slot.spec.name], dtype=slot.dtype) for slot in servable.slots]


def _axes(servable: Servable) -> InputAxes | None:
    """Where the rows of a request lie; None where a request is one whole."""
    axes = servable.manifest.batching.axes
    if axes is not None:
        return axes.inputs
    return (0,) * len(servable.slots) if servable.by_rows else None


def _singles(servable: Servable, requests: Sequence[Sequence[Tensor]]) -> Sequence[Sequence[Tensor]]:
    """Requests of one row each, at most _MOST_ROWS."""
    axes = _axes(servable)
    if axes is None:
        return requests
    named = [dict(zip(servable.input_names, feeds, strict=True)) for feeds in requests]
    return [list(single.values()) for single in islice(singles_of(named, servable.manifest.inputs, axes), _MOST_ROWS)]


def _batches(
    servable: Servable, first: Sequence[Tensor], singles: Sequence[Sequence[Tensor]]
) -> Iterator[tuple[int, Sequence[Tensor]]]:
    """(rows, feeds) of growing sizes; one row only where the version is not joined."""
    bucket = servable.joining.bucket(first) if servable.joinable else None
    if bucket is None:
        yield servable.rows_of(first), first
        return
    alike = [single for single in singles if servable.joining.bucket(single) == bucket]
    for rows in sizes(servable.max_rows):
        yield rows, servable.joining.join([alike[place % len(alike)] for place in range(rows)])
