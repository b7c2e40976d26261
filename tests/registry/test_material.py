"""Real models that nobody on this project made: each is registered, or refused with the true reason."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from registry.batching import Axes
from registry.errors import ArtifactRejected
from registry.manifest import ServingOptions
from registry.rows import shared_digest
from registry.vocabulary import TensorSpec
from tests.support.registering import Bench

_FOLDER = os.environ.get("DRIFTGATE_TEST_MATERIAL", "")
MODELS = Path(_FOLDER) / "models"
pytestmark = pytest.mark.skipif(not _FOLDER, reason="DRIFTGATE_TEST_MATERIAL is not set")

_NODE_CASES = sorted(path.name for path in (MODELS / "onnx_node").glob("test_*")) if _FOLDER else []
_TRUE_REASONS = (
    "cannot be served",
    "Could not find an implementation",
    "is not a registered function/op",
    "locale",
    "is not what the model returns",  # random numbers, another rounding of strings, another quantisation
)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "home")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("broken/empty.onnx", "empty"),
        ("broken/truncated_half.onnx", "not a readable ONNX file"),
        ("broken/opset_999.onnx", "999"),
        ("broken/external_missing", "'weights.bin' is missing"),
        ("awkward/go_example_needs_extensions.onnx", "custom operators (ai.onnx.contrib)"),
    ],
)
def test_a_broken_or_foreign_model_is_refused_with_the_reason(bench: Bench, name: str, reason: str) -> None:
    with pytest.raises(ArtifactRejected) as caught:
        bench.register("m", MODELS / name)
    assert reason in caught.value.message


@pytest.mark.parametrize(
    ("name", "output", "classes"),
    [
        ("go_sklearn_randomforest", "output_probability", ("0", "1", "2")),
        ("logreg_iris", "probabilities", ("0", "1", "2")),
    ],
)
def test_an_output_of_maps_becomes_a_matrix_with_named_classes(
    bench: Bench, name: str, output: str, classes: tuple[str, ...]
) -> None:
    manifest = bench.register("m", MODELS / "awkward" / f"{name}.onnx").row.manifest
    assert manifest.outputs[1] == TensorSpec(output, "FP32", (None, 3), classes)
    assert manifest.probe.run == "proven"


@pytest.mark.parametrize(
    "name",
    [
        "broken/external_ok",
        "awkward/ort_upsample.onnx",
        "awkward/go_example_multitype.onnx",
        "awkward/go_example_dynamic_axes.onnx",
    ],
)
def test_an_awkward_model_registers_and_runs(bench: Bench, name: str) -> None:
    assert bench.register("m", MODELS / name).row.manifest.probe.run == "proven"


@pytest.mark.slow
@pytest.mark.parametrize("name", _NODE_CASES)
def test_each_of_onnx_own_operator_cases_registers_or_is_refused_with_the_true_reason(bench: Bench, name: str) -> None:
    try:
        done = bench.register("m", MODELS / "onnx_node" / name, golden=str(MODELS / "onnx_node" / name))
    except ArtifactRejected as error:
        refused = error.message
    else:
        refused = ""
        assert done.row.manifest.probe.run == "proven"
        assert done.row.manifest.probe.batch == "never"
    assert not refused or any(reason in refused for reason in _TRUE_REASONS), refused


def golden(path: Path, **arrays: NDArray[Any]) -> str:
    np.savez(path, **{f"in:{name}": array for name, array in arrays.items()})  # type: ignore[arg-type]
    return str(path)


def test_magika_is_joined_only_where_the_options_allow_what_joined_rows_differ_by(bench: Bench, tmp_path: Path) -> None:
    with np.load(MODELS / "pairs" / "magika_standard_v3_2.npz") as pairs:
        rows = golden(tmp_path / "g.npz", bytes=pairs["bytes"][:20])
    path = MODELS / "real" / "magika_standard_v3_2.onnx"
    manifest = bench.register("m", path, golden=rows).row.manifest
    assert (manifest.probe.run, manifest.probe.batch, manifest.probe.by_rows) == ("proven", "never", True)
    assert "differ from single rows by up to" in manifest.probe.batch_reason
    largest = manifest.probe.largest_difference
    assert largest is not None
    assert 1e-3 < largest < 0.1
    for tolerance, kind in ((largest / 2, "never"), (0.1, "within_tolerance")):
        options = ServingOptions(batch_tolerance=tolerance, max_batch_rows=8)
        batching = bench.register("m", path, golden=rows, options=options).row.manifest.batching
        assert batching.kind == kind
    assert batching.rows_proven == 8
    assert batching.largest_difference is not None
    assert batching.largest_difference == pytest.approx(largest, rel=0.1)


def test_silero_is_joined_on_two_axes_at_the_rates_that_were_tried(bench: Bench, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    given = golden(
        tmp_path / "g.npz",
        input=rng.normal(size=(3, 512)).astype(np.float32),
        state=np.zeros((2, 3, 128), np.float32),
        sr=np.array(16000),
    )
    path = MODELS / "real" / "silero_vad_16k_op15.onnx"
    manifest = bench.register("m", path, golden=given).row.manifest
    assert [spec.name for spec in manifest.inputs] == ["input", "state", "sr"]
    assert (manifest.probe.run, manifest.probe.batch, manifest.probe.by_rows) == ("proven", "exact", False)
    assert manifest.batching.axes == Axes((0, 1, None), (0, 1))
    assert manifest.batching.shared == (shared_digest([np.array(16000)]),)


def test_a_fixed_batch_is_never_joined(bench: Bench) -> None:
    pair = str(MODELS / "pairs" / "mnist.npz")
    probe = bench.register("m", MODELS / "real" / "mnist.onnx", golden=pair).row.manifest.probe
    assert (probe.run, probe.batch) == ("proven", "never")
    assert "fixed first dimension of 1" in probe.batch_reason


def test_an_image_classifier_with_free_height_and_width_is_joined(bench: Bench) -> None:
    name = "ch_ppocr_mobile_v2.0_cls_infer"
    pair = str(MODELS / "pairs" / f"{name}.npz")
    probe = bench.register("m", MODELS / "real" / f"{name}.onnx", golden=pair).row.manifest.probe
    assert (probe.run, probe.batch, probe.by_rows) == ("proven", "exact", True)


@pytest.mark.parametrize(("name", "outputs"), [("elec2_histgb", 2), ("elec2_logreg_columns", 3)])
def test_tabular_models_run_on_reference_rows(bench: Bench, name: str, outputs: int) -> None:
    rows = np.random.default_rng(0).random((500, 6)).astype(np.float32)
    done = bench.register("m", Path(_FOLDER) / "tabular" / f"{name}.onnx", {"X": rows})
    assert (done.row.manifest.probe.run, done.row.manifest.probe.by_rows) == ("proven", True)
    if name == "elec2_histgb":
        assert done.row.manifest.probe.batch == "exact"  # the regression differs by 3e-8 on some machines
    seen = bench.seen[0].outputs_seen
    assert seen is not None
    assert [array.shape[0] for array in seen.values()] == [500] * outputs
