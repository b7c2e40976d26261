"""Tiny ONNX models, built here, and manifests that only differ by a seed. No file comes from anywhere else."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from registry.manifest import FileDigest, Manifest, ProbeResult, ServingOptions
from registry.vocabulary import TensorSpec

OPSETS = [("", 17), ("ai.onnx.ml", 3)]


def manifest_of(seed: str, *, profile: str | None = None, **changes: Any) -> Manifest:
    """A manifest of a model that exists nowhere; another seed is another digest."""
    values: dict[str, Any] = {
        "files": (FileDigest("model.onnx", hashlib.sha256(seed.encode()).hexdigest(), 10),),
        "options": ServingOptions(),
        "profile": profile,
        "golden": None,
        "inputs": (TensorSpec("x", "FP32", (None, 3)),),
        "outputs": (TensorSpec("y", "FP32", (None, 2)),),
        "probe": ProbeResult(
            run="proven",
            reason="",
            batch="exact",
            batch_reason="joined rows equal single rows",
            by_rows=True,
            rows_tried=8,
            onnxruntime="1.0",
            opset={"": 17},
        ),
        "log_schema": None,
    }
    return Manifest(**{**values, **changes})


def value(name: str, kind: int, shape: list[int | str] | None) -> onnx.ValueInfoProto:
    """A declared input or output; None: unknown rank."""
    return helper.make_tensor_value_info(name, kind, shape)


def build(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: dict[str, np.ndarray[Any, Any]] | None = None,
    opsets: list[tuple[str, int]] | None = None,
) -> Path:
    """Write a model of these nodes and return its path."""
    initializers = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializer=initializers)
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets or OPSETS]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def linear(path: Path, features: int = 3, outputs: int = 2, seed: int = 0, rows: int | str = "N") -> Path:
    """x [N, features] FP32 → y = x @ w + b [N, outputs]."""
    rng = np.random.default_rng(seed)
    weights = {
        "w": rng.normal(size=(features, outputs)).astype(np.float32),
        "b": rng.normal(size=outputs).astype(np.float32),
    }
    nodes = [helper.make_node("MatMul", ["x", "w"], ["xw"]), helper.make_node("Add", ["xw", "b"], ["y"])]
    return build(
        path,
        nodes,
        [value("x", TensorProto.FLOAT, [rows, features])],
        [value("y", TensorProto.FLOAT, [rows, outputs])],
        weights,
    )


def sums(path: Path, features: int | str) -> Path:
    """x [N, features] FP32 → the sizes of each row added up, y [N, 1]; features may be a name: rows of any width."""
    nodes = [helper.make_node("ReduceL1", ["x"], ["y"], axes=[1], keepdims=1)]
    ends = [value("x", TensorProto.FLOAT, ["N", features])], [value("y", TensorProto.FLOAT, ["N", 1])]
    return build(path, nodes, *ends)


def added(path: Path, first: str = "T", second: str = "T") -> Path:
    """a [N, T] and b [N, T] FP32 → y = a + b; `first` and `second` are what it calls their second axes."""
    inputs = [value("a", TensorProto.FLOAT, ["N", first]), value("b", TensorProto.FLOAT, ["N", second])]
    return build(
        path, [helper.make_node("Add", ["a", "b"], ["y"])], inputs, [value("y", TensorProto.FLOAT, ["N", "M"])]
    )


def centred(path: Path, features: int = 3) -> Path:
    """y = x - mean(x over the rows): every row's answer depends on its batch mates, so joining is never right."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["y"]),
    ]
    ends = [value("x", TensorProto.FLOAT, ["N", features])], [value("y", TensorProto.FLOAT, ["N", features])]
    return build(path, nodes, *ends)


