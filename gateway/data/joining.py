"""Several requests as one run of the model, and the run's outputs as their answers again.

Invariant: only what registration proved is joined (`registry/batching.py`), and outputs that do not hold as many rows
as went in are never split. Rows on axis 0 everywhere cost one concatenation an input; other axes, and inputs that all
requests must share, cost a little more. Pure; called by the batcher on any thread.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.batching import Axes, Batching
from registry.rows import shared_digest

Tensor = NDArray[Any]
MOST_SHARED_BYTES = 4096  # of an input that all must share; a larger one makes its request run alone


class Joining:
    """How requests of one version are joined. `feeds` are one request's tensors, in the order of the inputs."""

    def __init__(self, batching: Batching, *, fixed_row_shape: bool) -> None:
        """fixed_row_shape: every input has a declared rank, and no free dimension behind axis 0."""
        self._axes = batching.axes or Axes((), ())
        self._shared = frozenset(batching.shared)
        self._is_simple = fixed_row_shape and self._axes.are_rows
        self.are_rows = self._axes.are_rows

    def bucket(self, feeds: Sequence[Tensor]) -> Hashable | None:
        """What two requests must have in common to be joined: the same bucket; None: this one runs alone.

        It holds the shapes apart from the axis of joining, and the inputs without one, bit by bit.
        """
        if self._is_simple:
            return ()
        if self.are_rows:
            return tuple(feed.shape[1:] for feed in feeds)
        extent = self.extent(feeds)
        if extent is None:
            return None
        shared = [feed for feed, axis in zip(feeds, self._axes.inputs, strict=True) if axis is None]
        if sum(feed.nbytes for feed in shared) > MOST_SHARED_BYTES:
            return None
        digest = shared_digest(shared) if shared else ""
        if shared and digest not in self._shared:
            return None
        shapes = (
            None if axis is None else (*feed.shape[:axis], *feed.shape[axis + 1 :])
            for feed, axis in zip(feeds, self._axes.inputs, strict=True)
        )
        return (digest, *shapes)

    def extent(self, feeds: Sequence[Tensor]) -> int | None:
        """How many rows one request's feeds hold along the axes of joining; None when they disagree or lack them."""
        extents = set()
        for feed, axis in zip(feeds, self._axes.inputs, strict=True):
            if axis is not None:
                extents.add(feed.shape[axis] if axis < feed.ndim else None)
        return extents.pop() if len(extents) == 1 else None

    def join(self, group: Sequence[Sequence[Tensor]]) -> Sequence[Tensor]:
        """The feeds of requests of one bucket, as one request's. One request's are given back as they are."""
        if len(group) == 1:
            return group[0]
        if self.are_rows:
            return [np.concatenate(part) for part in zip(*group, strict=True)]
        return [
            part[0] if axis is None else np.concatenate(part, axis=axis)
            for part, axis in zip(zip(*group, strict=True), self._axes.inputs, strict=True)
        ]

    def split(self, outputs: Sequence[Tensor], extents: Sequence[int]) -> list[list[Tensor]] | None:
        """A joined run's outputs, request by request; None when they do not hold these rows.

        Slices of axis 0 share the outputs' memory, others are contiguous copies.
        """
        total = sum(extents)
        for output, axis in zip(outputs, self._axes.outputs, strict=True):
            if axis >= output.ndim or output.shape[axis] != total:
                return None
        answers: list[list[Tensor]] = []
        start = 0
        for extent in extents:
            end = start + extent
            answers.append(
                [
                    output[start:end] if axis == 0 else _part(output, axis, start, end)
                    for output, axis in zip(outputs, self._axes.outputs, strict=True)
                ]
            )
            start = end
        return answers


def _part(output: Tensor, axis: int, start: int, end: int) -> Tensor:
    index = (*(slice(None) for _ in range(axis)), slice(start, end))
    return np.asarray(output[index], order="C")
