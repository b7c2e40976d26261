"""KServe V1 and TensorFlow Serving's forms, through a real worker: rows, columns, strings, models and versions."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from gateway.data.codecs import v1
from gateway.data.routes import RouteEntry
from gateway.data.servable import Servable
from gateway.settings import GatewaySettings, LimitSettings, Settings
from registry import onnx
from registry.errors import ServingError
from registry.manifest import Manifest, ServingOptions
from tests.support import models
from tests.support.serving import Bench, aspire, with_worker

B64 = base64.b64encode("Zürich".encode()).decode()
ROWS = [[1.0, 2.0, 3.0], [0.5, -1.0, 4.0]]
VISITS = [{"age": 1.5, "visits": 3, "city": {"b64": B64}}, {"age": 2, "visits": 4, "city": "東京"}]


def texts(path: Path) -> Path:
    """s [N] STRING → raw_bytes [N] and s_out [N], the same."""
    nodes = [helper.make_node("Identity", ["s"], [name]) for name in ("raw_bytes", "s_out")]
    outputs = [models.value(name, TensorProto.STRING, ["N"]) for name in ("raw_bytes", "s_out")]
    return models.build(path, nodes, [models.value("s", TensorProto.STRING, ["N"])], outputs)


def scalar_beside_rows(path: Path) -> Path:
    """x [2, N] FP32 and a scalar k → y [2, N] = x * k: no rows."""
    nodes = [helper.make_node("Mul", ["x", "k"], ["y"])]
    ends = [models.value("x", TensorProto.FLOAT, [2, "N"]), models.value("k", TensorProto.FLOAT, [])]
    return models.build(path, nodes, ends, [models.value("y", TensorProto.FLOAT, [2, "N"])])


async def serve(bench: Bench, tmp_path: Path) -> None:
    """The models of this page, one version each."""
    makers = {"linear": models.linear, "columns": models.columns, "texts": texts}
    for name, make in makers.items():
        await bench.route(name, RouteEntry(champion=1, aspired={1: aspire(make(tmp_path / f"{name}.onnx"))}))
    whole = aspire(scalar_beside_rows(tmp_path / "whole.onnx"), by_rows=False, batch="never")
    await bench.route("whole", RouteEntry(champion=1, aspired={1: whole}))


def test_rows_and_columns_give_the_bits_that_onnxruntime_gives(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await serve(bench, tmp_path)
        want = onnx.run(onnx.open_session(tmp_path / "linear.onnx"), {"x": np.array(ROWS, np.float32)})[0]
        for request, key in (
            ({"instances": ROWS}, "predictions"),
            ({"instances": [{"x": row} for row in ROWS], "signature_name": "serving_default"}, "predictions"),
            ({"inputs": ROWS}, "outputs"),
            ({"inputs": {"x": ROWS}}, "outputs"),
        ):
            answer = await bench.ask("/v1/models/linear:predict", request)
            assert answer.status == 200, answer.body
            assert list(answer.json) == [key]
            assert np.array(answer.json[key], np.float32).tobytes() == want.tobytes()

    with_worker(tmp_path / "run", body)


def test_several_inputs_are_named_in_rows_and_in_columns(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await serve(bench, tmp_path)
        rows = (await bench.ask("/v1/models/columns:predict", {"instances": VISITS})).json
        assert rows == {"predictions": [{"total": [4.5], "named": ["Zürich"]}, {"total": [6.0], "named": ["東京"]}]}
        columns = {"age": [1.5, 2], "visits": [[3], [4]], "city": [{"b64": B64}, "東京"]}
        answer = (await bench.ask("/v1/models/columns:predict", {"inputs": columns})).json
        assert answer == {"outputs": {"total": [[4.5], [6.0]], "named": [["Zürich"], ["東京"]]}}

    with_worker(tmp_path / "run", body)


def test_strings_come_as_text_or_b64_and_outputs_named_bytes_leave_as_b64(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await serve(bench, tmp_path)
        for request in ({"instances": ["Zürich"]}, {"instances": [{"b64": B64}]}, {"instances": [{"s": {"b64": B64}}]}):
            answer = await bench.ask("/v1/models/texts:predict", request)
            assert answer.json == {"predictions": [{"raw_bytes": {"b64": B64}, "s_out": "Zürich"}]}
        columns = await bench.ask("/v1/models/texts:predict", {"inputs": {"s": [{"b64": B64}]}})
        assert columns.json == {"outputs": {"raw_bytes": [{"b64": B64}], "s_out": ["Zürich"]}}

    with_worker(tmp_path / "run", body)


def test_a_model_without_rows_takes_whole_tensors(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await serve(bench, tmp_path)
        tensors = {"x": [[1, 2, 3], [4, 5, 6]], "k": 2}
        want = [[2.0, 4.0, 6.0], [8.0, 10.0, 12.0]]
        columns = await bench.ask("/v1/models/whole:predict", {"inputs": tensors})
        assert columns.json == {"outputs": want}
        row = await bench.ask("/v1/models/whole:predict", {"instances": [tensors]})
        assert row.json == {"predictions": want}

    with_worker(tmp_path / "run", body)


@pytest.mark.parametrize(
    ("request_", "code", "told"),
    [
        ([], "malformed_request", "object"),
        ({}, "malformed_request", "either"),
        ({"instances": [], "inputs": []}, "malformed_request", "either"),
        ({"instances": []}, "malformed_request", "at least one row"),
        ({"instances": {"x": 1}}, "malformed_request", "at least one row"),
        ({"instances": VISITS, "signature_name": 3}, "malformed_request", "signature_name"),
        ({"instances": [1, 2]}, "tensor_mismatch", "keyed by input name"),
        ({"instances": [VISITS[0], 5]}, "tensor_mismatch", "keyed by input name"),
        ({"instances": [{"age": 1, "visits": 2}]}, "tensor_mismatch", 'missing input: "city"'),
        ({"instances": [{**VISITS[0], "town": 1}]}, "tensor_mismatch", "unknown input 'town'"),
        ({"instances": [{**VISITS[0], "city": {"b64": "%%"}}]}, "tensor_mismatch", "not base64"),
        ({"instances": [{**VISITS[0], "city": {"b64": "/w=="}}]}, "tensor_mismatch", "not UTF-8"),
        ({"instances": [{**VISITS[0], "city": {"b64": 5}}]}, "tensor_mismatch", "strings"),
        ({"instances": [{**VISITS[0], "age": "1"}]}, "tensor_mismatch", "strings"),
        ({"instances": [{**VISITS[0], "age": None}]}, "tensor_mismatch", "null"),
        ({"instances": [{**VISITS[0], "age": [1, 2]}]}, "tensor_mismatch", "shape"),
        ({"inputs": [1, 2]}, "tensor_mismatch", "keyed by name"),
        ({"inputs": {"age": [1], "visits": [2]}}, "tensor_mismatch", 'missing input: "city"'),
        ({"inputs": {"age": [1, 2], "visits": [2], "city": ["a"]}}, "tensor_mismatch", "rows"),
        ({"inputs": None}, "tensor_mismatch", "keyed by name"),
    ],
)
def test_what_is_no_request_of_the_model_is_refused_with_the_reason(
    tmp_path: Path, request_: Any, code: str, told: str
) -> None:
    async def body(bench: Bench) -> None:
        await bench.route(
            "columns", RouteEntry(champion=1, aspired={1: aspire(models.columns(tmp_path / "columns.onnx"))})
        )
        answer = await bench.ask("/v1/models/columns:predict", request_)
        assert (answer.status, answer.json["code"]) == (400, code)
        assert told in answer.json["error"]

    with_worker(tmp_path / "run", body)


def test_deep_and_long_bodies_stay_within_the_limits(tmp_path: Path) -> None:
    path = models.linear(tmp_path / "a.onnx")
    manifest = Manifest.from_json(Path(aspire(path).manifest_path).read_text())
    servable = Servable("m", 1, onnx.open_session(path), manifest, 64)
    limits = LimitSettings(tensor_elements=100)
    for raw in (b'{"instances":' + b"[" * 5000 + b"]" * 5000 + b"}", b'{"inputs":' + b'{"x":' * 400 + b"}" * 401):
        with pytest.raises(ServingError):
            v1.read(raw, {}, servable, limits)
    with pytest.raises(ServingError, match="limit is 100"):
        v1.read(b'{"instances":[' + b"[1,2,3]," * 40 + b"[1,2,3]]}", {}, servable, limits)


def test_null_is_nan_where_the_version_allows_it_and_nan_is_null_in_the_answer(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        version = aspire(models.linear(tmp_path / "a.onnx"), options=ServingOptions(nan="allow"))
        await bench.route("m", RouteEntry(champion=1, aspired={1: version}))
        answer = await bench.ask("/v1/models/m:predict", {"instances": [[None, 1, 2], [float("nan"), 1, 2], [0, 1, 2]]})
        assert answer.status == 200
        first, second, third = answer.json["predictions"]
        assert first == second == [None, None]
        assert None not in third

    with_worker(tmp_path / "run", body)


def test_models_are_listed_and_tell_whether_they_are_ready_as_kserve_and_tensorflow_serving_do(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await serve(bench, tmp_path)
        assert (await bench.ask("/v1/models", method="GET")).json == {"models": ["columns", "linear", "texts", "whole"]}
        for path in ("/v1/models/linear", "/v1/models/linear/versions/1"):
            answer = await bench.ask(path, method="GET")
            assert (answer.json["name"], answer.json["ready"]) == ("linear", True)
            assert [state["state"] for state in answer.json["model_version_status"]] == ["AVAILABLE"]
        for path in ("/v1/models/none", "/v1/models/linear/versions/7", "/v1/models/linear/versions/7/metadata"):
            assert (await bench.ask(path, method="GET")).status == 404
        about = (await bench.ask("/v1/models/columns/metadata", method="GET")).json
        assert about["model_spec"] == {"name": "columns", "signature_name": "", "version": "1"}
        signature = about["metadata"]["signature_def"]["signature_def"]["serving_default"]
        assert signature["inputs"]["visits"]["dtype"] == "DT_INT64"
        assert [size["size"] for size in signature["outputs"]["named"]["tensor_shape"]["dim"]] == ["-1", "1"]
        broken = tmp_path / "broken.onnx"
        broken.write_bytes(b"no model")
        version = aspire(tmp_path / "linear.onnx")
        entry = RouteEntry(champion=1, aspired={1: type(version)(str(broken), version.manifest_path)})
        bench.models["broken"] = entry
        bench.table.publish(bench.models)
        bench.worker.beat.step()
        answer = await bench.ask("/v1/models/broken", method="GET")
        assert (answer.status, answer.json["ready"]) == (503, False)

    with_worker(tmp_path / "run", body)


def test_versions_and_labels_are_named_in_the_path(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        aspired = {n: aspire(models.linear(tmp_path / f"{n}.onnx", seed=n)) for n in (1, 2)}
        entry = RouteEntry(champion=1, aspired=aspired, aliases={"champion": 1, "stable": 2})
        await bench.route("m", entry)
        for path, version, role in (
            ("/v1/models/m:predict", "1", "champion"),
            ("/v1/models/m/versions/2:predict", "2", "direct"),
            ("/v1/models/m/labels/stable:predict", "2", "direct"),
            ("/v1/models/m/labels/champion:predict", "1", "direct"),
        ):
            answer = await bench.ask(path, {"instances": ROWS})
            assert (answer.headers["x-driftgate-version"], answer.headers["x-driftgate-role"]) == (version, role)
        for path in ("/v1/models/m/versions/9:predict", "/v1/models/m/labels/none:predict"):
            assert (await bench.ask(path, {"instances": ROWS})).json["code"] == "version_not_found"

    with_worker(tmp_path / "run", body)


@pytest.mark.parametrize("path", ["/v1/models/m:predict", "/v2/models/m/infer", "/invocations", "/score", "/predict"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
def test_a_route_that_predicts_takes_post_alone(tmp_path: Path, path: str, method: str) -> None:
    async def body(bench: Bench) -> None:
        answer = await bench.ask(path, method=method)
        assert (answer.status, answer.headers["allow"]) == (405, "POST")
        assert answer.json["code"] == "method_not_allowed"

    with_worker(tmp_path / "run", body, Settings(gateway=GatewaySettings(predict_route="/predict")))
