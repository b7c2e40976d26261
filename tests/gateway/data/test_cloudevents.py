"""CloudEvents in and out, binary and structured, around V1 and V2."""

from __future__ import annotations

import base64
import datetime
import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.data.routes import RouteEntry
from registry import onnx
from registry.manifest import ServingOptions
from tests.support import models
from tests.support.serving import Answer, Bench, aspire, with_worker

ROWS = [[1.0, 2.0, 3.0]]
V1 = ("/v1/models/m:predict", {"instances": ROWS})
V2 = ("/v2/models/m/infer", {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": ROWS[0]}]})
BINARY = {"ce-specversion": "1.0", "ce-id": "7", "ce-source": "test", "ce-type": "io.example.request"}
EVENT = {"specversion": "1.0", "id": "7", "source": "test", "type": "io.example.request"}
STRUCTURED = {"content-type": "application/cloudevents+json"}


async def serve(bench: Bench, tmp_path: Path, **options: Any) -> None:
    version = aspire(models.linear(tmp_path / "a.onnx"), options=ServingOptions(**options) if options else None)
    await bench.route("m", RouteEntry(champion=1, aspired={1: version}))


def numbers(body: Any) -> Any:
    """The values of a V1 or a V2 answer."""
    values = body["predictions"] if "predictions" in body else body["outputs"][0]["data"]
    return np.array(values, np.float32).ravel()


def check_attributes(attributes: dict[str, str]) -> None:
    assert (attributes["specversion"], attributes["type"]) == ("1.0", "io.kserve.inference.response")
    assert attributes["source"] == "io.kserve.inference.m"
    assert uuid.UUID(attributes["id"])
    assert datetime.datetime.fromisoformat(attributes["time"]).tzinfo is not None


@pytest.mark.parametrize(("path", "request_"), [V1, V2])
def test_an_event_is_answered_with_an_event_of_its_mode(tmp_path: Path, path: str, request_: Any) -> None:
    async def body(bench: Bench) -> None:
        await serve(bench, tmp_path)
        want = onnx.run(onnx.open_session(tmp_path / "a.onnx"), {"x": np.array(ROWS, np.float32)})[0].ravel()

        binary = await bench.ask(path, request_, headers=BINARY)
        assert (binary.status, binary.headers["content-type"]) == (200, "application/json")
        check_attributes({name[3:]: text for name, text in binary.headers.items() if name.startswith("ce-")})
        assert numbers(binary.json).tobytes() == want.tobytes()

        text = json.dumps(request_)
        for data in ({"data": request_}, {"data": text}, {"data_base64": base64.b64encode(text.encode()).decode()}):
            answer = await bench.ask(path, {**EVENT, **data}, headers=STRUCTURED)
            assert (answer.status, answer.headers["content-type"]) == (200, "application/cloudevents+json")
            check_attributes(answer.json)
            assert answer.json["datacontenttype"] == "application/json"
            assert numbers(answer.json["data"]).tobytes() == want.tobytes()
            assert answer.headers["x-driftgate-version"] == "1"

        plain = await bench.ask(path, request_)
        assert not [name for name in plain.headers if name.startswith("ce-")]

    with_worker(tmp_path / "run", body)


def test_a_v2_event_keeps_its_id_and_its_binary_tensors(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await serve(bench, tmp_path)
        answer = await bench.ask(V2[0], {**V2[1], "id": "order"}, headers=BINARY)
        assert answer.json["id"] == "order"
        tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "parameters": {"binary_data_size": 12}}
        head = json.dumps({"inputs": [tensor]}).encode()
        raw = head + np.array(ROWS, np.float32).tobytes()
        headers = {
            **BINARY,
            "content-type": "application/octet-stream",
            "inference-header-content-length": str(len(head)),
        }
        mixed = await bench.ask(V2[0], raw, headers=headers)
        assert mixed.json["outputs"] == (await bench.ask(*V2)).json["outputs"]
        assert mixed.headers["ce-type"] == "io.kserve.inference.response"

    with_worker(tmp_path / "run", body)


@pytest.mark.parametrize(
    ("request_", "headers", "told"),
    [
        (V1[1], {**BINARY, "ce-id": ""}, "'id'"),
        (V1[1], {name: text for name, text in BINARY.items() if name != "ce-source"}, "'source'"),
        (V1[1], {**BINARY, "ce-specversion": "2.0"}, "'2.0'"),
        ({**EVENT, "id": 7, "data": V1[1]}, STRUCTURED, "'id'"),
        ({**EVENT, "specversion": "9", "data": V1[1]}, STRUCTURED, "'9'"),
        (EVENT, STRUCTURED, 'no "data"'),
        ({**EVENT, "data_base64": "%"}, STRUCTURED, "not base64"),
        ({**EVENT, "data_base64": [1]}, STRUCTURED, "not base64"),
        ({**EVENT, "data": "{"}, STRUCTURED, "not JSON"),
        ({**EVENT, "data": None}, STRUCTURED, "object"),
        ([EVENT], STRUCTURED, "object"),
        (b"{", STRUCTURED, "not JSON"),
    ],
)
def test_what_is_no_event_is_refused_in_the_one_error_shape(
    tmp_path: Path, request_: Any, headers: dict[str, str], told: str
) -> None:
    async def body(bench: Bench) -> None:
        await serve(bench, tmp_path)
        answer: Answer = await bench.ask(V1[0], request_, headers=headers)
        assert (answer.status, answer.json["code"]) == (400, "malformed_request")
        assert told in answer.json["error"]

    with_worker(tmp_path / "run", body)


def test_batches_of_events_are_not_read(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await serve(bench, tmp_path)
        answer = await bench.ask(V1[0], [EVENT], headers={"content-type": "application/cloudevents-batch+json"})
        assert (answer.status, answer.json["code"]) == (415, "unsupported_media")

    with_worker(tmp_path / "run", body)


def test_nan_inside_an_event_stays_nan_and_infinity_infinity(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await serve(bench, tmp_path, nan="allow")
        for value in (float("nan"), float("inf")):
            request = {"instances": [[value, 0.0, 0.0]]}
            event = await bench.ask(V1[0], {**EVENT, "data": request}, headers=STRUCTURED)
            assert event.json["data"] == (await bench.ask(V1[0], request)).json

    with_worker(tmp_path / "run", body)


def test_binary_data_comes_back_inside_a_structured_event_as_base64(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await serve(bench, tmp_path)
        want = onnx.run(onnx.open_session(tmp_path / "a.onnx"), {"x": np.array(ROWS, np.float32)})[0]
        data = {**V2[1], "parameters": {"binary_data_output": True}}
        answer = await bench.ask(V2[0], {**EVENT, "data": data}, headers=STRUCTURED)
        assert (answer.status, answer.headers["content-type"]) == (200, "application/cloudevents+json")
        assert answer.json["datacontenttype"] == "application/octet-stream"
        octets = base64.b64decode(answer.json["data_base64"])
        size = int(answer.headers["inference-header-content-length"])
        assert json.loads(octets[:size])["model_name"] == "m"
        assert octets[size:] == want.tobytes()

    with_worker(tmp_path / "run", body)
