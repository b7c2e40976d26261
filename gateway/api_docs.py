"""What both ports show of their API: `/openapi.json` for programs and `/docs`, Swagger UI, for people.

Nothing comes from another host: script and style lie in an installed package (openapi-ui-bundles), are read and
compressed at the first request, off the event loop, and kept. Invariant: the page's Content-Security-Policy allows only
files and calls of the same origin and no script inside the page, so a hostile name in a document stays text. Called by
`gateway/data/app.py` and `gateway/control/api.py`.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from registry.errors import RouteNotFound

# `unsafe-inline` for styles only: Swagger UI's icons carry them; without scripts they can change looks, not send.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error", "code", "details", "request_id"],
    "properties": {
        "error": {"type": "string", "description": "what was got, what was wanted, where"},
        "code": {"type": "string", "description": "stable, in snake case"},
        "details": {"type": "object"},
        "request_id": {"type": "string"},
    },
}

_HTML = "text/html; charset=utf-8"
_SCRIPT = "text/javascript; charset=utf-8"
_STYLE = "text/css; charset=utf-8"
ASSET_KINDS = ("text/javascript", "text/css", "image/png")
_KEEP = "public, max-age=3600"
_VENDORED = {"swagger-ui-bundle.js": _SCRIPT, "swagger-ui.css": _STYLE, "favicon-32x32.png": "image/png"}

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Driftgate API</title>
<link rel="icon" type="image/png" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="stylesheet" href="docs/page.css">
</head>
<body>
<div id="swagger-ui"></div>
<noscript>This page needs JavaScript; <a href="openapi.json">openapi.json</a> does not.</noscript>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/page.js"></script>
</body>
</html>
"""
_PAGE_JS = """"use strict";
window.ui = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  tryItOutEnabled: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  docExpansion: "list",
  validatorUrl: null,
});
"""
_PAGE_CSS = """body { margin: 0; background: #fff; }
.swagger-ui .info { margin: 24px 0; }
.swagger-ui .wrapper { max-width: 1200px; }
.swagger-ui textarea { font-size: 12px; min-height: 160px; }
.swagger-ui .parameters-col_name { min-width: 130px; }
.swagger-ui .operation-servers { display: none; }
noscript { display: block; padding: 24px; font-family: sans-serif; }
"""


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the page, as sent."""

    kind: str
    etag: str
    plain: bytes
    packed: bytes  # gzip


def read_asset(name: str) -> Asset | None:
    """A file of the page by its name; None for any other name. Slow: reads and compresses."""
    if name == "page.js":
        return _asset(_PAGE_JS.encode(), _SCRIPT)
    if name == "page.css":
        return _asset(_PAGE_CSS.encode(), _STYLE)
    if name not in _VENDORED:
        return None
    from openapi_ui_bundles import swagger_ui  # at the first look at the page, so that a worker starts without it

    return _asset((Path(swagger_ui.static_path) / name).read_bytes(), _VENDORED[name])


def _asset(content: bytes, kind: str) -> Asset:
    return Asset(kind, f'"{hashlib.sha256(content).hexdigest()[:16]}"', content, gzip.compress(content, 6, mtime=0))


def conditional(request: Request, content: bytes, etag: str, headers: dict[str, str]) -> Response:
    """An answer with an ETag, or 304 when the caller has it."""
    told = {**HEADERS, "etag": etag, **headers}
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if etag in known or "*" in known:
        return Response(b"", 304, {name: value for name, value in told.items() if name != "content-type"})
    return Response(content, 200, told)


Document = Callable[[], Awaitable[bytes]]
Guard = Callable[[Request], None]


def routes(document: Document, guard: Guard = lambda _request: None) -> list[Route]:
    """`/openapi.json`, `/docs` and the page's files. document: the JSON text now; guard raises for who may not look."""
    assets: dict[str, Asset] = {}

    async def openapi_json(request: Request) -> Response:
        guard(request)
        content = await document()
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        return conditional(request, content, etag, {"content-type": "application/json", "cache-control": "no-cache"})

    async def docs(request: Request) -> Response:
        guard(request)
        told = {"content-type": _HTML, "content-security-policy": POLICY, "cache-control": "no-cache"}
        return Response(_PAGE, 200, {**HEADERS, **told})

    async def asset(request: Request) -> Response:
        guard(request)
        name = request.path_params["name"]
        found = assets.get(name)
        if found is None:
            read = await anyio.to_thread.run_sync(read_asset, name)
            if read is None:
                raise RouteNotFound(f"the page has no file {name[:100]!r}")
            found = assets[name] = read
        headers = {"content-type": found.kind, "cache-control": _KEEP, "vary": "accept-encoding"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            return conditional(request, found.packed, found.etag, {**headers, "content-encoding": "gzip"})
        return conditional(request, found.plain, found.etag, headers)

    return [Route("/openapi.json", openapi_json), Route("/docs", docs), Route("/docs/{name}", asset)]
