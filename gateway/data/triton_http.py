"""The HTTP routes of Triton's extensions: configuration, statistics, repository; and what is told to be not offered.

No route decides anything: `triton.py` and `repository.py` do, for gRPC too. Part of the app for all that need not be
fast (`app.py`), whose handlers turn errors into answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.data.triton import Triton
from registry.errors import ForbiddenOrigin, MalformedRequest, PayloadTooLarge, Unimplemented

MOST_BODY = 1 << 20  # bytes of a repository call
_MODEL = "/v2/models/{model}"
_VERSION = _MODEL + "/versions/{version}"
# Triton's own ways to do what is done elsewhere here, or not at all.
_NOT_OFFERED = {
    "shared memory": (
        "/v2/systemsharedmemory/{rest:path}",
        "/v2/cudasharedmemory/{rest:path}",
    ),
    "trace settings": ("/v2/trace/setting", _MODEL + "/trace/setting"),
    "log settings": ("/v2/logging",),
    "generate": tuple(f"{path}/{name}" for path in (_MODEL, _VERSION) for name in ("generate", "generate_stream")),
}


def routes(triton: Triton) -> list[Route]:
    """The routes, to be matched before those of single models: `stats` is no model's name in `/v2/models/stats`."""
    repository = triton.repository

    async def server(_: Request) -> Response:
        return _json(triton.server_metadata())

    async def metadata(request: Request) -> Response:
        return _json(triton.model_metadata(*asked(request)))

    async def config(request: Request) -> Response:
        return _json(triton.config(*asked(request)))

    async def statistics(request: Request) -> Response:
        model, version = asked(request) if "model" in request.path_params else (None, None)
        return _json(await triton.statistics(model, version))

    async def index(request: Request) -> Response:
        body = await _body(request)
        ready = body.get("ready", False)
        if not isinstance(ready, bool):
            raise MalformedRequest("'ready' must be true or false")
        return _json(await repository.index(ready))

    async def load(request: Request) -> Response:
        model = _name(request)
        await repository.load(model, await _parameters(request))
        return _json({"name": model, "load": True})

    async def unload(request: Request) -> Response:
        model = _name(request)
        await repository.unload(model, await _parameters(request))
        return _json({"name": model, "unload": True})

    post = ["POST"]
    return [
        Route("/v2", server),
        Route("/v2/", server),
        Route("/v2/models/stats", statistics),
        Route(_MODEL, metadata),
        Route(_VERSION, metadata),
        *(Route(path + "/config", config) for path in (_MODEL, _VERSION)),
        *(Route(path + "/stats", statistics) for path in (_MODEL, _VERSION)),
        Route("/v2/repository/index", index, methods=post),
        Route("/v2/repository/models/{model}/load", load, methods=post),
        Route("/v2/repository/models/{model}/unload", unload, methods=post),
        *(
            Route(path, _not_offered(what), methods=["GET", "POST"])
            for what, paths in _NOT_OFFERED.items()
            for path in paths
        ),
    ]


def asked(request: Request) -> tuple[str, int | None]:
    """The model and the version that a path names. Raises MalformedRequest."""
    version = request.path_params.get("version")
    if version is not None and not (version.isascii() and version.isdecimal() and len(version) <= 9):
        raise MalformedRequest(f"a version is a number, got {version!r:.60}")
    return _name(request), None if version is None else int(version)


def _name(request: Request) -> str:
    return unquote(request.path_params["model"])


def _not_offered(what: str) -> Any:
    async def answer(_: Request) -> Response:
        raise Unimplemented(f"{what}: this server does not offer it")

    return answer


async def _parameters(request: Request) -> Mapping[str, Any]:
    """The parameters of a call that changes what is served. A browser says whose page asks: none may."""
    if "origin" in request.headers:
        raise ForbiddenOrigin("a web page may not load or unload models")
    parameters = (await _body(request)).get("parameters", {})
    if not isinstance(parameters, dict):
        raise MalformedRequest("'parameters' must be an object")
    return parameters


async def _body(request: Request) -> Mapping[str, Any]:
    """The JSON object of a request; an empty body is an empty one. Clients differ in the content type they say."""
    parts = bytearray()
    async for part in request.stream():
        parts += part
        if len(parts) > MOST_BODY:
            raise PayloadTooLarge(
                f"the body has more than {MOST_BODY} bytes, which is the limit", limit_bytes=MOST_BODY
            )
    if not parts.strip():
        return {}
    try:
        body = orjson.loads(parts)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(f"the body is no JSON: {error}") from None
    if not isinstance(body, dict):
        raise MalformedRequest("the body must be a JSON object")
    return body


def _json(body: Any) -> Response:
    return Response(orjson.dumps(body), media_type="application/json")
