"""What the owner says of features, and profiles of live traffic, from the command line to a live verdict."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support import models
from tests.support.server import Server, cli, eventually, serving

ROWS = 250
CITIES = ["Rome", "Oslo", "Lima"]
OPTIONS = """
[features]
age = "numeric"
visits = "categorical"
"""


class Orders:
    """Requests of 250 rows each: whole ages, visits from 0 to 4, one of three cities, a comment that nobody repeats."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(5)

    def rows(self, count: int, *, visits: int = 5, longer: int = 0) -> dict[str, tuple[str, list[Any]]]:
        lengths = self.rng.integers(5 + longer, 60 + longer, count).tolist()
        return {
            "age": ("FP32", self.rng.integers(18, 90, count).tolist()),
            "visits": ("INT64", self.rng.integers(0, visits, count).tolist()),
            "city": ("BYTES", self.rng.choice(CITIES, count).tolist()),
            "comment": ("BYTES", [f"{self.rng.integers(1 << 40):013}".ljust(13 + n, ".") for n in lengths]),
        }

    def table(self, path: Path, count: int) -> Path:
        columns = self.rows(count)
        lines = [",".join(map(str, row)) for row in zip(*(values for _, values in columns.values()), strict=True)]
        path.write_text("\n".join([",".join(columns), *lines]))
        return path

    def body(self, **how: int) -> dict[str, Any]:
        columns = self.rows(ROWS, **how).items()
        return {
            "inputs": [{"name": n, "shape": [ROWS, 1], "datatype": kind, "data": data} for n, (kind, data) in columns]
        }


def plain(rng: np.random.Generator, shift: float = 0.0) -> dict[str, Any]:
    data = (rng.normal(size=(ROWS, 3)) + shift).ravel().tolist()
    return {"inputs": [{"name": "x", "shape": [ROWS, 3], "datatype": "FP32", "data": data}]}


def in_alarm(server: Server, model: str) -> set[str]:
    return {alarm["feature"] for alarm in server.get(f"models/{model}/drift")["alarms"]}


@pytest.mark.slow
def test_types_that_an_owner_says_and_profiles_of_traffic_decide_live_verdicts(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    home, orders, rng = tmp_path / "home", Orders(), np.random.default_rng(6)
    (tmp_path / "options.toml").write_text(OPTIONS)
    model, reference = models.texts(tmp_path / "orders.onnx"), orders.table(tmp_path / "reference.csv", 4000)
    with_reference = ("--reference", str(reference), "--options", str(tmp_path / "options.toml"))
    cli(home, "register", "orders", str(model), *with_reference, "--alias", "champion")
    cli(home, "register", "plain", str(models.linear(tmp_path / "plain.onnx")), "--alias", "champion")
    with serving(home, free_port) as server, httpx.Client(base_url=server.data_url) as client:

        def send(name: str, body: dict[str, Any]) -> None:
            assert client.post(f"/v2/models/{name}/infer", content=json.dumps(body)).status_code == 200

        def profile(name: str) -> dict[str, Any]:
            made: dict[str, Any] = json.loads(
                cli(home, "profile", f"{name}:1", "--from-traffic", "1h", "--json").stdout
            )
            return made

        early = cli(home, "profile", "plain:1", "--from-traffic", "1h", check=False)
        assert (early.returncode, "at least 1,000 are needed" in early.stderr) == (1, True)
        for _ in range(8):
            send("orders", orders.body())
            send("plain", plain(rng))
        windows = eventually(lambda: server.get("models/orders/drift")["windows"], 20)
        eventually(lambda: server.get("models/orders/drift")["windows"][0]["rows"] == 8 * ROWS, 20)
        assert windows[0]["version"] == 1
        # A category can be unseen, a number cannot: these are the owner's types, and a text is its length.
        judged = server.get("models/orders/drift")["items"]
        assert {item["feature"] for item in judged if item["statistic"] == "unseen"} == {"visits", "city"}
        assert {item["feature"] for item in judged if item["statistic"] == "ks"} == {"age", "comment", "total"}
        assert in_alarm(server, "orders") == set()

        # Tiles of the bins in use, for the one; rows that the lanes hold, for the other.
        made = profile("orders")
        assert (made["number"], made["rows"], made["source"]) == (2, 8 * ROWS, "the traffic of 1 h")
        types = {column["name"]: column["type"] for column in made["columns"]}
        assert types["age"] == "numeric"
        assert (types["visits"], types["city"], types["comment"]) == ("categorical", "categorical", "text_length")
        made = profile("plain")
        assert (made["number"], made["rows"], made["ordered"]) == (1, 8 * ROWS, True)

        # Each is what traffic is judged by from then on.
        def moved() -> bool:
            send("orders", orders.body(visits=9, longer=30))
            send("plain", plain(rng, shift=1.0))
            return {"visits", "comment"} <= in_alarm(server, "orders") and "x[1]" in in_alarm(server, "plain")

        eventually(moved, 40)
        assert "city" not in in_alarm(server, "orders")
        answer = server.get("models/orders/drift")
        sentence = next(item["sentence"] for item in answer["features"] if item["feature"] == "comment")
        assert sentence.startswith("Lengths are higher: the median is about ")
        told = [event["data"] for event in server.get("events", limit=1000)["items"] if event["type"] == "drift.alarm"]
        assert {"visits", "comment"} <= {feature for data in told for feature in data["features"]}
