"""The demo's callers: flights as HTTP requests over keep-alive connections, and their real delays as feedback later.

Invariant: open loop. A flight's moment is fixed by the rate alone, so a slow server would be seen as waiting, not
hidden by a client that waits with it; and every request that was begun is counted, whatever became of it. Runs in a
thread with an event loop of its own, so that printing never holds up traffic. Called by the demo's story.
"""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from gateway.client_control import ControlClient, name_in_path
from gateway.demo.data import FEATURES, Flights
from gateway.demo.models import INPUT
from registry.errors import ServingError

_CONNECTIONS = 16
_ANSWER_S = 30.0  # longer than any drain: a request that takes this long has failed
_FEEDBACK_EVERY_S = 0.5
_LABELS_A_CALL = 2000


@dataclass(slots=True)
class Tally:
    """What came of the requests so far. Read by the story's thread, written by the traffic's."""

    sent: int = 0
    answered: int = 0
    failed: int = 0
    by_version: Counter[tuple[str, str]] = field(default_factory=Counter)  # (version, role)
    faults: Counter[str] = field(default_factory=Counter)
    month: int = 0
    labels: Counter[str] = field(default_factory=Counter)  # what feedback's answers said
    feedback_failures: Counter[str] = field(default_factory=Counter)
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=100_000))  # client-side, newest last

    def quantile_ms(self, share: float) -> float:
        """Of the newest 100,000 answers; NaN before there is one."""
        seen = list(self.seconds)
        return float(np.quantile(seen, share)) * 1000.0 if seen else math.nan


def order_of(flights: Flights, stride: int) -> Iterator[int]:
    """Every stride-th flight in time order, then those between: the year passes quickly, and no flight comes twice.

    >>> none = np.zeros((5, 0), np.float32)
    >>> list(order_of(Flights(none, np.zeros(5, np.float32), np.zeros(5, np.int64)), 2))
    [0, 2, 4, 1, 3]
    """
    for offset in range(stride):
        yield from range(offset, len(flights), stride)


class Traffic:
    """Start it, read `tally` while it runs, stop it."""

    def __init__(
        self, data_url: str, control: ControlClient, model: str, flights: Flights, *, rate: float, label_after_s: float
    ) -> None:
        """rate: requests a second; label_after_s: how long after its prediction a flight's delay becomes known."""
        self.tally = Tally()
        self.rate = rate
        self._host, self._port = _address(data_url)
        self._path = f"/v2/models/{name_in_path(model)}/infer"
        self._feedback_path = f"models/{name_in_path(model)}/feedback"
        self._control = control
        self._flights = flights
        self._label_after_s = label_after_s
        self._waiting_labels: deque[tuple[float, str, float | None]] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="demo-traffic", daemon=True)

    def start(self, stride: int) -> None:
        """Begin with every stride-th flight."""
        self._order = order_of(self._flights, stride)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether flights are still leaving."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Send no more, wait for what was sent, and return."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=_ANSWER_S + 5.0)

    async def _run(self) -> None:
        queue: asyncio.Queue[int | None] = asyncio.Queue()
        callers = [asyncio.create_task(self._caller(queue)) for _ in range(_CONNECTIONS)]
        feedback = asyncio.create_task(self._feed_back())
        next_s = time.monotonic()
        while not self._stop.is_set():
            row = next(self._order, None)
            if row is None:
                break
            next_s += 1.0 / self.rate
            wait_s = next_s - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            self.tally.sent += 1
            self.tally.month = int(self._flights.month[row])
            queue.put_nowait(row)
        for _ in callers:
            queue.put_nowait(None)
        await asyncio.gather(*callers)
        feedback.cancel()
        with suppress(asyncio.CancelledError):
            await feedback

    async def _caller(self, queue: asyncio.Queue[int | None]) -> None:
        """One keep-alive connection; opened again, and the request counted as failed, when it breaks."""
        connection: _Connection | None = None
        while (row := await queue.get()) is not None:
            began_s = time.monotonic()
            identity = f"flight-{row}"
            try:
                if connection is None:
                    connection = await _Connection.open(self._host, self._port)
                request = _request(self._path, self._host, identity, self._flights.features[row])
                status, headers, body = await asyncio.wait_for(connection.ask(request), _ANSWER_S)
            except (OSError, EOFError, TimeoutError, ValueError, asyncio.LimitOverrunError) as fault:
                self._fail(f"{type(fault).__name__}: {fault}")
                if connection is not None:
                    await connection.close()
                connection = None
                continue
            if headers.get("connection", "").lower() == "close":
                await connection.close()
                connection = None
            if status != 200:
                self._fail(f"{status} {body[:200].decode(errors='replace')}")
                continue
            self.tally.answered += 1
            self.tally.seconds.append(time.monotonic() - began_s)
            version, role = headers.get("x-driftgate-version", "?"), headers.get("x-driftgate-role", "?")
            self.tally.by_version[version, role] += 1
            delay = float(self._flights.delay[row])
            # A flight that landed elsewhere has no delay: its label says so, with a null.
            label = delay if math.isfinite(delay) else None
            self._waiting_labels.append((time.monotonic() + self._label_after_s, identity, label))
        if connection is not None:
            await connection.close()

    def _fail(self, told: str) -> None:
        self.tally.failed += 1
        self.tally.faults[told[:300]] += 1

    async def _feed_back(self) -> None:
        while True:
            await asyncio.sleep(_FEEDBACK_EVERY_S)
            due: list[dict[str, object]] = []
            now_s = time.monotonic()
            while self._waiting_labels and self._waiting_labels[0][0] <= now_s and len(due) < _LABELS_A_CALL:
                _due_s, identity, value = self._waiting_labels.popleft()
                due.append({"request_id": identity, "values": [value]})
            if not due:
                continue
            try:
                answer = await asyncio.to_thread(self._control.post, self._feedback_path, {"labels": due})
            except ServingError as fault:
                self.tally.feedback_failures[fault.message[:300]] += 1
                continue
            for outcome, count in answer.items():
                if isinstance(count, int):
                    self.tally.labels[outcome] += count


class _Connection:
    """HTTP/1.1 over one socket, as much of it as our own server's answers need."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, host: str, port: int) -> _Connection:
        return cls(*await asyncio.open_connection(host, port))

    async def ask(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        self._writer.write(request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        _protocol, _space, status = head[0].partition(" ")
        return int(status[:3]), headers, body  # ValueError for anything that is no status line

    async def close(self) -> None:
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


def _request(path: str, host: str, identity: str, row: NDArray[np.float32]) -> bytes:
    """One flight as an Open Inference V2 request."""
    tensor = {"name": INPUT, "shape": [1, len(FEATURES)], "datatype": "FP32", "data": row.tolist()}
    body = json.dumps({"inputs": [tensor]}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        f"x-request-id: {identity}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or 80
