"""The control plane's process where the machine has no files left."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from typing import Any

import pytest

from gateway.control.controller_process import BACKLOG, quiet_accepts


class OutOfFiles(socket.socket):
    """A socket that listens, and from which nothing can be accepted."""

    tries = 0

    def accept(self) -> tuple[socket.socket, Any]:
        self.tries += 1
        raise OSError(errno.EMFILE, "Too many open files")


def test_without_a_file_left_nothing_is_accepted_and_that_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> int:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(quiet_accepts())
        with contextlib.closing(OutOfFiles(socket.AF_INET, socket.SOCK_STREAM)) as listening:
            listening.bind(("127.0.0.1", 0))
            listening.setblocking(False)
            server = await loop.create_server(asyncio.Protocol, sock=listening, backlog=BACKLOG)
            with contextlib.closing(socket.create_connection(listening.getsockname())):
                await asyncio.sleep(0.1)
            server.close()
            return listening.tries

    assert 1 <= asyncio.run(run()) <= BACKLOG
    assert [record.getMessage() for record in caplog.records] == [
        "no connection can be accepted: [Errno 24] Too many open files"
    ]


def test_other_faults_of_the_loop_are_told_as_ever(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(quiet_accepts())
        for number in range(2):
            loop.call_exception_handler({"message": f"fault {number}", "exception": OSError(errno.EMFILE, "a file")})

    asyncio.run(run())
    assert [record.getMessage() for record in caplog.records] == ["fault 0", "fault 1"]
