"""A real `driftgate serve` in its own process group, and clients that keep their own record of what they got."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[2]
DRIFTGATE = (sys.executable, "-P", "-m", "driftgate")


def cli(home: Path, *words: str, check: bool = True, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would; fails the test with its output when it fails."""
    done = subprocess.run(
        [*DRIFTGATE, "--home", str(home), *words], capture_output=True, text=True, timeout=timeout_s, cwd=home.parent
    )
    if check and done.returncode:
        raise AssertionError(f"driftgate {' '.join(words)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


class Server:
    """One `driftgate serve`."""

    def __init__(self, home: Path, port: int, control_port: int, *, workers: int = 1, **settings: object) -> None:
        self.home, self.port, self.control_port, self.workers = home, port, control_port, workers
        self.data_url = f"http://127.0.0.1:{port}"
        self.control_url = f"http://127.0.0.1:{control_port}"
        settings = {"gateway__grpc": "off", **settings}  # or servers side by side would race for the default port
        self._environ = {f"DRIFTGATE_{name.upper()}": str(value) for name, value in settings.items()}
        self.log = home.parent / f"{home.name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> Server:
        """Start it, and wait until every worker and the controller are ready."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *DRIFTGATE, "serve", "--home", str(self.home), "--port", str(self.port),
                    "--control-port", str(self.control_port), "--workers", str(self.workers),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._environ},
                cwd=self.home.parent,
                start_new_session=True,
            )  # fmt: skip
        if wait:
            eventually(lambda: self._is_up(), 40, lambda: self.log.read_text()[-3000:])
        return self

    def _is_up(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            both = (f"{self.data_url}/readyz", f"{self.control_url}/readyz")
            return all(httpx.get(url).status_code == 200 for url in both) and len(self.pids("worker")) == self.workers
        return False

    def children(self) -> list[psutil.Process]:
        """Every process of this server but the supervisor."""
        assert self.process is not None
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def pids(self, word: str) -> list[int]:
        """Pids of `worker` or `controller` children."""
        found = []
        for child in self.children():
            with contextlib.suppress(psutil.Error):
                if f"driftgate {word}" in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child.pid)
        return found

    def get(self, path: str, **parameters: Any) -> Any:
        """GET from the control port's API."""
        answer = httpx.get(f"{self.control_url}/api/v1/{path}", params=parameters, timeout=20)
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str, body: Any = None) -> Any:
        """POST to the control port's API."""
        answer = httpx.post(f"{self.control_url}/api/v1/{path}", json=body or {}, timeout=60)
        if answer.is_error:
            raise AssertionError(f"POST {path}: {answer.status_code} {answer.text}")
        return answer.json()

    def metrics(self) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
        """/metrics, by name and sorted labels."""
        from prometheus_client.parser import text_string_to_metric_families

        found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
        for family in text_string_to_metric_families(httpx.get(f"{self.control_url}/metrics", timeout=20).text):
            for sample in family.samples:
                found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
        return found

    def stop(self, timeout_s: float = 60.0) -> int:
        """SIGTERM and wait; the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """End whatever is left. For clean-up only."""
        if self.process is None:
            return
        left = self.children()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for child in left:
            with contextlib.suppress(psutil.Error):
                child.kill()
        self.process.wait(10)


@contextlib.contextmanager
def serving(home: Path, free_port: Callable[[], int], *, workers: int = 1, **settings: object) -> Iterator[Server]:
    """A started server that is gone afterwards, whatever happened."""
    server = Server(home, free_port(), free_port(), workers=workers, **settings)
    try:
        yield server.start()
    finally:
        server.kill()


def eventually(is_true: Callable[[], object], seconds: float, tell: Callable[[], object] = lambda: "") -> Any:
    """The first true value within the time; fails the test with what `tell` says."""
    deadline = time.monotonic() + seconds
    while True:
        value = is_true()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {tell()}")
        time.sleep(0.05)


@dataclass
class Seen:
    """One answer, or the lack of one."""

    request_id: str
    sent_s: float
    done_s: float
    status: int  # 0: the connection broke
    version: str = ""
    role: str = ""
    fresh: bool = False  # the connection's first request
    body: bytes = b""


@dataclass
class Client:
    """Keep-alive connections over plain sockets; every outcome is recorded, none is retried."""

    port: int
    model: str
    bodies: Sequence[bytes]
    name: str = "c"
    seen: list[Seen] = field(default_factory=list)
    refused: int = 0
    stopping: bool = False
    in_flight: int = 0

    async def run(self, connections: int, pause_s: float = 0.0) -> None:
        """Load from this many connections until `stopping` is set."""
        await asyncio.gather(*(self._connection(i, pause_s) for i in range(connections)))

    async def _connection(self, number: int, pause_s: float) -> None:
        count = 0
        while not self.stopping:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                self.refused += 1
                await asyncio.sleep(0.05)
                continue
            fresh = True
            try:
                while not self.stopping:
                    request_id = f"{self.name}-{number}-{count}"
                    body = self.bodies[(number * 7919 + count) % len(self.bodies)]
                    count += 1
                    keep = await self._request(reader, writer, request_id, body, fresh)
                    fresh = False
                    if not keep:
                        break
                    if pause_s:
                        await asyncio.sleep(pause_s)
            finally:
                writer.close()
                with contextlib.suppress(OSError, asyncio.CancelledError):
                    await writer.wait_closed()

    async def _request(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request_id: str, body: bytes, fresh: bool
    ) -> bool:
        head = (
            f"POST /v2/models/{self.model}/infer HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            f"x-request-id: {request_id}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        sent_s = time.monotonic()
        self.in_flight += 1
        try:
            writer.write(head.encode() + body)
            raw = await reader.readuntil(b"\r\n\r\n")
            lines = raw.decode("latin-1").split("\r\n")
            names = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:] if line)}
            answer = await reader.readexactly(int(names.get("content-length", "0")))
        except (OSError, asyncio.IncompleteReadError):
            self.seen.append(Seen(request_id, sent_s, time.monotonic(), 0, fresh=fresh))
            return False
        finally:
            self.in_flight -= 1
        status = int(lines[0].split(" ")[1])
        version, role = names.get("x-driftgate-version", ""), names.get("x-driftgate-role", "")
        self.seen.append(Seen(request_id, sent_s, time.monotonic(), status, version, role, fresh, answer))
        return names.get("connection") != "close"


def v2_body(rows: Any, name: str = "x") -> bytes:
    """A V2 JSON request of FP32 rows."""
    values = [[float(value) for value in row] for row in rows]
    tensor = {"name": name, "shape": [len(values), len(values[0])], "datatype": "FP32", "data": values}
    return json.dumps({"inputs": [tensor]}).encode()
