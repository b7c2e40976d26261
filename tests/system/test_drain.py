"""SIGTERM under load: nobody on an accepted connection loses a request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support import models
from tests.support.server import Client, Server, cli, v2_body

CLIENTS = 64
DRAIN_S = 1.0


async def _drain_under_load(server: Server, client: Client) -> tuple[int, float]:
    load = asyncio.create_task(client.run(CLIENTS))
    await asyncio.sleep(1.0)
    told_s = time.monotonic()
    code = await asyncio.to_thread(server.stop)
    client.stopping = True
    await load
    return code, told_s


def _one_run(home: Path, free_port: Callable[[], int], workers: int) -> None:
    server = Server(
        home, free_port(), free_port(), workers=workers, gateway__drain_s=DRAIN_S, gateway__grace_s=10.0
    ).start()
    try:
        rows = np.random.default_rng(1).normal(size=(50, 1, 3))
        client = Client(server.port, "m", [v2_body(row) for row in rows])
        code, told_s = asyncio.run(_drain_under_load(server, client))
    finally:
        server.kill()
    assert code == 0
    after = [seen for seen in client.seen if seen.done_s > told_s]
    answered = [seen for seen in after if seen.status == 200]
    assert len(answered) > CLIENTS  # still answering while it drains
    # A connection that was still in the kernel's queue when the listener closed was never accepted: its first request,
    # sent around that moment, is the only thing that may go unanswered.
    lost = [
        seen for seen in client.seen if seen.status != 200 and not (seen.fresh and seen.sent_s > told_s + DRAIN_S / 2)
    ]
    assert lost == []


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    cli(folder, "register", "m", str(models.linear(tmp_path / "m.onnx")), "--alias", "champion")
    return folder


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_under_load_loses_no_request_and_exits_0(
    home: Path, free_port: Callable[[], int], workers: int
) -> None:
    _one_run(home, free_port, workers)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sigterm_under_load_loses_no_request_in_20_runs(home: Path, free_port: Callable[[], int]) -> None:
    for run in range(20):
        _one_run(home, free_port, 1 + run % 2)
