"""Servers under measurement: a real `driftgate serve`, or any other program, on named cores.

A process and its children run where the core that started them was allowed to run, so `on_cores` is all that pinning
takes. Everything started here is gone when its `with` block ends. Called by scenarios.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench.machine import ROOT
from tests.support.server import Server, cli

SERVER_CORE, LOAD_CORE = 0, 1


def free_port() -> int:
    """A TCP port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def on_cores(cores: Collection[int]) -> Iterator[None]:
    """What is started inside runs on these cores only; the caller is where it was, afterwards."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def program(
    command: list[str],
    ready_url: str,
    *,
    cores: Collection[int] = (SERVER_CORE,),
    environ: Mapping[str, str] | None = None,
    log: Path | None = None,
    cwd: Path = ROOT,
    start_s: float = 60.0,
    stop: signal.Signals = signal.SIGTERM,
) -> Iterator[subprocess.Popen[bytes]]:
    """Any server, from its first 200 at ready_url to the end of its last child."""
    with contextlib.ExitStack() as stack:
        out: Any = stack.enter_context(log.open("wb")) if log is not None else subprocess.DEVNULL
        with on_cores(cores):
            process = subprocess.Popen(
                command, env={**os.environ, **(environ or {})}, stdout=out, stderr=out, cwd=cwd, start_new_session=True
            )
        try:
            wait_for(ready_url, process, start_s, log)
            yield process
        finally:
            end_group(process, stop)


def end_group(process: subprocess.Popen[bytes], first: signal.Signals = signal.SIGTERM, patience_s: float = 20) -> None:
    """End a process that leads its own group, politely, then its whole group for certain."""
    children = []
    with contextlib.suppress(psutil.Error):
        children = psutil.Process(process.pid).children(recursive=True)
    if process.poll() is None:
        process.send_signal(first)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in children:  # those that left the group
        with contextlib.suppress(psutil.Error):
            child.kill()
    process.wait(10)


def wait_for(url: str, process: subprocess.Popen[bytes], seconds: float, log: Path | None = None) -> None:
    """Until a GET answers 200. Raises RuntimeError, with the end of the log, when it does not in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5).status_code == 200:
                return
        time.sleep(0.1)
    said = log.read_text(errors="replace")[-3000:] if log is not None else "(no log)"
    state = "it ended" if process.poll() is not None else f"not within {seconds:g} s"
    raise RuntimeError(f"{url} does not answer 200: {state}; its log ends:\n{said}")


class Gateway(Server):
    """A real `driftgate serve` on these cores. `with Gateway(…) as gateway:` after models were registered."""

    def __init__(
        self, home: Path, *, cores: Collection[int] = (SERVER_CORE,), workers: int = 1, **settings: object
    ) -> None:
        settings = {"gateway__drain_s": 0.2, **settings}  # nobody is left to hear that it will go
        super().__init__(home, free_port(), free_port(), workers=workers, **settings)
        self._cores = cores
        home.parent.mkdir(parents=True, exist_ok=True)

    def set(self, name: str, value: str) -> None:
        """A setting, before the start."""
        self._environ[f"DRIFTGATE_{name.upper()}"] = value

    def register(self, model: str, path: Path, *flags: str, champion: bool = True) -> None:
        """Register a version, before or after the start."""
        cli(self.home, "register", model, str(path), *(["--alias", "champion"] if champion else []), *flags)

    def start_rollout(self, model: str, version: int, plan: str, weight_pct: float) -> None:
        """Start a rollout and wait until this share is in force."""
        path = self.home.parent / f"{model}-plan.toml"
        path.write_text(plan)
        cli(self.home, "rollout", "start", model, str(version), "--plan", str(path))
        deadline = time.monotonic() + 30
        while (now := self.rollout(model))["weight_pct"] != weight_pct:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the rollout did not reach {weight_pct:g} %: {now}")
            time.sleep(0.2)

    def rollout(self, model: str) -> dict[str, Any]:
        """The rollout as the control port tells it."""
        return dict(self.get(f"models/{model}/rollout"))

    def __enter__(self) -> Gateway:
        try:
            with on_cores(self._cores):
                self.start()
        except BaseException:  # told to stop, say: __exit__ will not be called
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.process is not None and self.process.poll() is None:
                self.stop()
        finally:
            self.kill()

    def infer_url(self, model: str) -> str:
        """Where V2 requests go."""
        return f"{self.data_url}/v2/models/{model}/infer"

    def wait_ready(self, model: str, seconds: float = 60.0) -> None:
        """Until the model's champion can be asked."""
        assert self.process is not None
        wait_for(f"{self.data_url}/v2/models/{model}/ready", self.process, seconds, self.log)

    def answered(self, model: str, code: str = "200") -> dict[str, float]:
        """Requests answered with this code, by role, from /metrics."""
        counts: dict[str, float] = {}
        for labels, value in self.metrics().get("driftgate_requests_total", {}).items():
            about = dict(labels)
            if about["model"] == model and about["code"] == code:
                counts[about["role"]] = counts.get(about["role"], 0.0) + value
        return counts

    def memory_mib(self) -> dict[str, float]:
        """Resident memory of the workers together, and of the controller."""
        return {kind: self._sum(kind, lambda p: p.memory_info().rss / 2**20) for kind in ("worker", "controller")}

    def own_memory_mib(self) -> float:
        """Resident memory of the workers together that is no file's.

        A lane's file has its full size from the start, and its pages count as resident once they have been written:
        a worker that answers on and on seems to grow by 4 MiB a lane.
        """
        return self._sum("worker", lambda p: (p.memory_info().rss - p.memory_info().shared) / 2**20)

    def descriptors(self) -> dict[str, float]:
        """Open file descriptors of the workers together, and of the controller."""
        return {kind: self._sum(kind, lambda p: p.num_fds()) for kind in ("worker", "controller")}

    def _sum(self, kind: str, measure: Any) -> float:
        return float(sum(measure(psutil.Process(pid)) for pid in self.pids(kind)))


def python(*words: str) -> list[str]:
    """A command line of this interpreter."""
    return [sys.executable, *words]
