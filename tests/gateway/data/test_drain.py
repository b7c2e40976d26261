"""How the server stops, on a real loop and a real socket."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import pytest
import uvicorn

from gateway.data.drain import DrainingServer


async def app(scope: Any, receive: Any, send: Any) -> None:
    del scope
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_who_connects_while_the_loop_is_busy_is_answered_though_it_closes_next(kind: str) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, loop=kind, lifespan="off", log_config=None)
    server = DrainingServer(config, drain_s=0.3, grace_s=2.0, on_drain=lambda: None)
    callers: list[socket.socket] = []

    bell, door = socket.socketpair()

    def be_busy() -> None:
        """As with a request that was read: until long after the listener should be closed. Meanwhile somebody asks."""
        asyncio.get_running_loop().remove_reader(door)
        caller = socket.create_connection(listener.getsockname())
        caller.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        callers.append(caller)
        time.sleep(0.4)

    async def story() -> None:
        serving = asyncio.ensure_future(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        server.drain()
        await asyncio.sleep(0.2)  # uvicorn looks ten times a second whether to exit
        asyncio.get_running_loop().add_reader(door, be_busy)
        bell.send(b"x")
        await serving

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(story())
    (caller,) = callers
    with caller, bell, door:
        caller.settimeout(5.0)
        answer = caller.recv(4096)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"connection: close" in answer
