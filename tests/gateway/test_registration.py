"""Registration put together: bodies, what is fitted, and one shape of a version for the command line and the API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gateway.control.resources import version_json
from gateway.registration import Request, fit, registered_document, run_registration, version_document
from gateway.settings import Settings
from monitor.profile import ReferenceProfile
from monitor.record import LogSchema
from registry.artifacts import ArtifactStore
from registry.catalog import Catalog
from registry.errors import ArtifactRejected, InvalidSetting, MalformedRequest
from registry.home import Home
from registry.register import FitInput
from registry.vocabulary import TensorSpec
from tests.support import models as tiny
from tests.support import typed_models

SPECS = ((TensorSpec("x", "FP32", (None, 2)),), (TensorSpec("y", "FP32", (None, 1)),))


def test_a_request_survives_the_way_through_the_api() -> None:
    request = Request(
        model="m",
        path="/p",
        reference="/r",
        golden="/g",
        columns=("a", "b"),
        target="t",
        prediction="p",
        by_time="at",
        date_format="day-first",
        options={"max_batch_rows": 3},
        tags={"k": "v"},
        new_version=True,
        actor="local",
    )
    assert Request.from_body("m", request.to_body(), "local") == request
    least = Request(model="m", path="/p")
    assert least.to_body() == {"path": "/p"}
    assert Request.from_body("m", least.to_body(), "local") == least


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"path": 3},
        {"path": ""},
        {"path": "/p", "columns": [1]},
        {"path": "/p", "options": []},
        {"path": "/p", "options": 3},
        {"path": "/p", "tags": {"a": 1}},
        {"path": "/p", "new_version": "yes"},
        {"path": "/p", "unordered": 1},
        {"path": "/p", "reference": "x" * 5000},
    ],
)
def test_a_body_of_another_shape_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(MalformedRequest):
        Request.from_body("m", body, "local")


def given(by_rows: bool, rows: int = 40) -> FitInput:
    rng = np.random.default_rng(1)
    feeds = {"x": rng.normal(size=(rows, 2)).astype(np.float32)}
    outputs = {"y": feeds["x"].sum(axis=1, keepdims=True)}
    inputs, outs = SPECS if by_rows else ((TensorSpec("x", "FP32", (2,)),), (TensorSpec("y", "FP32", (1,)),))
    chosen = np.arange(0, rows, 2)
    return FitInput(
        inputs=inputs,
        outputs=outs,
        by_rows=by_rows,
        examples={"y": outputs["y"][:1] if by_rows else outputs["y"][0]},
        columns=("a", "b") if by_rows else None,
        feeds=feeds,
        outputs_seen={"y": outputs["y"][chosen]},
        rows_run=chosen,
    )


@pytest.mark.parametrize("by_rows", [True, False])
def test_inputs_are_profiled_of_all_rows_and_outputs_of_those_that_were_run(by_rows: bool) -> None:
    wanted = given(by_rows)
    fitted = fit(wanted)
    assert fitted.profile_bytes is not None
    profile = ReferenceProfile.from_bytes(fitted.profile_bytes)
    assert (profile.rows, profile.outputs[0].rows) == (40 if by_rows else 20, 20)
    assert wanted.feeds is not None
    first = wanted.feeds["x"][:: 1 if by_rows else 2, 0]
    assert profile.inputs[0].low == pytest.approx(float(first.min()))
    assert LogSchema.from_dict(fitted.log_schema).by_rows is by_rows


def test_without_a_reference_there_is_a_log_schema_and_no_profile() -> None:
    fitted = fit(FitInput(inputs=SPECS[0], outputs=SPECS[1], by_rows=True, examples={}))
    assert fitted.profile_bytes is None
    assert len(LogSchema.from_dict(fitted.log_schema).inputs) == 2


def test_a_version_looks_the_same_on_the_command_line_and_in_the_api(tmp_path: Path) -> None:
    home = Home(root=tmp_path, run=tmp_path / "run")
    home.create()
    path = str(tiny.linear(tmp_path / "m.onnx"))
    told: list[str] = []
    registered = run_registration(
        home, Settings(), Request(model="m", path=path, tags={"a": "b"}), lambda what, _share: told.append(what)
    )
    assert registered.created
    assert told
    catalog = Catalog.open(home.database_url)
    try:
        row = catalog.version("m", 1)
    finally:
        catalog.close()
    assert version_document(row) == version_json(row)
    document = registered_document(registered)
    assert (document["version"], document["created"], document["tags"]) == (1, True, {"a": "b"})


def test_an_unknown_option_is_refused_before_anything_is_copied(tmp_path: Path) -> None:
    home = Home(root=tmp_path, run=tmp_path / "run")
    home.create()
    with pytest.raises(InvalidSetting, match="max_batch_rows"):
        run_registration(
            home, Settings(), Request(model="m", path="/p", options={"max_batch_row": 1}), lambda _what, _share: None
        )
    assert not (tmp_path / "registry.db").exists()


def test_a_profile_of_an_output_of_maps_speaks_of_its_classes(tmp_path: Path) -> None:
    home = Home(root=tmp_path / "home", run=tmp_path / "run")
    home.create()
    rng = np.random.default_rng(0)
    lines = [",".join(f"{value:.4f}" for value in row) for row in rng.normal(size=(60, 3))]
    (tmp_path / "rows.csv").write_text("\n".join(["größe 1/ü,b,数", *lines]))
    model = typed_models.zipmap(tmp_path / "m.onnx", ["ja / yes", "nein"])
    request = Request(model="m", path=str(model), reference=str(tmp_path / "rows.csv"))
    manifest = run_registration(home, Settings(), request, lambda _what, _share: None).row.manifest
    assert manifest.outputs[0].classes == ("ja / yes", "nein")
    assert manifest.log_schema is not None
    schema = LogSchema.from_dict(manifest.log_schema)
    assert [column.name for column in schema.inputs] == ["größe 1/ü", "b", "数"]
    assert [column.name for column in schema.outputs] == ["probabilities[ja / yes]", "probabilities[nein]"]
    assert schema.scores == ("probabilities",)
    assert manifest.profile is not None
    profile = ReferenceProfile.from_bytes(ArtifactStore(home.artifacts).read(manifest.profile))
    assert profile.rows == 60


def test_a_reference_of_a_bfloat16_model_is_read_as_its_inputs_are(tmp_path: Path) -> None:
    home = Home(root=tmp_path / "home", run=tmp_path / "run")
    home.create()
    model = typed_models.identity(tmp_path / "m.onnx", typed_models.KINDS["BF16"], ["N", 2])
    (tmp_path / "rows.csv").write_text("a,b\n" + "\n".join(f"{i / 7},{i}" for i in range(40)))
    request = Request(model="m", path=str(model), reference=str(tmp_path / "rows.csv"))
    manifest = run_registration(home, Settings(), request, lambda _what, _share: None).row.manifest
    assert (manifest.probe.run, manifest.probe.batch) == ("proven", "exact")
    assert manifest.profile is not None


def orders(**said: str) -> FitInput:
    """Reference rows of four inputs: `comment` is free text."""
    specs = [("age", "FP32"), ("visits", "INT64"), ("city", "BYTES"), ("comment", "BYTES")]
    rng = np.random.default_rng(0)
    feeds: dict[str, NDArray[Any]] = {
        "age": rng.integers(18, 90, (300, 1)).astype(np.float32),
        "visits": rng.integers(0, 5, (300, 1)),
        "city": np.array([["Rome"], ["Oslo"]] * 150, object),
        "comment": np.array([["x" * (5 + at % 40) + str(at)] for at in range(300)], object),
    }
    return FitInput(
        inputs=tuple(TensorSpec(name, kind, (None, 1)) for name, kind in specs),
        outputs=(TensorSpec("total", "FP32", (None, 1)),),
        by_rows=True,
        examples={},
        feeds=feeds,
        outputs_seen={"total": feeds["age"]},
        rows_run=np.arange(300),
        features=tuple((column, kind, ()) for column, kind in said.items()),
    )


@pytest.mark.parametrize(
    ("said", "types"),
    [
        ({}, ["integer", "integer", "categorical", "text_length"]),
        (
            {"age": "numeric", "visits": "categorical", "city": "text_length", "comment": "categorical"},
            ["numeric", "categorical", "text_length", "categorical"],
        ),
    ],
)
def test_types_are_inferred_and_the_owner_has_the_last_word(said: dict[str, str], types: list[str]) -> None:
    fitted = fit(orders(**said))
    assert fitted.profile_bytes is not None
    assert [column.type for column in ReferenceProfile.from_bytes(fitted.profile_bytes).inputs] == types
    logged = LogSchema.from_dict(fitted.log_schema).inputs
    assert [column.kind == "length" for column in logged] == [kind == "text_length" for kind in types]
    manifest = tiny.manifest_of("m", log_schema=fitted.log_schema)
    assert json.loads(manifest.to_json())["v"] == 3  # release 0.1 must refuse it by name


@pytest.mark.parametrize(
    ("said", "error", "told"),
    [
        (
            {"agee": "numeric"},
            InvalidSetting,
            r"no column 'agee' \(did you mean 'age'\?\); columns are age, visits, city",
        ),
        ({"city": "numeric"}, InvalidSetting, "'city' is text: it is categorical or text_length"),
        ({"visits": "boolean"}, ArtifactRejected, "'visits' is said to be boolean, and .* such as"),
    ],
)
def test_a_type_that_cannot_be_is_refused(said: dict[str, str], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        fit(orders(**said))


def test_without_a_reference_columns_that_are_not_known_yet_are_noted(tmp_path: Path) -> None:
    fitted = fit(
        FitInput(inputs=SPECS[0], outputs=SPECS[1], by_rows=True, examples={}, features=(("age", "integer", ()),))
    )
    assert fitted.warnings == ("option 'features': there is no column 'age'; columns are x[0], x[1], y",)
    with pytest.raises(InvalidSetting, match="holds numbers"):
        fit(
            FitInput(inputs=SPECS[0], outputs=SPECS[1], by_rows=True, examples={}, features=(("y", "text_length", ()),))
        )


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"by_time": "at", "date_format": "dayfirst"}, "a date format is"),
        ({"date_format": "day-first"}, "name that, too"),
    ],
)
def test_a_date_format_that_means_nothing_is_refused_before_anything_is_copied(
    tmp_path: Path, told: dict[str, Any], reason: str
) -> None:
    home = Home(root=tmp_path, run=tmp_path / "run")
    home.create()
    with pytest.raises(MalformedRequest, match=reason):
        run_registration(home, Settings(), Request(model="m", path="/p", reference="/r", **told), lambda *_: None)
    assert not list((tmp_path / "artifacts").glob("*/*"))
