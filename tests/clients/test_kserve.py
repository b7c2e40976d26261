"""KServe's InferenceRESTClient and InferenceGRPCClient, in an environment of their own: their package wants other
versions of what we use. DRIFTGATE_TEST_KSERVE names that environment's python, where this one has no `kserve`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support.triton import ROWS, Served

SCRIPT = Path(__file__).with_name("with_kserve.py")


@pytest.fixture(scope="module")
def told(served: Served) -> dict[str, Any]:
    """What KServe's clients say that they got."""
    python = os.environ.get("DRIFTGATE_TEST_KSERVE")
    if not python and importlib.util.find_spec("kserve") is None:
        pytest.skip("DRIFTGATE_TEST_KSERVE names no python of an environment with `kserve`, and this one has none")
    command = [python or sys.executable, str(SCRIPT), f"http://{served.http}", served.grpc, "linear"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(answer, dict)
    return answer


def test_kserves_rest_client_is_answered_in_json_and_in_raw_buffers(told: dict[str, Any], served: Served) -> None:
    v2, want = told["v2"], served.want("linear", ROWS)
    assert (v2["live"], v2["ready"], v2["model_ready"], v2["missing_ready"]) == (True, True, True, False)
    for way in ("json", "binary"):
        assert np.array_equal(np.array(v2[way]["y"], np.float32), want), way
        assert v2[way]["id"] == "7"
    status, text = v2["missing"]
    assert status == 404
    assert "no model 'missing' is served here" in text


def test_kserves_rest_client_is_answered_in_its_older_protocol(told: dict[str, Any], served: Served) -> None:
    v1 = told["v1"]
    assert (v1["live"], v1["model_ready"]) == (True, True)
    assert np.array_equal(np.array(v1["predictions"]["predictions"], np.float32), served.want("linear", ROWS))


def test_kserves_grpc_client_is_answered_in_contents_and_in_raw_buffers(told: dict[str, Any], served: Served) -> None:
    grpc, want = told["grpc"], served.want("linear", ROWS)
    assert (grpc["live"], grpc["ready"], grpc["model_ready"]) == (True, True, True)
    for way in ("contents", "raw"):
        assert np.array_equal(np.array(grpc[way]["y"], np.float32), want), way
        assert grpc[way]["id"] == "7"


def test_what_kserves_rest_client_reads_of_health_is_there(served: Served) -> None:
    """For machines without KServe: the fields by which its client tells ready from not."""
    with httpx.Client(base_url=f"http://{served.http}") as client:
        assert client.get("/v2/health/ready").json()["ready"] is True
        assert client.get("/v2/health/live").json()["live"] is True
        assert client.get("/v1/models/linear").json()["ready"] is True
        assert client.get("/").json()["status"] == "alive"
