"""Which models make something as large as a value in a request says: their runs never happen on an event loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import FunctionProto, NodeProto, TensorProto, helper, numpy_helper

from registry.graph import read_graph
from tests.support import models

N = helper.make_node
IMAGE: dict[str, NDArray[np.generic]] = {"scales": np.array([1, 1, 2, 2], np.float32)}


def is_found(path: Path, nodes: list[NodeProto], *functions: FunctionProto, **weights: NDArray[np.generic]) -> bool:
    """Of a model that takes x, an image of FP32, and sizes, INT64."""
    inputs = [
        models.value("x", TensorProto.FLOAT, ["N", "C", "H", "W"]),
        models.value("sizes", TensorProto.INT64, ["K"]),
    ]
    imports = [helper.make_opsetid(domain, version) for domain, version in (("", 17), ("local", 1))]
    stored = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, [models.value("y", TensorProto.FLOAT, None)], initializer=stored)
    model = helper.make_model(graph, opset_imports=imports, ir_version=8, functions=functions)
    path.write_bytes(model.SerializeToString())
    return read_graph(path).loops


def choosing(inside: list[NodeProto]) -> list[NodeProto]:
    """The same in both branches."""
    branches = [helper.make_graph(inside, name, [], [models.value("y", TensorProto.FLOAT, None)]) for name in "te"]
    yes = N("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True]))
    return [yes, N("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1])]


def calling(*inside: NodeProto) -> FunctionProto:
    return helper.make_function("local", "F", ["a"], ["b"], inside, [helper.make_opsetid("", 17)])


MADE = N("ConstantOfShape", ["sizes"], ["y"])


@pytest.mark.parametrize(
    ("nodes", "functions", "want"),
    [
        ([MADE], [], True),
        ([N("Resize", ["x", "", "", "sizes"], ["y"])], [], True),
        ([N("Resize", ["x", "", "scales"], ["y"])], [], False),
        ([N("Dropout", ["x"], ["d", ""]), N("Resize", ["d", "", "scales"], ["y"])], [], False),
        ([N("Shape", ["x"], ["s"]), N("ConstantOfShape", ["s"], ["y"])], [], False),
        ([N("Shape", ["x"], ["s"]), N("Add", ["s", "sizes"], ["t"]), N("Expand", ["x", "t"], ["y"])], [], True),
        (choosing([MADE]), [], True),
        (choosing([N("Identity", ["x"], ["y"])]), [], False),
        ([N("F", ["sizes"], ["y"], domain="local")], [calling(N("ConstantOfShape", ["a"], ["b"]))], True),
        ([N("F", ["scales"], ["y"], domain="local")], [calling(N("ConstantOfShape", ["a"], ["b"]))], False),
        ([N("F", ["x"], ["y"], domain="local")], [calling(N("F", ["a"], ["b"], domain="local"))], False),
    ],
)
def test_what_is_as_large_as_a_value_says_is_found(
    tmp_path: Path, nodes: list[NodeProto], functions: list[FunctionProto], want: bool
) -> None:
    assert is_found(tmp_path / "m.onnx", nodes, *functions, **IMAGE) is want
