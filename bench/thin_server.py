"""The least that a server in Python can be: `python -m bench.thin_server MODEL ITEM_SHAPE PORT`.

It looks for the length of the body and trusts everything else: no routes, no checks, no counts, no monitor. One thread
runs onnxruntime, which the event loop hands one request after the other; answers are the first output's bytes. What
it loses against onnxruntime alone in a loop is what sockets, uvloop and two threads cost on this machine, and no
gateway can lose less. Run by the alone scenario, on the server's core.
"""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import uvloop

from bench.models import open_session

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_TYPES = {"tensor(int32)": np.int32, "tensor(float)": np.float32}

Job = tuple["Caller", Any]


class Caller(asyncio.Protocol):
    """One connection, on which one request follows the other's answer."""

    def __init__(self, dtype: Any, shape: tuple[int, ...], jobs: SimpleQueue[Job]) -> None:
        self._dtype, self._shape, self._jobs = dtype, shape, jobs
        self._bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._came, self._wanted = bytearray(), 0
        self.is_gone = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_gone = True

    def data_received(self, data: bytes) -> None:
        self._came += data
        if not self._wanted:
            end = self._came.find(b"\r\n\r\n")
            if end < 0:
                return
            length = _LENGTH.search(self._came, 0, end + 2)
            if length is None:  # is it up?
                self.answer(b"")
                self._came = bytearray()
                return
            self._wanted = end + 4 + int(length[1])
        if len(self._came) >= self._wanted:
            array = np.frombuffer(self._came, np.uint8, self._bytes, self._wanted - self._bytes).copy()
            self._came, self._wanted = bytearray(), 0
            self._jobs.put((self, array.view(self._dtype).reshape(self._shape)))

    def answer(self, body: bytes) -> None:
        """One write."""
        if not self._transport.is_closing():
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))


async def main(model: str, shape: tuple[int, ...], port: int) -> None:
    """Serve until killed."""
    session, jobs, loop = open_session(Path(model)), SimpleQueue[Job](), asyncio.get_running_loop()
    taken = session.get_inputs()[0]

    def work() -> None:
        while True:
            caller, array = jobs.get()
            if caller.is_gone:
                continue  # else its run would be in the way of what is measured next
            output = session.run(None, {taken.name: array})[0]
            loop.call_soon_threadsafe(caller.answer, output.tobytes())

    threading.Thread(target=work, daemon=True).start()
    server = await loop.create_server(lambda: Caller(_TYPES[taken.type], shape, jobs), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], tuple(int(size) for size in sys.argv[2].split(",")), int(sys.argv[3])))
