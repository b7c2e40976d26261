"""Triton's model repository, configuration and statistics extensions, as dashboards and perf_analyzer use them."""

from __future__ import annotations

import time
from typing import Any

from tests.conformance.case import Group
from tests.conformance.target import JSON, Target
from tests.conformance.wire import callers_error, error, fp32, request

index = Group("repository", "repository")
config = Group("repository", "config", needs=["add_sub"])
statistics = Group("repository", "statistics", needs=["identity_fp32"])


def _index(target: Target, body: Any) -> list[dict[str, Any]]:
    answer = target.ask("POST", "/v2/repository/index", body)
    assert answer.status == 200, f"{answer.status}: {answer.body[:200]!r}"
    listed = answer.json()
    assert isinstance(listed, list), listed
    return listed


@index.must("a list of objects with a name and, where there are any, version, state and reason", "identity_fp32")
def the_index_lists_models(target: Target) -> None:
    listed = _index(target, {})
    assert {"identity_fp32"} <= {model["name"] for model in listed}
    for model in listed:
        assert all(isinstance(model.get(key, ""), str) for key in ("name", "version", "state", "reason")), model


@index.should("a model that answers is READY", "identity_fp32")
def a_model_that_answers_is_ready_in_the_index(target: Target) -> None:
    assert "READY" in {model.get("state") for model in _index(target, {}) if model["name"] == "identity_fp32"}


@index.must("with `ready` only models that can answer are listed", "identity_fp32")
def the_index_may_be_of_ready_models_only(target: Target) -> None:
    listed = _index(target, {"ready": True})
    assert {"identity_fp32"} <= {model["name"] for model in listed}
    assert {model.get("state", "READY") for model in listed} == {"READY"}


@index.should("clients send no body at all", "identity_fp32")
def the_index_needs_no_body(target: Target) -> None:
    assert {"identity_fp32"} <= {model["name"] for model in _index(target, b"")}


@index.should("`ready` is a boolean")
def a_ready_that_is_no_boolean_is_refused(target: Target) -> None:
    callers_error(target.ask("POST", "/v2/repository/index", {"ready": "yes"}))


@index.must("no stack may run out")
def an_index_request_nested_250000_deep_is_refused(target: Target) -> None:
    body = b'{"ready":' + b"[" * 250_000 + b"true" + b"]" * 250_000 + b"}"
    assert target.ask("POST", "/v2/repository/index", body, JSON, timeout_s=60).status >= 400
    assert target.is_live()


@index.must("a model that is not there cannot be loaded; a server that loads nothing on request says that")
def loading_an_unknown_model_is_an_error(target: Target) -> None:
    error(target.ask("POST", "/v2/repository/models/there_is_no_such_model/load", {}))


@index.must("names are names and no paths")
def loading_a_name_that_climbs_is_an_error(target: Target) -> None:
    assert target.ask("POST", "/v2/repository/models/..%2F..%2Fetc/load", {}).status >= 400
    assert target.is_live()


@index.must("a load with a file of a name that no disk takes is survived", "identity_fp32")
def loading_a_file_of_a_very_long_name_does_no_harm(target: Target) -> None:
    body = {"parameters": {"file:" + "A" * 300: "YQ==", "config": "{}"}}
    target.ask("POST", "/v2/repository/models/identity_fp32/load", body)
    assert target.get("/v2/health/ready").status == 200
    assert target.is_well()


@config.must("an object in the form of Triton's model configuration: name, max_batch_size, input, output")
def a_model_has_a_configuration(target: Target) -> None:
    answer = target.get("/v2/models/add_sub/config").ok()
    assert answer["name"] == "add_sub"
    assert isinstance(answer["max_batch_size"], int)
    assert [tensor["name"] for tensor in answer["input"]] == ["INPUT0", "INPUT1"]
    assert [tensor["name"] for tensor in answer["output"]] == ["OUTPUT0", "OUTPUT1"]


@config.must("types are spelled TYPE_…, and the axis of rows is left out where max_batch_size counts it")
def a_configuration_has_types_and_axes(target: Target) -> None:
    answer = target.get("/v2/models/add_sub/config").ok()
    rows = 1 if answer["max_batch_size"] > 0 else 0
    for tensor in (*answer["input"], *answer["output"]):
        assert tensor["data_type"] == "TYPE_INT32"
        assert [int(axis) for axis in tensor["dims"]] == [-1, 16][rows:], tensor


@config.should("TYPE_STRING is what BYTES are called there", "identity_bytes")
def bytes_are_strings_in_a_configuration(target: Target) -> None:
    (tensor,) = target.get("/v2/models/identity_bytes/config").ok()["input"]
    assert tensor["data_type"] == "TYPE_STRING"


@config.must("a model that is not there has none")
def an_unknown_models_configuration_is_an_error(target: Target) -> None:
    error(target.get("/v2/models/there_is_no_such_model/config"))


def _statistics(target: Target, path: str) -> dict[str, dict[str, Any]]:
    return {model["name"]: model for model in target.get(path).ok()["model_stats"]}


OF_MODEL = "/v2/models/identity_fp32/stats"


@statistics.must("counts and times of a model: inference_count, execution_count, inference_stats, batch_stats")
def a_model_has_statistics(target: Target) -> None:
    target.infer("identity_fp32", request(fp32([1.0]))).ok()
    model = _statistics(target, OF_MODEL)["identity_fp32"]
    assert isinstance(model["version"], str)
    assert model["inference_count"] >= 1
    assert model["execution_count"] >= 1
    for phase in ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output"):
        assert {"count", "ns"} <= set(model["inference_stats"][phase]), phase
    assert isinstance(model["batch_stats"], list)


@statistics.should("last_inference, where it is told, is in milliseconds since 1970")
def the_time_of_the_last_request_is_told_in_milliseconds(target: Target) -> None:
    target.infer("identity_fp32", request(fp32([1.0]))).ok()
    said = _statistics(target, OF_MODEL)["identity_fp32"].get("last_inference")
    assert said is None or abs(said / 1000 - time.time()) < 600


@statistics.must("a request that was answered is counted, once")
def an_answer_is_counted_once(target: Target) -> None:
    before = _statistics(target, OF_MODEL)["identity_fp32"]["inference_stats"]["success"]
    for _ in range(3):
        target.infer("identity_fp32", request(fp32([1.0]))).ok()
    after = _statistics(target, OF_MODEL)["identity_fp32"]["inference_stats"]["success"]
    assert after["count"] == before["count"] + 3
    assert after["ns"] > before["ns"]


@statistics.must("without a name they are of all models")
def statistics_of_all_models(target: Target) -> None:
    assert {"identity_fp32"} <= set(_statistics(target, "/v2/models/stats"))


@statistics.must("a model that is not there has none")
def an_unknown_models_statistics_are_an_error(target: Target) -> None:
    error(target.get("/v2/models/there_is_no_such_model/stats"))
