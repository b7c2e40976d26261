"""Reads long JSON bodies, and writes long answers, in a process of its own, so that the event loop goes on meanwhile.

Why: parsing 14 MB of JSON rows takes 0.1 to 0.6 s, most of it in calls that hold the interpreter's lock, so that even
in a thread all other requests of this worker would wait for it. The process (`codec_child.py`) is started when it is
first needed, does one thing after the other, and ends when nothing has come for a while, its memory with it. Whatever
happens to it, the worker goes on: the request is answered with 503. Where no process can be started, all is done on the
event loop. The event loop's half is `CodecProcess`; a thread does the talking.
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

from gateway.data import codec_work
from gateway.data.codecs.call import Answer, Call, Codec, Headers
from gateway.data.servable import Servable, Tensor
from gateway.settings import LimitSettings
from registry import errors
from registry.errors import Draining, Overloaded, ServingError

logger = logging.getLogger(__name__)

IDLE_S = 600.0  # without work, after which the process ends: it takes 45 MB, and to start it 0.3 s
_ANSWER_S = 60.0  # a body of 64 MiB takes some seconds
_MOST_WAITING = 32
_LONGEST_RETRY_S = 60.0
_CHILD = (sys.executable, "-P", "-m", "gateway.data.codec_child")
_HEAD = struct.Struct("<QQ")  # bytes of a pickle, and how many buffers follow it
_SIZE = struct.Struct("<Q")  # of a buffer

Read = tuple[Sequence[Tensor], Call]
_Asked = tuple[Callable[[], bool], Servable, Callable[..., Any], tuple[Any, ...]]  # is_wanted, of which, work, given


class CodecProcess:
    """The process of one worker, and who waits for it. Event loop only."""

    def __init__(self, limits: LimitSettings, command: Sequence[str] = _CHILD, idle_s: float = IDLE_S) -> None:
        self._limits = limits
        self._idle_s = idle_s
        self._process = _Process(command)
        self._thread: ThreadPoolExecutor | None = None
        self._waiting = 0
        self._took_s = 0.0  # the last one
        self._end: asyncio.TimerHandle | None = None

    async def read(
        self, codec: Codec, body: bytes, headers: Headers, servable: Servable, is_wanted: Callable[[], bool]
    ) -> Codec:
        """Read a body → the codec that gives what was read, for this servable and any that reads alike.

        is_wanted: asked before the reading begins; what nobody wants any more is not read, and the codec given back as
        it is. Raises what `codec.read` does, and Overloaded when too many wait or the process ended.
        """
        given = codec.read, dict(headers), self._limits, pickle.PickleBuffer(body)
        found = await self._ask(is_wanted, servable, codec_work.read, *given)
        return codec if found is None else replace(codec, read=partial(_given, codec, servable, found))

    async def write(
        self,
        servable: Servable,
        calls: Sequence[Call],
        counts: Sequence[int],
        starts: Sequence[int],
        outputs: Sequence[Tensor],
        is_wanted: Callable[[], bool],
    ) -> Sequence[bytes | Answer] | None:
        """As `codec_work.write`; None: write them here. Raises Overloaded as `read` does, and what writing raises."""
        given = list(calls), list(counts), list(starts), list(outputs)
        found: Sequence[bytes | Answer] | None = await self._ask(is_wanted, servable, codec_work.write, *given)
        return found

    async def _ask(
        self, is_wanted: Callable[[], bool], servable: Servable, work: Callable[..., Any], *given: Any
    ) -> Any:
        if self._waiting >= _MOST_WAITING:
            raise Overloaded(
                f"{self._waiting} long bodies and answers wait to be read or written already",
                retry_after_s=min(_LONGEST_RETRY_S, max(1.0, self._waiting * self._took_s)),
                reason="bodies",
            )
        if self._end is not None:
            self._end.cancel()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="codec")
        loop = asyncio.get_running_loop()
        asked = [(is_wanted, servable, work, given)]  # emptied in the end: the thread's queue keeps who has left
        self._waiting += 1
        try:
            return await loop.run_in_executor(self._thread, self._talk, asked)
        finally:
            asked.clear()
            self._waiting -= 1
            if not self._waiting:
                self._end = loop.call_later(self._idle_s, self._rest)

    def _talk(self, asked: list[_Asked]) -> Any:
        """On the thread. None: it is to be done on the event loop, or not at all."""
        try:
            is_wanted, servable, work, given = asked.pop()
        except IndexError:  # nobody waits any more
            return None
        if not is_wanted():
            return None
        if self._process.closed.is_set():
            raise Draining("this worker is closing", retry_after_s=1.0)
        try:
            self._process.start()
        except OSError:
            logger.warning("long JSON is read and written on the event loop: no process can be started", exc_info=True)
            return None
        began_s = perf_counter()
        try:
            found = self._process.ask((servable.model, servable.version, servable.manifest.to_json()), work, given)
        except (OSError, EOFError, MemoryError, pickle.UnpicklingError) as error:
            if not self._process.closed.is_set():
                logger.warning("the process that reads and writes long JSON is lost, its request fails: %r", error)
            raise Overloaded(
                "the process that reads and writes long JSON has ended over this one",
                retry_after_s=1.0,
                reason="bodies",
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

    def ask(self, version: tuple[str, int, str], work: Callable[..., Any], given: tuple[Any, ...]) -> Any:
        """What the work gives there. Raises what it raises; anything else when it is lost, and it is ended then."""
        if self._socket is None:
            raise EOFError
        try:
            send(self._socket, (version, work, given))
            found, error = receive(self._socket)
        except BaseException:
            self.stop()  # or what is left in the socket would be taken for the answer to the next one
            raise
        if error is not None:
            raise _as_raised(*error)
        return found

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
        child = self._child  # which the thread may let go of meanwhile
        if child is not None:
            child.kill()


def send(line: socket.socket, message: Any) -> None:
    """A pickle, and the arrays in it as they lie in memory."""
    buffers: list[pickle.PickleBuffer] = []
    text = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    line.sendall(_HEAD.pack(len(text), len(buffers)))
    line.sendall(text)
    for buffer in buffers:
        octets = buffer.raw()
        line.sendall(_SIZE.pack(octets.nbytes))
        line.sendall(octets)


def receive(line: socket.socket) -> Any:
    """What `send` has sent. Raises EOFError when the other end is gone. Only ever from a process of our own."""
    size, buffers = _HEAD.unpack(_take(line, _HEAD.size))
    text = _take(line, size)
    arrays = [_take(line, _SIZE.unpack(_take(line, _SIZE.size))[0]) for _ in range(buffers)]
    return pickle.loads(text, buffers=arrays)  # noqa: S301


def _take(line: socket.socket, size: int) -> memoryview:
    octets = np.empty(size, np.uint8).data  # at a multiple of 16 bytes, as numpy's own arrays
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
    return RuntimeError(f"{name}: {message}")
