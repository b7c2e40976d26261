"""Each hosting platform's environment through the real `driftgate serve`: where it listens, which paths it answers."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from registry import onnx
from tests.support import models
from tests.support.server import DRIFTGATE, cli, eventually

ROWS = [[1.0, 2.0, 3.0], [0.5, -1.0, 4.0]]


@contextlib.contextmanager
def serving(home: Path, environ: dict[str, str]) -> Iterator[psutil.Process]:
    """`driftgate serve` without a flag, as a container's command is."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("DRIFTGATE_", "AIP_", "SAGEMAKER"))}
    log = home.parent / "serve.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*DRIFTGATE, "serve", "--home", str(home)],
            env={**kept, "DRIFTGATE_GATEWAY__GRPC": "off", "DRIFTGATE_GATEWAY__DRAIN_S": "0.1", **environ},
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=home.parent,
            start_new_session=True,
        )
        try:
            yield psutil.Process(process.pid)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, log.read_text()[-2000:]
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def is_up(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url).status_code == 200
    return False


def addresses(server: psutil.Process, port: int) -> set[str]:
    """Where the workers of this server listen with this port."""
    found = set()
    for child in server.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found |= {c.laddr.ip for c in child.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == port}
    return found


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with a champion, beside its model."""
    folder = tmp_path_factory.mktemp("registered")
    cli(folder / "home", "register", "churn", str(models.linear(folder / "m.onnx")), "--alias", "champion")
    return folder


@pytest.mark.parametrize("platform", ["sagemaker", "vertex", "vertex defaults", "azure", "none"])
def test_a_platforms_environment_decides_port_host_and_paths(
    registered: Path, free_port: Callable[[], int], platform: str
) -> None:
    port, control = free_port(), free_port()
    want = onnx.run(onnx.open_session(registered / "m.onnx"), {"x": np.array(ROWS, np.float32)})[0].tolist()
    ours = {"DRIFTGATE_CONTROL__PORT": str(control)}
    endpoint = "/v1/endpoints/5/deployedModels/9"
    environ, health, predict = {
        "sagemaker": (
            {"SAGEMAKER_BIND_TO_PORT": str(port), "SAGEMAKER_SAFE_PORT_RANGE": f"{control}-{control}"},
            "/ping",
            "/invocations",
        ),
        "vertex": (
            {"AIP_HTTP_PORT": str(port), "AIP_HEALTH_ROUTE": "/health", "AIP_PREDICT_ROUTE": "/predict", **ours},
            "/health",
            "/predict",
        ),
        "vertex defaults": (
            {
                "AIP_HTTP_PORT": str(port),
                "AIP_HEALTH_ROUTE": endpoint,
                "AIP_PREDICT_ROUTE": f"{endpoint}:predict",
                "AIP_STORAGE_URI": "gs://bucket/model",
                "AIP_MODE": "PREDICTION",
                **ours,
            },
            endpoint,
            f"{endpoint}:predict",
        ),
        # Azure's own port may be taken on this machine: a setting of ours wins over a platform's default.
        "azure": ({"AZUREML_MODEL_DIR": "/var/models", "DRIFTGATE_GATEWAY__PORT": str(port), **ours}, "/", "/score"),
        "none": ({"DRIFTGATE_GATEWAY__PORT": str(port), **ours}, "/ping", "/invocations"),
    }[platform]
    url = f"http://127.0.0.1:{port}"
    with serving(registered / "home", environ) as server:
        eventually(lambda: is_up(f"{url}/readyz"), 40, (registered / "serve.log").read_text)
        assert addresses(server, port) == {"127.0.0.1" if platform == "none" else "0.0.0.0"}
        eventually(lambda: is_up(f"http://127.0.0.1:{control}/readyz"), 20)
        assert httpx.get(url + health).status_code == 200
        answer = httpx.post(url + predict, json={"instances": ROWS})
        assert answer.status_code == 200, answer.text
        assert answer.json() == {"predictions": want}
        assert httpx.get(url + predict).status_code == 405
        assert httpx.post(url + "/nothing", json={}).json()["code"] == "route_not_found"


def test_the_data_port_of_a_platform_that_is_taken_is_told(tmp_path: Path, free_port: Callable[[], int]) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*DRIFTGATE, "serve", "--home", str(tmp_path / "home")],
            env={**os.environ, "AIP_HTTP_PORT": str(port), "DRIFTGATE_CONTROL__PORT": str(free_port())},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert str(port) in done.stderr
