"""Integer divisions that would end the process: found wherever they are, and guarded without another value anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import FunctionProto, NodeProto, TensorProto, helper, numpy_helper

from registry.divisions import guarded
from registry.errors import ArtifactRejected
from registry.manifest import Manifest
from registry.onnx import open_session, run
from tests.support import models
from tests.support.registering import Bench

N = helper.make_node
KINDS: dict[int, type[np.generic]] = {
    TensorProto.INT32: np.int32,
    TensorProto.INT64: np.int64,
    TensorProto.UINT32: np.uint32,
    TensorProto.FLOAT: np.float32,
}


def model_of(
    nodes: list[NodeProto],
    *functions: FunctionProto,
    kind: int = TensorProto.INT64,
    opset: int = 17,
    **weights: NDArray[np.generic],
) -> Any:
    """Of a model that takes x and y of one type and gives z."""
    ends = [models.value(name, kind, None) for name in "xyz"]
    imports = [helper.make_opsetid(domain, version) for domain, version in (("", opset), ("local", 1))]
    stored = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[:2], ends[2:], initializer=stored)
    return helper.make_model(graph, opset_imports=imports, ir_version=8, functions=functions)


def answer(model: Any, x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    how = onnxruntime.SessionOptions()
    how.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), how, providers=["CPUExecutionProvider"])
    z: NDArray[Any] = session.run(["z"], {"x": x, "y": y})[0]
    return z


def exact(operator: str, a: int, b: int, smallest: int) -> int:
    """As Python's unbounded integers have it; the one quotient that does not fit wraps."""
    if operator == "Mod":
        return a % b
    quotient = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    return smallest if quotient == -smallest else quotient


@pytest.mark.parametrize("kind", [TensorProto.INT32, TensorProto.INT64])
@pytest.mark.parametrize(("operator", "opset"), [("Div", 7), ("Div", 8), ("Div", 17), ("Mod", 13), ("Mod", 21)])
def test_every_quotient_is_exact_and_the_one_that_does_not_fit_wraps(operator: str, opset: int, kind: int) -> None:
    model = guarded(model_of([N(operator, ["x", "y"], ["z"])], kind=kind, opset=opset))
    dtype = np.dtype(KINDS[kind])
    low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    x = [low, low + 1, high, -1, 0, 1, -7, 12345]
    y = [-1, 1, 2, -2, low, high, 3, -3]
    want = [[exact(operator, a, b, low) for b in y] for a in x]
    assert answer(model, np.array(x, dtype)[:, None], np.array([y], dtype)).tolist() == want
    with pytest.raises(Exception, match="by zero"):  # as without the guard
        answer(model, np.array(x, dtype), np.zeros(8, dtype))


DIVISION = N("Div", ["x", "y"], ["z"])


def choosing(*inside: NodeProto) -> list[NodeProto]:
    branches = [helper.make_graph(inside, name, [], [models.value("z", TensorProto.INT64, None)]) for name in "te"]
    yes = N("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True]))
    return [yes, N("If", ["c"], ["z"], then_branch=branches[0], else_branch=branches[1])]


def function(name: str, node: NodeProto, opset: int = 17) -> FunctionProto:
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, ["x", "y"], ["z"], [node], imports)


def call(name: str) -> NodeProto:
    return N(name, ["x", "y"], ["z"], domain="local")


