"""What the server and its models say of themselves."""

from __future__ import annotations

from typing import Any

from tests.conformance.case import Group
from tests.conformance.models import MODELS, Tensor
from tests.conformance.target import Target
from tests.conformance.wire import error

metadata = Group("metadata")


@metadata.must("the object has `name` and `version`, strings, and `extensions`, a list of strings")
def the_server_says_its_name_version_and_extensions(target: Target) -> None:
    answer = target.get("/v2").ok()
    assert isinstance(answer["name"], str)
    assert isinstance(answer["version"], str)
    assert answer["name"]
    assert isinstance(answer["extensions"], list)
    assert all(isinstance(name, str) for name in answer["extensions"])


@metadata.must("answers of the protocol are JSON and say so")
def the_servers_metadata_is_declared_as_json(target: Target) -> None:
    answer = target.get("/v2")
    assert answer.status == 200
    assert answer.headers["content-type"].split(";")[0].strip().lower() == "application/json"


@metadata.should("clients join URLs; both spellings are seen in the wild")
def a_slash_after_v2_changes_nothing(target: Target) -> None:
    assert target.get("/v2/").ok() == target.get("/v2").ok()


def _announces(*names: str) -> Any:
    def run(target: Target) -> None:
        extensions = target.get("/v2").ok()["extensions"]
        missing = [name for name in names if name not in extensions]
        assert not missing, f"{missing} not in {extensions}"

    return run


for name, feature in (
    ("binary_tensor_data", "binary"), ("model_repository", "repository"), ("model_configuration", "config"),
    ("statistics", "statistics"),
):  # fmt: skip
    metadata.add(
        "SHOULD", f"the_extension_{name}_is_announced", "clients look for the extension's name before they use it",
        _announces(name), features=[feature],
    )  # fmt: skip


def _of(target: Target, model: str) -> dict[str, Any]:
    return target.get(f"/v2/models/{model}").ok()


@metadata.must("the object has `name`, `platform`, `inputs` and `outputs`", "identity_fp32")
def a_model_says_its_name_platform_inputs_and_outputs(target: Target) -> None:
    answer = _of(target, "identity_fp32")
    assert answer["name"] == "identity_fp32"
    assert isinstance(answer["platform"], str)
    assert isinstance(answer["inputs"], list)
    assert isinstance(answer["outputs"], list)


@metadata.must("`versions`, where there are any, is a list of strings", "identity_fp32")
def versions_are_strings(target: Target) -> None:
    versions = _of(target, "identity_fp32").get("versions") or []
    assert isinstance(versions, list)
    assert all(isinstance(version, str) for version in versions)


@metadata.must("a version that `versions` lists may be named in the URL", "identity_fp32")
def a_listed_version_has_metadata(target: Target) -> None:
    if target.version:
        answer = target.get(f"/v2/models/identity_fp32/versions/{target.version}").ok()
        assert answer["name"] == "identity_fp32"


def _tensors(declared: tuple[Tensor, ...]) -> list[dict[str, Any]]:
    return [{"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)} for tensor in declared]


def _declares(model: str) -> Any:
    def run(target: Target) -> None:
        answer = _of(target, model)
        for side, declared in (("inputs", MODELS[model].inputs), ("outputs", MODELS[model].outputs)):
            got = [{key: tensor[key] for key in ("name", "datatype", "shape")} for tensor in answer[side]]
            assert sorted(map(str, got)) == sorted(map(str, _tensors(declared))), (side, got)

    return run


for each in MODELS:
    metadata.add(
        "MUST", f"{each}_declares_its_tensors_with_minus_one_for_any_length",
        "a tensor's metadata has name, datatype and shape; a free axis is -1", _declares(each), needs=[each],
    )  # fmt: skip


@metadata.should("callers fill inputs in the order of the metadata", "add_sub")
def inputs_and_outputs_are_in_the_models_order(target: Target) -> None:
    answer = _of(target, "add_sub")
    assert [tensor["name"] for tensor in answer["inputs"]] == ["INPUT0", "INPUT1"]
    assert [tensor["name"] for tensor in answer["outputs"]] == ["OUTPUT0", "OUTPUT1"]


@metadata.must("a failed request has an error status and `error`")
def an_unknown_model_is_an_error_with_its_form(target: Target) -> None:
    error(target.get("/v2/models/there_is_no_such_model"))


@metadata.should("a name that is not there is 404 in HTTP")
def an_unknown_model_is_404(target: Target) -> None:
    assert target.get("/v2/models/there_is_no_such_model").status == 404


@metadata.must("a failed request has an error status and `error`", "identity_fp32")
def an_unknown_version_is_an_error_with_its_form(target: Target) -> None:
    error(target.get("/v2/models/identity_fp32/versions/987654"))


@metadata.should("HTTP: percent-encoded letters are the letters", "identity_fp32")
def a_percent_encoded_name_is_the_name(target: Target) -> None:
    assert target.get("/v2/models/identity%5Ffp32").ok()["name"] == "identity_fp32"
