"""One run of a version for a group of requests, on any thread: joined, in parts, or one by one when that fails.

Invariant: nothing here raises; what failed comes back as a batch with `error`, for those whose request it was.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any, Generic, TypeVar

import numpy as np

from gateway.data.servable import Servable, Tensor
from registry.errors import InferenceFailed, PayloadTooLarge, ServingError

logger = logging.getLogger(__name__)


class Rows:
    """One request's tensors, in the order of the servable's slots, and how many rows they hold."""

    __slots__ = ("feeds", "rows")

    def __init__(self, feeds: Sequence[Tensor], rows: int) -> None:
        self.feeds = feeds
        self.rows = rows


R = TypeVar("R", bound=Rows)


@dataclass(slots=True)
class Batch(Generic[R]):
    """One run: who waited, what went in and what came out."""

    waiters: Sequence[R]
    feeds: Sequence[Tensor]  # joined, in the order of the servable's slots
    outputs: Sequence[Tensor]  # joined; empty when error is set
    rows: int
    started_ns: int
    ended_ns: int
    error: ServingError | None = None


def run_group(servable: Servable, group: Sequence[R], options: Any = None) -> list[Batch[R]]:
    """Run requests joined; alone, one by one, when the joined run fails or its outputs are not made of rows.

    options: onnxruntime's RunOptions, by which somebody else may end the run. Requests whose rows do not lie on axis 0
    come back as a batch each.
    """
    started_ns = perf_counter_ns()
    rows = sum(waiter.rows for waiter in group)
    joining = servable.joining
    try:
        feeds: Sequence[Tensor] = group[0].feeds
        if len(group) > 1:
            feeds = joining.join([waiter.feeds for waiter in group])
        elif servable.joinable and joining.are_rows and rows > servable.max_rows:
            batch = _in_parts(servable, group, options, started_ns)
            if batch is not None:
                return [batch]
            _join_no_more(servable, "a run of a part of a request")
        outputs = servable.run(feeds, options)
        largest = 0
        for output in outputs:
            if output.nbytes > servable.answer_bytes:
                largest = max(largest, _largest_bytes(servable, group, output, rows))
        if largest > servable.answer_bytes:
            raise _answer_too_large(servable, largest)
    except Exception as error:  # whatever it is, somebody waits for the answer
        if len(group) > 1 and not (options is not None and options.terminate):
            return [batch for waiter in group for batch in run_group(servable, [waiter], options)]
        known = error if isinstance(error, ServingError) else InferenceFailed(f"the run failed: {error}")
        known.__traceback__ = None  # it holds this frame, which holds it: all tensors would wait for the collector
        return [Batch(group, group[0].feeds, (), rows, started_ns, perf_counter_ns(), known)]
    if len(group) == 1 or (joining.are_rows and all(output.ndim and len(output) == rows for output in outputs)):
        return [Batch(group, feeds, outputs, rows, started_ns, perf_counter_ns())]
    parts = None if joining.are_rows else joining.split(outputs, [_extent(servable, waiter) for waiter in group])
    if parts is None:
        _join_no_more(servable, "a joined run")
        return [batch for waiter in group for batch in run_group(servable, [waiter], options)]
    ended_ns = perf_counter_ns()
    return [
        Batch([waiter], waiter.feeds, part, waiter.rows, started_ns, ended_ns)
        for waiter, part in zip(group, parts, strict=True)
    ]


def _largest_bytes(servable: Servable, group: Sequence[Rows], output: Tensor, rows: int) -> int:
    """The largest share of an output that a request of the group has."""
    many = max(waiter.rows for waiter in group) if len(group) > 1 and servable.joining.are_rows else rows
    return output.nbytes * many // max(1, rows)


def _answer_too_large(servable: Servable, output_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"an output of the answer would have {output_bytes} bytes or more, the limit is {servable.answer_bytes}",
        limit_bytes=servable.answer_bytes,
    )


def _extent(servable: Servable, waiter: Rows) -> int:
    return servable.joining.extent(waiter.feeds) or 0


def _join_no_more(servable: Servable, what: str) -> None:
    logger.warning("%s:%d: %s did not return rows; running alone", servable.model, servable.version, what)
    servable.joinable = False


def _in_parts(servable: Servable, group: Sequence[R], options: Any, started_ns: int) -> Batch[R] | None:
    """One request of more rows than a run may have: several runs, for rows were proven not to notice each other.

    None when the model does not return a row for each row that went in.
    """
    (waiter,) = group
    parts: list[list[Tensor]] = []
    held_bytes = 0  # of the largest output
    for first in range(0, waiter.rows, servable.max_rows):
        feeds = [feed[first : first + servable.max_rows] for feed in waiter.feeds]
        parts.append(servable.run(feeds, options))
        if any(not output.ndim or len(output) != len(feeds[0]) for output in parts[-1]):
            return None
        held_bytes += max((output.nbytes for output in parts[-1]), default=0)
        if held_bytes > servable.answer_bytes:
            raise _answer_too_large(servable, held_bytes)
    outputs = [np.concatenate(columns) for columns in zip(*parts, strict=True)]
    return Batch(group, waiter.feeds, outputs, waiter.rows, started_ns, perf_counter_ns())
