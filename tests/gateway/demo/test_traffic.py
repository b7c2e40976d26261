"""The demo's callers: every flight is counted once, whatever the server does, and its delay is fed back later."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest

from gateway.client_control import ControlClient
from gateway.demo.data import FEATURES, Flights
from gateway.demo.traffic import Traffic, order_of

Answer = Callable[[int], bytes | None]  # the number of the request → the whole answer; None: close the connection


def answered(status: str, body: bytes = b"{}", extra: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nx-driftgate-version: 1\r\n"
    return f"{head}x-driftgate-role: champion\r\n{extra}\r\n".encode() + body


@contextmanager
def served(answer: Answer) -> Iterator[tuple[str, list[tuple[str, dict[str, Any]]]]]:
    """A server on a free port, in a thread: its address, and (head, body) of what it was asked."""
    asked: list[tuple[str, dict[str, Any]]] = []
    started, ended = threading.Event(), threading.Event()
    port = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                size = int(head.lower().split("content-length:")[1].split("\r\n")[0])
                asked.append((head, json.loads(await reader.readexactly(size))))
                said = answer(len(asked) - 1)
                if said is None:
                    return
                writer.write(said)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def serve() -> None:
        nonlocal port
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        started.set()
        while not ended.is_set():
            await asyncio.sleep(0.01)
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    started.wait(5.0)
    try:
        yield f"http://127.0.0.1:{port}", asked
    finally:
        ended.set()
        thread.join()


def flights(delays: list[float]) -> Flights:
    features = np.arange(len(delays) * len(FEATURES), dtype=np.float32).reshape(len(delays), -1) / np.float32(3)
    return Flights(features, np.array(delays, np.float32), np.full(len(delays), 4))


def played(url: str, delays: list[float], labels: list[Any]) -> Traffic:
    """All flights sent, all labels due fed back."""

    def take(request: httpx.Request) -> httpx.Response:
        labels.extend(json.loads(request.content)["labels"])
        return httpx.Response(200, json={"joined": 1, "waiting": 0, "ambiguous": 0, "expired": 0})

    control = ControlClient("http://x", transport=httpx.MockTransport(take))
    traffic = Traffic(url, control, "m", flights(delays), rate=2000.0, label_after_s=0.0)
    traffic.start(1)
    until_s = time.monotonic() + 5.0
    while traffic.is_running and time.monotonic() < until_s:
        time.sleep(0.005)
    traffic.stop()
    return traffic


def test_each_flight_is_one_v2_request_with_its_exact_numbers() -> None:
    with served(lambda _n: answered("200 OK")) as (url, asked):
        tally = played(url, [1.0, 2.0, 3.0], []).tally
    assert (tally.sent, tally.answered, tally.failed) == (3, 3, 0)
    assert tally.by_version["1", "champion"] == 3
    assert tally.month == 4
    by_id = {head.split("x-request-id: ")[1].split("\r\n")[0]: body for head, body in asked}
    assert set(by_id) == {"flight-0", "flight-1", "flight-2"}
    (tensor,) = by_id["flight-1"]["inputs"]
    assert (tensor["shape"], tensor["datatype"]) == ([1, len(FEATURES)], "FP32")
    np.testing.assert_array_equal(np.array(tensor["data"], np.float32), flights([0, 0]).features[1])


@pytest.mark.parametrize("said", [answered("503 Service Unavailable", b'{"error": "no"}'), None, b"nonsense\r\n\r\n"])
def test_a_failed_request_is_counted_and_the_others_go_on(said: bytes | None) -> None:
    with served(lambda n: said if n == 0 else answered("200 OK")) as (url, _asked):
        tally = played(url, [1.0] * 30, []).tally
    assert (tally.sent, tally.answered, tally.failed) == (30, 29, 1)
    assert sum(tally.faults.values()) == 1


def test_a_server_that_closes_in_order_loses_nothing() -> None:
    with served(lambda _n: answered("200 OK", extra="connection: close\r\n")) as (url, _asked):
        tally = played(url, [1.0] * 20, []).tally
    assert (tally.answered, tally.failed) == (20, 0)


def test_no_server_at_all_is_failure_for_every_flight() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        tally = played(f"http://127.0.0.1:{free.getsockname()[1]}", [1.0] * 5, []).tally
    assert (tally.sent, tally.answered, tally.failed) == (5, 0, 5)


def test_delays_are_fed_back_and_a_flight_that_landed_elsewhere_has_none() -> None:
    labels: list[Any] = []

    def take(request: httpx.Request) -> httpx.Response:
        labels.extend(json.loads(request.content)["labels"])
        return httpx.Response(200, json={"joined": len(labels), "waiting": 0})

    control = ControlClient("http://x", transport=httpx.MockTransport(take))
    with served(lambda _n: answered("200 OK")) as (url, _asked):
        traffic = Traffic(url, control, "m", flights([1.5, float("nan")] * 200), rate=400.0, label_after_s=0.0)
        traffic.start(1)
        until_s = time.monotonic() + 5.0
        while len(labels) < 2 and time.monotonic() < until_s:
            time.sleep(0.01)
        traffic.stop()
    by_id = {label["request_id"]: label["values"] for label in labels}
    assert by_id["flight-0"] == [1.5]
    assert by_id["flight-1"] == [None]
    assert traffic.tally.labels["joined"] > 0


def test_the_year_passes_once_before_flights_between_are_used() -> None:
    assert list(order_of(flights([0.0] * 7), 3)) == [0, 3, 6, 1, 4, 2, 5]
