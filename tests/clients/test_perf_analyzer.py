"""NVIDIA's perf_analyzer against a real server, and what it asks, replayed for machines that do not have it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.tools import find_tool
from tests.support.triton import Served

# What makes a short measurement on a busy machine count as one: here it is not the figures that matter.
QUICK = ("--stability-percentage", "999", "--measurement-interval", "300", "--max-trials", "3")
WAYS = {
    "http, json": ("-i", "http", "--input-tensor-format", "json", "--output-tensor-format", "json"),
    "http, binary": ("-i", "http", "--input-tensor-format", "binary", "--output-tensor-format", "binary"),
    "grpc": ("-i", "grpc"),
    "grpc, a stream": ("-i", "grpc", "--streaming", "-a"),
    "http, four rows a request": ("-i", "http", "-b", "4"),
}


def perf_analyzer() -> Path:
    """Where the program is; skips the test when it is nowhere."""
    found = find_tool("perf_analyzer")
    if found is None:
        pytest.skip("perf_analyzer is neither in .tools/bin nor on PATH: scripts/perf_analyzer.sh unpacks it")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model", ["linear", "texts"])
def test_perf_analyzer_runs_and_shows_the_servers_side(served: Served, model: str, way: str) -> None:
    options = WAYS[way]
    address = served.grpc if "grpc" in options else served.http
    command = [str(perf_analyzer()), "-m", model, "-u", address, "--concurrency-range", "2", *QUICK, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = {name: int(count) for name, count in re.findall(r"^ +([A-Z][a-z ]+ count): (\d+)$", done.stdout, re.M)}
    rows = 4 if "-b" in options else 1
    assert told["Successful request count"] > 0, done.stdout
    assert told["Inference count"] == rows * told["Successful request count"]
    assert 0 < told["Execution count"] <= told["Successful request count"]
    assert re.search(r"Avg request latency: \d+ usec \(overhead \d+ usec \+ queue \d+ usec \+ compute", done.stdout)


def tensors_as_perf_analyzer_builds_them(metadata: Any, config: Any, rows: int) -> dict[str, list[int]]:
    """Shapes by input: it drops the leading dimension where rows are batched, and wants every other one to be known."""
    batched = config["max_batch_size"] > 0
    assert rows == 1 or rows <= config["max_batch_size"]
    shapes = {}
    for tensor in metadata["inputs"]:
        own = tensor["shape"][1:] if batched else tensor["shape"]
        shapes[tensor["name"]] = [rows, *own] if batched else own
    return shapes


@pytest.mark.parametrize(("model", "rows"), [("linear", 1), ("linear", 64), ("fixed", 1)])
def test_requests_built_from_metadata_and_configuration_are_answered_and_counted(
    served: Served, model: str, rows: int
) -> None:
    with httpx.Client(base_url=f"http://{served.http}") as client:
        assert "statistics" in client.get("/v2").json()["extensions"]
        metadata = client.get(f"/v2/models/{model}").json()
        config = client.get(f"/v2/models/{model}/config").json()
        assert config["name"] == metadata["name"] == model
        assert not config["model_transaction_policy"]["decoupled"]
        assert [one["name"] for one in config["input"]] == [one["name"] for one in metadata["inputs"]]
        assert [one["name"] for one in config["output"]] == [one["name"] for one in metadata["outputs"]]
        skipped = 1 if config["max_batch_size"] else 0
        for one, other in zip(config["input"], metadata["inputs"], strict=True):
            assert one["dims"] == other["shape"][skipped:]
            assert not skipped or other["shape"][0] == -1
            assert one["data_type"] == f"TYPE_{other['datatype']}"
            assert not one["optional"]
        shapes = tensors_as_perf_analyzer_builds_them(metadata, config, rows)
        assert all(size > 0 for shape in shapes.values() for size in shape)

        def statistics() -> dict[str, Any]:
            (told,) = client.get(f"/v2/models/{model}/versions/1/stats").json()["model_stats"]
            assert (told["name"], told["version"]) == (model, "1")
            return dict(told)

        before = statistics()
        values = [0.5] * (shapes["x"][0] * shapes["x"][1])
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": shapes["x"], "data": values}]}
        assert client.post(f"/v2/models/{model}/infer", json=body).status_code == 200
        after = statistics()
    assert after["execution_count"] - before["execution_count"] == 1
    assert after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"] == 1
    assert after["inference_count"] - before["inference_count"] == (rows if skipped else 1)
