"""A worker that listens: the app of `serving.Bench` behind a real uvicorn on a free port, for clients with sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import uvicorn

from tests.support.serving import Bench


@contextlib.asynccontextmanager
async def listening(bench: Bench) -> AsyncIterator[str]:
    """The URL of this worker, while the block runs. Clients that block belong into threads."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(bench.worker.app, interface="asgi3", lifespan="off", log_config=None, access_log=False)
        server = uvicorn.Server(config)
        server.config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[listener])
        ticking = asyncio.create_task(server.main_loop())
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await ticking
            await server.shutdown(sockets=[listener])