def state_on_axis_one(path: Path) -> Path:
    """x [N, 4] and a state [2, N, 4] → y [N, 4], new state [2, N, 4]: rows are on axis 0 here and axis 1 there."""
    nodes = [
        helper.make_node("ReduceSum", ["state", "axes"], ["s"], keepdims=0),
        helper.make_node("Add", ["x", "s"], ["y"]),
        helper.make_node("Add", ["state", "one"], ["state_out"]),
    ]
    weights: dict[str, np.ndarray[Any, Any]] = {"axes": np.array([0], np.int64), "one": np.array(1, np.float32)}
    return build(
        path,
        nodes,
        [value("x", TensorProto.FLOAT, ["N", 4]), value("state", TensorProto.FLOAT, [2, "N", 4])],
        [value("y", TensorProto.FLOAT, ["N", 4]), value("state_out", TensorProto.FLOAT, [2, "N", 4])],
        weights,
    )


def recurrent(path: Path) -> Path:
    """x [T, N, 3] → an LSTM's states y [T, 1, N, 4]. onnxruntime 1.31 aborts the process where N is 0."""
    rng = np.random.default_rng(0)
    weights: dict[str, np.ndarray[Any, Any]] = {
        "w": rng.normal(size=(1, 16, 3)).astype(np.float32),
        "r": rng.normal(size=(1, 16, 4)).astype(np.float32),
    }
    ends = (
        [value("x", TensorProto.FLOAT, ["T", "N", 3])],
        [value("y", TensorProto.FLOAT, ["T", 1, "N", 4])],
    )
    return build(path, [helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=4)], *ends, weights)


def lying_shape(path: Path) -> Path:
    """x [N, 3] → label [1] as declared, but N labels are returned (as LightGBM's exporter does)."""
    nodes = [helper.make_node("ArgMax", ["x"], ["label"], axis=1, keepdims=0)]
    return build(path, nodes, [value("x", TensorProto.FLOAT, ["N", 3])], [value("label", TensorProto.INT64, [1])])


def columns(path: Path) -> Path:
    """Three inputs age [N,1] FP32, visits [N,1] INT64, city [N,1] STRING → total [N,1], named [N,1] STRING."""
    nodes = [
        helper.make_node("Cast", ["visits"], ["v"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["age", "v"], ["total"]),
        helper.make_node("Identity", ["city"], ["named"]),
    ]
    inputs = [
        value("age", TensorProto.FLOAT, ["N", 1]),
        value("visits", TensorProto.INT64, ["N", 1]),
        value("city", TensorProto.STRING, ["N", 1]),
    ]
    outputs = [value("total", TensorProto.FLOAT, ["N", 1]), value("named", TensorProto.STRING, ["N", 1])]
    return build(path, nodes, inputs, outputs)


def texts(path: Path) -> Path:
    """Four inputs [N,1]: age FP32, visits INT64, city and comment STRING, which it ignores → total [N,1]."""
    nodes = [
        helper.make_node("Cast", ["visits"], ["v"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["age", "v"], ["total"]),
    ]
    kinds = {
        "age": TensorProto.FLOAT,
        "visits": TensorProto.INT64,
        "city": TensorProto.STRING,
        "comment": TensorProto.STRING,
    }
    inputs = [value(name, kind, ["N", 1]) for name, kind in kinds.items()]
    return build(path, nodes, inputs, [value("total", TensorProto.FLOAT, ["N", 1])])


def external(path: Path, location: str = "weights.bin", features: int = 3) -> Path:
    """y = x * w, with w in an external file beside the model (written only for a location inside the folder)."""
    weights = np.arange(1, features + 1, dtype=np.float32)
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[features], data_location=TensorProto.EXTERNAL)
    for key, text in {"location": location, "offset": "0", "length": str(weights.nbytes)}.items():
        tensor.external_data.add(key=key, value=text)
    ends = [value("x", TensorProto.FLOAT, ["N", features])], [value("y", TensorProto.FLOAT, ["N", features])]
    graph = helper.make_graph([helper.make_node("Mul", ["x", "w"], ["y"])], "g", *ends, initializer=[tensor])
    imports = [helper.make_opsetid("", 17)]
    path.write_bytes(helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString())
    if ".." not in location and not location.startswith("/"):
        (path.parent / location).parent.mkdir(parents=True, exist_ok=True)
        (path.parent / location).write_bytes(weights.tobytes())
    return path


def endless(path: Path) -> Path:
    """A loop of 2^62 turns: loads at once, never answers."""
    counts = [helper.make_tensor_value_info(name, TensorProto.INT64, []) for name in ("i", "n", "n_out")]
    flags = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("c", "c_out")]
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c_out"]), helper.make_node("Add", ["n", "i"], ["n_out"])],
        "body",
        [counts[0], flags[0], counts[1]],
        [flags[1], counts[2]],
    )
    nodes = [helper.make_node("Loop", ["turns", "go", "start"], ["end"], body=body)]
    weights: dict[str, np.ndarray[Any, Any]] = {"turns": np.array(2**62), "go": np.array(True)}
    ends = [value("start", TensorProto.INT64, [])], [value("end", TensorProto.INT64, [])]
    return build(path, nodes, *ends, weights)