def const(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


REACHED: dict[str, Any] = {
    "plain": model_of([DIVISION]),
    "by a computed value": model_of([N("Neg", ["y"], ["n"]), N("Mod", ["x", "n"], ["z"])]),
    "of a constant": model_of([N("Div", ["m", "y"], ["z"])], m=const(-(2**63))),
    "by a constant with -1": model_of([N("Div", ["x", "m"], ["z"])], m=const(2, -1)),
    "by a size, less something": model_of(
        [N("Size", ["y"], ["s"]), N("Sub", ["s", "m"], ["d"]), N("Div", ["x", "d"], ["z"])], m=const(3)
    ),
    "in a branch": model_of(choosing(DIVISION)),
    "in a function": model_of([call("F")], function("F", DIVISION)),
    "in a function of a function": model_of([call("F")], function("F", call("G")), function("G", DIVISION)),
    "in a function of another operator set": model_of([call("F")], function("F", DIVISION, 18)),
    "in a branch of a function": model_of([call("F")], function("F", N("G", ["x", "y"], ["z"], domain="local")),
        helper.make_function("local", "G", ["x", "y"], ["z"], choosing(DIVISION), [helper.make_opsetid("", 17)])),
    "nodes in no order": model_of([N("Div", ["x", "n"], ["z"]), N("Neg", ["y"], ["n"])]),
}  # fmt: skip


@pytest.mark.parametrize("place", REACHED)
def test_a_division_of_what_a_caller_says_is_guarded_wherever_it_is(place: str) -> None:
    model = guarded(REACHED[place])
    low = const(-(2**63), -(2**63))
    for y in (const(1, 1), const(-1, -1), const(-1)):
        assert set(answer(model, low, y).tolist()) <= {-(2**63), 0, 2**62, -(2**62)}


@pytest.mark.parametrize(
    "model",
    [
        model_of([N("Div", ["x", "m"], ["z"])], m=const(2, 3)),
        model_of([N("Constant", [], ["m"], value_int=2), N("Div", ["x", "m"], ["z"])]),
        model_of([N("Shape", ["x"], ["s"]), N("Shape", ["y"], ["t"]), N("Div", ["s", "t"], ["z"])]),
        model_of([N("Mod", ["x", "y"], ["z"], fmod=1)]),
        model_of([DIVISION], kind=TensorProto.UINT32),
        model_of([DIVISION], kind=TensorProto.FLOAT),
        model_of([call("F")], function("F", DIVISION), kind=TensorProto.FLOAT),
        model_of([N("Add", ["x", "y"], ["z"])]),
    ],
)
def test_a_division_that_ends_nothing_is_left_as_it_is(model: Any) -> None:
    assert guarded(model) is None


def test_what_onnxruntime_makes_of_a_division_is_guarded_too() -> None:
    """It takes z / y for 1 / y * z, of integers as of fractions."""
    model = guarded(model_of([N("Div", ["one", "y"], ["q"]), N("Mul", ["q", "x"], ["z"])], one=const(1)))
    assert answer(model, const(10, -(2**63)), const(2, -1)).tolist() == [0, -(2**63)]


def test_functions_that_call_themselves_refuse_the_model() -> None:
    with pytest.raises(ArtifactRejected, match="functions cannot be resolved"):
        guarded(model_of([call("F")], function("F", call("G")), function("G", call("F")), function("H", DIVISION)))


def test_a_large_constant_is_not_looked_at_and_stays(tmp_path: Path) -> None:
    weights = np.arange(1, 5001)
    model = guarded(model_of([N("Add", ["x", "w"], ["v"]), N("Div", ["v", "y"], ["z"])], w=weights))
    assert answer(model, const(0), const(-1)).tolist() == (-weights).tolist()


def dividing(path: Path, *, outside: bool) -> Path:
    """x and y [N] INT64 → z = (x + w) / y, with w = 0 in the file or outside of it."""
    model = model_of([N("Add", ["x", "w"], ["v"]), N("Div", ["v", "y"], ["z"])], w=const(0))
    for end in (*model.graph.input, *model.graph.output):
        end.type.tensor_type.shape.dim.add(dim_param="N")
    onnx.save_model(model, str(path), save_as_external_data=outside, location="driftgate-model.onnx", size_threshold=0)
    return path


@pytest.mark.parametrize("outside", [False, True])
def test_the_guarded_graph_is_loaded_and_the_file_that_was_given_is_kept(tmp_path: Path, outside: bool) -> None:
    bench = Bench(tmp_path / "home")
    path = dividing(tmp_path / "m.onnx", outside=outside)
    rows = {"x": np.arange(-8, 8), "y": np.arange(1, 17)}
    manifest = bench.register("m", path, rows).row.manifest
    stored = bench.artifacts.path(manifest.files[0].sha256)
    assert stored.read_bytes() == path.read_bytes()
    assert manifest.guarded is not None
    assert Manifest.from_json(manifest.to_json()) == manifest
    loaded = bench.artifacts.materialise(manifest)
    z = run(open_session(loaded), {"x": const(-(2**63), 8), "y": const(-1, -3)})[0]
    assert z.tolist() == [-(2**63), -2]


def test_what_was_registered_before_is_laid_out_anew_where_the_same_is_registered_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "home")
    manifest = bench.register("m", dividing(tmp_path / "m.onnx", outside=False)).row.manifest
    before = Manifest.from_json(manifest.to_json().replace('"guarded"', '"unknown"'))
    assert before.guarded is None
    assert before.digest == manifest.digest
    assert bench.artifacts.materialise(before).name == "model.onnx"
    assert bench.artifacts.materialise(manifest).read_bytes() != bench.artifacts.materialise(before).read_bytes()


def test_a_model_without_such_a_division_is_loaded_from_its_own_file(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "home")
    manifest = bench.register("m", models.linear(tmp_path / "m.onnx")).row.manifest
    assert manifest.guarded is None
    assert "guarded" not in manifest.to_json()
    assert bench.artifacts.materialise(manifest).read_bytes() == (tmp_path / "m.onnx").read_bytes()
