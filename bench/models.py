"""The benchmark's models, made by the benchmark: small gradient boosting, and graphs that take a stated time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEATURES = 30
TREES = 100


def rows(count: int, seed: int) -> NDArray[np.float32]:
    """Random rows, (count, 30) float32."""
    return np.random.default_rng(seed).normal(size=(count, FEATURES)).astype(np.float32)


def train(path: Path, seed: int) -> None:
    """Train a 100-tree LightGBM regressor on synthetic data and write it as ONNX with a free batch dimension."""
    import lightgbm
    from onnxmltools.convert import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    features = rows(20_000, seed)
    noise = np.random.default_rng(seed + 1).normal(scale=0.1, size=len(features))
    target = features[:, 0] * 2 + np.sin(features[:, 1] * 3) + features[:, 2] * features[:, 3] + noise
    model = lightgbm.LGBMRegressor(n_estimators=TREES, num_leaves=31, random_state=seed, n_jobs=1, verbose=-1)
    model.fit(features, target)
    graph = convert_lightgbm(model.booster_, initial_types=[("x", FloatTensorType([None, FEATURES]))], target_opset=15)
    path.write_bytes(graph.SerializeToString())


def timed(path: Path, row_ms: float) -> float:
    """Write a model on rows of 30 floats that takes about this long for each row of a run, however many there are.

    A chain of elementwise sines over a widened row: nothing to gain by joining, many nodes, little memory. Returns what
    one row took here, ms, with one thread, at the best of times.
    """
    nodes = max(8, min(128, round(row_ms)))
    width, tries = 64, 5  # the cost is not quite proportional to the width
    while True:
        _write_chain(path, nodes, width)
        took, tries = run_ms(path), tries - 1
        if abs(took / row_ms - 1) < 0.05 or tries == 0:
            return took
        width = max(1, round(width * row_ms / took))


def run_ms(path: Path, about_ms: float = 50.0) -> float:
    """The least time of a run of one row with one thread, ms: what other work on the machine disturbed least."""
    session = open_session(path)
    row = rows(1, 1)
    times: list[float] = []
    session.run(None, {"x": row})
    while len(times) < 5 or sum(times) < about_ms:
        started = time.perf_counter()
        session.run(None, {"x": row})
        times.append((time.perf_counter() - started) * 1e3)
    return min(times)


def open_session(path: Path) -> Any:
    """An onnxruntime session as the gateway would open it, with one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _write_chain(path: Path, nodes: int, width: int) -> None:
    import onnx
    from onnx import TensorProto, helper

    ramp = np.linspace(0.5, 1.5, width, dtype=np.float32).reshape(1, 1, width)
    steps = [
        helper.make_node("Unsqueeze", ["x", "last"], ["wide"]),
        helper.make_node("Mul", ["wide", "ramp"], ["s0"]),
        *(helper.make_node("Sin", [f"s{i}"], [f"s{i + 1}"]) for i in range(nodes)),
        helper.make_node("ReduceMean", [f"s{nodes}"], ["means"], axes=[2], keepdims=0),
        helper.make_node("ReduceSum", ["means", "features"], ["y"], keepdims=1),
    ]
    graph = helper.make_graph(
        steps,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", FEATURES])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [
            helper.make_tensor("last", TensorProto.INT64, [1], [2]),
            helper.make_tensor("features", TensorProto.INT64, [1], [1]),
            helper.make_tensor("ramp", TensorProto.FLOAT, list(ramp.shape), ramp.ravel()),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
