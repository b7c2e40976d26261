"""The data port's document: it names every route, its examples are accepted, and it stays bounded and small."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.data.examples import MOST_ELEMENTS
from gateway.data.openapi import MOST_MODELS
from gateway.data.operations import OPERATIONS
from gateway.data.routes import RouteEntry
from tests.support.models import columns, hungry, linear
from tests.support.serving import Bench, aspire, with_worker


async def described(bench: Bench) -> dict[str, Any]:
    """The document now."""
    answer = await bench.ask("/openapi.json", method="GET")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    return cast(dict[str, Any], answer.json)


def routes_of(bench: Bench) -> set[tuple[str, str]]:
    """Method and path of every route of Starlette's part of the app."""
    app: Any = bench.worker.app
    return {
        (method, re.sub(r"{(\w+):\w+}", r"{\1}", route.path))
        for route in app._others.routes
        for method in route.methods or ()  # without methods it only refuses
        if method != "HEAD"
    }


def test_the_document_names_every_route_of_the_app_and_none_besides(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        told = {(method.upper(), path) for path, item in (await described(bench))["paths"].items() for method in item}
        inference = {(operation.method, operation.path) for operation in OPERATIONS if operation.is_inference}
        assert routes_of(bench) - inference == told - inference
        for _, path in inference:
            answer = await bench.ask(re.sub(r"{\w+}", "1", path), {})
            assert answer.json["code"] != "route_not_found", path

    with_worker(tmp_path / "run", body)


def test_whatever_the_document_refers_to_is_in_it_and_operations_have_names_of_their_own(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("model", RouteEntry(champion=1, aspired={1: aspire(linear(tmp_path / "a.onnx"))}))
        await bench.route("stats", RouteEntry(champion=1, aspired={1: aspire(linear(tmp_path / "a.onnx"))}))
        await bench.route("a_b", RouteEntry(champion=1, aspired={1: aspire(linear(tmp_path / "a.onnx"))}))
        await bench.route("a.b", RouteEntry(champion=1, aspired={1: aspire(linear(tmp_path / "a.onnx"))}))
        document = await described(bench)
        for kind, name in re.findall(r"#/components/(\w+)/(\w+)", json.dumps(document)):
            assert name in document["components"][kind]
        names = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
        assert len(names) == len(set(names))
        tags = {tag["name"] for tag in document["tags"]}
        assert document["paths"]["/v2/models/stats"]["get"]["tags"] == ["Triton"]
        used = {tag for item in document["paths"].values() for operation in item.values() for tag in operation["tags"]}
        assert used == tags

    with_worker(tmp_path / "run", body)


@pytest.mark.parametrize("make", [linear, columns])
def test_every_example_is_accepted_as_it_stands(tmp_path: Path, make: Any) -> None:
    async def body(bench: Bench) -> None:
        path = make(tmp_path / "m.onnx")
        await bench.route("m", RouteEntry(champion=2, aspired={1: aspire(path), 2: aspire(path)}))
        sent = []
        for url, item in (await described(bench))["paths"].items():
            example = item.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json", {})
            if "{" not in url and "/m" in url and "example" in example:
                answer = await bench.ask(url, example["example"])
                assert answer.status == 200, (url, answer.body)
                sent.append(url)
        assert {"/v2/models/m/infer", "/v2/models/m/versions/1/infer", "/v1/models/m:predict"} <= set(sent)

    with_worker(tmp_path / "run", body)


def test_a_model_that_takes_no_zeros_is_shown_with_what_it_takes(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", RouteEntry(champion=1, aspired={1: aspire(reciprocal(tmp_path / "m.onnx"))}))
        request = (await described(bench))["paths"]["/v2/models/m/infer"]["post"]["requestBody"]
        assert request["content"]["application/json"]["example"]["inputs"][0]["data"] == [1.0]

    with_worker(tmp_path / "run", body)


def reciprocal(path: Path) -> Path:
    """x [N, 1] → 1 / x."""
    from onnx import TensorProto, helper

    from tests.support.models import build, value

    ends = [value("x", TensorProto.FLOAT, ["N", 1])], [value("y", TensorProto.FLOAT, ["N", 1])]
    return build(path, [helper.make_node("Reciprocal", ["x"], ["y"])], *ends)


def test_an_example_too_long_for_a_page_is_left_out(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        path = linear(tmp_path / "m.onnx", features=MOST_ELEMENTS + 1)
        await bench.route("m", RouteEntry(champion=1, aspired={1: aspire(path)}))
        operation = (await described(bench))["paths"]["/v2/models/m/infer"]["post"]
        assert "No example" in operation["description"]
        assert "example" not in operation["requestBody"]["content"]["application/json"]

    with_worker(tmp_path / "run", body)


def test_many_models_have_a_bounded_number_of_sections(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        entry = RouteEntry(champion=1, aspired={1: aspire(hungry(tmp_path / "m.onnx"), by_rows=False)})
        for number in range(MOST_MODELS + 3):
            bench.models[f"m{number:02}"] = entry
        await bench.route("m99", entry)
        document = await described(bench)
        assert sum(tag["name"].startswith("model ") for tag in document["tags"]) == MOST_MODELS
        assert "4 more models" in document["info"]["description"]
        assert len(json.dumps(document)) < 300_000

    with_worker(tmp_path / "run", body)


def test_the_document_is_made_anew_only_when_what_is_served_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    from gateway.data import openapi

    original = openapi.document
    monkeypatch.setattr(openapi, "document", lambda *given: made.append(1) or original(*given))  # type: ignore[func-returns-value]

    async def body(bench: Bench) -> None:
        path = linear(tmp_path / "m.onnx")
        await bench.route("m", RouteEntry(champion=1, aspired={1: aspire(path)}))
        first = await bench.ask("/openapi.json", method="GET")
        again = await bench.ask(
            "/openapi.json", method="GET", headers={"if-none-match": first.headers["etag"], "host": "h"}
        )
        assert (again.status, again.body, len(made)) == (304, b"", 1)
        await bench.route("m", RouteEntry(champion=2, aspired={1: aspire(path), 2: aspire(path)}))
        later = await bench.ask("/openapi.json", method="GET", headers={"if-none-match": first.headers["etag"]})
        assert (later.status, len(made)) == (200, 2)

    with_worker(tmp_path / "run", body)


def test_names_of_tensors_are_text_and_never_markup(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    from tests.support.models import build, value

    bad = "<img src=x> [a](javascript:0)"
    ends = [value(bad, TensorProto.FLOAT, ["N", 1])], [value("y", TensorProto.FLOAT, ["N", 1])]
    path = build(tmp_path / "m.onnx", [helper.make_node("Identity", [bad], ["y"])], *ends)

    async def body(bench: Bench) -> None:
        await bench.route("m", RouteEntry(champion=1, aspired={1: aspire(path)}))
        document = await described(bench)
        text = next(tag["description"] for tag in document["tags"] if tag["name"] == "model m")
        assert "<img" not in text.replace("\\<", "")
        assert "](" not in text

    with_worker(tmp_path / "run", body)
