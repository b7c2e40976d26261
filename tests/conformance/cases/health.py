"""Whether the server, and a model, can answer."""

from __future__ import annotations

from tests.conformance.case import Group
from tests.conformance.target import Target
from tests.conformance.wire import error

health = Group("health")


@health.must("server live is 200 when the server can take requests")
def live_is_200(target: Target) -> None:
    assert target.get("/v2/health/live").status == 200


@health.must("server ready is 200 when all models can answer")
def ready_is_200(target: Target) -> None:
    assert target.get("/v2/health/ready").status == 200


@health.should("the specification has an object with `live`; clients read the status")
def live_says_so_in_json(target: Target) -> None:
    assert target.get("/v2/health/live").ok()["live"] is True


@health.should("an object too; the specification calls its member `live`, which servers read as `ready`")
def ready_says_so_in_json(target: Target) -> None:
    answer = target.get("/v2/health/ready").ok()
    assert answer.get("ready", answer.get("live")) is True


@health.must("model ready is 200 when the model can answer", "identity_fp32")
def a_models_ready_is_200(target: Target) -> None:
    assert target.get("/v2/models/identity_fp32/ready").status == 200


@health.should("the specification has an object with `name` and `ready`; clients read the status", "identity_fp32")
def a_models_ready_names_it_in_json(target: Target) -> None:
    answer = target.get("/v2/models/identity_fp32/ready").ok()
    assert (answer["name"], answer["ready"]) == ("identity_fp32", True)


@health.must("a version that the metadata lists may be named in the URL", "identity_fp32")
def a_versions_ready_is_200(target: Target) -> None:
    if target.version:
        assert target.get(f"/v2/models/identity_fp32/versions/{target.version}/ready").status == 200


@health.must("a model that is not there is not ready")
def an_unknown_models_ready_is_an_error(target: Target) -> None:
    assert target.get("/v2/models/there_is_no_such_model/ready").status >= 400


@health.should("every error of the protocol carries `error`; a model that is not there is one")
def an_unknown_models_ready_has_the_error_form(target: Target) -> None:
    error(target.get("/v2/models/there_is_no_such_model/ready"))


@health.must("a version that is not there is not ready", "identity_fp32")
def an_unknown_versions_ready_is_an_error(target: Target) -> None:
    assert target.get("/v2/models/identity_fp32/versions/987654/ready").status >= 400


@health.should("HTTP: a server that answers GET answers HEAD too, with the same status and no body")
def live_answers_head(target: Target) -> None:
    answer = target.ask("HEAD", "/v2/health/live")
    assert (answer.status, answer.body) == (200, b"")
