"""The process that reads long JSON bodies for a worker: `python -P -m gateway.data.decoder_child FD`.

It takes one task after the other from the socket FD (which codec, for which version, and the body), and gives the
tensors back as they lie in memory. It ends when the socket does, so it outlives nobody, and it gives way to the
threads that answer requests. Whatever a body does to it is done to it alone. Started by `gateway/data/decoder.py`.
"""

from __future__ import annotations

import contextlib
import pickle
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import numpy as np

from gateway.background import step_back
from gateway.data.decoder import FRAME, SIZE, receive
from gateway.data.memory import ProcessMemory
from gateway.data.servable import Servable
from registry.errors import ServingError
from registry.manifest import Manifest

_MOST_KNOWN = 16  # versions

Version = tuple[str, int, str]  # model, number, manifest


def main(argv: Sequence[str]) -> int:
    """Read until nobody asks any more."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the whole group may get them: it goes when its worker does
        signal.signal(number, signal.SIG_IGN)
    step_back()
    np.seterr(all="ignore")  # as in the worker
    known: dict[Version, Servable] = {}
    memory = ProcessMemory()
    with socket.socket(fileno=int(argv[0])) as line, contextlib.suppress(EOFError, ConnectionError):
        while True:
            size, length = FRAME.unpack(receive(line, FRAME.size))
            task, body = pickle.loads(receive(line, size)), bytes(receive(line, length))  # noqa: S301
            answer(line, known, task, body)
            del task, body
            memory.give_back()
    return 0


def answer(line: socket.socket, known: dict[Version, Servable], task: Any, body: bytes) -> None:
    """Read one body and send what it holds, or what is wrong with it."""
    read, headers, model, version, manifest, limits = task
    found, error = None, None
    try:
        servable = known.get((model, version, manifest))
        if servable is None:
            while len(known) >= _MOST_KNOWN:
                del known[next(iter(known))]
            servable = known[model, version, manifest] = Servable(model, version, None, Manifest.from_json(manifest), 1)
        found = read(body, headers, servable, limits)
    except ServingError as problem:
        error = type(problem).__name__, problem.message, problem.retry_after_s, problem.details
    except Exception as problem:  # a bug of ours: it is told, and the next body is read
        traceback.print_exc()
        error = type(problem).__name__, str(problem), None, {}
    buffers: list[pickle.PickleBuffer] = []
    text = pickle.dumps((found, error), protocol=5, buffer_callback=buffers.append)
    line.sendall(FRAME.pack(len(text), len(buffers)))
    line.sendall(text)
    for buffer in buffers:
        octets = buffer.raw()
        line.sendall(SIZE.pack(octets.nbytes))
        line.sendall(octets)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
