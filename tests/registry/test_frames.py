"""Transforms of frames of no length, which would end the process: found wherever they are; others are as before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import FunctionProto, NodeProto, TensorProto, helper, numpy_helper

from registry.frames import guard
from registry.onnx import open_session, run
from tests.support import models
from tests.support.registering import Bench

N = helper.make_node
SIGNAL = np.random.default_rng(1).normal(size=(1, 64, 1)).astype(np.float32)
IMPORTS = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
CONSTANTS: dict[str, NDArray[Any]] = {
    "step": np.array(4),
    "eight": np.array(8),
    "hann": np.hanning(8).astype(np.float32),
    "yes": np.array(True),
}


def model_of(nodes: Sequence[NodeProto], *functions: FunctionProto, kind: int = TensorProto.INT64) -> Any:
    """x [1, T, 1], n: a number → y."""
    ends = [models.value("x", TensorProto.FLOAT, [1, "T", 1]), models.value("n", kind, [])]
    out = models.value("y", TensorProto.FLOAT, None)
    stored = [numpy_helper.from_array(array, name) for name, array in CONSTANTS.items()]
    graph = helper.make_graph(nodes, "g", ends, [out], initializer=stored)
    return helper.make_model(graph, opset_imports=IMPORTS, ir_version=8, functions=functions)


def answer(model: Any, length: int, kind: type[np.generic] = np.int64, signal: NDArray[Any] = SIGNAL) -> NDArray[Any]:
    how = onnxruntime.SessionOptions()
    how.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), how, providers=["CPUExecutionProvider"])
    y: NDArray[Any] = session.run(["y"], {"x": signal, "n": np.array(length, kind)})[0]
    return y


def in_function() -> Any:
    inside = N("STFT", ["a", "b", "", "c"], ["d"])
    function = helper.make_function("local", "Frames", ["a", "b", "c"], ["d"], [inside], IMPORTS[:1])
    return model_of([N("Frames", ["x", "step", "n"], ["y"], domain="local")], function)


def in_branch(*, around: bool) -> Any:
    """In the bodies of an If, and beside it too where `around`."""
    out = models.value("z", TensorProto.FLOAT, None)
    body = helper.make_graph([N("STFT", ["x", "step", "", "n"], ["z"])], "body", [], [out])
    if not around:
        return model_of([N("If", ["yes"], ["y"], then_branch=body, else_branch=body)])
    inside = N("If", ["yes"], ["v"], then_branch=body, else_branch=body)
    return model_of([inside, N("STFT", ["x", "step", "", "n"], ["u"]), N("Add", ["u", "v"], ["y"])])


PLACES: dict[str, Any] = {
    "length": model_of([N("STFT", ["x", "step", "", "n"], ["y"])]),
    "window": model_of([N("HannWindow", ["n"], ["w"]), N("STFT", ["x", "step", "w"], ["y"])]),
    "window and length": model_of([N("HammingWindow", ["n"], ["w"]), N("STFT", ["x", "step", "w", "n"], ["y"])]),
    "function": in_function(),
    "branch": in_branch(around=False),
    "branch and around it": in_branch(around=True),
}


@pytest.mark.parametrize("place", PLACES)
def test_no_length_fails_the_run_and_every_other_length_gives_what_it_gave(place: str) -> None:
    plain, guarded = PLACES[place], type(PLACES[place])()
    guarded.CopyFrom(plain)
    assert guard(guarded)
    for length in (1, 2, 7, 8, 64):
        assert answer(guarded, length).tobytes() == answer(plain, length).tobytes()
    for length in (0, -1, 65):
        with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.Fail):
            answer(guarded, length)


def test_a_length_of_32_bits_and_one_that_comes_of_a_shape_are_guarded() -> None:
    small = model_of(
        [N("Cast", ["step"], ["s"], to=TensorProto.INT32), N("STFT", ["x", "s", "", "n"], ["y"])],
        kind=TensorProto.INT32,
    )
    shaped = model_of(
        [N("Size", ["x"], ["t"]), N("Div", ["t", "eight"], ["k"]), N("STFT", ["x", "step", "", "k"], ["y"])]
    )
    assert guard(small)
    assert guard(shaped)
    assert answer(small, 8, np.int32).shape == answer(shaped, 0).shape == (1, 15, 5, 2)
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.Fail):
        answer(small, 0, np.int32)
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.Fail):
        answer(shaped, 0, signal=SIGNAL[:, :7])


@pytest.mark.parametrize("inputs", [["x", "step", "hann"], ["x", "step", "", "eight"], ["x", "n", "hann", "eight"]])
def test_a_length_that_no_request_changes_is_left_alone(inputs: list[str]) -> None:
    model = model_of([N("STFT", inputs, ["y"])])
    before = model.SerializeToString()
    assert not guard(model)
    assert model.SerializeToString() == before


def test_a_guarded_model_is_loaded_in_the_place_of_the_one_that_was_given(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "home")
    path = tmp_path / "m.onnx"
    path.write_bytes(PLACES["window"].SerializeToString())
    manifest = bench.register("m", path).row.manifest
    assert manifest.guarded is not None
    loaded = open_session(bench.artifacts.materialise(manifest))
    (y,) = run(loaded, {"x": SIGNAL, "n": np.array(8)})
    assert y.shape == (1, 15, 5, 2)
