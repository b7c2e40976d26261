"""One worker process: the composition root of the data plane, and its heartbeat.

`driftgate worker N`: loads what the route table aspires to, makes its own SO_REUSEPORT socket once its champions are
READY or FAILED, serves until SIGTERM (drain) or until the supervisor is gone. Imports neither pandas, scipy, SQLAlchemy
nor fsspec, so that a worker that died is back fast.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import uvicorn
import uvloop

from gateway.data import connections, curve_files
from gateway.data.accounts import Accounts
from gateway.data.app import DataApp, Health, others
from gateway.data.breakers import Breakers
from gateway.data.codec_process import CodecProcess
from gateway.data.crowd import Crowd
from gateway.data.doors import Doors
from gateway.data.drain import DrainingServer
from gateway.data.fatal_runs import FatalRuns
from gateway.data.fleet import Fleet
from gateway.data.idle_poll import IdlePoll
from gateway.data.machine_memory import for_runs, machine_bytes
from gateway.data.memory import ProcessMemory
from gateway.data.page import WorkerPage
from gateway.data.page_layout import page_path
from gateway.data.predict import Predict
from gateway.data.repository import Repository
from gateway.data.routes import RouteReader
from gateway.data.scheduler import Scheduler, slots_for
from gateway.data.shadow import Shadows
from gateway.data.tap import Tap
from gateway.data.triton import Triton
from gateway.garbage import settle
from gateway.orphan import ENDED_BY, watch_supervisor
from gateway.settings import Settings
from gateway.settings_load import from_json
from registry import run_memory
from registry.clock import Clock, SystemClock

logger = logging.getLogger("driftgate.worker")

HEARTBEAT_S = 0.1
LIVE_WITHIN_S = 5.0
FIRST_TABLE_S = 20.0  # how long to wait for a route table and its champions before listening all the same
ORPHAN_GRACE_S = 4.0
BACKLOG = 2048


def main(argv: Sequence[str]) -> int:
    """`driftgate worker SLOT --home H --run-dir R`, started by the supervisor."""
    parser = argparse.ArgumentParser(prog="driftgate worker")
    parser.add_argument("slot", type=int)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--run-dir", type=Path, required=True)
    arguments = parser.parse_args(argv)
    logging.basicConfig(
        level=logging.INFO,
        format=f"%(asctime)s worker {arguments.slot} %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    np.seterr(all="ignore")  # an overflow in a cast is found by looking at the result, not by a warning
    settings = from_json(os.environ.get("DRIFTGATE_CHILD_SETTINGS", "{}"))
    boot_id = os.environ.get("DRIFTGATE_BOOT_ID", "0" * 32)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve(arguments.slot, arguments.run_dir, boot_id, settings, os.environ))


def _release() -> str:
    try:
        return version("driftgate")
    except PackageNotFoundError:
        return "0+unknown"


def listen(host: str, port: int) -> socket.socket:
    """This worker's own listening socket on the shared port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "SO_REUSEPORT"):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((host, port))
    sock.setblocking(False)
    sock.listen(BACKLOG)
    return sock


@dataclass(slots=True)
class Worker:
    """The parts of one worker, plugged together."""

    page: WorkerPage
    fleet: Fleet
    tap: Tap
    shadows: Shadows
    predict: Predict
    beat: Heartbeat
    health: Health
    triton: Triton
    app: DataApp
    scheduler: Scheduler
    breakers: Breakers
    idle_poll: IdlePoll
    codec_process: CodecProcess

    def close(self) -> None:
        """Let everything go; what is counted and logged stays on disk."""
        self.fleet.close()
        self.tap.close()
        self.scheduler.close()
        self.breakers.close()
        self.codec_process.close()


def compose(slot: int, run: Path, boot_id: str, settings: Settings, clock: Clock, ended_by: int = 0) -> Worker:
    """Plug a worker's parts together on the running event loop. Nothing is loaded and nothing listens yet.

    ended_by: as `WorkerPage` has it.
    """
    loop = asyncio.get_running_loop()
    gateway = settings.gateway
    page = WorkerPage(page_path(run, slot), slot, boot_id, ended_by)
    fatal_runs = FatalRuns(page, clock, ended_by)
    accounts = Accounts(page, clock)
    scheduler = Scheduler(loop, slots_for(gateway.workers, gateway.batch.slots))
    inline_below_us = gateway.batch.inline_below_ms * 1000.0
    routes = RouteReader(run, boot_id, clock)
    fleet = Fleet(
        run,
        slot,
        page,
        fatal_runs,
        routes,
        loop,
        scheduler,
        inline_below_us,
        threads=gateway.threads,
        batch=gateway.batch,
        load=gateway.load,
        answer_bytes=gateway.limits.answer_bytes,
        run_memory_bytes=for_runs(gateway.limits.run_memory_bytes, gateway.workers, machine_bytes()),
        clock=clock,
    )
    sampling = np.random.default_rng(np.random.SeedSequence())
    tap = Tap(run, slot, boot_id, settings.lanes, page, accounts, clock, sampling)
    shadows = Shadows(gateway.shadow, accounts, tap, loop, scheduler, inline_below_us)
    breakers = Breakers(gateway.breaker, fatal_runs, page, clock, loop)
    codec_process = CodecProcess(gateway.limits)
    predict = Predict(
        fleet,
        accounts,
        breakers,
        tap if settings.monitor.enabled else None,
        shadows,
        gateway.limits,
        clock,
        random.Random().getrandbits,
        loop,
        codec_process,
    )
    fleet.on_batch = predict.answer
    fleet.on_loaded = breakers.attach
    curve_files.forget_all(run, slot)

    def gone(model: str, version: int) -> None:
        tap.forget(model, version)
        curve_files.forget(run, slot, model, version)

    fleet.holdings.on_gone = gone
    idle_poll = IdlePoll(loop, gateway.idle_poll_us, lambda: scheduler.running)
    beat = Heartbeat(fleet, predict, shadows, breakers, tap, idle_poll, page, clock, gateway.shadow.busy_above)
    health = Health(fleet, beat.is_alive, lambda: beat.draining, _release())
    repository = Repository(fleet, run, slot, boot_id, clock, enabled=gateway.repository_control)
    triton = Triton(fleet, run, repository, gateway.workers, _release())
    app = DataApp(predict, Doors(gateway, fleet.models), others(health, triton, gateway))
    parts = page, fleet, tap, shadows, predict, beat, health, triton, app, scheduler, breakers, idle_poll
    return Worker(*parts, codec_process)


