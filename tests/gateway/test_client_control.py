"""The control port's client: the server's errors come back as the classes that they were."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from gateway.client_control import ControlClient, find_server, name_in_path, require_server
from registry.errors import Fault, ModelNotFound, RolloutActive, ServerNotFound
from registry.home import Home


def client(answer: httpx.Response | Exception, seen: list[httpx.Request] | None = None) -> ControlClient:
    def handle(request: httpx.Request) -> httpx.Response:
        if seen is not None:
            seen.append(request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return ControlClient("http://x", token="t", transport=httpx.MockTransport(handle))


def test_an_error_is_raised_as_the_class_that_the_server_raised() -> None:
    body = {"error": "no model 'x'", "code": "model_not_found", "details": {"near": ["y"]}, "request_id": "1"}
    with pytest.raises(ModelNotFound, match="no model 'x'") as caught:
        client(httpx.Response(404, json=body)).get("models/x")
    assert caught.value.details == {"near": ["y"]}
    with pytest.raises(RolloutActive):
        client(httpx.Response(409, json={"error": "a", "code": "rollout_active"})).post("models/x/rollout")


@pytest.mark.parametrize("answer", [httpx.Response(502, text="<html>"), httpx.Response(500, json={"error": 3})])
def test_an_answer_in_another_shape_is_a_fault_that_shows_it(answer: httpx.Response) -> None:
    with pytest.raises(Fault, match="50"):
        client(answer).get("models")


@pytest.mark.parametrize("fault", [httpx.ConnectError("refused"), httpx.ReadTimeout("slow")])
def test_a_server_that_does_not_answer_is_told_by_its_address(fault: Exception) -> None:
    with pytest.raises(ServerNotFound, match="http://x"):
        client(fault).get("models")


def test_a_post_carries_a_new_idempotency_key_the_token_and_json() -> None:
    seen: list[httpx.Request] = []
    with client(httpx.Response(200, json={}), seen) as control:
        control.post("models/m/rollout", {"version": 2})
        control.post("models/m/rollout/pause")
    assert seen[0].headers["idempotency-key"] != seen[1].headers["idempotency-key"]
    assert seen[0].headers["authorization"] == "Bearer t"
    assert seen[0].headers["content-type"] == "application/json"
    assert json.loads(seen[0].content) == {"version": 2}
    assert seen[1].url.path == "/api/v1/models/m/rollout/pause"


def test_items_follow_the_pages_of_a_list() -> None:
    pages = {None: {"items": [1, 2], "next": "2"}, "2": {"items": [3], "next": None}}

    def handle(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=pages[request.url.params.get("after")])

    with ControlClient("http://x", transport=httpx.MockTransport(handle)) as control:
        assert list(control.items("models")) == [1, 2, 3]


def test_a_name_stays_one_segment_of_a_path() -> None:
    assert name_in_path("a/../b?c") == "a%2F..%2Fb%3Fc"


def test_without_a_held_lock_there_is_no_server(tmp_path: Path) -> None:
    home = Home(root=tmp_path, run=tmp_path / "run")
    assert find_server(home, {}) is None
    home.lock.write_text('{"pid": 1, "control_url": "http://x", "data_url": "", "run_dir": "", "boot_id": ""}')
    with pytest.raises(ServerNotFound, match="driftgate serve"):
        require_server(home, {})
