"""The demo's `driftgate` commands and its server: processes started as a user starts them. Called by the story."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway.demo.tell import Teller
from registry.errors import InternalError

READY_S = 60.0
DRAINED_S = 45.0


@dataclass(slots=True)
class Server:
    """The `driftgate serve` that the demo started."""

    process: subprocess.Popen[bytes]
    data_url: str = ""
    control_url: str = ""


@contextlib.contextmanager
def serving(teller: Teller, home: Path, said: Path, log: Path) -> Iterator[Server]:
    """`driftgate serve` on free ports, ready; ended by SIGTERM as an operator would.

    said and log are files for its standard output and error. Raises InternalError when it does not become ready.
    """
    words = ["serve", "--home", str(home), "--port", "0", "--control-port", "0"]
    teller.command(["driftgate", *words])
    with said.open("wb") as stdout, log.open("wb") as stderr:
        process = subprocess.Popen([*_python(), *words, "--json"], stdout=stdout, stderr=stderr, env=_environ())
    server = Server(process)
    try:
        until_s = time.monotonic() + READY_S
        while not said.read_bytes().endswith(b"\n"):
            teller.move("waiting until both ports are ready")
            if process.poll() is not None:
                raise InternalError(f"driftgate serve ended with exit code {process.returncode}; see {log}")
            if time.monotonic() > until_s:
                raise InternalError(f"driftgate serve was not ready in {READY_S:g} s; see {log}")
            time.sleep(0.1)
        ready = json.loads(said.read_bytes())
        server.data_url, server.control_url = ready["data_url"], ready["control_url"]
        teller.still()
        teller.say(f"predictions at {server.data_url}; control, metrics and events at {server.control_url}")
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=DRAINED_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def driftgate(teller: Teller, home: Path, *words: str) -> None:
    """Run one command as a user would, and show what it printed. Raises InternalError with that when it fails."""
    teller.still()
    teller.command(["driftgate", *words])
    done = subprocess.run(
        [*_python(), "--home", str(home), *words], capture_output=True, text=True, check=False, env=_environ()
    )
    if done.returncode != 0:
        raise InternalError(f"driftgate {words[0]} ended with exit code {done.returncode}: {done.stderr.strip()}")
    teller.quote(done.stderr + done.stdout)


def _python() -> list[str]:
    return [sys.executable, "-P", "-m", "driftgate"]


def _environ() -> dict[str, str]:
    """Ours, without what would set up another server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DRIFTGATE_")}
    return {**kept, "DRIFTGATE_GATEWAY__GRPC": "off", "COLUMNS": "140", "PYTHONUNBUFFERED": "1"}
