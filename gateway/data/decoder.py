"""Reads long JSON bodies in a process of its own, so that the event loop goes on meanwhile.

Why: parsing 14 MB of JSON rows takes 0.1 to 0.6 s, most of it in calls that hold the interpreter's lock, so that even
in a thread all other requests of this worker would wait for it. The process (`decoder_child.py`) is started when a
long body comes, reads one body after the other, and ends when none has come for a while, its memory with it. Whatever
happens to it, the worker goes on: its request is answered with 503. Where no process can be started, bodies are read
on the event loop. The event loop's half is `Decoder`; a thread of its own does the talking.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from gateway.data.codecs.call import Call, Codec, Headers
from gateway.data.servable import Servable, Tensor
from gateway.settings import LimitSettings
from registry import errors
from registry.errors import Draining, Overloaded, ServingError

logger = logging.getLogger(__name__)

FRAME = struct.Struct("<QQ")  # bytes of a pickle; of the body, or how many buffers follow
SIZE = struct.Struct("<Q")  # of a buffer
IDLE_S = 30.0  # without a body, after which the process ends
_ANSWER_S = 60.0  # a body of 64 MiB takes some seconds
_MOST_WAITING = 32  # bodies; as many bytes as `Bodies` allows
_LONGEST_RETRY_S = 60.0
_CHILD = (sys.executable, "-P", "-m", "gateway.data.decoder_child")

Read = tuple[Sequence[Tensor], Call]


class Decoder:
    """The process of one worker, and who waits for it. Event loop only."""

    def __init__(self, limits: LimitSettings, command: Sequence[str] = _CHILD, idle_s: float = IDLE_S) -> None:
        self._limits = limits
        self._idle_s = idle_s
        self._process = _Process(command)
        self._thread: ThreadPoolExecutor | None = None
        self._waiting = 0
        self._took_s = 0.0  # the last body
        self._end: asyncio.TimerHandle | None = None

    async def read(
        self, codec: Codec, body: bytes, headers: Headers, servable: Servable, is_wanted: Callable[[], bool]
    ) -> Codec:
        """Read a body → the codec that gives what was read, for this servable and any that reads alike.

        is_wanted: asked before the reading begins. Raises what `codec.read` does, and Overloaded when too many wait or
        the process ended; a body that nobody wants any more is not read, and the codec given back as it is.
        """
        if self._waiting >= _MOST_WAITING:
            raise Overloaded(
                f"{self._waiting} long bodies wait to be read already",
                retry_after_s=min(_LONGEST_RETRY_S, max(1.0, self._waiting * self._took_s)),
                reason="bodies",
            )
        if self._end is not None:
            self._end.cancel()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="decoder")
        loop = asyncio.get_running_loop()
        self._waiting += 1
        try:
            job = partial(self._talk, codec, body, headers, servable, is_wanted)
            found = await loop.run_in_executor(self._thread, job)
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._end = loop.call_later(self._idle_s, self._rest)
        return codec if found is None else replace(codec, read=partial(_given, codec, servable, found))

    def _talk(
        self, codec: Codec, body: bytes, headers: Headers, servable: Servable, is_wanted: Callable[[], bool]
    ) -> Read | None:
        """On the thread. None: it is to be read on the event loop, or not at all."""
        if not is_wanted():
            return None
        if self._process.closed.is_set():
            raise Draining("this worker is closing", retry_after_s=1.0)
        try:
            self._process.start()
        except OSError:
            logger.warning("long bodies are read on the event loop: no process can be started", exc_info=True)
            return None
        began_s = perf_counter()
        task = (codec.read, dict(headers), servable.model, servable.version, servable.manifest.to_json(), self._limits)
        try:
            found = self._process.ask(pickle.dumps(task), body)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            self._process.stop()
            if not self._process.closed.is_set():
                logger.warning("the process that reads long bodies is lost, its request is refused: %r", error)
            raise Overloaded(
                "the process that reads long bodies has ended over this one", retry_after_s=1.0, reason="bodies"
            ) from None
        self._took_s = perf_counter() - began_s
        return found

    def _rest(self) -> None:
        if self._thread is not None and not self._waiting:
            self._thread.submit(self._process.stop)

    def close(self) -> None:
        """End the process; who waits for it is told that it has ended."""
        if self._end is not None:
            self._end.cancel()
        self._process.close()
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)  # what it waits for has just ended
        self._process.stop()


def _given(
    codec: Codec,
    expected: Servable,
    found: Read,
    body: bytes,
    headers: Headers,
    servable: Servable,
    limits: LimitSettings,
) -> Read:
    """What was read; read again for a version that takes other inputs than the one that was expected to answer."""
    return found if servable.reads_like(expected) else codec.read(body, headers, servable, limits)


class _Process:
    """The child and the socket to it. One thread at a time; `close` from any."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._child: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self.closed = threading.Event()

    def start(self) -> None:
        """Unless it runs. Raises OSError."""
        if self._child is not None and self._child.poll() is None:
            return
        self.stop()
        ours, its = socket.socketpair()
        with its:
            try:
                self._child = subprocess.Popen(
                    [*self._command, str(its.fileno())], stdin=subprocess.DEVNULL, pass_fds=[its.fileno()]
                )
            except OSError:
                ours.close()
                raise
        ours.settimeout(_ANSWER_S)
        self._socket = ours
        if self.closed.is_set():  # meanwhile
            self.close()

    def ask(self, task: bytes, body: bytes) -> Read:
        """What it reads. Raises what reading raises; OSError, EOFError or UnpicklingError when it is lost."""
        line = self._socket
        if line is None:
            raise EOFError
        line.sendall(FRAME.pack(len(task), len(body)))
        line.sendall(task)
        line.sendall(body)
        size, buffers = FRAME.unpack(receive(line, FRAME.size))
        text = receive(line, size)
        tensors = [receive(line, SIZE.unpack(receive(line, SIZE.size))[0]) for _ in range(buffers)]
        found, error = pickle.loads(text, buffers=tensors)  # noqa: S301  # our own process
        if error is not None:
            raise _as_raised(*error)
        return found  # type: ignore[no-any-return]

    def stop(self) -> None:
        """End it, until the next start."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        """End it at once and for good; whoever talks to it finds out."""
        self.closed.set()
        if self._child is not None:
            self._child.kill()


def receive(line: socket.socket, size: int) -> memoryview:
    """So many bytes. Raises EOFError when there are fewer."""
    octets = np.empty(size, np.uint8).data
    at = 0
    while at < size:
        count = line.recv_into(octets[at:])
        if not count:
            raise EOFError("the other end is gone")
        at += count
    return octets


def _as_raised(name: str, message: str, retry_after_s: float | None, details: dict[str, Any]) -> Exception:
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, ServingError):
        return kind(message, retry_after_s=retry_after_s, **details)
    return RuntimeError(f"{name} while reading a long body: {message}")
