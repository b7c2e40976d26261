"""Drift from end to end: a real server, real requests, a shift, its alarm in every place, a kill, a drill, its end."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support import models
from tests.support.server import Server, cli, eventually, serving

ROWS, FEATURES = 250, 3


class Traffic:
    """Requests of 250 rows each from one seed, at some 1,250 rows a second."""

    def __init__(self, server: Server, client: httpx.Client) -> None:
        self.url = f"{server.data_url}/v2/models/m/infer"
        self.rng = np.random.default_rng(11)
        self.client = client

    def send(self, shift: float = 0.0) -> None:
        rows = self.rng.normal(size=(ROWS, FEATURES))
        rows[:, 1] += shift
        tensor = {"name": "x", "shape": rows.shape, "datatype": "FP32", "data": rows.ravel().tolist()}
        assert self.client.post(self.url, content=json.dumps({"inputs": [tensor]})).status_code == 200

    def until(self, is_true: Callable[[], Any], shift: float = 0.0, seconds: float = 40.0) -> Any:
        """Send until something is seen; what was seen."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            self.send(shift)
            found = is_true()
            if found:
                return found
            time.sleep(0.2)
        raise AssertionError("it was never seen")


def alarms(server: Server) -> list[dict[str, Any]]:
    return [event for event in server.get("events", limit=1000)["items"] if event["type"] == "drift.alarm"]


@pytest.mark.slow
def test_a_shift_in_live_traffic_is_alarmed_once_shown_everywhere_survives_a_kill_and_ends(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    home, reference = tmp_path / "home", tmp_path / "reference.csv"
    rows = np.random.default_rng(1).normal(size=(20_000, FEATURES))
    np.savetxt(reference, rows, delimiter=",", header="a,b,c", comments="", fmt="%.6g")
    model = models.linear(tmp_path / "m.onnx", features=FEATURES)
    cli(home, "register", "m", str(model), "--reference", str(reference), "--columns", "a,b,c", "--alias", "champion")
    with serving(home, free_port) as server, httpx.Client() as client:
        traffic = Traffic(server, client)

        def expected() -> float:
            return server.metrics()["driftgate_self_audit_expected"][(("audit", "split"),)]

        # No drift: evaluations go by, and nothing is said.
        traffic.until(lambda: expected() * 3600 > 7)
        assert alarms(server) == []
        answer = server.get("models/m/drift")
        assert {item["verdict"] for item in answer["items"]} <= {"pass", "unknown"}
        assert {item["verdict"] for item in answer["fast"]} <= {"pass", "unknown"}

        # A drill beside it, by its command, while traffic goes on.
        begun = server.post("models/m/drill", {"feature": "a", "shifts": ["mean+1sd"]})["items"]
        assert begun[0]["state"] == "running"
        seen = traffic.until(
            lambda: [drill for drill in server.get("models/m/drill")["items"] if drill["state"] == "seen"]
        )
        assert seen[0]["rows"] <= 5000
        assert alarms(server) == []

        # The shift.
        told = traffic.until(lambda: alarms(server), shift=1.0)
        assert told[0]["data"]["window"] == "fast"
        assert "b" in told[0]["data"]["features"]
        assert "moved: " in told[0]["data"]["sentence"]
        assert told[0]["data"]["first_requests"]
        answer = traffic.until(lambda: (found := server.get("models/m/drift")) and found["alarms"] and found, shift=1.0)
        up = {alarm["feature"] for alarm in answer["alarms"] if alarm["kind"] == "input"}
        assert up == {"b"}
        worst = next(item for item in answer["fast"] if item["kind"] == "input")
        assert (worst["feature"], worst["verdict"]) == ("b", "breach")
        drawn = next(item for item in answer["features"] if item["feature"] == "b")["histogram"]
        assert len(drawn["now"]["counts"]) == len(drawn["edges"]) + 1
        labels = (("kind", "input"), ("model", "m"), ("version", "1"))
        assert server.metrics()["driftgate_drift_active"][labels] == 1
        assert "b " in cli(home, "drift", "m").stdout

        # A kill changes no verdict and tells nothing twice.
        def of_b() -> list[dict[str, Any]]:
            return [event for event in alarms(server) if "b" in event["data"]["features"]]

        before = of_b()
        (pid,) = server.pids("controller")
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: server.pids("controller") not in ([], [pid]), 30)
        eventually(lambda: _answers(server), 30)
        again = server.get("models/m/drift")
        assert {alarm["feature"] for alarm in again["alarms"] if alarm["kind"] == "input"} == {"b"}
        for _ in range(10):
            traffic.send(1.0)
            time.sleep(0.2)
        assert of_b() == before

        # The way back: the fast detector has evidence for it, before windows forget.
        def fast_alarms() -> list[dict[str, Any]]:
            return [alarm for alarm in server.get("models/m/drift")["alarms"] if alarm["window"] == "fast"]

        traffic.until(lambda: not fast_alarms())


def _answers(server: Server) -> bool:
    try:
        return bool(server.get("models/m/drift")["windows"])
    except httpx.HTTPError:
        return False
