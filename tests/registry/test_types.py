"""What kinds of tensors a version may have: each is probed and kept as it is, or refused with the true reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import SequenceProto, TensorProto, helper, numpy_helper

from registry import maps, onnx
from registry.errors import ArtifactRejected, InferenceFailed
from registry.manifest import ServingOptions
from registry.probe import Finding, ProbeLimits, probe
from registry.tensors import load_tensors, save_tensors
from registry.vocabulary import TensorSpec
from tests.support import models, typed_models
from tests.support.typed_models import KINDS, casts

BF16 = onnx.NUMPY_DTYPES["BF16"]


def look(model: Path, golden: Path | None = None, **options: Any) -> Finding:
    work = model.parent / f"work-{model.stem}"
    work.mkdir()
    limits = ProbeLimits(seconds=60, memory_mb=4096, max_rows=4)
    found = probe(model, work, options=ServingOptions(**options), limits=limits, golden=golden)
    assert isinstance(found, Finding)
    return found


def golden(path: Path, **arrays: NDArray[Any]) -> Path:
    np.savez(path, **{name.replace("__", ":"): array for name, array in arrays.items()})  # type: ignore[arg-type]
    return path


def rows_of(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(count, 3)).astype(np.float32)


def test_every_datatype_has_its_numpy_type_and_bfloat16_is_found_by_name() -> None:
    assert {onnx.NUMPY_DTYPES[name].name for name in set(onnx.DATATYPES.values())} >= {"bfloat16", "float16", "object"}
    with pytest.raises(KeyError):
        onnx.NUMPY_DTYPES["FP8"]


def test_bfloat16_goes_in_and_out_bit_by_bit_also_beside_others_and_with_strides(tmp_path: Path) -> None:
    model = typed_models.identities(
        tmp_path / "m.onnx",
        {"x": (KINDS["BF16"], ["N", 3]), "n": (KINDS["INT64"], []), "empty": (KINDS["BF16"], [0, 2])},
    )
    session = onnx.open_session(model)
    bits = np.arange(6, dtype=np.uint16).reshape(3, 2) + np.uint16(0x3F80)
    x = bits.T.view(BF16) if bits.T.flags.c_contiguous else bits.view(BF16).T
    feeds = {"x": x, "n": np.array(7), "empty": np.empty((0, 2), BF16)}
    out = onnx.runner(session, onnx.output_specs(session))(feeds)
    assert [array.dtype.name for array in out] == ["bfloat16", "int64", "bfloat16"]
    assert [array.shape for array in out] == [(2, 3), (), (0, 2)]
    assert out[0].tobytes() == np.asarray(x, order="C").tobytes()
    assert out[1] == 7


def test_bfloat16_and_text_may_both_go_in_but_bfloat16_cannot_come_out_of_text(tmp_path: Path) -> None:
    model = typed_models.identities(tmp_path / "m.onnx", {"x": (KINDS["BF16"], ["N"]), "s": (KINDS["BYTES"], ["N"])})
    session = onnx.open_session(model)
    specs = onnx.output_specs(session, ["out s"])
    feeds = {"x": np.ones(1, BF16), "s": np.array(["größe"], object)}
    assert onnx.runner(session, specs)(feeds)[0].tolist() == ["größe"]
    with pytest.raises(ArtifactRejected, match="cannot give beside text input 's'"):
        onnx.output_specs(session)


def test_a_bfloat16_model_is_probed_with_made_up_and_with_golden_values(tmp_path: Path) -> None:
    model = casts(tmp_path / "m.onnx", TensorProto.BFLOAT16, TensorProto.BFLOAT16)
    found = look(model)
    assert found.inputs == (TensorSpec("x", "BF16", (None,)),)
    assert found.probe.run == "proven"
    given = golden(tmp_path / "g.npz", in__x=np.array([0.5, 3], BF16), out__y=np.array([0.5, 3], np.float32))
    again = look(model.rename(tmp_path / "n.onnx"), given)
    assert again.golden is not None
    stored = load_tensors(again.golden)
    assert stored["0:in:x"].dtype == BF16
    assert stored["0:in:x"].tolist() == [0.5, 3]


def test_bfloat16_is_stored_as_its_bits(tmp_path: Path) -> None:
    bits = np.array([[0x7FC1, 0xFF80], [0x0001, 0x8000]], np.uint16).view(BF16)
    save_tensors(tmp_path / "t", {"x": bits, "scalar": bits[0, 0]})
    back = load_tensors(tmp_path / "t")
    assert back["x"].tobytes() == bits.tobytes()
    assert back["scalar"].shape == ()


@pytest.mark.parametrize("labels", [["größe 1/ü", "a", "数"], [10, 2, -1]])
def test_a_sequence_of_maps_is_a_matrix_whose_columns_are_named_in_the_models_own_order(
    tmp_path: Path, labels: list[Any]
) -> None:
    found = look(typed_models.zipmap(tmp_path / "m.onnx", labels), golden(tmp_path / "g.npz", in__x=rows_of(9)))
    spec = TensorSpec("probabilities", "FP32", (None, 3), tuple(map(str, labels)))
    assert found.outputs == (spec,)
    assert (found.probe.by_rows, found.probe.batch) == (True, "exact")
    weights = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    scores = np.exp(rows_of(9) @ weights)
    session = onnx.open_session(tmp_path / "m.onnx")
    out = onnx.runner(session, [spec])({"x": rows_of(9)})[0]
    np.testing.assert_allclose(out, scores / scores.sum(axis=1, keepdims=True), rtol=1e-5)
    assert onnx.runner(session, [spec])({"x": rows_of(0)})[0].shape == (0, 3)


def test_golden_maps_are_compared_as_a_matrix(tmp_path: Path) -> None:
    model = typed_models.zipmap(tmp_path / "m.onnx", [0, 1])
    spec = TensorSpec("probabilities", "FP32", (None, 2), ("0", "1"))
    right = onnx.runner(onnx.open_session(model), [spec])({"x": rows_of(2)})[0]
    for name, shift in (("right", 0.0), ("wrong", 0.25)):
        case = tmp_path / name
        case.mkdir()
        (case / "input_0.pb").write_bytes(numpy_helper.from_array(rows_of(2), "x").SerializeToString())
        maps_of_rows = [numpy_helper.from_dict({0: np.float32(a + shift), 1: np.float32(b)}) for a, b in right.tolist()]
        sequence = helper.make_sequence("probabilities", SequenceProto.MAP, maps_of_rows)
        (case / "output_0.pb").write_bytes(sequence.SerializeToString())
    look(model, tmp_path / "right")
    with pytest.raises(ArtifactRejected, match="'probabilities' of wrong is not what the model returns"):
        look(model.rename(tmp_path / "n.onnx"), tmp_path / "wrong")


def test_a_class_that_is_missing_or_was_never_seen_is_an_error_and_no_shifted_column() -> None:
    for wrong in ([{"a": 0.5, "b": 0.5}, {"a": 1.0}], [{"a": 0.5, "b": 0.25, "c": 0.25}]):
        with pytest.raises(InferenceFailed, match="class"):
            maps.matrix(wrong, ("a", "b"))
    assert maps.matrix([{"a": 0.5}], ("a",)).tolist() == [[0.5]]
    assert maps.matrix([], ("a", "b")).shape == (0, 2)


F32 = TensorProto.FLOAT


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (TensorProto.FLOAT8E4M3FN, "Open Inference has no such datatype"),
        (TensorProto.UINT4, "Open Inference has no such datatype"),
        (TensorProto.INT4, "Open Inference has no such datatype"),
    ],
)
def test_types_that_nothing_can_carry_are_refused_going_in_and_coming_out(
    tmp_path: Path, kind: int, reason: str
) -> None:
    for model in (casts(tmp_path / "in.onnx", kind, F32), casts(tmp_path / "out.onnx", F32, kind)):
        with pytest.raises(ArtifactRejected) as caught:
            look(model)
        assert reason in caught.value.message
        assert caught.value.details["type"].startswith("tensor(")


def test_a_sequence_is_refused_and_told_apart_from_a_tensor(tmp_path: Path) -> None:
    with pytest.raises(ArtifactRejected, match="holds tensors, not sequences of them"):
        look(typed_models.sequence(tmp_path / "m.onnx"))


def test_a_golden_answer_of_a_model_that_draws_random_numbers_is_refused_as_that(tmp_path: Path) -> None:
    model = typed_models.noise(tmp_path / "m.onnx")
    given = golden(tmp_path / "g.npz", in__x=np.ones(4, np.float32), out__y=np.ones(4, np.float32))
    with pytest.raises(ArtifactRejected, match="something else each time that it is run"):
        look(model, given)


@pytest.mark.parametrize(("operator", "given", "told"), [("Identity", np.nan, "input 'x'"), ("Log", 0, "output 'y'")])
def test_golden_numbers_that_are_not_finite_must_be_allowed(
    tmp_path: Path, operator: str, given: float, told: str
) -> None:
    ends = [models.value("x", F32, ["N"])], [models.value("y", F32, ["N"])]
    model = models.build(tmp_path / "m.onnx", [helper.make_node(operator, ["x"], ["y"])], *ends)
    x = np.array([given, 1], np.float32)
    y = np.array([np.nan if operator == "Identity" else -np.inf, x[1] if operator == "Identity" else 0], np.float32)
    case = golden(tmp_path / "g.npz", in__x=x, out__y=y)
    with pytest.raises(ArtifactRejected) as caught:
        look(model, case)
    assert told in caught.value.message
    assert 'nan = "allow"' in caught.value.message
    assert look(model.rename(tmp_path / "n.onnx"), case, nan="allow").probe.run == "proven"


def test_an_input_with_a_value_in_the_file_is_a_constant(tmp_path: Path) -> None:
    model = typed_models.optional_by_initializer(tmp_path / "m.onnx")
    assert [spec.name for spec in look(model).inputs] == ["x"]
    given = golden(tmp_path / "g.npz", in__x=np.ones(1, np.float32), in__scale=np.ones(1, np.float32))
    with pytest.raises(ArtifactRejected, match="'scale' has a value in the model itself"):
        look(model.rename(tmp_path / "n.onnx"), given)


def test_a_model_without_inputs_is_proven(tmp_path: Path) -> None:
    found = look(typed_models.constant(tmp_path / "m.onnx"))
    assert (found.inputs, found.probe.run, found.examples["y"].tolist()) == ((), "proven", [1, 2, 3])


def test_a_model_without_outputs_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("Neg", ["x"], ["y"])
    model = models.build(tmp_path / "m.onnx", [node], [models.value("x", F32, ["N"])], [])
    with pytest.raises(ArtifactRejected, match="has no output"):
        look(model)
