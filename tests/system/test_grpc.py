"""A real server over gRPC: two workers on one port, Triton's own client, and SIGTERM under load."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import numpy as np
import pytest

from gateway.data.grpc import messages
from registry import onnx
from tests.support import models
from tests.support.grpc_front import SERVICE, request_of
from tests.support.server import DRIFTGATE, Server, cli, eventually, v2_body

CALLERS = 16
DRAIN_S = 1.0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with one model, whose file lies beside it."""
    parent = tmp_path_factory.mktemp("grpc")
    folder = parent / "home"
    cli(folder, "register", "m", str(models.linear(parent / "m.onnx")), "--alias", "champion")
    return folder


@pytest.fixture
def server(home: Path, free_port: Callable[[], int]) -> Iterator[tuple[Server, int]]:
    """A server of two workers that speaks gRPC, and its gRPC port."""
    port = free_port()
    made = Server(
        home, free_port(), free_port(), workers=2,
        gateway__grpc="on", gateway__grpc_port=port, gateway__drain_s=DRAIN_S, gateway__grace_s=10.0,
    )  # fmt: skip
    try:
        yield made.start(), port
    finally:
        made.kill()


def test_tritonclient_and_rest_give_the_bits_of_onnxruntime(server: tuple[Server, int], home: Path) -> None:
    client_module = pytest.importorskip("tritonclient.grpc")
    running, port = server
    rows = np.random.default_rng(5).normal(size=(20, 2, 3)).astype(np.float32)
    session = onnx.open_session(home.parent / "m.onnx")
    client = client_module.InferenceServerClient(f"127.0.0.1:{port}")
    tensor = client_module.InferInput("x", [2, 3], "FP32")
    streamed: list[Any] = []
    client.start_stream(lambda result, error: streamed.append((result, error)))
    for row in rows:
        alone = onnx.run(session, {"x": row})[0]
        tensor.set_data_from_numpy(row)
        assert client.infer("m", [tensor]).as_numpy("y").tobytes() == alone.tobytes()
        zipped = client.infer("m", [tensor], compression_algorithm="gzip", client_timeout=10.0)
        assert zipped.as_numpy("y").tobytes() == alone.tobytes()
        answer = httpx.post(f"{running.data_url}/v2/models/m/infer", content=v2_body(row)).json()
        assert np.array(answer["outputs"][0]["data"], np.float32).tobytes() == alone.tobytes()
        client.async_stream_infer("m", [tensor])
    eventually(lambda: len(streamed) == len(rows), 10)
    client.stop_stream()
    for row, (result, error) in zip(rows, streamed, strict=True):
        assert error is None
        assert result.as_numpy("y").tobytes() == onnx.run(session, {"x": row})[0].tobytes()
    client.close()
    booked = running.metrics()["driftgate_requests_total"]
    over_grpc = {dict(labels)["code"]: count for labels, count in booked.items() if dict(labels)["protocol"] == "grpc"}
    assert over_grpc["OK"] >= 60


def _peer(pid: int, port: int) -> bool:
    """Whether a process listens on a port itself."""
    inodes = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()}
    for line in [*Path("/proc/net/tcp").read_text().splitlines(), *Path("/proc/net/tcp6").read_text().splitlines()]:
        words = line.split()
        if words[3] == "0A" and int(words[1].rsplit(":", 1)[1], 16) == port and f"socket:[{words[9]}]" in inodes:
            return True
    return False


async def _load(port: int, name: str, stop: asyncio.Event) -> list[tuple[float, float, str, str]]:
    """One caller that always waits for its answer: (sent, done, status, details) of each call."""
    seen = []
    body = request_of("m", [[1.0, 2.0, 3.0]]).SerializeToString()
    async with grpc.aio.insecure_channel(
        f"127.0.0.1:{port}", options=(("grpc.use_local_subchannel_pool", 1),)
    ) as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        while not stop.is_set():
            sent_s, status, details = time.monotonic(), "OK", ""
            try:
                await infer(body, timeout=10.0, metadata=(("x-request-id", name),))
            except grpc.aio.AioRpcError as error:
                status, details = error.code().name, error.details() or ""
                await asyncio.sleep(0.05)
            seen.append((sent_s, time.monotonic(), status, details))
    return seen


def test_both_workers_listen_and_sigterm_under_load_loses_no_call(server: tuple[Server, int]) -> None:
    running, port = server
    assert all(_peer(pid, port) for pid in running.pids("worker"))

    async def drain() -> tuple[int, float, list[tuple[float, float, str, str]]]:
        stop = asyncio.Event()
        callers = [asyncio.create_task(_load(port, f"c{i}", stop)) for i in range(CALLERS)]
        await asyncio.sleep(1.0)
        told_s = time.monotonic()
        code = await asyncio.to_thread(running.stop)
        stop.set()
        return code, told_s, [one for caller in callers for one in await caller]

    code, told_s, seen = asyncio.run(drain())
    assert code == 0
    statuses = Counter(status for _, _, status, _ in seen)
    assert statuses["OK"] > CALLERS
    assert any(done_s > told_s + DRAIN_S / 2 for _, done_s, status, _ in seen if status == "OK")  # still answering
    # What is not answered was never taken in: the port was closed by then.
    lost = [one for one in seen if one[2] != "OK" and "connect" not in one[3]]
    assert lost == []
    assert all(sent_s > told_s + DRAIN_S / 2 for sent_s, _, status, _ in seen if status != "OK")


def test_health_says_not_serving_while_the_server_drains(server: tuple[Server, int]) -> None:
    running, port = server

    async def watch() -> list[bytes]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_stream(f"/{messages.HEALTH}/Watch")(b"")
            told = [await call.read()]
            stopping = asyncio.create_task(asyncio.to_thread(running.stop))
            told.append(await call.read())
            assert await call.read() is grpc.aio.EOF
            assert await stopping == 0
            return told

    assert asyncio.run(watch()) == [b"\x08\x01", b"\x08\x02"]


def test_a_port_that_is_taken_is_refused_before_anything_starts(home: Path, free_port: Callable[[], int]) -> None:
    import socket

    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as a second server of ours would
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        done = cli(home, "serve", "--port", "0", "--control-port", "0", "--grpc-port", str(taken), check=False)
    assert done.returncode == 1
    assert f"port {taken}" in done.stderr
    assert "--grpc-port" in done.stderr


def test_serve_without_the_packages_says_what_to_install(home: Path, tmp_path: Path) -> None:
    import subprocess

    program = (
        "import importlib.util, sys\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'grpc' else real(name, *rest)\n"
        "from driftgate.__main__ import main\n"
        f"sys.argv = ['driftgate', '--home', {str(home)!r}, 'serve', '--grpc-port', '0']\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run([DRIFTGATE[0], "-P", "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 1
    assert "pip install 'driftgate[grpc]'" in done.stderr
    assert sys.executable == DRIFTGATE[0]
