"""Every query of the dashboard and every alert, asked of a real Prometheus that scrapes a real gateway."""

from __future__ import annotations

import csv
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.deploy.dashboard import queries
from tests.deploy.serving import Application, Json, driftgate, gateway, prometheus, query, wait_until
from tests.support import models
from tests.support.tools import need_tool

MODEL = "delays"
FEATURES = 3
QUICK = {
    "DRIFTGATE_GATEWAY__DRAIN_S": "0.2",
    "DRIFTGATE_GATEWAY__LIMITS__WAITING_REQUESTS": "2",  # so that a burst is refused and shows
    "DRIFTGATE_MONITOR__LATENCY_WINDOW_S": "2",
    "DRIFTGATE_MONITOR__TILE_S": "1",
}
PLAN = {
    "burn_in_requests": 0,
    "step": [{"shadow": True, "min_requests": 20}, {"weight_pct": 50, "min_requests": 1_000_000}],
}


def _reference(path: Path) -> Path:
    rows = np.random.default_rng(1).normal(size=(500, FEATURES)).round(4)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([f"f{index}" for index in range(FEATURES)])
        writer.writerows(rows.tolist())
    return path


def _nearly_the_same(path: Path, version: int) -> Path:
    """A linear model whose answers differ a little from the other versions', so that no guardrail minds."""
    model = onnx.load_model(models.linear(path, features=FEATURES, outputs=1))
    for weights in model.graph.initializer:
        array = numpy_helper.to_array(weights) * np.float32(1 + version / 1000)
        weights.CopyFrom(numpy_helper.from_array(array, weights.name))
    onnx.save_model(model, path)
    return path


@contextmanager
def _going_on(application: Application) -> Iterator[None]:
    """Traffic in the background, with bursts that the gateway has to refuse in part."""
    stop = threading.Event()

    def send() -> None:
        while not stop.is_set():
            application.send(40)
            burst = [
                threading.Thread(target=application.send, args=(10,), kwargs={"labelled": False}) for _ in range(8)
            ]
            for thread in burst:
                thread.start()
            for thread in burst:
                thread.join()

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        stop.set()
        sender.join()


@pytest.mark.tool("prometheus")
def test_every_query_of_the_dashboard_returns_data(tmp_path: Path, free_port: Callable[[], int]) -> None:
    binary = need_tool("prometheus")
    home, reference = tmp_path / "home", _reference(tmp_path / "reference.csv")
    for version in (1, 2, 3):
        path = _nearly_the_same(tmp_path / f"v{version}.onnx", version)
        first = ["--alias", "champion"] if version == 1 else []
        driftgate(home, "register", MODEL, str(path), "--reference", str(reference), *first)
    data, control, asked = free_port(), free_port(), free_port()

    with (
        gateway(home, data, control, **QUICK),
        prometheus(binary, tmp_path / "prometheus", asked, control),
        Json(control) as operator,
        Json(asked) as asking,
    ):
        application = Application(MODEL, data, control, FEATURES, seed=7)
        rollout = f"/api/v1/models/{MODEL}/rollout"

        def is_canary() -> bool:
            application.send(20)
            return bool(operator.must("GET", rollout)["state"] == "canary")

        # One that an operator promotes, one that an operator rolls back, one that goes on.
        operator.must("POST", rollout, {"version": 2, "plan": PLAN})
        wait_until(is_canary, "version 2 gets traffic")
        operator.must("POST", rollout + "/promote", {"reason": "looks good"})
        wait_until(lambda: operator.must("GET", rollout)["state"] in ("soak", "succeeded"), "version 2 is promoted")
        operator.must("POST", rollout, {"version": 3, "plan": PLAN})
        wait_until(is_canary, "version 3 gets traffic")
        operator.must("POST", f"/api/v1/models/{MODEL}/rollback", {"reason": "a test"})
        operator.must("POST", rollout, {"version": 3, "plan": PLAN})
        wait_until(is_canary, "version 3 gets traffic again")

        silent = {(item.panel, item.expression) for item in queries(rate_interval="15s")}
        deadline_s = time.monotonic() + 40
        with _going_on(application):
            while silent and time.monotonic() < deadline_s:
                silent = {item for item in silent if not query(asking, item[1])}
                time.sleep(0.5)
        assert sorted(silent) == []

        rules = asking.must("GET", "/api/v1/rules")["data"]["groups"]
        faults = {
            rule["name"]: rule["lastError"] for group in rules for rule in group["rules"] if rule.get("lastError")
        }
        assert faults == {}
