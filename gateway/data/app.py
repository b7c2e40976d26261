"""What is plugged into what on the data port: inference straight to `Predict`, everything else through Starlette.

Starlette's routing, Request and Response cost more than a small model's run (40 us, measured on one prototype), so the
inference routes are plain ASGI in front of it. The data port carries inference and health only.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway import api_docs, problems
from gateway.data import contracts, triton_http
from gateway.data.doors import Doors, platform_headers
from gateway.data.fleet import Fleet
from gateway.data.identity import RequestIds
from gateway.data.openapi import DataDocument
from gateway.data.predict import Predict, Receive, Scope, Send
from gateway.data.triton import Triton
from gateway.settings import GatewaySettings
from registry.errors import (
    ServingError,
    VersionNotFound,
)


class DataApp:
    """The data port's ASGI app."""

    def __init__(self, predict: Predict, doors: Doors, others: Starlette) -> None:
        self._predict = predict
        self._doors = doors
        self._others = others
        self._targets = doors.known
        self.targets = doors.known_raw  # by the bytes of a request line, for the connections

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """As ASGI 3. Hands over a coroutine rather than being one: a coroutine more costs a microsecond."""
        if scope["type"] == "http" and scope["method"] == "POST":
            path = scope["path"]
            target = self._targets.get(path)
            if target is None:
                target = self._doors.named(path)
            if target is not None:
                return self._predict.infer(scope, receive, send, *target)
            if path in self._doors.nameless_paths:
                return self._infer_nameless(path, scope, receive, send)
        return self._others(scope, receive, send)

    async def _infer_nameless(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        door = self._doors.nameless(path, headers)
        extra = platform_headers(headers)
        if extra:
            scope["headers"] = [*extra, *scope["headers"]]  # the same scope: its connection tells it things
            headers = {**dict(extra), **headers}
        try:
            model = self._doors.model(headers)
        except ServingError as error:
            await self._predict.turn_away(scope, send, error, door.json.protocol)
            return
        await self._predict.infer(scope, receive, send, door, model, None)


class Health:
    """What the health routes ask."""

    def __init__(
        self, fleet: Fleet, is_alive: Callable[[], bool], is_draining: Callable[[], bool], version: str
    ) -> None:
        self.fleet = fleet
        self.is_alive = is_alive
        self.is_draining = is_draining
        self.version = version

    def is_ready(self) -> bool:
        """A route table has been read, this worker is not draining, and every champion is READY or FAILED."""
        return not self.is_draining() and self.fleet.settled()


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, headers, "application/json")


def others(health: Health, triton: Triton, gateway: GatewaySettings | None = None) -> Starlette:
    """Health, metadata and errors: all that need not be fast."""
    fleet = health.fleet
    ids = RequestIds(time.time_ns, random.getrandbits)

    async def live(_: Request) -> Response:
        return _json({"live": health.is_alive()}, 200 if health.is_alive() else 503)

    async def ready(_: Request) -> Response:
        left_s = fleet.lease_left_ns() / 1e9
        body = {
            "ready": health.is_ready(),
            "draining": health.is_draining(),
            "epoch": fleet.epoch,
            "models": len(fleet.models()),
            "controller": "renewing" if left_s > 0 else "absent: canaries are at 0",
            "lease_left_s": round(max(0.0, left_s), 3),
        }
        return _json(body, 200 if health.is_ready() else 503)

    async def model_ready(request: Request) -> Response:
        model, version = triton_http.asked(request)
        if version is not None and version not in fleet.entry(model).aspired:
            raise VersionNotFound(f"model {model!r} serves no version {version}", model=model)
        is_ready = fleet.can_answer(model, version) and not health.is_draining()
        return _json({"name": model, "ready": is_ready}, 200 if is_ready else 503)

    async def root(_: Request) -> Response:  # KServe's V1 clients ask here
        return _json({"status": "alive"}) if health.is_alive() else _json({"status": "stalled"}, 503)

    def fail(request: Request, error: Exception) -> Response:
        problem = problems.problem_of(error, request.method, request.url.path)
        identity = ids.identify(request.headers.get("x-request-id", "").encode("latin-1")).decode()
        headers = {"x-request-id": identity}
        wait_s = problems.retry_after_s(problem)
        if wait_s is not None:
            headers["retry-after"] = str(wait_s)
        if isinstance(error, HTTPException):
            headers.update(error.headers or {})  # which methods are allowed
        return _json(problems.body_of(problem, identity), problems.status_of(problem), headers)

    model_path = "/v2/models/{model}"
    version_path = model_path + "/versions/{version}"
    return Starlette(
        routes=[
            *contracts.post_only(),
            Route("/healthz", live),
            Route("/readyz", ready),
            Route("/v2/health/live", live),
            Route("/v2/health/ready", ready),
            Route(model_path + "/ready", model_ready),
            Route(version_path + "/ready", model_ready),
            *triton_http.routes(triton),
            Route("/", root),
            *contracts.routes(health, gateway or GatewaySettings()),
            *api_docs.routes(DataDocument(fleet, health.version)),
        ],
        exception_handlers={ServingError: fail, HTTPException: fail, Exception: fail},
    )
