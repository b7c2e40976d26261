"""What a request asks beside its tensors: obeyed, let through or refused, never passed over."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from gateway.data.codecs import v2
from gateway.data.codecs.call import Answer
from gateway.data.routes import RouteEntry
from gateway.data.servable import Servable
from registry.errors import MalformedRequest, ServingError, TensorMismatch, Unimplemented
from tests.support import models
from tests.support.serving import Bench, aspire, with_worker
from tests.support.v2 import LIMITS, answered, body_of, echo, opened, two

F32, I64 = struct.pack("<2f", 1.5, -2.0), struct.pack("<2q", 3, 2**60)


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> Servable:
    return echo(tmp_path_factory.mktemp("m") / "a.onnx", ["FP32", "INT64"], ["N", 2])


@pytest.mark.parametrize(
    ("document", "buffers", "in_json"),
    [
        (two(), {}, ["FP32 out", "INT64 out"]),
        (two(outputs=[]), {}, ["FP32 out", "INT64 out"]),
        (two(outputs=None), {}, ["FP32 out", "INT64 out"]),
        (two(outputs=[{"name": "INT64 out"}]), {}, ["INT64 out"]),
        (two(outputs=[{"name": "INT64 out"}, {"name": "FP32 out"}]), {}, ["INT64 out", "FP32 out"]),
        (two(parameters={"binary_data_output": False}), {}, ["FP32 out", "INT64 out"]),
        (two(parameters={"binary_data_output": True}), {"FP32 out": F32, "INT64 out": I64}, []),
        (two(parameters={"binary_data_output": True}, outputs=[{"name": "INT64 out"}]), {"INT64 out": I64}, []),
        (
            two(
                parameters={"binary_data_output": True},
                outputs=[{"name": "INT64 out", "parameters": {"binary_data": False}}, {"name": "FP32 out"}],
            ),
            {"FP32 out": F32},
            ["INT64 out"],
        ),
        (
            two(outputs=[{"name": "INT64 out"}, {"name": "FP32 out", "parameters": {"binary_data": True}}]),
            {"FP32 out": F32},
            ["INT64 out"],
        ),
    ],
)
def test_outputs_come_in_the_order_and_form_that_is_asked(
    floats: Servable, document: Any, buffers: dict[str, bytes], in_json: list[str]
) -> None:
    answer = answered(floats, orjson.dumps(document), {b"content-type": b"application/json"})
    told, got = opened(answer)
    assert got == buffers
    assert [output["name"] for output in told["outputs"] if "data" in output] == in_json
    assert isinstance(answer, Answer) == bool(buffers)
    if document.get("outputs"):
        assert [output["name"] for output in told["outputs"]] == [one["name"] for one in document["outputs"]]


def test_an_answer_of_empty_buffers_is_plain_json(floats: Servable) -> None:
    empty = [
        {"name": name, "shape": [0, 2], "datatype": name, "parameters": {"binary_data_size": 0}}
        for name in ("FP32", "INT64")
    ]
    body, headers = body_of({"inputs": empty, "parameters": {"binary_data_output": True}})
    answer = answered(floats, body, headers)
    assert isinstance(answer, bytes)
    for output in orjson.loads(answer)["outputs"]:
        assert (output["shape"], output["parameters"], "data" in output) == ([0, 2], {"binary_data_size": 0}, False)


@pytest.mark.parametrize(("given_", "told"), [("a", "a"), ("", None), (None, None), ('"\n東', '"\n東')])
def test_an_id_is_echoed_only_when_there_is_one(floats: Servable, given_: Any, told: str | None) -> None:
    for more in ({}, {"outputs": [{"name": "FP32 out"}]}, {"parameters": {"binary_data_output": True}}):
        document, _ = opened(answered(floats, orjson.dumps(two(id=given_, **more)), {}))
        assert document.get("id") == told
        assert ("id" in document) == (told is not None)


@pytest.mark.parametrize(
    ("parameters", "timeout_us"),
    [
        ({"anything": "goes", "n": 1, "x": 0.5, "is": True}, None),
        ({"timeout": 250_000, "priority": 3}, 250_000),
        ({"timeout": 0, "sequence_id": 0, "sequence_start": False, "sequence_end": False}, None),
    ],
)
def test_parameters_are_accepted_and_a_timeout_is_kept(floats: Servable, parameters: Any, timeout_us: Any) -> None:
    _, call = v2.read(orjson.dumps(two(parameters=parameters)), {}, floats, LIMITS)
    assert call.timeout_us == timeout_us


@pytest.mark.parametrize(
    ("document", "error"),
    [
        (two(id=7), MalformedRequest),
        (two(parameters=[]), MalformedRequest),
        (two(parameters={"a": None}), MalformedRequest),
        (two(parameters={"a": [1]}), MalformedRequest),
        (two(parameters={"a" * 500: {}}), MalformedRequest),
        (two(parameters={"binary_data_output": 1}), MalformedRequest),
        (two(parameters={"timeout": -1}), MalformedRequest),
        (two(parameters={"timeout": 1.5}), MalformedRequest),
        (two(parameters={"timeout": True}), MalformedRequest),
        (two(parameters={"triton_x": 1}), MalformedRequest),
        (two(parameters={"headers": "x"}), MalformedRequest),
        (two(parameters={"sequence_id": 9}), Unimplemented),
        (two(parameters={"sequence_start": True}), Unimplemented),
        (two(outputs={"name": "FP32 out"}), MalformedRequest),
        (two(outputs=["FP32 out"]), TensorMismatch),
        (two(outputs=[{"name": "nope"}]), TensorMismatch),
        (two(outputs=[{"name": [[]]}]), TensorMismatch),
        (two(outputs=[{"name": "FP32 out"}, {"name": "FP32 out"}]), MalformedRequest),
        (two(outputs=[{"name": "FP32 out", "parameters": {"binary_data": "yes"}}]), MalformedRequest),
        (two(outputs=[{"name": "FP32 out", "parameters": {"classification": 3}}]), Unimplemented),
        (two(outputs=[{"name": "FP32 out", "parameters": {"shared_memory_region": "r"}}]), Unimplemented),
    ],
)
def test_what_cannot_be_obeyed_is_refused(floats: Servable, document: Any, error: type[ServingError]) -> None:
    with pytest.raises(error) as caught:
        v2.read(orjson.dumps(document), {}, floats, LIMITS)
    assert len(caught.value.message) < 400


def row(value: float, **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [value, 1, 2]}], **more}


def test_a_timeout_in_the_body_is_a_deadline_and_the_sooner_one_counts(tmp_path: Path) -> None:
    async def check(bench: Bench) -> None:
        await bench.route("m", RouteEntry(champion=1, aspired={1: aspire(models.linear(tmp_path / "a.onnx"))}))
        batcher = bench.worker.fleet._loaded["m"][1].batcher
        batcher._is_scheduled = True  # nothing runs: as if a long run were in front
        for header, timeout_us in (("5000", 20_000), ("20", 5_000_000), (None, 20_000)):
            headers = {} if header is None else {"x-deadline-ms": header}
            body = row(1, parameters={"timeout": timeout_us})
            late = await bench.ask("/v2/models/m/infer", body, headers=headers)
            assert (late.status, late.json["details"]) == (504, {"deadline_ms": 20})

    with_worker(tmp_path / "run", check)


def test_requests_of_all_forms_share_a_run_and_get_their_own_rows(tmp_path: Path) -> None:
    async def check(bench: Bench) -> None:
        await bench.route("m", RouteEntry(champion=1, aspired={1: aspire(models.linear(tmp_path / "a.onnx"))}))
        path = "/v2/models/m/infer"
        alone = [(await bench.ask(path, row(value))).json["outputs"][0]["data"] for value in range(4)]
        raw = np.array([[2, 1, 2]], np.float32).tobytes()
        octets = {"content-type": "application/octet-stream", "inference-header-content-length": "0"}
        forms = await asyncio.gather(
            bench.ask(path, row(0)),
            bench.ask(path, row(1, parameters={"binary_data_output": True})),
            bench.ask(path, raw, headers=octets),
            bench.ask(path, row(3, outputs=[{"name": "y"}], id="three")),
        )
        at = [int(answer.headers.get("inference-header-content-length", "0")) for answer in forms]
        got = [
            np.frombuffer(answer.body[start:], np.float32).tolist() if start else answer.json["outputs"][0]["data"]
            for answer, start in zip(forms, at, strict=True)
        ]
        assert got == alone
        assert [start > 0 for start in at] == [False, True, True, False]

    with_worker(tmp_path / "run", check)
