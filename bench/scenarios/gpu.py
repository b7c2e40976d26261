"""An execution provider on a GPU against the processor: equal answers within a tolerance, rows a second by batch size.

The model is three dense layers of 2048, written by the bench. Sessions are opened as a worker opens them, with the
options that a version would have; nothing of the gateway is between. Refused where onnxruntime has no GPU provider
(`pip install 'driftgate[cuda]'` on a machine with a GPU).
"""

from __future__ import annotations

import argparse
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.result import Curve, Result
from bench.scenario import Need, Options
from registry import onnx
from registry.options import ServingOptions

SUMMARY = "CUDA or TensorRT against the processor: correctness within tolerance, rows a second by batch size"
NEEDS: tuple[Need, ...] = ("gpu",)
WIDTH, LAYERS = 2048, 3
BATCHES = (1, 4, 16, 64, 256)
TOLERANCE = 2e-3  # of the largest output: a GPU multiplies in another order, TensorRT perhaps in TF32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of this scenario."""
    parser.add_argument("--provider", default="cuda", choices=("cuda", "tensorrt", "cpu"), help="(%(default)s)")
    parser.add_argument("--device-memory-mb", type=int, default=4096, help="limit of the provider (%(default)s)")


def write_model(path: Path, width: int = WIDTH) -> None:
    """Dense layers with Relu between them, x and y both (N, width)."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(1)
    weights, nodes, last = [], [], "x"
    for layer in range(LAYERS):
        matrix = (rng.normal(size=(width, width)) / np.sqrt(width)).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{layer}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"]))
        last = "y" if layer == LAYERS - 1 else f"r{layer}"
        nodes.append(helper.make_node("Relu", [f"m{layer}"], [last]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "dense", ends[:1], ends[1:], weights)
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )


def rows_per_s(run: Callable[[Any], list[NDArray[Any]]], rows: NDArray[np.float32], seconds: float) -> float:
    """Rows a second of runs one after the other, after a few that warm it."""
    for _ in range(3):
        run({"x": rows})
    runs, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds:
        run({"x": rows})
        runs += 1
    return runs * len(rows) / spent


def run(options: Options) -> Result:
    """Run it."""
    result, provider = Result("gpu"), options.arguments.provider
    width = 256 if options.quick else WIDTH
    write_model(options.folder / "model.onnx", width)
    memory_mb = None if provider == "cpu" else options.arguments.device_memory_mb
    chosen = ServingOptions(provider=provider, device_memory_mb=memory_mb)
    kinds = {
        "cpu": ServingOptions(),
        provider + ", as called": chosen,
        provider + ", bound": ServingOptions(provider=provider, device_memory_mb=memory_mb, io_binding=True),
    }
    runners = {}
    for kind, how in kinds.items():
        options.say(f"opening a session: {kind}")
        session = onnx.open_session(options.folder / "model.onnx", 1, how)
        runners[kind] = onnx.runner(session, onnx.output_specs(session), how.io_binding)
    everything = np.random.default_rng(2).normal(size=(max(BATCHES), width)).astype(np.float32)
    want = runners["cpu"]({"x": everything})[0]
    for kind, runner in runners.items():
        got = runner({"x": everything})[0]
        away = float(np.abs(got - want).max() / np.abs(want).max())
        result.add(f"{kind}: farthest from the processor", "of the largest output", away, "lower")
        result.bar(f"{kind} says what the processor says", f"{kind}: farthest from the processor", "<=", TOLERANCE)
        speeds = [rows_per_s(runner, everything[:size], options.seconds_or(2.0, 0.05)) for size in BATCHES]
        for size, speed in zip(BATCHES, speeds, strict=True):
            result.add(f"{kind}, {size} rows a run", "rows/s", speed, "higher")
        result.curves[kind] = Curve("rows a run", "rows/s", [float(size) for size in BATCHES], speeds)
        options.say(f"{kind}: {max(speeds):.0f} rows/s at best")
    result.facts["device"] = device()
    return result


def device() -> str:
    """The GPU's own name; empty where none says it."""
    try:
        told = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return told.stdout.strip().partition("\n")[0]
