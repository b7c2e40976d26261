"""The process that reads and writes long JSON for a worker: `python -P -m gateway.data.codec_child FD`.

It takes one task after the other from the socket FD (what to do, for which version, with what), and gives back what
came of it, arrays as they lie in memory. It ends when the socket does, so it outlives nobody, and it gives way to the
threads that answer requests. Whatever a body does to it is done to it alone. Started by `codec_process.py`.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import traceback
from collections.abc import Sequence

import numpy as np

from gateway.background import step_back
from gateway.data.codec_process import receive, send
from gateway.data.codecs.v2 import Writer
from gateway.data.memory import ProcessMemory
from gateway.data.servable import Servable
from registry.errors import ServingError
from registry.manifest import Manifest

_MOST_KNOWN = 16  # versions

Version = tuple[str, int, str]  # model, number, manifest


def main(argv: Sequence[str]) -> int:
    """Work until nobody asks any more."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the whole group may get them: it goes when its worker does
        signal.signal(number, signal.SIG_IGN)
    step_back()
    np.seterr(all="ignore")  # as in the worker
    known: dict[Version, Writer] = {}
    memory = ProcessMemory()
    with socket.socket(fileno=int(argv[0])) as line, contextlib.suppress(EOFError, ConnectionError):
        while True:
            work_one(line, known)
            memory.give_back()
    return 0


def work_one(line: socket.socket, known: dict[Version, Writer]) -> None:
    """Do one task and send what came of it, or what was wrong. Raises EOFError or ConnectionError at the end."""
    version, work, given = receive(line)
    found, error = None, None
    try:
        found = work(_writer(known, version), *given)
    except ServingError as problem:
        error = type(problem).__name__, problem.message, problem.retry_after_s, problem.details
    except Exception as problem:  # a bug of ours: it is told, and the next task is done
        traceback.print_exc()
        error = type(problem).__name__, str(problem), None, {}
    send(line, (found, error))


def _writer(known: dict[Version, Writer], version: Version) -> Writer:
    found = known.get(version)
    if found is None:
        while len(known) >= _MOST_KNOWN:
            del known[next(iter(known))]
        model, number, manifest = version
        found = known[version] = Writer(Servable(model, number, None, Manifest.from_json(manifest), 1))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
