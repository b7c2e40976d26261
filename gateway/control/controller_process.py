"""`driftgate controller`: the composition root of the control plane, started by the supervisor.

The loop ticks on a thread of its own; uvicorn serves the control port on the main thread. SIGTERM, or a supervisor that
is gone, ends both: a last tick, a checkpoint, exit 0. What is not stored then was never acknowledged to anybody.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import logging
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Any

import uvicorn

from gateway.background import step_back
from gateway.control import api, connections
from gateway.control.controller import Controller
from gateway.control.loads import Preparer
from gateway.control.measure import Measurer
from gateway.control.registration import Registrar
from gateway.control.table import RouteTable
from gateway.control.watch import NoWatch, Watch
from gateway.data.memory import ProcessMemory
from gateway.garbage import settle
from gateway.orphan import BOOT_ID, CHILD_SETTINGS, watch_supervisor
from gateway.settings import Settings
from gateway.settings_load import from_json
from monitor.pauses import take_pauses
from registry.artifacts import ArtifactStore
from registry.catalog import Catalog
from registry.clock import Clock, SystemClock
from registry.errors import FormatTooNew, InvalidSetting
from registry.home import Home

_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
logger = logging.getLogger("driftgate.controller")

BACKLOG = 64  # callers that the kernel holds; where no file is left, asyncio tries to accept so many each second
TELL_EVERY_S = 60.0
HOPELESS = 2  # exit code: starting again would fail in the same way


def main(argv: Sequence[str]) -> int:
    """`driftgate controller --home H --run-dir R`."""
    parser = argparse.ArgumentParser(prog="driftgate controller")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--run-dir", type=Path, required=True)
    arguments = parser.parse_args(argv)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s controller %(levelname)s %(message)s", stream=sys.stderr
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    settings = from_json(os.environ.get(CHILD_SETTINGS, "{}"))
    boot_id = os.environ.get(BOOT_ID, "0" * 32)
    home = Home(root=arguments.home, run=arguments.run_dir)
    home.create()
    try:
        return asyncio.run(serve(home, settings, boot_id, os.environ))
    except (InvalidSetting, FormatTooNew) as error:
        logger.error("%s", error.message)
        return HOPELESS


def open_catalog(home: Home, settings: Settings, clock: Clock) -> Catalog:
    """The registry's database that these settings mean."""
    return Catalog.open(settings.registry.database_url or home.database_url, clock)


def open_artifacts(home: Home, settings: Settings) -> ArtifactStore:
    """The artifact store that these settings mean; a remote one is cached in the state folder."""
    return ArtifactStore(settings.registry.artifacts_url or home.artifacts, home.artifacts)


def make_watch(home: Home, settings: Settings, catalog: Catalog, artifacts: ArtifactStore, clock: Clock) -> Watch:
    """The monitor, or nothing when it is off."""
    if not settings.monitor.enabled:
        return NoWatch()
    from gateway.control.monitoring import Monitoring

    return Monitoring(home, settings.monitor, catalog, artifacts, clock)


def make_measurer(home: Home, settings: Settings) -> Measurer | None:
    """What compares a candidate with the champion on reference rows; nothing when monitoring is off."""
    return Measurer(home, settings) if settings.monitor.enabled else None


async def serve(home: Home, settings: Settings, boot_id: str, environ: Mapping[str, str]) -> int:
    """Build the controller, serve until told to stop, and return the exit code."""
    clock, memory = SystemClock(), ProcessMemory()
    memory.share_heap()  # before there is a thread
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(quiet_accepts())
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    watch_supervisor(ended.set, environ)
    catalog = open_catalog(home, settings, clock)
    artifacts = open_artifacts(home, settings)
    table = RouteTable(home.run, boot_id, clock)
    controller = Controller(
        run=home.run,
        settings=settings,
        catalog=catalog,
        preparer=Preparer(artifacts, home.run, clock),
        watch=make_watch(home, settings, catalog, artifacts, clock),
        table=table,
        clock=clock,
        boot_id=boot_id,
        measurer=make_measurer(home, settings),
        memory=memory,
    )
    registrar = Registrar(home, settings)
    app = api.build(controller, registrar.register, registrar.profile, version=release(), is_stopping=ended.is_set)
    config = uvicorn.Config(
        app,
        http=connections.bounded(settings.gateway.limits),
        loop="none",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=1,
    )
    server = _Server(config)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    settle()
    ticking = threading.Thread(target=_tick, args=(controller, loop, ended), name="tick")
    ticking.start()
    serving = loop.create_task(server.serve(sockets=[listen(settings.control.host, settings.control.port)]))
    serving.add_done_callback(lambda _task: ended.set())
    await ended.wait()
    server.should_exit = True
    controller.stopping.set()
    controller.poke.set()
    registrar.close()
    await serving
    await asyncio.to_thread(ticking.join)
    await asyncio.to_thread(controller.finish)
    table.close()
    catalog.close()
    return 0


def _tick(controller: Controller, loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    step_back()
    take_pauses()
    try:
        controller.run(controller.stopping)
    finally:
        if not controller.stopping.is_set():  # the loop must not end by itself; the supervisor starts us anew
            logger.critical("the controller's loop ended")
            loop.call_soon_threadsafe(ended.set)


def quiet_accepts() -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """A loop's exception handler that tells once a minute that no connection can be accepted, as no file is left.

    asyncio tells of every try, with a trace: that took all of a core, and a gigabyte of log an hour.
    """
    told_s = -math.inf

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal told_s
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in _OUT_OF_FILES and "socket" in context):
            loop.default_exception_handler(context)
        elif loop.time() - told_s >= TELL_EVERY_S:
            told_s = loop.time()
            logger.error("no connection can be accepted: %s", error)

    return handle


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        """Look whether to exit twice a second and not ten times: this process shares a core with a worker."""
        while not await self.on_tick(0):  # noqa: ASYNC110
            await asyncio.sleep(0.5)


def listen(host: str, port: int) -> socket.socket:
    """The control port's socket; the supervisor holds the port for us."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((host, port))
    sock.setblocking(False)
    return sock


def release() -> str:
    """This release's version."""
    try:
        return distribution_version("driftgate")
    except PackageNotFoundError:
        return "0+unknown"
