"""Which other servers are measured, how each is installed, started and asked.

All run the same ONNX file with the same version of onnxruntime and one thread inside a run, on the core where the
gateway runs in its turn. Each has the settings that its documentation recommends for throughput on one core; they are
listed in `Peer.settings` and stored with every result. Called by the peers scenario and by `python -m bench peers`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from bench import models
from bench.machine import ROOT
from tests.conformance.peers import environments

HERE = Path(__file__).parent
FOLDER = ROOT / "bench" / ".peers"
MODEL = "small"


@dataclass(frozen=True)
class Start:
    """How a server is started, whom to ask whether it is up, and where predictions go."""

    command: list[str]
    environ: dict[str, str]
    ready: str
    infer: str


@dataclass(frozen=True)
class Peer:
    """One other server."""

    package: str
    settings: str
    style: str  # of rows.lua's bodies: v2, or plain where it has a form of its own
    start: Callable[[Path, Path, int, int], Start]  # folder, model, a free port, another
    bar: float | None = None  # what the gateway must reach against it, in requests/s
    more: tuple[str, ...] = ()  # further requirements

    @property
    def packages(self) -> Sequence[str]:
        """What its environment must hold."""
        return (self.package, f"onnxruntime=={metadata.version('onnxruntime')}", *self.more)


def _place(folder: Path, name: str, model: Path) -> Path:
    place = environments.fresh(folder / f"bench-{name}")
    shutil.copy(model, place / "model.onnx")
    shutil.copy(HERE / "running.py", place)
    shutil.copy(HERE / f"in_{name}.py", place)
    return place


def _python(folder: Path, name: str, *words: object) -> list[str]:
    return [str(folder / name / "bin/python"), *map(str, words)]


def _mlserver(folder: Path, model: Path, port: int, other: int) -> Start:
    place = _place(folder, "mlserver", model)
    settings = {
        "http_port": port, "grpc_port": other, "metrics_endpoint": None, "parallel_workers": 0, "host": "127.0.0.1",
        "debug": False, "use_structured_logging": False,
    }  # fmt: skip
    entry = {"name": MODEL, "implementation": "in_mlserver.Model", "parameters": {"uri": str(place / "model.onnx")}}
    (place / "settings.json").write_text(json.dumps(settings))
    (place / "model-settings.json").write_text(json.dumps(entry))
    # The program's main is called here, since a script of an environment that was moved names a path that is gone.
    run = "import sys; from mlserver.cli import main; sys.argv = ['mlserver', 'start', sys.argv[1]]; main()"
    url = f"http://127.0.0.1:{port}/v2/models/{MODEL}"
    command = _python(folder, "mlserver", "-c", run, place)
    return Start(command, {"PYTHONPATH": str(place)}, f"{url}/ready", f"{url}/infer")


def _kserve(folder: Path, model: Path, port: int, other: int) -> Start:
    place = _place(folder, "kserve", model)
    flags = [f"--http_port={port}", f"--grpc_port={other}", "--workers=1", "--enable_latency_logging=false"]
    url = f"http://127.0.0.1:{port}/v2/models/{MODEL}"
    command = _python(folder, "kserve", place / "in_kserve.py", place / "model.onnx", MODEL, *flags)
    return Start(command, {"PYTHONPATH": str(place)}, f"{url}/ready", f"{url}/infer")


def _triton(folder: Path, model: Path, port: int, other: int) -> Start:
    place = _place(folder, "triton", model)
    repository = place / "models"
    version = repository / MODEL / "1"
    version.mkdir(parents=True)
    shutil.copy(place / "in_triton.py", version / "model.py")
    shutil.copy(place / "running.py", version)
    (repository / MODEL / "config.pbtxt").write_text(
        f'name: "{MODEL}"\nbackend: "python"\nmax_batch_size: 64\ndynamic_batching {{ }}\n'
        f'input [{{ name: "x" data_type: TYPE_FP32 dims: [{models.FEATURES}] }}]\n'
        'output [{ name: "variable" data_type: TYPE_FP32 dims: [1] }]\n'
        f'parameters {{ key: "path" value: {{ string_value: "{place / "model.onnx"}" }} }}\n'
        "instance_group [{ kind: KIND_CPU count: 1 }]\n"
    )
    command, environ = environments.triton(folder, repository, port, other)
    url = f"http://127.0.0.1:{port}/v2/models/{MODEL}"
    return Start(command, {**environ, "PYTHONPATH": str(place)}, f"{url}/ready", f"{url}/infer")


def _bentoml(folder: Path, model: Path, port: int, other: int) -> Start:
    place = _place(folder, "bentoml", model)
    flags = ["in_bentoml:Small", "--port", port, "--host", "127.0.0.1", "--working-dir", place]
    environ = {
        "MODEL": str(place / "model.onnx"), "BENTOML_DO_NOT_TRACK": "true", "BENTOML_HOME": str(place / "home"),
        "PYTHONPATH": str(place),
    }  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    return Start(_python(folder, "bentoml", "-m", "bentoml", "serve", *flags), environ, f"{url}/readyz", f"{url}/infer")


def _litserve(folder: Path, model: Path, port: int, other: int) -> Start:
    place = _place(folder, "litserve", model)
    command = _python(folder, "litserve", place / "in_litserve.py", place / "model.onnx", port)
    url = f"http://127.0.0.1:{port}"
    return Start(command, {"PYTHONPATH": str(place)}, f"{url}/health", f"{url}/predict")


def _ray(folder: Path, model: Path, port: int, other: int) -> Start:
    place = _place(folder, "ray", model)
    command = _python(folder, "ray", place / "in_ray.py", place / "model.onnx", port)
    environ = {
        "PYTHONPATH": str(place), "RAY_USAGE_STATS_ENABLED": "0", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_DISABLE_IMPORT_WARNING": "1",
    }  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    return Start(command, environ, f"{url}/-/healthz", f"{url}/infer")


PEERS: dict[str, Peer] = {
    "mlserver": Peer(
        environments.MLSERVER, "a custom runtime in the server's own process (parallel_workers 0)", "v2", _mlserver, 8.0
    ),
    "kserve": Peer(environments.KSERVE, "a Model in one worker, latency logging off", "v2", _kserve, 10.0),
    "triton": Peer(
        environments.TRITON, "Python backend, dynamic batching of up to 64 rows, joined for one run", "v2", _triton, 1.4
    ),
    "bentoml": Peer("bentoml==1.4.39", "one worker, a numpy endpoint", "plain", _bentoml, 15.0),
    "litserve": Peer("litserve==0.2.19", "one worker, fast_queue, batches of up to 64 rows", "plain", _litserve),
    "ray": Peer("ray[serve]==2.60.0", "one replica, RAY_SERVE_THROUGHPUT_OPTIMIZED", "plain", _ray),
}
