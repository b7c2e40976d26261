"""The control port: `/api/v1`, health, metrics, documentation. What is plugged into what, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from gateway import api_docs
from gateway.control import exposition, openapi
from gateway.control.controller import Controller
from gateway.control.idempotency import Idempotency
from gateway.control.line import Line
from gateway.control.metrics import DriftgateCollector
from gateway.control.operation import Call, Endpoint, failed, storage_failed, to_json
from gateway.control.principal import Doorkeeper
from gateway.control.resources import MakeProfile, Register, Resources, event_json, operations
from gateway.control.stream import EventStream
from registry.errors import ServingError

MOST_WAITING = 32  # calls at once that wait for workers or processes; more of them wait in line
MOST_SCRAPES_WAITING = 8  # beside the one that is written
READS_AT_ONCE = 4  # they share one interpreter with commands and with the loop that judges
MOST_READS_WAITING = 64
ALIVE_WITHIN_S = 5.0  # a controller whose last finished tick is older is not ready
_HTML = "text/html; charset=utf-8"
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def build(
    controller: Controller,
    register: Register,
    profile: MakeProfile,
    *,
    version: str,
    is_stopping: Callable[[], bool] = lambda: False,
) -> Starlette:
    """The app for one controller. register: model, body, actor → the registered version; profile alike."""
    settings = controller.settings
    door = Doorkeeper(settings.control)
    resources = Resources(controller, register, profile)
    idempotency = Idempotency(controller.catalog, controller.clock)
    listed = operations(resources)
    collector = DriftgateCollector(controller, version)
    scrapes = Line(MOST_SCRAPES_WAITING, retry_after_s=5.0)
    reads = Line(MOST_READS_WAITING, retry_after_s=1.0, at_once=READS_AT_ONCE)
    waiting = anyio.CapacityLimiter(MOST_WAITING)  # who waits for loads must not keep an operator from a rollback
    description = to_json(openapi.document(listed, version)).encode()
    data_url = f"http://{settings.gateway.host}:{settings.gateway.port}"

    async def healthz(_: Request) -> Response:
        return Response(to_json({"live": True}), 200, media_type="application/json")

    async def readyz(_: Request) -> Response:
        health = controller.health
        age_s = controller.clock.now_s() - health.last_s
        ready = age_s < ALIVE_WITHIN_S and not is_stopping()
        body = {
            "ready": ready,
            "ticks": health.ticks,
            "failures": health.failures,
            "last_error": health.last_error,
            "last_tick_age_s": round(age_s, 3),
            "tick_s": round(health.spent_s, 6),
            "epoch": controller.table.epoch,
        }
        return Response(to_json(body), 200 if ready else 503, media_type="application/json")

    async def metrics(request: Request) -> Response:
        door.admit_reader(request.headers)
        write, kind = exposition.negotiated(request.headers.get("accept", ""))
        text = await scrapes.run(request, lambda: write(collector.collect()))
        return Response(text, headers={"content-type": kind})

    async def openapi_json() -> bytes:
        return description

    async def console(request: Request) -> Response:
        principal = door.admit(request.headers, changes_state=False)
        principal.require("viewer")

        def look() -> str:
            models = resources.models(Call(principal, query={"limit": "1000"}))["items"]
            newest = controller.catalog.latest_event_id()
            events = controller.catalog.events(after=max(0, newest - 20), limit=20)
            return openapi.console_page(models, [event_json(row) for row in events], data_url)

        return Response(await reads.run(request, look), 200, _PAGE_HEADERS, _HTML)

    routes = [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", metrics),
        *api_docs.routes(openapi_json, lambda request: door.admit_reader(request.headers)),
        Route("/", console),
        Route("/api/v1/events", EventStream(resources, controller.catalog, door, reads, is_stopping).__call__),
    ]
    by_path: dict[str, dict[str, Endpoint]] = {}
    for operation in listed:
        methods = by_path.setdefault(openapi.PREFIX + operation.path, {})
        methods[operation.method] = Endpoint(operation, door, idempotency, waiting, reads)
    for path, methods in by_path.items():
        routes += [Route(path, endpoint.__call__, methods=[method]) for method, endpoint in methods.items()]
    told = dict.fromkeys((ServingError, HTTPException, ClientDisconnect, Exception), failed)
    handlers = {**told, OSError: storage_failed}
    return Starlette(routes=routes, exception_handlers=handlers)