async def serve(slot: int, run: Path, boot_id: str, settings: Settings, environ: Mapping[str, str]) -> int:
    """Build the worker, serve until told to stop, and return the exit code."""
    gateway = settings.gateway
    worker = compose(slot, run, boot_id, settings, SystemClock(), int(environ.get(ENDED_BY, "0")))
    config = uvicorn.Config(
        worker.app,
        interface="asgi3",
        http=connections.bounded(gateway.limits, worker.predict, worker.app.targets, worker.idle_poll),
        loop="uvloop",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=75,
    )
    server = DrainingServer(config, drain_s=gateway.drain_s, grace_s=gateway.grace_s, on_drain=worker.beat.drain)
    worker.predict.running = server.server_state.tasks
    worker.predict.callers = server.server_state.connections
    signal.signal(signal.SIGTERM, lambda _number, _frame: server.drain())  # until uvicorn's own handler is in place
    watch_supervisor(lambda: server.drain(drain_s=0.0, grace_s=ORPHAN_GRACE_S), environ)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    beating = asyncio.get_running_loop().create_task(worker.beat.run())
    watching = asyncio.get_running_loop().create_task(connections.watch(server.server_state.connections))
    for task in (beating, watching):
        task.add_done_callback(lambda task: _died(task, server))
    try:
        await _first_table(worker.fleet, server)
        settle()
        if not server.is_draining:
            if gateway.grpc == "on":  # the supervisor's word: it holds the port
                from gateway.data.grpc.front import Front  # grpc and protobuf: 0.2 s and 15 MB that HTTP alone spares

                front = Front(worker.predict, worker.health, worker.triton, gateway.limits)
                await front.start(gateway.host, gateway.grpc_port)
                server.stop_beside = front.stop
            await server.serve(sockets=[listen(gateway.host, gateway.port)])
    finally:
        for task in (beating, watching):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        worker.close()
    return 0


async def _first_table(fleet: Fleet, server: DrainingServer) -> None:
    until_s = time.monotonic() + FIRST_TABLE_S
    while time.monotonic() < until_s and not fleet.settled() and not server.is_draining:
        fleet.look()
        await asyncio.sleep(0.02)
    if not fleet.settled():
        logger.warning("listening without a settled route table; /readyz says not ready until there is one")


def _died(task: asyncio.Task[None], server: DrainingServer) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.error(
            "the heartbeat or the watch died; draining, so that this worker is started anew", exc_info=task.exception()
        )
        server.drain()


class Heartbeat:
    """Follows the route table while nobody asks, tells the page that the loop turns, and watches how busy it is."""

    def __init__(
        self,
        fleet: Fleet,
        predict: Predict,
        shadows: Shadows,
        breakers: Breakers,
        tap: Tap,
        idle_poll: IdlePoll,
        page: WorkerPage,
        clock: Clock,
        busy_above: float,
    ) -> None:
        self._fleet = fleet
        self._predict = predict
        self._shadows = shadows
        self._breakers = breakers
        self._tap = tap
        self._idle_poll = idle_poll
        self._page = page
        self._clock = clock
        self._busy_above = busy_above
        self._crowd, self._memory, self._sweeps = Crowd(), ProcessMemory(), run_memory.Sweeps()
        self._beat_s = clock.now_s()
        self._worked_s = self._work_s()
        self.draining = False
        self.failures = 0

    def is_alive(self) -> bool:
        """Whether the event loop turned lately."""
        return self._clock.now_s() - self._beat_s < LIVE_WITHIN_S

    def drain(self) -> None:
        """Readiness is off from now on."""
        self.draining = True
        self._page.set_state(ready=False, draining=True)

    def step(self) -> None:
        """One beat."""
        now_s, worked_s = self._clock.now_s(), self._work_s()
        elapsed_s = now_s - self._beat_s
        if elapsed_s > 0:
            self._shadows.set_busy((worked_s - self._worked_s) / elapsed_s > self._busy_above)
        self._beat_s, self._worked_s = now_s, worked_s
        self._fleet.look()
        self._tap.look()
        self._page.set_state(ready=self._fleet.settled() and not self.draining, draining=self.draining)
        self._page.heartbeat(self._clock.host_ns(), self._predict.inflight, self._breakers.open_count)
        if self._sweeps.is_due():
            asyncio.get_running_loop().run_in_executor(None, run_memory.give_back)
        if self._crowd.has_left(len(self._predict.callers), self._predict.inflight):
            gc.collect()  # connections refer to themselves
            self._memory.give_back()

    def _work_s(self) -> float:
        return self._clock.spent_s() - self._idle_poll.idle_ns / 1e9

    async def run(self) -> None:
        """Beat until cancelled. A beat that fails is logged and counted, and the next one comes."""
        while True:
            try:
                self.step()
            except Exception:
                self.failures += 1
                logger.exception("a heartbeat failed")
            await asyncio.sleep(HEARTBEAT_S)
