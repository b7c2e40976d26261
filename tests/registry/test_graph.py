"""What an ONNX file says of itself: every place where it may name data outside of it is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from onnx import FunctionProto, GraphProto, NodeProto, SparseTensorProto, TensorProto, helper

from registry.errors import ArtifactRejected
from registry.graph import read_graph
from registry.onnx import is_ort_format
from tests.support import models
from tests.support.models import OPSETS, value


def outside(*locations: str) -> TensorProto:
    """Three FP32 values that lie in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    for location in locations:
        tensor.external_data.add(key="location", value=location)
    return tensor


def sparse(values: TensorProto) -> SparseTensorProto:
    indices = helper.make_tensor("i", TensorProto.INT64, [3], [0, 1, 2])
    return SparseTensorProto(values=values, indices=indices, dims=[3])


def choosing(tensor: TensorProto) -> list[NodeProto]:
    """A branch that multiplies by the tensor, or one that does the same."""

    def branch(name: str) -> GraphProto:
        product = helper.make_node("Mul", ["x", "w"], ["o"])
        return helper.make_graph([product], name, [], [value("o", TensorProto.FLOAT, None)], initializer=[tensor])

    yes = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True]))
    return [yes, helper.make_node("If", ["c"], ["y"], then_branch=branch("t"), else_branch=branch("e"))]


def save(path: Path, nodes: list[NodeProto], *functions: FunctionProto) -> Path:
    ends = [value("x", TensorProto.FLOAT, ["N", 3])], [value("y", TensorProto.FLOAT, ["N", 3])]
    imports = [helper.make_opsetid(domain, version) for domain, version in [*OPSETS, ("local", 1)]]
    graph = helper.make_graph(nodes, "g", *ends)
    model = helper.make_model(graph, opset_imports=imports, ir_version=8, functions=functions)
    path.write_bytes(model.SerializeToString())
    return path


def function(nodes: list[NodeProto]) -> FunctionProto:
    return helper.make_function("local", "F", ["x"], ["y"], nodes, [helper.make_opsetid("", 17)])


def times(**attribute: Any) -> list[NodeProto]:
    return [helper.make_node("Constant", [], ["w"], **attribute), helper.make_node("Mul", ["x", "w"], ["y"])]


CALL = [helper.make_node("F", ["x"], ["y"], domain="local")]
PLACES: dict[str, Callable[[TensorProto, Path], Path]] = {
    "branch": lambda tensor, path: save(path, choosing(tensor)),
    "branch of a function": lambda tensor, path: save(path, CALL, function(choosing(tensor))),
    "constant": lambda tensor, path: save(path, times(value=tensor)),
    "constant of a function": lambda tensor, path: save(path, CALL, function(times(value=tensor))),
    "sparse constant": lambda tensor, path: save(path, times(sparse_value=sparse(tensor))),
}


@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_named_wherever_it_is_used(tmp_path: Path, place: str) -> None:
    path = PLACES[place](outside("w.bin"), tmp_path / "m.onnx")
    assert read_graph(path).external == ("w.bin",)


@pytest.mark.parametrize("locations", [("w.bin", "/etc/hostname"), ("w.bin", "w.bin"), ("*/_ORT_MEM_ADDR_/*",), ()])
def test_external_data_without_one_certain_location_is_refused(tmp_path: Path, locations: tuple[str, ...]) -> None:
    with pytest.raises(ArtifactRejected, match="location"):
        read_graph(PLACES["constant"](outside(*locations), tmp_path / "m.onnx"))


@pytest.mark.parametrize("has_loops", [True, False])
def test_loops_are_found_in_onnxruntimes_own_format_too(tmp_path: Path, has_loops: bool) -> None:
    how = onnxruntime.SessionOptions()
    how.optimized_model_filepath = str(tmp_path / "m.ort")
    how.add_session_config_entry("session.save_model_format", "ORT")
    path = (models.turning if has_loops else models.linear)(tmp_path / "m.onnx")
    onnxruntime.InferenceSession(str(path), how, providers=["CPUExecutionProvider"])
    assert is_ort_format(tmp_path / "m.ort")
    assert read_graph(tmp_path / "m.ort").loops is read_graph(path).loops is has_loops