def turning(path: Path) -> Path:
    """turns INT64 and x [N, 3] → y = x + turns, added one by one in a loop: the value says how long a run takes."""
    counter = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    flags = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("c", "c_out")]
    sums = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in ("s", "s_out")]
    nodes = [helper.make_node("Identity", ["c"], ["c_out"]), helper.make_node("Add", ["s", "one"], ["s_out"])]
    body = helper.make_graph(nodes, "body", [counter, flags[0], sums[0]], [flags[1], sums[1]])
    weights: dict[str, np.ndarray[Any, Any]] = {"go": np.array(True), "one": np.array(1, np.float32)}
    ends = (
        [value("turns", TensorProto.INT64, []), value("x", TensorProto.FLOAT, ["N", 3])],
        [value("y", TensorProto.FLOAT, ["N", 3])],
    )
    return build(path, [helper.make_node("Loop", ["turns", "go", "x"], ["y"], body=body)], *ends, weights)


def hungry(path: Path) -> Path:
    """size [1] INT64 → a FP32 tensor of that many elements."""
    nodes = [helper.make_node("ConstantOfShape", ["size"], ["y"])]
    return build(path, nodes, [value("size", TensorProto.INT64, [1])], [value("y", TensorProto.FLOAT, ["N"])])


def custom_operator(path: Path) -> Path:
    """An operator that only a library of custom operators knows."""
    nodes = [helper.make_node("Magic", ["x"], ["y"], domain="com.example")]
    ends = [value("x", TensorProto.FLOAT, ["N"])], [value("y", TensorProto.FLOAT, ["N"])]
    return build(path, nodes, *ends, opsets=[("", 17), ("com.example", 1)])


def index_of_made_up(path: Path) -> Path:
    """i [N] INT64 → y = table[i + 100]: any input in reach of made-up values is out of range, 0 - 100 is not."""
    nodes = [helper.make_node("Add", ["i", "offset"], ["k"]), helper.make_node("Gather", ["table", "k"], ["y"])]
    weights: dict[str, np.ndarray[Any, Any]] = {"offset": np.array(100), "table": np.arange(8, dtype=np.float32)}
    return build(path, nodes, [value("i", TensorProto.INT64, ["N"])], [value("y", TensorProto.FLOAT, ["N"])], weights)


def places(path: Path) -> Path:
    """x [N, 3] → where x is not zero [2, ?]: the shape of the answer depends on the values."""
    nodes = [helper.make_node("NonZero", ["x"], ["y"])]
    return build(path, nodes, [value("x", TensorProto.FLOAT, ["N", 3])], [value("y", TensorProto.INT64, [2, "K"])])


def looked_up(path: Path) -> Path:
    """x [N, 3] FP32 → y = table[int(x)], the table being 0 to 7: it fails on a row that holds anything from 8 on."""
    nodes = [
        helper.make_node("Cast", ["x"], ["k"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "k"], ["y"]),
    ]
    ends = [value("x", TensorProto.FLOAT, ["N", 3])], [value("y", TensorProto.FLOAT, ["N", 3])]
    return build(path, nodes, *ends, {"table": np.arange(8, dtype=np.float32)})


def spelled(path: Path) -> Path:
    """size [1] INT64 → y [1] FP32, the number itself: takes what `hungry` takes."""
    nodes = [helper.make_node("Cast", ["size"], ["y"], to=TensorProto.FLOAT)]
    return build(path, nodes, [value("size", TensorProto.INT64, [1])], [value("y", TensorProto.FLOAT, ["N"])])
