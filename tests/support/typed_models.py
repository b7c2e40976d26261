"""Models of every type of tensor, built here: identities, classifiers that end in ZipMap, models without inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from tests.support.models import build, value

Shape = list[int | str] | None

# Open Inference datatype → ONNX type.
KINDS: dict[str, int] = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


def identity(path: Path, kind: int, shape: Shape, x: str = "x", y: str = "y") -> Path:
    """y = x, of one type."""
    return build(path, [helper.make_node("Identity", [x], [y])], [value(x, kind, shape)], [value(y, kind, shape)])


def identities(path: Path, cases: dict[str, tuple[int, Shape]]) -> Path:
    """An input and an output "out <name>" for each case: (type, shape)."""
    return build(
        path,
        [helper.make_node("Identity", [name], [f"out {name}"]) for name in cases],
        [value(name, kind, shape) for name, (kind, shape) in cases.items()],
        [value(f"out {name}", kind, shape) for name, (kind, shape) in cases.items()],
    )


def casts(path: Path, start: int, end: int) -> Path:
    """y = x, cast from one type to another, [N]."""
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=end)]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [value("x", start, ["N"])], [value("y", end, ["N"])]),
        opset_imports=[helper.make_opsetid("", 23)],
        ir_version=11,
    )
    path.write_bytes(model.SerializeToString())
    return path


def zipmap(path: Path, labels: list[Any], features: int = 3) -> Path:
    """x [N, features] FP32 → "probabilities", a sequence of maps from label to softmax(x @ w), w of seed 0."""
    weights = {"w": np.random.default_rng(0).normal(size=(features, len(labels))).astype(np.float32)}
    kind = "strings" if isinstance(labels[0], str) else "int64s"
    named: dict[str, Any] = {f"classlabels_{kind}": labels}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["shares"], axis=1),
        helper.make_node("ZipMap", ["shares"], ["probabilities"], domain="ai.onnx.ml", **named),
    ]
    key = TensorProto.STRING if kind == "strings" else TensorProto.INT64
    entry = helper.make_map_type_proto(key, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    out = helper.make_value_info("probabilities", helper.make_sequence_type_proto(entry))
    return build(path, nodes, [value("x", TensorProto.FLOAT, ["N", features])], [out], weights)


def constant(path: Path) -> Path:
    """A model without inputs: y = [1, 2, 3] INT64."""
    node = helper.make_node("Constant", [], ["y"], value_ints=[1, 2, 3])
    return build(path, [node], [], [value("y", TensorProto.INT64, [3])])


def optional_by_initializer(path: Path) -> Path:
    """y = x * scale, where scale is listed as an input and has a value of 2 in the file."""
    ends = [value("x", TensorProto.FLOAT, ["N"]), value("scale", TensorProto.FLOAT, [1])]
    weights = {"scale": np.array([2], np.float32)}
    return build(
        path,
        [helper.make_node("Mul", ["x", "scale"], ["y"])],
        ends,
        [value("y", TensorProto.FLOAT, ["N"])],
        weights,
    )


def noise(path: Path) -> Path:
    """y = random numbers of the shape of x [N] FP32."""
    node = helper.make_node("RandomUniformLike", ["x"], ["y"])
    return build(path, [node], [value("x", TensorProto.FLOAT, ["N"])], [value("y", TensorProto.FLOAT, ["N"])])


def sequence(path: Path) -> Path:
    """x [N] FP32 → a sequence of one tensor."""
    node = helper.make_node("SequenceConstruct", ["x"], ["y"])
    out = helper.make_value_info(
        "y", helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, ["N"]))
    )
    return build(path, [node], [value("x", TensorProto.FLOAT, ["N"])], [out])
