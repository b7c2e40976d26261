"""Rows as a worker would offer them: seeded, of any schema, without a worker. For tests of lanes, counts and joins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor.lane import LaneWriter
from monitor.record import LogSchema, make_log_schema, request_hash
from registry.vocabulary import TensorSpec


def regression_schema(features: int = 3) -> LogSchema:
    """`features` float32 inputs in one tensor, one float32 number out."""
    return make_log_schema(
        [TensorSpec("x", "FP32", (None, features))], [TensorSpec("y", "FP32", (None, 1))], by_rows=True
    )


def classifier_schema(features: int = 3, classes: int = 2) -> LogSchema:
    """A label and a probability for each class."""
    return make_log_schema(
        [TensorSpec("x", "FP32", (None, features))],
        [TensorSpec("label", "INT64", (None,)), TensorSpec("probabilities", "FP32", (None, classes))],
        by_rows=True,
    )


def hashes_of(ids: Sequence[str]) -> NDArray[np.uint64]:
    """(n, 2) request hashes, as the tap makes them."""
    return np.frombuffer(b"".join(request_hash(name) for name in ids), "<u8").reshape(len(ids), 2)


def open_lane(folder: Path, schema: LogSchema, **changes: Any) -> LaneWriter:
    """A small lane of slot 0, model m, version 1, champion; `changes` are `LaneWriter.open`'s arguments."""
    arguments: dict[str, Any] = {
        "slot": 0,
        "model": "m",
        "version": 1,
        "role": "champion",
        "lane_bytes": 64 * 1024,
        "boot_id": "b" * 32,
        **changes,
    }
    return LaneWriter.open(folder, schema=schema, **arguments)


def offer_rows(
    lane: LaneWriter,
    features: NDArray[Any],
    outputs: NDArray[Any] | None,
    *,
    ids: Sequence[str] | None = None,
    wall_ns: int = 1_700_000_000_000_000_000,
    epoch: int = 1,
    flags: int = 0,
) -> int:
    """Offer one-row requests; ids default to fresh ones. outputs None: NaN, as for an error."""
    names = ids if ids is not None else [f"r{np.random.default_rng().integers(1 << 62)}" for _ in range(len(features))]
    if outputs is None:
        schema = lane.header.schema
        outputs = np.full((len(features), len(schema.outputs)), np.nan, schema.output_dtype)
    return lane.offer(
        hashes_of(names).tobytes(),
        wall_ns,
        epoch,
        flags,
        0,
        10.0,
        None,
        None,
        np.ascontiguousarray(features),
        np.ascontiguousarray(outputs),
    )
