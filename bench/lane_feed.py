"""Rows without a gateway: registers a version with a profile, and writes its rows into a lane at a steady rate.

    python -m bench.lane_feed prepare FOLDER FEATURES
    python -m bench.lane_feed feed FOLDER FEATURES RATE LANE_BYTES     until killed

A process of its own, so that what is measured beside it is the monitor alone. Rows are drawn once from the reference's
own distribution, so nothing drifts; a hundredth is missing. Called by `bench/scenarios/monitor.py`.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monitor import profile
from monitor.lane import LaneWriter
from monitor.record import MAX_ELEMENTS, LogSchema, make_log_schema
from monitor.settings import LaneSettings
from registry.artifacts import ArtifactStore
from registry.catalog import Catalog
from registry.clock import SystemClock
from registry.home import Home
from registry.manifest import FileDigest, Manifest, ProbeResult, ServingOptions
from registry.vocabulary import Role, TensorSpec

MODEL = "fed"
BOOT = "be" * 16
REFERENCE_ROWS = 20_000
POOL_ROWS = 16_384
MISSING = 0.01
BURST_S = 0.01
BURST_ROWS = 64
CATCH_UP = 3.0


OUTPUTS = (TensorSpec("y", "FP32", (None, 1)),)


def inputs_of(features: int) -> tuple[TensorSpec, ...]:
    """Floats, in tensors small enough to be logged whole."""
    widths = [min(MAX_ELEMENTS, features - start) for start in range(0, features, MAX_ELEMENTS)]
    return tuple(TensorSpec(f"x{at}", "FP32", (None, width)) for at, width in enumerate(widths))


def schema_of(features: int) -> LogSchema:
    """What such a version's rows are logged as."""
    return make_log_schema(inputs_of(features), OUTPUTS, by_rows=True)


def draw(features: int, rows: int, seed: int) -> NDArray[np.float32]:
    """Rows (rows, features): normal, a hundredth missing."""
    rng = np.random.default_rng(seed)
    block = rng.normal(size=(rows, features)).astype(np.float32)
    block[rng.random(block.shape, np.float32) < MISSING] = np.nan
    return block


def feed(folder: Path, features: int, rate: int, lane_bytes: int) -> None:
    """Write rows at this rate until killed; late bursts are made up for, so that the rate is true.

    At no more than `CATCH_UP` times the rate: when this process was not run for half a second, half a second's rows
    would else come in no time, which no worker's do.
    """
    schema = schema_of(features)
    writer = LaneWriter.open(home_of(folder).run / "lanes", 0, MODEL, 1, Role.CHAMPION, schema, lane_bytes, BOOT)
    pool = draw(features, POOL_ROWS, seed=2)
    said = np.nan_to_num(pool[:, :1]) * 2
    rng = np.random.default_rng(3)
    began, sent, looks = time.monotonic(), 0, 0
    most = max(int(CATCH_UP * rate * BURST_S), 1)
    while True:
        due = min(int((time.monotonic() - began) * rate) - sent, most)
        while due > 0:
            n = min(due, BURST_ROWS)
            at = int(rng.integers(0, POOL_ROWS - n))
            rows = slice(at, at + n)
            writer.offer(rng.bytes(16 * n), time.time_ns(), 1, 0, 0, 10.0, None, None, pool[rows], said[rows])
            sent += n
            due -= n
        if time.monotonic() - began > looks + 1:  # as a worker's tap does
            looks += 1
            grown = writer.grown(lane_bytes, math.ceil(rate * LaneSettings().lane_seconds))
            if grown is not None:
                writer.close()
                writer = grown
        time.sleep(BURST_S)


def prepare(folder: Path, features: int) -> None:
    """Register one version with a profile of its own distribution. In a process of its own, as registration is."""
    home = home_of(folder)
    home.create()
    catalog, artifacts = Catalog.open(home.database_url, SystemClock()), ArtifactStore(home.artifacts)
    schema = schema_of(features)
    rows = draw(features, REFERENCE_ROWS, seed=1)
    fitted = profile.fit(schema, rows, np.nan_to_num(rows[:, :1]) * 2, together=True)
    sha256 = artifacts.put_bytes(fitted.to_bytes())
    content = b"no model is run here"
    manifest = Manifest(
        files=(FileDigest("model.onnx", artifacts.put_bytes(content), len(content)),),
        options=ServingOptions(),
        profile=sha256,
        golden=None,
        inputs=inputs_of(features),
        outputs=OUTPUTS,
        probe=ProbeResult(
            run="proven", reason="", batch="exact", batch_reason="", by_rows=True, rows_tried=64, onnxruntime="1"
        ),
        log_schema=schema.to_dict(),
    )
    catalog.add_version(MODEL, manifest, actor="bench")
    catalog.close()
    (home.run / "lanes").mkdir(exist_ok=True)


def home_of(folder: Path) -> Home:
    """The state folder of such a run."""
    return Home(root=folder, run=folder / "run")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["prepare", folder, features]:
            prepare(Path(folder), int(features))
        case ["feed", folder, features, rate, lane_bytes]:
            feed(Path(folder), int(features), int(rate), int(lane_bytes))
        case _:
            sys.exit(__doc__)
