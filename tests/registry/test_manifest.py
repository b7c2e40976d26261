"""A version's manifest, its digest, and the options that a user writes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from registry.batching import Axes, Batching
from registry.errors import FormatTooNew, InvalidSetting, StateDamaged
from registry.manifest import FileDigest, Manifest, ProbeResult, ServingOptions
from registry.vocabulary import TensorSpec
from tests.support.models import manifest_of


def probed(**changes: Any) -> ProbeResult:
    return replace(manifest_of("a").probe, joined_rows=64, **changes)


def test_a_manifest_survives_being_stored() -> None:
    manifest = manifest_of(
        "a",
        options=ServingOptions(max_batch_rows=8, outputs=("y",), output_limits=(("y[0]", 0.0, 1.0),)),
        inputs=(TensorSpec("x", "FP32", None), TensorSpec("s", "INT64", ())),
        log_schema={"by_rows": True},
        reference_rows="c" * 64,
        probe=probed(batch="within_tolerance", axes=Axes((1, None), (2,)), largest_difference=0.1, shared=("ab",)),
    )
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_only_a_manifest_that_an_older_release_would_misread_is_stamped_as_newer() -> None:
    spec = TensorSpec("p", "FP32", (None, 2), classes=("größe 1/ü", "数"))
    manifest = manifest_of("a", outputs=(spec,))
    assert Manifest.from_json(manifest.to_json()).outputs == (spec,)
    ones = (
        manifest_of("a"),
        manifest,
        manifest_of("a", inputs=(TensorSpec("x", "BF16", (3,)),)),
        manifest_of("a", probe=probed(axes=Axes((0,), (0,)))),
        manifest_of("a", probe=probed(axes=Axes((1,), (0,)))),
        manifest_of("a", options=ServingOptions(batch_tolerance=0.1)),
        manifest_of("a", options=ServingOptions(latency_target_ms=5.0)),
    )
    assert [json.loads(one.to_json())["v"] for one in ones] == [1, 2, 2, 1, 3, 3, 3]


def test_the_digest_is_of_what_was_given_not_of_what_was_found() -> None:
    one = manifest_of("a")
    assert manifest_of("a", inputs=(), log_schema={"x": 1}, reference_rows="c" * 64).digest == one.digest
    others = [
        manifest_of("b"),
        manifest_of("a", profile="e" * 64),
        manifest_of("a", golden="e" * 64),
        manifest_of("a", options=ServingOptions(nan="allow")),
        manifest_of("a", files=(*one.files, FileDigest("w.bin", "e" * 64, 1))),
    ]
    assert len({one.digest, *(other.digest for other in others)}) == 6


def test_the_model_files_own_name_is_not_in_the_digest() -> None:
    one = manifest_of("a")
    renamed = manifest_of("a", files=(FileDigest("other.onnx", one.files[0].sha256, 10),))
    assert renamed.digest == one.digest


# Written by the first release; must be read, with this digest, for ever.
_STORED_V1 = (
    '{"format": "driftgate.manifest", "v": 1, '
    '"digest": "15afacc33fa2e2e4029d3c2d12f438b1ece209b5e376c71a92c38a44868143fc", '
    '"files": [{"path": "model.onnx", "sha256": "' + "a" * 64 + '", "bytes": 3}], '
    '"options": {"max_batch_rows": 8}, "profile": null, "golden": null, '
    '"inputs": [{"name": "x", "datatype": "FP32", "shape": [null, 3]}], '
    '"outputs": [{"name": "y", "datatype": "FP32", "shape": null}], '
    '"probe": {"run": "proven", "reason": "", "batch": "never", "batch_reason": "r", "by_rows": true, "rows_tried": 0, '
    '"joined_rows": 0, "onnxruntime": "1.31.1", "opset": {"": 17}}, "log_schema": null}'
)


def test_a_manifest_of_the_first_release_is_read() -> None:
    manifest = Manifest.from_json(_STORED_V1)
    assert manifest.options.max_batch_rows == 8
    assert manifest.outputs[0].shape is None
    assert manifest.reference_rows is None
    assert manifest.batching == Batching(kind="never", reason="r")


def test_rows_that_the_first_release_proved_are_joined_on_axis_0() -> None:
    document = json.loads(_STORED_V1)
    document["probe"].update(batch="exact", joined_rows=8)
    batching = Manifest.from_json(json.dumps(document)).batching
    assert (batching.kind, batching.axes, batching.rows_proven) == ("exact", Axes((0,), (0,)), 8)
    assert batching.largest_difference == 0.0


@pytest.mark.parametrize(
    ("probe", "tolerance", "kind"),
    [
        (probed(), None, "exact"),
        (probed(run="unproven"), None, "never"),
        (probed(by_rows=False), None, "never"),
        (probed(by_rows=False, axes=Axes((1,), (0,))), None, "exact"),
        (replace(probed(), joined_rows=1), None, "never"),
        (probed(batch="within_tolerance", largest_difference=0.01), None, "never"),
        (probed(batch="within_tolerance", largest_difference=0.01), 0.009, "never"),
        (probed(batch="within_tolerance", largest_difference=0.01), 0.01, "within_tolerance"),
        (probed(batch="never"), 1.0, "never"),
    ],
)
def test_only_what_was_proven_and_allowed_may_be_joined(probe: ProbeResult, tolerance: float | None, kind: str) -> None:
    batching = manifest_of("a", probe=probe, options=ServingOptions(batch_tolerance=tolerance)).batching
    assert batching.kind == kind
    assert (batching.axes is None) == (kind == "never")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"v": 4}, FormatTooNew),
        ({"format": "driftgate.plan"}, StateDamaged),
        ({"digest": "0" * 64}, StateDamaged),
        ({"files": [{"path": "m", "sha256": "x"}]}, StateDamaged),
        ({"files": []}, StateDamaged),
        ({"probe": {}}, StateDamaged),
        ({"probe": {**probed().to_dict(), "axes": {"inputs": [0, 0], "outputs": [0]}}}, StateDamaged),
        ({"probe": {**probed().to_dict(), "axes": {"inputs": [-1], "outputs": [0]}}}, StateDamaged),
        ({"probe": {**probed().to_dict(), "axes": [0]}}, StateDamaged),
        ({"options": {"nonsense": 1}}, StateDamaged),
    ],
)
def test_a_damaged_or_newer_manifest_is_refused(change: dict[str, object], error: type[Exception]) -> None:
    document = {**json.loads(manifest_of("a").to_json()), **change}
    with pytest.raises(error):
        Manifest.from_json(json.dumps(document))
    with pytest.raises(StateDamaged):
        Manifest.from_json("{")


def test_options_are_read_as_written_and_all_faults_told_at_once() -> None:
    options = ServingOptions.from_dict({"max_batch_rows": 16, "output_limits": {"y": [0, 1]}, "outputs": ["y"]})
    assert options == ServingOptions(max_batch_rows=16, output_limits=(("y", 0.0, 1.0),), outputs=("y",))
    assert ServingOptions.from_dict(options.to_dict()) == options
    assert ServingOptions().to_dict() == {}
    with pytest.raises(InvalidSetting) as caught:
        ServingOptions.from_dict(
            {
                "max_batch_row": 4,
                "provider": "tpu",
                "nan": 1,
                "threads": True,
                "outputs": [],
                "output_limits": {"y": 3},
                "batch_tolerance": 0,
                "latency_target_ms": float("inf"),
            }
        )
    assert len(caught.value.details["faults"]) == 8
    assert "did you mean 'max_batch_rows'" in caught.value.message
