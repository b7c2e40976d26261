"""A real gateway and a real Prometheus that scrapes it, for the tests of deploy/. Both end with their `with` block."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import numpy as np

WAIT_S = 45.0


class Json:
    """One keep-alive connection that speaks JSON. One thread."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and parsed answer."""
        text = None if body is None else json.dumps(body)
        self._connection.request(method, path, text, {"content-type": "application/json", **headers})
        answer = self._connection.getresponse()
        raw = answer.read()
        return answer.status, json.loads(raw) if raw.startswith((b"{", b"[")) else raw.decode()

    def must(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """The parsed answer of a call that succeeds."""
        status, answer = self.ask(method, path, body, **headers)
        assert status < 300, f"{method} {path}: {status} {answer}"
        return answer


def driftgate(home: Path, *words: str) -> None:
    """One command of the command line, which must succeed."""
    command = [sys.executable, "-P", "-m", "driftgate", "--home", str(home), *words]
    done = subprocess.run(command, cwd=home.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"


@contextmanager
def gateway(home: Path, data_port: int, control_port: int, **settings: str) -> Iterator[None]:
    """`driftgate serve`, up when the block is entered."""
    command = [sys.executable, "-P", "-m", "driftgate", "--home", str(home), "serve"]
    command += ["--port", str(data_port), "--control-port", str(control_port)]
    environ = {**os.environ, "DRIFTGATE_GATEWAY__GRPC": "off", **settings}
    with _process(command, home.parent / "serve.log", environ) as serving:
        wait_until(lambda: _is_ready(data_port) and _is_ready(control_port), "the gateway is ready", serving)
        yield


@contextmanager
def prometheus(binary: Path, folder: Path, port: int, target_port: int) -> Iterator[None]:
    """Prometheus with the rules of deploy/, scraping the control port each second."""
    folder.mkdir()
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(Path(__file__).resolve().parents[2] / "deploy" / "prometheus" / "alerts.yml")],
        "scrape_configs": [{"job_name": "driftgate", "static_configs": [{"targets": [f"127.0.0.1:{target_port}"]}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    command = [str(binary), "--config.file", "prometheus.yml", "--storage.tsdb.path", "data"]
    command += ["--web.listen-address", f"127.0.0.1:{port}", "--log.level", "warn"]
    with _process(command, folder / "prometheus.log", dict(os.environ), cwd=folder) as running:
        wait_until(lambda: _is_ready(port, "/-/ready"), "Prometheus is ready", running)
        yield


def wait_until(
    is_so: Callable[[], bool], what: str, process: subprocess.Popen[bytes] | None = None, limit_s: float = WAIT_S
) -> None:
    """Look ten times a second; fail, saying what was waited for, when it is late or the process has ended."""
    deadline_s = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline_s, f"not within {limit_s:.0f} s: {what}"
        assert process is None or process.poll() is None, f"ended before this was so: {what}"
        time.sleep(0.1)


def query(asking: Json, expression: str) -> list[dict[str, Any]]:
    """What Prometheus says of an expression now: one entry a series, those that are not a number left out."""
    answer = asking.must("GET", "/api/v1/query?" + urlencode({"query": expression}))
    return [entry for entry in answer["data"]["result"] if entry["value"][1] != "NaN"]


class Application:
    """Sends single rows to a model and, a little later, what really was."""

    def __init__(self, model: str, data_port: int, control_port: int, features: int, seed: int) -> None:
        self._model = model
        self._ports = data_port, control_port
        self._features = features
        self._chance = np.random.default_rng(seed)

    def send(self, requests: int, *, labelled: bool = True) -> dict[int, int]:
        """Send that many requests, one after the other → answers by status."""
        statuses: dict[int, int] = {}
        labels = []
        with Json(self._ports[0]) as asking:
            for row in self._chance.normal(0.2, 1.1, size=(requests, self._features)):
                identity = uuid.uuid4().hex
                tensor = {"name": "x", "shape": [1, self._features], "datatype": "FP32", "data": row.tolist()}
                path = f"/v2/models/{self._model}/infer"
                status, answer = asking.ask("POST", path, {"inputs": [tensor]}, **{"x-request-id": identity})
                statuses[status] = statuses.get(status, 0) + 1
                if status == 200:
                    labels.append({"request_id": identity, "values": [answer["outputs"][0]["data"][0] + 0.1]})
        if labelled and labels:
            with Json(self._ports[1]) as telling:
                telling.must("POST", f"/api/v1/models/{self._model}/feedback", {"labels": labels})
        return statuses


def _is_ready(port: int, path: str = "/readyz") -> bool:
    try:
        with Json(port) as asking:
            return asking.ask("GET", path)[0] == 200
    except OSError:
        return False


@contextmanager
def _process(
    command: Sequence[str], log: Path, environ: dict[str, str], cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as stream:
        process = subprocess.Popen(command, cwd=cwd or log.parent, env=environ, stdout=stream, stderr=subprocess.STDOUT)
        try:
            yield process
        except BaseException:
            print(f"--- {log.name}\n{log.read_text(errors='replace')[-4000:]}")
            raise
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
