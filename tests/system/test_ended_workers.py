"""A version whose runs end workers is taken out of traffic: nobody is there to count such a request as failed."""

from __future__ import annotations

import asyncio
import json
import platform
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from tests.support import models
from tests.support.registered import Given, register_all
from tests.support.server import Client, cli, eventually, serving

PLAN = {
    "burn_in_requests": 0,
    "step": [{"weight_pct": 20, "min_requests": 1_000_000_000, "max_minutes": 1440}],
    "guardrail": [{"name": "errors"}],
}


def model_of(path: Path, operator: str) -> Path:
    """x and y [N] INT64 → z = x `operator` (y + 1)."""
    ends = [models.value(name, TensorProto.INT64, ["N"]) for name in "xyz"]
    nodes = [helper.make_node("Add", ["y", "one"], ["w"]), helper.make_node(operator, ["x", "w"], ["z"])]
    return models.build(path, nodes, ends[:2], ends[2:], {"one": np.array([1])})


def unguarded(path: Path) -> Path:
    """A model in onnxruntime's own format, whose divisions registration does not guard."""
    how = onnxruntime.SessionOptions()
    how.log_severity_level = 4
    how.optimized_model_filepath = str(path)
    how.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(
        str(model_of(path.with_suffix(".onnx"), "Div")), how, providers=["CPUExecutionProvider"]
    )
    return path


def body(x: int, y: int) -> bytes:
    tensors = [{"name": n, "datatype": "INT64", "shape": [1], "data": [value]} for n, value in (("x", x), ("y", y))]
    return json.dumps({"inputs": tensors}).encode()


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere an integer division ends no process")
def test_a_canary_whose_runs_end_workers_is_rolled_back_and_the_champion_answers_on(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    cli(tmp_path / "home", "register", "m", str(model_of(tmp_path / "add.onnx", "Add")), "--alias", "champion")
    cli(tmp_path / "home", "register", "m", str(unguarded(tmp_path / "div.ort")))
    with serving(tmp_path / "home", free_port, workers=2) as server:
        server.post("models/m/rollout", {"version": 2, "plan": PLAN})
        eventually(lambda: server.get("models/m/rollout")["state"] == "canary", 20)
        client = Client(server.port, "m", [*(body(i, 1) for i in range(20)), body(-(2**63), -2)])
        load = threading.Thread(target=lambda: asyncio.run(client.run(4, 0.005)))
        load.start()
        try:
            told = eventually(
                lambda: (now := server.get("models/m/rollout"))["state"] == "rolled_back" and now,
                60,
                server.log.read_text,
            )
            assert "was ended by SIGFPE while it ran version 2" in told["reason"]
            eventually(lambda: len(server.pids("worker")) == 2 and server._is_up(), 30, server.log.read_text)
            answered = len(client.seen)
            eventually(lambda: len(client.seen) > answered + 200, 30)
        finally:
            client.stopping = True
            load.join()
        assert {(seen.status, seen.version) for seen in client.seen[answered:]} == {(200, "1")}


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere an integer division ends no process")
def test_a_champion_whose_runs_end_the_worker_is_not_run_and_the_other_models_stay_up(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    home, fatal = tmp_path / "home", body(-(2**63), -2)
    adds = model_of(tmp_path / "add.onnx", "Add")
    register_all(home, {"killer": Given(unguarded(tmp_path / "div.ort")), "other": Given(adds)})
    with serving(home, free_port) as server, httpx.Client(timeout=10) as http:

        def ask(model: str, asked: bytes) -> httpx.Response | None:
            """The answer; None where the connection ended without one."""
            try:
                return http.post(f"{server.data_url}/v2/models/{model}/infer", content=asked)
            except httpx.TransportError:
                return None

        def refusal() -> httpx.Response | None:
            answer = ask("killer", fatal)
            return answer if answer is not None and answer.status_code == 503 else None

        refused = eventually(refusal, 30, server.log.read_text)
        assert (refused.json()["code"], 1 <= int(refused.headers["retry-after"]) <= 10) == ("breaker_open", True)
        assert "ended the worker (SIGFPE)" in refused.json()["error"]
        (worker,) = server.pids("worker")
        for _ in range(50):
            answers = ask("killer", fatal), ask("other", body(1, 2))
            assert [answer and answer.status_code for answer in answers] == [503, 200]
            if answers[0] is not None and int(answers[0].headers["retry-after"]) < 4:
                break  # this machine is slow: the next one could be the trial
        assert server.pids("worker") == [worker]
        told, blamed = server.metrics(), {(("model", "killer"), ("version", "1")): 1.0}
        assert told["driftgate_fatal_runs_total"] == told["driftgate_breaker_opened_total"] == blamed
        sentence = "worker 0 was ended by SIGFPE while it ran this version, and does not try it for 10 s"
        assert server.get("models/killer")["versions"][0]["notes"] == [sentence]
        (event,) = (one for one in server.get("events")["items"] if one["type"] == "version.ended_worker")
        assert event["data"]["sentence"] == f"Version 1 of killer: {sentence}."

        good = {"path": str(model_of(tmp_path / "good.onnx", "Div")), "alias": "champion"}
        assert server.post("models/killer/versions", good)["version"] == 2
        answered = eventually(lambda: (got := ask("killer", fatal)) and got.status_code == 200 and got, 20)
        assert answered.headers["x-driftgate-version"] == "2"
        assert server.pids("worker") == [worker]
