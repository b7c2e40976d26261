"""The control port over ASGI: every route of the contract, its errors, its memory of what was asked before."""

from __future__ import annotations

import asyncio
import errno
import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from gateway.control import api
from gateway.control.drifting import DriftView
from gateway.settings import ControlSettings, Settings
from registry.errors import ArtifactRejected
from tests.gateway.control.world import QUICK_PLAN, Worker, World

BASE = "http://127.0.0.1:8081"


class Port:
    """The control port of one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.worker = Worker(world.home.run)
        self.stopping = False
        self.app = api.build(
            world.controller, self.register, self.profile, version="1.2.3", is_stopping=lambda: self.stopping
        )

    def register(self, model: str, body: Mapping[str, Any], actor: str) -> dict[str, Any]:
        if body["path"] == "/bad":
            raise ArtifactRejected("no model there", path="/bad")
        row = self.world.add(str(body["path"]))
        return {"model": model, "version": row.version, "digest": row.digest, "created": True, "actor": actor}

    def profile(self, model: str, version: int, body: Mapping[str, Any], actor: str) -> dict[str, Any]:
        if body.get("reference") == "/bad":
            raise ArtifactRejected("reference /bad: there is no such file")
        row = self.world.catalog.add_profile(model, version, "ab" * 32, source="new.csv", actor=actor)
        return {"number": row.number, "profile": row.sha256, "created": True}

    def talk(self, session: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
        async def run() -> None:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url=BASE) as client:
                await session(client)

        asyncio.run(run())

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        found: list[httpx.Response] = []

        async def session(client: httpx.AsyncClient) -> None:
            found.append(await client.request(method, path, **options))

        self.talk(session)
        return found[0]

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.call("GET", "/api/v1/" + path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        return self.call("POST", "/api/v1/" + path, json={} if body is None else body, **options)


@pytest.fixture
def port(tmp_path: Path) -> Iterator[Port]:
    world = World(tmp_path)
    made = Port(world)
    yield made
    world.close()


@pytest.fixture
def served(port: Port) -> Port:
    port.world.add("one")
    port.world.add("two")
    port.world.champion(1)
    port.world.settle(port.worker)
    return port


def test_a_rollout_from_start_to_rollback(served: Port) -> None:
    assert served.get("models/m/rollout").status_code == 404
    started = served.post("models/m/rollout", {"version": 2, "plan": QUICK_PLAN, "reason": "try it"})
    assert started.status_code == 200, started.text
    document = started.json()
    names = "id model champion candidate state cause step steps weight_pct epoch revision started_at updated_at"
    assert set(names.split()) | {"requests", "guardrails", "reason"} <= set(document)
    assert (document["champion"], document["candidate"], document["state"]) == (1, 2, "warming")
    served.world.settle(served.worker)
    assert served.get("models/m/rollout").json()["state"] == "shadow"
    assert served.post("models/m/rollout/pause").json()["state"] == "hold"
    assert served.post("models/m/rollout/pause").json()["cause"] == "paused"
    assert served.post("models/m/rollout/resume").json()["state"] == "shadow"
    conflict = served.post("models/m/aliases/champion", {"version": 2})
    assert (conflict.status_code, conflict.json()["code"]) == (409, "rollout_active")
    rolled_back = served.post("models/m/rollback", {"reason": "no"}).json()
    assert rolled_back["state"] == "rolled_back"
    assert rolled_back["in_flight"] == 0
    assert served.post("models/m/rollout/abort").status_code == 409
    assert served.get("models/m/rollout").json()["state"] == "rolled_back"
    events = served.get("events?model=m&limit=1000").json()["items"]
    told = [event for event in events if event["type"].startswith("rollout.")]
    assert told[0]["type"] == "rollout.started"
    assert told[0]["actor"] == "local"
    assert told[-1]["type"] == "rollout.rolled_back"
    assert all(event["data"]["sentence"] for event in told)
    assert [event["id"] for event in events] == sorted(event["id"] for event in events)


def test_models_versions_and_aliases_are_listed_page_by_page(served: Port) -> None:
    models = served.get("models").json()["items"]
    assert models[0]["model"] == "m"
    assert models[0]["aliases"] == {"champion": 1}
    assert [row["version"] for row in served.get("models/m").json()["versions"]] == [1, 2]
    first = served.get("models/m/versions?limit=1").json()
    assert ([row["version"] for row in first["items"]], first["next"]) == ([1], 1)
    rest = served.get(f"models/m/versions?after={first['next']}").json()
    assert ([row["version"] for row in rest["items"]], rest["next"]) == ([2], None)
    assert served.get("models/m/versions/2").json()["probe"]["rows_tried"] == 64
    assert served.post("models/m/aliases/stable", {"version": 2, "expected": None}).json()["version"] == 2
    moved = served.post("models/m/aliases/stable", {"version": 1, "expected": 1})
    assert (moved.status_code, moved.json()["code"]) == (409, "alias_moved")
    aliases = {row["alias"]: row for row in served.get("models/m/aliases").json()["items"]}
    assert aliases["stable"]["history"][0]["previous"] is None
    assert served.get("models/m/aliases?at=2020-01-01T00:00:00Z").json()["items"] == []
    assert served.get("models/m/aliases?at=0001-01-01T00:00:00Z").json()["items"] == []
    assert len(served.get("models/m/aliases?at=2999-01-01T00:00:00%2B00:00").json()["items"]) == 2
    assert served.post("models/m/aliases/stable", {"version": None}).json() == {"alias": "stable", "version": None}


def test_registering_answers_201_and_may_move_an_alias(served: Port) -> None:
    answer = served.post("models/m/versions", {"path": "three", "alias": "stable"})
    assert answer.status_code == 201
    assert answer.json()["version"] == 3
    assert answer.json()["actor"] == "local"
    assert served.get("models/m").json()["aliases"]["stable"] == 3
    refused = served.post("models/m/versions", {"path": "/bad"})
    assert (refused.status_code, refused.json()["code"]) == (422, "artifact_rejected")
    assert refused.json()["details"] == {"path": "/bad"}


def test_an_idempotency_key_does_it_once(served: Port) -> None:
    key = {"Idempotency-Key": "k1"}
    first = served.post("models/m/versions", {"path": "three"}, headers=key)
    again = served.post("models/m/versions", {"path": "three"}, headers=key)
    assert (first.status_code, first.json()) == (again.status_code, again.json())
    assert again.headers["idempotency-replayed"] == "true"
    assert [row["version"] for row in served.get("models/m/versions").json()["items"]] == [1, 2, 3]
    other = served.post("models/m/versions", {"path": "four"}, headers=key)
    assert (other.status_code, other.json()["code"]) == (409, "conflict")
    assert served.post("models/m/versions", {"path": "four"}, headers={"Idempotency-Key": ""}).status_code == 400
    served.world.clock.advance(25 * 3600)
    assert served.post("models/m/versions", {"path": "four"}, headers=key).status_code == 201


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "code"),
    [
        ("GET", "/api/v1/nothing", {}, 404, "route_not_found"),
        ("DELETE", "/api/v1/models", {}, 405, "method_not_allowed"),
        ("GET", "/api/v1/models/none", {}, 404, "model_not_found"),
        ("GET", "/api/v1/models/none/rollout", {}, 404, "model_not_found"),
        ("GET", "/api/v1/models/none/drift", {}, 404, "model_not_found"),
        ("GET", "/api/v1/models/m/versions/9", {}, 404, "version_not_found"),
        ("GET", "/api/v1/models/m/versions/latest", {}, 400, "malformed_request"),
        ("GET", "/api/v1/models?limit=0", {}, 400, "malformed_request"),
        ("GET", "/api/v1/events?after=x", {}, 400, "malformed_request"),
        ("GET", "/api/v1/models/m/aliases?at=yesterday", {}, 400, "malformed_request"),
        ("POST", "/api/v1/models/m/rollout", {"content": b"{", "headers": {"content-type": "application/json"}}, 400,
         "malformed_request"),
        ("POST", "/api/v1/models/m/rollout", {"json": []}, 400, "malformed_request"),
        ("POST", "/api/v1/models/m/rollout", {"json": {"version": True}}, 400, "malformed_request"),
        ("POST", "/api/v1/models/m/rollout", {"json": {"version": 9}}, 404, "version_not_found"),
        ("POST", "/api/v1/models/m/rollout", {"json": {"version": 2, "plan": {"kee": 1}}}, 422, "invalid_plan"),
        ("POST", "/api/v1/models/m/rollout", {"json": {"version": 1}}, 409, "illegal_transition"),
        ("POST", "/api/v1/models/none/rollback", {"json": {}}, 404, "model_not_found"),
        ("POST", "/api/v1/models/m/rollback", {"json": {}}, 404, "rollout_not_found"),
        ("POST", "/api/v1/models/m/rollback", {"content": b"x", "headers": {"content-type": "text/plain"}}, 415,
         "unsupported_media"),
        ("POST", "/api/v1/models/m/rollback", {"json": {}, "headers": {"host": "evil.example"}}, 421,
         "misdirected_request"),
        ("POST", "/api/v1/models/m/rollback", {"json": {}, "headers": {"origin": "http://evil.example"}}, 403,
         "forbidden_origin"),
        ("POST", "/api/v1/models/m/aliases/canary", {"json": {"version": 2}}, 409, "illegal_transition"),
        ("POST", "/api/v1/models/m/aliases/7", {"json": {"version": 2}}, 400, "malformed_request"),
        ("POST", "/api/v1/models/m/aliases/a", {"json": {}}, 400, "malformed_request"),
        ("POST", "/api/v1/models/m/feedback", {"json": {"labels": 3}}, 400, "malformed_request"),
        ("POST", "/api/v1/models/m/feedback", {"json": {"labels": [{"request_id": "a"}]}}, 400, "malformed_request"),
        ("POST", "/api/v1/models/m/feedback", {"json": {"labels": [{}] * 10_001}}, 400, "malformed_request"),
        ("POST", "/api/v1/models/m/feedback", {"content": b" " * 5_000_000,
                                               "headers": {"content-type": "application/json"}}, 413,
         "payload_too_large"),
    ],
)  # fmt: skip
def test_every_fault_has_one_shape(
    served: Port, method: str, path: str, options: dict[str, Any], status: int, code: str
) -> None:
    options = {**options, "headers": {"x-request-id": "mine", **options.get("headers", {})}}
    answer = served.call(method, path, **options)
    body = answer.json()
    assert (answer.status_code, body["code"]) == (status, code), answer.text
    assert set(body) == {"error", "code", "details", "request_id"}
    assert isinstance(body["error"], str)
    assert body["request_id"] == answer.headers["x-request-id"] == "mine"


def test_a_bug_answers_500_in_the_same_shape(served: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served.world.catalog, "models", lambda: 1 / 0)
    answer = served.get("models")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert answer.headers["connection"] == "close"


def test_half_a_surrogate_pair_is_refused_and_one_that_is_stored_is_told(served: Port) -> None:
    headers = {"content-type": "application/json"}
    content = b'{"version": 2, "reason": "\\ud800"}'
    answer = served.call("POST", "/api/v1/models/m/rollout", content=content, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")
    whole = served.call("POST", "/api/v1/models/m/rollout", content=content.replace(b"ud800", b"ud83d\\ude00"),
                        headers=headers)  # fmt: skip
    assert whole.status_code == 200
    served.world.catalog.append_event("x", model="m", actor="t", data={"sentence": "\ud800"})
    events = served.get("events?limit=1000")
    assert events.status_code == 200
    assert events.json()["items"][-1]["data"]["sentence"] == "\ud800"


def test_labels_reach_the_monitor(served: Port) -> None:
    labels = [{"request_id": "a", "values": [1.5, None]}, {"request_id": "b", "output": "y", "values": ["cat"]}]
    answer = served.post("models/m/feedback", {"labels": labels})
    assert answer.json() == {"joined": 2, "waiting": 0, "ambiguous": 0, "expired": 0}


def test_events_stream_on_from_the_last_one_seen(served: Port) -> None:
    catalog = served.world.catalog
    first = catalog.append_event("test.one", actor="t")
    second = catalog.append_event("test.two", actor="t", data={"sentence": "Two."})

    async def run() -> str:
        sent: list[bytes] = []
        enough = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await enough.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message.get("body", b""))
            if b"Two." in message.get("body", b""):
                enough.set()

        headers = [(b"host", b"127.0.0.1"), (b"accept", b"text/event-stream"), (b"last-event-id", b"%d" % first)]
        scope = {"type": "http", "method": "GET", "path": "/api/v1/events", "headers": headers, "query_string": b""}
        await asyncio.wait_for(served.app(scope, receive, send), 5)  # type: ignore[arg-type]
        return b"".join(sent).decode()

    text = asyncio.run(run())
    assert "test.one" not in text
    assert f"id: {second}\nevent: test.two\ndata: " in text
    data = json.loads(text.split("data: ")[1].split("\n")[0])
    assert data["id"] == second


def test_health_says_when_the_loop_stopped(served: Port) -> None:
    assert served.call("GET", "/healthz").status_code == 200
    assert served.call("GET", "/readyz").json()["ready"] is True
    served.world.clock.advance(6)
    assert served.call("GET", "/readyz").status_code == 503


def test_the_console_needs_no_script_and_escapes_what_it_shows(served: Port) -> None:
    served.world.catalog.append_event("x", actor="t", data={"sentence": "<script>alert(1)</script>"})
    served.world.catalog.append_event("alias.moved", model="m", version=2, actor="t", data={"alias": "stable"})
    front = served.call("GET", "/")
    assert "m</td>" in front.text
    assert "alias.moved stable → version 2" in front.text
    assert "width=device-width" in front.text
    assert "<script>" not in front.text
    assert "default-src 'none'" in front.headers["content-security-policy"]


def test_the_document_names_every_route_and_each_refusal_that_it_names_is_described(served: Port) -> None:
    described = served.call("GET", "/openapi.json").json()
    assert described["openapi"] == "3.1.0"
    routes = {
        (route.path, method)
        for route in served.app.routes
        if isinstance(route, Route)
        for method in route.methods or {"GET"}
    }
    told = {(path, method.upper()) for path, item in described["paths"].items() for method in item}
    assert {route for route in routes if route[1] != "HEAD"} == told
    for reference in re.findall(r"#/components/(\w+)/(\w+)", json.dumps(described)):
        assert reference[1] in described["components"][reference[0]]


@pytest.mark.parametrize("path", ["/metrics", "/docs", "/docs/page.js", "/openapi.json", "/", "/api/v1/models"])
def test_a_foreign_name_for_this_machine_reads_nothing(served: Port, path: str) -> None:
    assert served.call("GET", path).status_code == 200
    assert served.call("GET", path, headers={"host": "evil.example"}).status_code == 421
    assert served.call("GET", "/healthz", headers={"host": "evil.example"}).status_code == 200


def test_drift_is_cut_to_its_limit(served: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int | None] = []

    class View(DriftView):
        def to_json(self, most: int | None = None) -> dict[str, Any]:
            asked.append(most)
            return super().to_json(most)

    monkeypatch.setattr(served.world.watch, "drift", lambda *_: View())
    assert served.get("models/m/drift").json()["items"] == []
    assert served.get("models/m/drift?limit=2").json()["next"] is None
    assert asked == [None, 2]
    assert served.get("models/m/drift?limit=0").status_code == 400
    assert served.get("models/m/shadow?limit=x").status_code == 400


def test_roles_of_tokens_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("bo viewer fedcba9876543210\nana operator 0123456789abcdef\n")
    world = World(tmp_path / "home", Settings(control=ControlSettings(host="0.0.0.0", token_file=str(file))))
    port = Port(world)
    assert port.get("models").status_code == 401
    bo, ana = ({"authorization": f"Bearer {token}"} for token in ("fedcba9876543210", "0123456789abcdef"))
    assert port.get("models", headers=bo).status_code == 200
    assert port.post("models/m/rollback", headers=bo).status_code == 401
    world.add("one")
    assert port.post("models/m/aliases/champion", {"version": 1}, headers=ana).status_code == 200
    assert [event.actor for event in world.catalog.events() if event.type == "alias.moved"] == ["ana"]
    assert port.call("GET", "/metrics").status_code == 200
    world.close()


def test_a_versions_profiles_are_listed_and_made(served: Port) -> None:
    assert served.get("models/m/versions/1/profiles").json() == {"items": [], "next": None}
    made = served.post("models/m/versions/1/profiles", {"reference": "/new.csv"})
    assert (made.status_code, made.json()["number"]) == (201, 1)
    (item,) = served.get("models/m/versions/1/profiles").json()["items"]
    assert (item["number"], item["profile"], item["source"]) == (1, "ab" * 32, "new.csv")
    refused = served.post("models/m/versions/1/profiles", {"reference": "/bad"})
    assert (refused.status_code, refused.json()["code"]) == (422, "artifact_rejected")
    assert served.post("models/m/versions/9/profiles", {"reference": "/new.csv"}).status_code == 404
    assert served.get("models/none/versions/1/profiles").status_code == 404


@pytest.mark.parametrize(
    ("fault", "status", "code", "wait"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/run"), 503, "storage_failed", "5"),
        (OSError(errno.EROFS, "Read-only file system"), 503, "storage_failed", "5"),
        (OSError(errno.ENOENT, "No such file or directory"), 500, "internal_error", None),
    ],
)
def test_a_full_disk_is_no_bug(
    served: Port, monkeypatch: pytest.MonkeyPatch, fault: OSError, status: int, code: str, wait: str | None
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise fault

    with monkeypatch.context() as broken:
        broken.setattr(served.world.catalog, "set_alias", refuse)
        answer = served.post("models/m/aliases/stable", {"version": 1})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers.get("retry-after") == wait
    assert served.post("models/m/aliases/stable", {"version": 1}).status_code == 200
