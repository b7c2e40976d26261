"""The documentation page: its files come from this machine, are kept by browsers, and only its own server is called."""

from __future__ import annotations

import asyncio
import gzip
import re

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request

from gateway import api_docs
from registry.errors import MisdirectedRequest, RouteNotFound


async def document() -> bytes:
    return b"{}"


def get(path: str, guard: api_docs.Guard = lambda _request: None, **headers: str) -> httpx.Response:
    """One GET of an app that has nothing but these routes."""

    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(Starlette(routes=api_docs.routes(document, guard)))
        async with httpx.AsyncClient(transport=transport, base_url="http://h") as client:
            return await client.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return asyncio.run(call())


def test_the_page_names_no_other_host_and_holds_no_script_of_its_own() -> None:
    page = get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert not re.search(r"https?://|<script>|javascript:| on\w+=", page.text)
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
        ("swagger-ui.css", "text/css; charset=utf-8"),
        ("favicon-32x32.png", "image/png"),
        ("page.js", "text/javascript; charset=utf-8"),
        ("page.css", "text/css; charset=utf-8"),
    ],
)
def test_each_file_of_the_page_has_its_type_and_is_kept(name: str, kind: str) -> None:
    assert f"docs/{name}" in get("/docs").text
    first = get(f"/docs/{name}", accept_encoding="identity")
    assert (first.status_code, first.headers["content-type"]) == (200, kind)
    assert first.headers["cache-control"].startswith("public, max-age=")
    assert first.headers["x-content-type-options"] == "nosniff"
    packed = get(f"/docs/{name}", accept_encoding="gzip")
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.content == first.content
    again = get(f"/docs/{name}", if_none_match=f'"other", W/{first.headers["etag"]}')
    assert (again.status_code, again.content) == (304, b"")


def test_packed_files_are_what_the_plain_ones_are() -> None:
    asset = api_docs.read_asset("swagger-ui-bundle.js")
    assert asset is not None
    assert gzip.decompress(asset.packed) == asset.plain
    assert len(asset.packed) < len(asset.plain) / 3


@pytest.mark.parametrize("name", ["index.html", "%2e%2e", "x", "swagger-ui-bundle.js.map"])
def test_no_other_file_of_the_package_or_the_machine_is_served(name: str) -> None:
    with pytest.raises(RouteNotFound):
        get(f"/docs/{name}")


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/docs/page.js"])
def test_whoever_may_not_look_sees_nothing(path: str) -> None:
    def guard(_: Request) -> None:
        raise MisdirectedRequest("no")

    with pytest.raises(MisdirectedRequest):
        get(path, guard)
