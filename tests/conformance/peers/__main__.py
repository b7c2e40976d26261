"""Other V2 servers with the suite's models, each in an environment of its own, for comparing.

    python -m tests.conformance.peers install FOLDER [NAME ...]     make FOLDER/NAME, a virtual environment, from PyPI
    python -m tests.conformance.peers serve FOLDER NAME PORT GRPC   serve in the foreground, ended by SIGINT or SIGTERM
    python -m tests.conformance.peers run FOLDER [NAME ...]         serve and ask; verdicts to FOLDER/NAME.json

NAMEs are mlserver, kserve and triton; without one, all. Triton is the program in nvidia-pytriton's wheel, on CPU.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.conformance.models import MODELS, Model
from tests.conformance.peers import environments

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
PACKAGES = {"mlserver": environments.MLSERVER, "kserve": environments.KSERVE, "triton": environments.TRITON}
# Parts of the suite that a server says it does not have, or does not have in its documentation.
WITHOUT = {
    "mlserver": ["binary", "raw", "compression", "config", "statistics"],
    "kserve": ["raw", "compression", "repository", "config", "statistics", "stream"],
    "triton": [],
}
_START_S = 120.0
_STARTS = 20  # of one server in one run


def _mlserver(folder: Path, port: int, grpc: int) -> tuple[list[str], dict[str, str]]:
    models = environments.fresh(folder / "models-mlserver")
    shutil.copy(HERE / "in_mlserver.py", models)
    settings = {
        "http_port": port, "grpc_port": grpc, "metrics_endpoint": None, "parallel_workers": 0, "host": "127.0.0.1",
        "debug": False, "grpc_max_message_length": 64 * 1024 * 1024,
    }  # fmt: skip
    (models / "settings.json").write_text(json.dumps(settings))
    for model in MODELS.values():
        about = model.description()
        if "BF16" in str(about):
            continue  # MLServer has no such datatype
        place = models / model.name
        place.mkdir()
        entry = {
            "name": model.name, "implementation": "in_mlserver.Model", "inputs": about["inputs"], "platform": "python",
            "outputs": about["outputs"], "parameters": {"version": "1", "extra": about},
        }  # fmt: skip
        (place / "model-settings.json").write_text(json.dumps(entry))
    return [str(folder / "mlserver/bin/mlserver"), "start", str(models)], {"PYTHONPATH": str(models)}


def _kserve(folder: Path, port: int, grpc: int) -> tuple[list[str], dict[str, str]]:
    place = environments.fresh(folder / "models-kserve") / "models.json"
    able = [model.description() for model in MODELS.values()]
    place.write_text(json.dumps([about for about in able if "BF16" not in str(about)]))  # KServe cannot read BF16
    python, program = folder / "kserve/bin/python", HERE / "in_kserve.py"
    return [str(python), str(program), str(place), f"--http_port={port}", f"--grpc_port={grpc}"], {}


def _triton(folder: Path, port: int, grpc: int) -> tuple[list[str], dict[str, str]]:
    models = environments.fresh(folder / "models-triton")
    for model in MODELS.values():
        if model.name == "scalar":
            continue  # a configuration's dims may not be empty
        place = models / model.name / "1"
        place.mkdir(parents=True)
        shutil.copy(HERE / "in_triton.py", place / "model.py")
        (place.parent / "config.pbtxt").write_text(_config(model))
    return environments.triton(folder, models, port, grpc)


def _config(model: Model) -> str:
    def tensors(side: str) -> Iterable[str]:
        for tensor in model.description()[side + "s"]:
            kind = "STRING" if tensor["datatype"] == "BYTES" else tensor["datatype"]
            yield f'{side} [{{ name: "{tensor["name"]}" data_type: TYPE_{kind} dims: {tensor["shape"]} }}]'

    lines = [f'name: "{model.name}"', 'backend: "python"', "max_batch_size: 0", *tensors("input"), *tensors("output")]
    lines += [f'parameters {{ key: "does" value: {{ string_value: "{model.does}" }} }}']
    return "\n".join([*lines, "instance_group [{ kind: KIND_CPU count: 1 }]", ""])


COMMANDS: dict[str, Callable[[Path, int, int], tuple[list[str], dict[str, str]]]] = {
    "mlserver": _mlserver, "kserve": _kserve, "triton": _triton,
}  # fmt: skip


def serve(folder: Path, name: str, port: int, grpc: int) -> int:
    """Serve until ended; the exit code."""
    command, environ = COMMANDS[name](folder, port, grpc)
    os.environ.update(environ)
    os.execv(command[0], command)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(folder: Path, name: str) -> None:
    """Serve, and run the suite against it. A server that a case ends is started again, as a service manager would."""
    port, grpc = _free_port(), _free_port()
    command, environ = COMMANDS[name](folder, port, grpc)
    log, pid = folder / f"{name}.log", folder / f"{name}.pid"
    log.unlink(missing_ok=True)

    def start() -> subprocess.Popen[bytes]:
        with log.open("ab") as file:
            started = subprocess.Popen(
                command, env={**os.environ, **environ}, stdout=file, stderr=file, cwd=folder, start_new_session=True
            )
        pid.write_text(f"{started.pid}\n")
        return started

    peer, starts = start(), 1
    try:
        _wait(f"http://127.0.0.1:{port}/v2/models/add_sub/ready", peer, log)
        suite = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "--tb=no", "tests/conformance"]
        flags = [f"--target=http://127.0.0.1:{port}", f"--grpc=127.0.0.1:{grpc}"]
        flags += [f"--report={folder / name}.json", f"--without={','.join(WITHOUT[name])}"]
        flags += [f"--revive=kill -s KILL -- -$(cat '{pid}')"]  # whereupon it is started again, below
        asking = subprocess.Popen([*suite, *flags], cwd=ROOT)
        while asking.poll() is None:
            if peer.poll() is not None and starts < _STARTS:
                peer, starts = start(), starts + 1
            time.sleep(0.2)
        print(f"{name} was started {starts} times")
    finally:
        _end(peer)


def _end(peer: subprocess.Popen[bytes]) -> None:
    for kind in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(peer.pid, kind)
        with contextlib.suppress(subprocess.TimeoutExpired):
            peer.wait(20)


def _wait(url: str, peer: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and peer.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    sys.exit(f"it does not start; the end of {log}:\n{log.read_text(errors='replace')[-3000:]}")


def main(words: list[str]) -> None:
    """See above."""
    match words:
        case ["install" | "run" as what, folder, *names] if set(names) <= set(PACKAGES):
            for name in names or list(PACKAGES):
                if what == "install":
                    environments.install(Path(folder).resolve(), name, [PACKAGES[name]])
                else:
                    run(Path(folder).resolve(), name)
        case ["serve", folder, name, port, grpc] if name in PACKAGES:
            serve(Path(folder).resolve(), name, int(port), int(grpc))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
