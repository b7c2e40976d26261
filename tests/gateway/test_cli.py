"""The command line as users and scripts meet it: exit codes, --json, --home anywhere, errors, two ways to work."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import home_first, run
from gateway.serve_lock import hold_lock
from registry.catalog import Catalog
from registry.home import Home
from tests.support import models as tiny

ROLLOUT: dict[str, Any] = {
    "id": "r1",
    "model": "m",
    "champion": 1,
    "candidate": 2,
    "state": "canary",
    "cause": None,
    "step": 1,
    "steps": 3,
    "weight_pct": 5.0,
    "epoch": 17,
    "revision": 9,
    "started_at": "2026-01-31T12:00:00.000000Z",
    "updated_at": "2026-01-31T12:00:01.000000Z",
    "requests": {"champion": 10, "canary": 2, "shadow": 3},
    "guardrails": [
        {
            "name": "errors",
            "verdict": "unknown",
            "cause": "not_enough",
            "evidence_log10": 0.5,
            "limit_log10": 3.4,
            "promotion_evidence_log10": 0.1,
            "promotion_limit_log10": 1.3,
            "champion": {"events": 0, "requests": 10},
            "canary": {"events": 1, "requests": 2},
            "sentence": "",
        },
        {
            "name": "output_drift",
            "verdict": "pass",
            "cause": None,
            "evidence_log10": None,
            "limit_log10": None,
            "promotion_evidence_log10": None,
            "promotion_limit_log10": None,
            "champion": {"events": 0, "requests": 0},
            "canary": {"events": 0, "requests": 0},
            "sentence": "",
        },
    ],
    "reason": "step 2 of 3",
}


@dataclass
class FakeControl:
    """A control port that answers what a test says, and remembers what it was asked."""

    url: str = ""
    answers: dict[tuple[str, str], tuple[int, Any]] = field(default_factory=dict)
    asked: list[tuple[str, str, Any]] = field(default_factory=list)


@pytest.fixture
def control(tmp_path: Path) -> Iterator[FakeControl]:
    """Served for the state folder tmp_path/home, whose lock is held as a running server holds it."""
    fake = FakeControl()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer("GET", None)

        def do_POST(self) -> None:
            self._answer("POST", json.loads(self.rfile.read(int(self.headers["content-length"])) or b"{}"))

        def _answer(self, method: str, body: Any) -> None:
            fake.asked.append((method, self.path, body))
            absent = (404, {"error": f"no route {self.path}", "code": "route_not_found", "details": {}})
            status, document = fake.answers.get((method, self.path.split("?")[0]), absent)
            content = document.encode() if isinstance(document, str) else json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    home = Home(root=tmp_path / "home", run=tmp_path / "home" / "run")
    home.create()
    try:
        with hold_lock(home):
            home.lock.write_text(
                json.dumps({"pid": 1, "control_url": fake.url, "data_url": fake.url, "run_dir": "", "boot_id": "b"})
            )
            yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def answer_of(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


# -- what all commands share -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [["--help"], *([name, "--help"] for name in ("serve", "register", "models", "alias", "rollback", "drift"))]
    + [["rollout", name, "--help"] for name in ("start", "status", "pause", "resume", "promote", "abort")]
    + [["demo", "--help"], ["settings", "-h"], ["doctor", "-h"]],
)
def test_every_command_has_help_with_an_example(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 0
    shown = capsys.readouterr().out
    assert "Example" in shown or "Begin with" in shown


@pytest.mark.parametrize(
    "words", [["frobnicate"], ["alias", "m"], ["serve", "--port", "x"], ["models", "--frob"], ["rollout", "fly", "m"]]
)
def test_a_wrong_word_is_a_usage_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "words",
    [["--home", "H", "models", "--json"], ["models", "--home", "H", "--json"], ["models", "--json", "--home=H"]],
)
def test_home_is_understood_before_and_after_the_command(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.replace("H", str(tmp_path)) if "H" in word else word for word in words]
    assert run(words) == 0
    assert answer_of(capsys) == {"items": []}


def test_words_after_two_dashes_are_left_alone() -> None:
    assert home_first(["models", "--", "--home", "x"]) == ["models", "--", "--home", "x"]
    assert home_first(["models", "--home"]) == ["models", "--home"]


def test_without_a_state_folder_a_command_says_where_it_looked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "--home", str(tmp_path / "none"), "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["code"] == "invalid_setting"
    assert str(tmp_path / "none") in captured.err
    assert not (tmp_path / "none").exists()


def test_without_a_server_a_rollout_says_how_to_start_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["rollout", "status", "m", "--home", str(tmp_path), "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["code"] == "server_not_found"
    assert "driftgate serve" in captured.err


def test_settings_tell_value_and_origin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFTGATE_GATEWAY__WORKERS", "2")
    (tmp_path / "driftgate.toml").write_text("[gateway]\nport = 9000\n")
    assert run(["settings", "--home", str(tmp_path), "--json"]) == 0
    rows = {row["name"]: row for row in answer_of(capsys)["settings"]}
    assert (rows["gateway.workers"]["value"], rows["gateway.workers"]["origin"]) == (2, "environment")
    assert (rows["gateway.port"]["value"], rows["gateway.port"]["origin"]) == (9000, str(tmp_path / "driftgate.toml"))
    assert rows["gateway.host"]["origin"] == "default"
    assert run(["settings", "--home", str(tmp_path)]) == 0
    assert "9000" in capsys.readouterr().out


@pytest.mark.parametrize("url", ["postgresql://ann:hush@db/x", "postgresql+psycopg://:hush@db", "p://db?PASSWORD=hush"])
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_settings_keep_the_password_of_the_database(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, url: str, more: list[str]
) -> None:
    monkeypatch.setenv("DRIFTGATE_REGISTRY__DATABASE_URL", url)
    assert run(["settings", *more, "--home", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "***" in shown
    assert "hush" not in shown


def test_a_wrong_settings_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "driftgate.toml").write_text("[gateway]\nprot = 9000\n")
    assert run(["serve", "--home", str(tmp_path)]) == 1
    assert "did you mean gateway.port?" in capsys.readouterr().err


def test_the_children_of_a_server_start_without_the_command_line() -> None:
    """A worker must not pay for typer, rich or pandas: a fresh interpreter tells what the entry imports."""
    code = (
        "import sys; import driftgate.__main__; import gateway.settings_load; "
        "print([m for m in ('typer', 'rich', 'httpx', 'numpy', 'pandas', 'sqlalchemy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- the registry, without a server ------------------------------------------------------------------------------------


def test_a_model_is_registered_listed_and_named_without_a_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ["--home", str(tmp_path / "home")]
    path = tiny.linear(tmp_path / "m.onnx")
    (tmp_path / "ref.csv").write_text("a,b,c,label\n" + "".join(f"{n}.5,{n % 7},{n % 3},1\n" for n in range(64)))
    words = ["register", "m", str(path), "--reference", str(tmp_path / "ref.csv"), "--target", "label"]
    assert run([*words, "--tag", "team=x", "--alias", "champion", "--json", *home]) == 0
    first = answer_of(capsys)
    assert (first["version"], first["created"], first["tags"], first["alias"]) == (1, True, {"team": "x"}, "champion")
    assert first["has_reference"]

    assert run([*words, "--json", *home]) == 0
    assert answer_of(capsys)["created"] is False

    assert run(["models", "--json", *home]) == 0
    (row,) = answer_of(capsys)["items"]
    assert (row["model"], row["version_count"], row["aliases"]) == ("m", 1, {"champion": 1})

    assert run(["alias", "m", "stable", "v1", "--json", *home]) == 0
    assert answer_of(capsys)["version"] == 1
    assert run(["alias", "m", "canary", "1", "--json", *home]) == 1
    assert answer_of(capsys)["code"] == "illegal_transition"
    assert run(["alias", "m", "stable", "two", "--json", *home]) == 2
    assert "is not a version" in answer_of(capsys)["error"]

    assert run(["models", "m", *home]) == 0
    shown = capsys.readouterr().out
    assert "champion" in shown
    assert "team=x" in shown
    assert run(["models", "other", "--json", *home]) == 1
    assert answer_of(capsys)["code"] == "model_not_found"


def test_a_champion_moved_without_a_server_is_a_rollout_in_the_history(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ["--home", str(tmp_path / "home")]

    def rollouts() -> list[tuple[int, int, str]]:
        catalog = Catalog.open(f"sqlite:///{tmp_path / 'home' / 'registry.db'}")
        try:
            found = [row for event in catalog.events() if (row := event.data.get("rollout")) is not None]
            documents = [catalog.rollout(identity) for identity in found]
        finally:
            catalog.close()
        return [(row["champion"], row["candidate"], row["state"]) for row in documents]

    for seed in (1, 2):
        path = tiny.linear(tmp_path / f"{seed}.onnx", seed=seed)
        assert run(["register", "m", str(path), "--alias", "champion", *home]) == 0
        assert rollouts() == [(1, 2, "succeeded")] * (seed - 1)
    assert run(["alias", "m", "champion", "1", *home]) == 0
    assert run(["alias", "m", "champion", "1", *home]) == 0
    assert run(["alias", "m", "stable", "2", *home]) == 0
    assert rollouts() == [(1, 2, "succeeded"), (2, 1, "succeeded")]
    capsys.readouterr()


def test_a_file_that_is_no_model_is_refused_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    assert run(["register", "m", str(tmp_path / "bad.onnx"), "--json", "--home", str(tmp_path / "home")]) == 1
    assert answer_of(capsys)["code"] == "artifact_rejected"


def test_a_tag_without_a_value_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["register", "m", "x.onnx", "--tag", "team", "--json", "--home", str(tmp_path)]) == 2
    assert "KEY=VALUE" in answer_of(capsys)["error"]


def test_an_alias_that_cannot_be_given_is_refused_before_a_version_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = ["--home", str(tmp_path / "home")]
    path = str(tiny.linear(tmp_path / "m.onnx"))
    for alias, code in (("canary", "illegal_transition"), ("Bad", "malformed_request"), ("7", "malformed_request")):
        assert run(["register", "m", path, "--alias", alias, "--json", *home]) == 1
        assert answer_of(capsys)["code"] == code
    running = {"id": "r1", "state": "canary"}
    monkeypatch.setattr(Catalog, "active_rollouts", lambda _self, _model=None: [running])
    assert run(["register", "m", path, "--alias", "champion", "--json", *home]) == 1
    assert answer_of(capsys)["code"] == "rollout_active"
    monkeypatch.undo()
    assert run(["models", "--json", *home]) == 0
    assert answer_of(capsys)["items"] == []


def test_what_the_system_refuses_is_told_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    words = ["register", "m", str(tiny.linear(tmp_path / "m.onnx")), "--json"]
    assert run([*words, "--home", str(tmp_path / "file")]) == 1
    found = answer_of(capsys)
    assert found["code"] == "invalid_setting"
    assert "File exists" in found["error"]
    assert run([*words, "--home", "x" * 3000]) == 1
    assert "File name too long" in answer_of(capsys)["error"]
    assert run(["models", "--json", "--home", "x" * 3000]) == 1
    assert answer_of(capsys)["error"]
    assert run(["register", "m", "x" * 3000, "--json", "--home", str(tmp_path / "home")]) == 1
    assert answer_of(capsys)["code"] == "artifact_rejected"

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "/disk")

    monkeypatch.setattr("registry.register.find_source", full)
    assert run([*words, "--home", str(tmp_path / "home")]) == 1
    found = answer_of(capsys)
    assert (found["code"], found["error"]) == (
        "storage_failed",
        "this cannot be stored now: /disk: No space left on device",
    )


# -- through a server --------------------------------------------------------------------------------------------------


def test_with_a_server_models_and_aliases_go_through_its_control_port(
    control: FakeControl, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"model": "m", "created_at": "", "version_count": 2, "latest": 2, "aliases": {"champion": 1}, "rollout": None}
    control.answers["GET", "/api/v1/models"] = (200, {"items": [row], "next": None})
    control.answers["POST", "/api/v1/models/m/aliases/stable"] = (200, {"alias": "stable", "version": 2})
    home = ["--home", str(tmp_path / "home")]
    assert run(["models", "--json", *home]) == 0
    assert answer_of(capsys) == {"items": [row]}
    assert run(["alias", "m", "stable", "2", "--reason", "why", "--json", *home]) == 0
    assert control.asked[-1] == ("POST", "/api/v1/models/m/aliases/stable", {"version": 2, "reason": "why"})


def test_with_a_server_a_model_is_registered_by_it_with_paths_that_it_can_read(
    control: FakeControl, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = {"version": 3, "created": True, "digest": "d", "warnings": ["w"], "run": "unproven", "alias": "champion"}
    control.answers["POST", "/api/v1/models/m/versions"] = (201, answer)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "o.toml").write_text("max_batch_rows = 8\n")
    words = ["register", "m", "model.onnx", "--reference", "ref.csv", "--columns", "a, b", "--options", "o.toml"]
    assert run([*words, "--alias", "champion", "--new-version", "--home", str(tmp_path / "home")]) == 0
    body = control.asked[-1][2]
    assert body == {
        "path": str(tmp_path / "model.onnx"),
        "reference": str(tmp_path / "ref.csv"),
        "columns": ["a", "b"],
        "options": {"max_batch_rows": 8},
        "new_version": True,
        "alias": "champion",
    }
    shown = capsys.readouterr().out
    assert "version 3" in shown
    assert "unproven" in shown


def test_with_a_server_a_profile_is_made_by_it(
    control: FakeControl, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    column = {"name": "age", "kind": "input", "type": "integer", "bins": 18, "rows": 200, "missing": 10}
    dependence = {"design_effect": 3.5, "block_rows": 512, "levelled": False, "season_h": [24.0]}
    answer = {
        "model": "m",
        "version": 2,
        "number": 3,
        "profile": "ab" * 32,
        "source": "ref.csv",
        "rows": 200,
        "ordered": True,
        "since": "2026-03-01T00:00:00.000000Z",
        "until": "2026-03-31T23:59:59.000000Z",
        "created": True,
        "columns": [{**column, **dependence}],
        "warnings": ["w"],
    }
    control.answers["POST", "/api/v1/models/m/versions/2/profiles"] = (201, answer)
    monkeypatch.chdir(tmp_path)
    home = ["--home", str(tmp_path / "home")]
    told = ["--reference", "ref.csv", "--by-time", "at", "--date-format", "day-first"]
    assert run(["profile", "m:2", *told, *home]) == 0
    assert control.asked[-1][2] == {
        "reference": str(tmp_path / "ref.csv"),
        "by_time": "at",
        "date_format": "day-first",
    }
    shown = capsys.readouterr().out
    assert "profile 3, 200 rows of ref.csv" in shown
    assert "from 2026-03-01 00:00:00Z to 2026-03-31 23:59:59Z" in shown
    assert [cell.strip() for cell in next(line for line in shown.splitlines() if "age" in line).split("│")[1:-1]] == [
        *("age", "input", "integer", "18", "5.0%", "3.5", "> 512", "24 h"),
    ]
    assert run(["profile", "m:2", "--from-traffic", "24h", "--json", *home]) == 0
    assert control.asked[-1][2] == {"from_traffic": "86400s"}
    assert run(["profile", "m", "--from-traffic", "24h", *home]) == 2
    assert run(["profile", "m:2", *home]) == 1


def test_rollout_start_says_what_to_expect_and_sends_the_whole_plan(
    control: FakeControl, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.cli_rollout._RATE_WINDOW_S", 0.0)
    control.answers["GET", "/metrics"] = (200, 'driftgate_requests_total{model="m",role="champion"} 3\n')
    control.answers["GET", "/readyz"] = (200, {"workers": 2})
    control.answers["POST", "/api/v1/models/m/rollout"] = (200, ROLLOUT)
    plan = tmp_path / "plan.toml"
    plan.write_text("burn_in_requests = 7\n")
    home = ["--home", str(tmp_path / "home")]
    assert run(["rollout", "start", "m", "2", "--plan", str(plan), "--reason", "why", *home]) == 0
    captured = capsys.readouterr()
    assert "An identical canary is promoted within" in captured.err
    assert "5 %" in captured.out
    _method, _path, body = control.asked[-1]
    assert (body["version"], body["plan"]["burn_in_requests"], body["reason"]) == (2, 7, "why")


@pytest.mark.parametrize("text", ["burn_in = 3\n", "[[step]\n"])
def test_a_plan_that_cannot_be_followed_is_refused_before_anything_is_asked(
    control: FakeControl, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(text)
    assert run(["rollout", "start", "m", "2", "--plan", str(plan), "--json", "--home", str(tmp_path / "home")]) == 1
    assert answer_of(capsys)["code"] == "invalid_plan"
    assert control.asked == []


def test_rollout_status_shows_each_guardrail_and_gives_the_contracts_object_as_json(
    control: FakeControl, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    control.answers["GET", "/api/v1/models/m/rollout"] = (200, ROLLOUT)
    home = ["--home", str(tmp_path / "home")]
    assert run(["rollout", "status", "m", "--json", *home]) == 0
    assert answer_of(capsys) == ROLLOUT
    assert run(["rollout", "status", "m", *home]) == 0
    shown = capsys.readouterr().out
    assert "step 2 of 3" in shown
    assert "0.5 of 3.4" in shown
    assert "not_enough" in shown


def test_rollout_status_waits_until_the_rollout_has_decided_and_no_longer_than_told(
    control: FakeControl, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.cli_rollout._POLL_S", 0.01)
    path = ("GET", "/api/v1/models/m/rollout")
    control.answers[path] = (200, ROLLOUT)
    command = ["rollout", "status", "m", "--json", "--home", str(tmp_path / "home"), "--wait"]
    assert run([*command, "0.05"]) == 0
    assert answer_of(capsys)["state"] == ROLLOUT["state"]
    assert len(control.asked) > 1
    later = threading.Timer(0.1, lambda: control.answers.update({path: (200, {**ROLLOUT, "state": "rolled_back"})}))
    later.start()
    assert run([*command, "60"]) == 0
    assert answer_of(capsys)["state"] == "rolled_back"
    later.join()


@pytest.mark.parametrize("verb", ["pause", "resume", "promote", "abort"])
def test_an_operators_word_is_sent_with_its_reason(
    control: FakeControl, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    control.answers["POST", f"/api/v1/models/m/rollout/{verb}"] = (200, ROLLOUT)
    assert run(["rollout", verb, "m", "--reason", "why", "--json", "--home", str(tmp_path / "home")]) == 0
    assert answer_of(capsys)["id"] == "r1"
    assert control.asked[-1][2] == {"reason": "why"}


def test_rollback_tells_how_many_requests_were_in_flight(
    control: FakeControl, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = {**ROLLOUT, "state": "rolled_back", "weight_pct": 0.0, "in_flight": 4}
    control.answers["POST", "/api/v1/models/m/rollback"] = (200, answer)
    assert run(["rollback", "m", "--home", str(tmp_path / "home")]) == 0
    assert "4 requests were in flight" in capsys.readouterr().out


def test_a_refusal_of_the_server_is_the_commands_refusal(
    control: FakeControl, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refusal = {"error": "a rollout is running", "code": "rollout_active", "details": {"rollout": "r1"}}
    control.answers["POST", "/api/v1/models/m/aliases/champion"] = (409, refusal)
    assert run(["alias", "m", "champion", "2", "--json", "--home", str(tmp_path / "home")]) == 1
    assert answer_of(capsys) == refusal


def test_drift_shows_the_worst_first(control: FakeControl, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def item(feature: str, value: float | None) -> dict[str, Any]:
        shared = {"kind": "input", "statistic": "psi", "threshold": 0.1, "rows": 500, "window": "5m", "profile": "p"}
        return {"feature": feature, "value": value, "verdict": "breach", "cause": None, **shared}

    items = [item("calm", 0.01), item("unknown", None), item("wild", 3.0)]
    control.answers["GET", "/api/v1/models/m/drift"] = (200, {"items": items, "next": None})
    home = ["--home", str(tmp_path / "home")]
    assert run(["drift", "m", "--window", "5m", "--json", *home]) == 0
    assert [row["feature"] for row in answer_of(capsys)["items"]] == ["wild", "calm", "unknown"]
    assert control.asked[-1][1].endswith("?window=5m")
    assert run(["drift", "m", *home]) == 0
    shown = capsys.readouterr().out
    assert shown.index("wild") < shown.index("calm")


def test_changes_in_scores_are_told_as_what_they_are(
    control: FakeControl, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stream(output: str, adwin: int, last: str | None) -> dict[str, Any]:
        shared = {"version": 2, "role": "canary", "stream": "value", "rows": 9000, "skipped": 0, "mean": 1.25}
        changes = [
            {"detector": "adwin", "count": adwin, "last_at": last},
            {"detector": "page_hinkley", "count": 0, "last_at": None},
        ]
        return {"output": output, **shared, "window_rows": 1600, "changes": changes}

    item = {"feature": "x", "kind": "input", "statistic": "psi", "value": 0.0, "threshold": 0.1, "rows": 500}
    items = [{**item, "window": "5m", "verdict": "pass", "cause": None}]
    scores = [stream("calm", 0, None), stream("moved", 3, "2026-01-31T12:00:00.000000Z")]
    control.answers["GET", "/api/v1/models/m/drift"] = (200, {"items": items, "next": None, "scores": scores})
    assert run(["drift", "m", "--home", str(tmp_path / "home")]) == 0
    shown = capsys.readouterr().out
    assert (
        "changes, no alarm: moved (value of version 2, canary) mean 1.25 of the last 1,600 rows; "
        "adwin 3, the last 2026-01-31 12:00:00Z" in shown
    )
    assert "calm" not in shown


def test_a_drill_is_followed_to_its_end_and_reports_rows(
    control: FakeControl, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running = {"id": "d1", "feature": "wind", "shift": "mean + 0.5 sd", "state": "running", "rows": 0, "seconds": 0.0}
    seen = {**running, "state": "seen", "rows": 1500, "seconds": 3.0}
    other = {**running, "id": "d0", "feature": "old"}
    control.answers["POST", "/api/v1/models/m/drill"] = (200, {"items": [running]})
    control.answers["GET", "/api/v1/models/m/drill"] = (200, {"items": [other, seen]})
    home = ["--home", str(tmp_path / "home")]
    assert run(["drill", "m", "--shift", "mean+0.5sd", "--feature", "wind", "--version", "v2", "--json", *home]) == 0
    assert answer_of(capsys) == {"items": [seen]}
    asked = next(body for method, _, body in control.asked if method == "POST")
    assert asked == {"feature": "wind", "max_seconds": 600.0, "shifts": ["mean+0.5sd"], "version": 2}
    assert run(["drill", "m", *home]) == 0
    shown = capsys.readouterr().out
    assert "wind" in shown
    assert "1,500" in shown
    control.answers["GET", "/api/v1/models/m/drill"] = (200, {"items": [other]})
    assert run(["drill", "m", *home]) == 1
    assert "restarted" in capsys.readouterr().err
