"""Configuration and statistics in Triton's form, and the HTTP routes around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from gateway.data import page_layout as layout
from gateway.data.page import WorkerPage
from gateway.data.page_layout import page_path
from gateway.data.page_reader import read_pages
from gateway.data.routes import RouteEntry
from registry.manifest import ServingOptions
from tests.support import models
from tests.support.serving import BOOT, Answer, Bench, aspire, with_worker


def entry(path: Path, **options: Any) -> RouteEntry:
    return RouteEntry(champion=1, aspired={1: aspire(path, **options)})


async def get(bench: Bench, path: str) -> Any:
    answer = await bench.ask(path, method="GET")
    assert answer.status == 200, answer.body
    return answer.json


def refused(answer: Answer, status: int, code: str) -> None:
    assert (answer.status, answer.json["code"]) == (status, code), answer.body
    assert isinstance(answer.json["error"], str)
    assert answer.headers["x-request-id"] == answer.json["request_id"]


def vector(path: Path) -> Path:
    """x [N] FP32 → y [N]: nothing is left behind the rows."""
    ends = [models.value("x", TensorProto.FLOAT, ["N"])], [models.value("y", TensorProto.FLOAT, ["N"])]
    return models.build(path, [helper.make_node("Neg", ["x"], ["y"])], *ends)


def test_a_batch_size_is_told_only_where_metadata_shows_rows_as_a_free_leading_dimension(tmp_path: Path) -> None:
    small = ServingOptions(max_batch_rows=7)

    async def body(bench: Bench) -> None:
        await bench.route("rows", entry(models.linear(tmp_path / "a.onnx"), options=small))
        await bench.route("apart", entry(models.linear(tmp_path / "b.onnx"), batch="never"))
        await bench.route("fixed", entry(models.linear(tmp_path / "c.onnx", rows=2)))
        await bench.route("whole", entry(models.linear(tmp_path / "d.onnx"), by_rows=False))
        await bench.route("vector", entry(vector(tmp_path / "e.onnx")))
        await bench.route("columns", entry(models.columns(tmp_path / "f.onnx")))
        told = {name: await get(bench, f"/v2/models/{name}/config") for name in bench.models}
        sizes = {name: config["max_batch_size"] for name, config in told.items()}
        assert sizes == {"rows": 7, "apart": 64, "fixed": 0, "whole": 0, "vector": 0, "columns": 64}
        dims = {name: [tensor["dims"] for tensor in config["input"]] for name, config in told.items()}
        assert dims == {
            "rows": [[3]],
            "apart": [[3]],
            "fixed": [[2, 3]],
            "whole": [[-1, 3]],
            "vector": [[-1]],
            "columns": [[1], [1], [1]],
        }
        joined = {name: config.get("dynamic_batching") for name, config in told.items()}
        assert joined["rows"] == {"preferred_batch_size": [7], "max_queue_delay_microseconds": 0}
        assert joined["apart"] is joined["whole"] is None
        assert [one["data_type"] for one in told["columns"]["output"]] == ["TYPE_FP32", "TYPE_STRING"]
        assert told["rows"] == await get(bench, "/v2/models/rows/versions/1/config")
        assert told["rows"]["version_policy"] == {"specific": {"versions": [1]}}

    with_worker(tmp_path / "run", body)


def test_statistics_add_up_the_pages_of_all_worker_slots_and_leave_shadows_out(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", entry(models.linear(tmp_path / "a.onnx")))
        await bench.route("other", entry(models.linear(tmp_path / "b.onnx")))
        for rows in (1, 3):
            assert (await bench.infer("m", [[1.0, 2.0, 3.0]] * rows)).status == 200
        beside = WorkerPage(page_path(tmp_path / "run", 1), 1, BOOT)
        for role, rows in (("canary", 5), ("shadow", 1000)):
            base = beside.totals("m", 1, role)
            beside.words[base + layout.BATCH_ROWS_SUM] = rows
            beside.words[base + layout.BATCH_ROWS] = 2
            beside.words[base + layout.STAGE_SUM_NS + layout.STAGES.index("infer")] = 1_000_000_000
        told = await get(bench, "/v2/models/m/stats")
        (one,) = told["model_stats"]
        champion = next(one for one in read_pages(tmp_path / "run") if one.slot == 0).totals["m", 1, "champion"]
        assert champion.batch_rows_sum == 4
        assert one["inference_count"] == champion.batch_rows_sum + 5
        assert one["execution_count"] == int(champion.batch_rows_counts.sum()) + 2
        stats = one["inference_stats"]
        assert stats["success"]["count"] == champion.codes["v2", "200"] == 2
        assert stats["compute_infer"]["ns"] == round(champion.stage_sum_us[2] * 1000) + 1_000_000_000
        parts = ("queue", "compute_input", "compute_infer", "compute_output")
        assert stats["success"]["ns"] == sum(stats[part]["ns"] for part in parts)
        assert (one["name"], one["version"], one["batch_stats"]) == ("m", "1", [])
        every = (await get(bench, "/v2/models/stats"))["model_stats"]
        assert [(one["name"], one["inference_count"] > 0) for one in every] == [("m", True), ("other", False)]
        beside.close()

    with_worker(tmp_path / "run", body)


def test_what_is_not_there_or_not_ready_or_no_number_is_told(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", entry(models.linear(tmp_path / "a.onnx")))
        await bench.route("empty", RouteEntry(champion=None))
        for what in ("", "/config", "/stats"):
            refused(await bench.ask(f"/v2/models/nope{what}", method="GET"), 404, "model_not_found")
            refused(await bench.ask(f"/v2/models/m/versions/9{what}", method="GET"), 404, "version_not_found")
            refused(await bench.ask(f"/v2/models/empty{what}", method="GET"), 503, "not_ready")
            for wrong in ("x", "1.5", "²", "9999999999"):
                path = f"/v2/models/m/versions/{wrong}{what}"
                refused(await bench.ask(path, method="GET"), 400, "malformed_request")
            refused(await bench.ask(f"/v2/models/m{what}", method="PUT"), 405, "method_not_allowed")
        assert (await bench.ask("/v2", method="GET")).json == (await bench.ask("/v2/", method="GET")).json
        assert (await bench.ask("/v2", method="HEAD")).status == 200

    with_worker(tmp_path / "run", body)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/systemsharedmemory/status"),
        ("GET", "/v2/systemsharedmemory/region/a/status"),
        ("POST", "/v2/systemsharedmemory/region/a/register"),
        ("POST", "/v2/cudasharedmemory/unregister"),
        ("GET", "/v2/trace/setting"),
        ("POST", "/v2/models/m/trace/setting"),
        ("POST", "/v2/logging"),
        ("POST", "/v2/models/m/generate"),
        ("POST", "/v2/models/m/versions/1/generate_stream"),
    ],
)
def test_what_is_not_offered_is_told_so(tmp_path: Path, method: str, path: str) -> None:
    async def body(bench: Bench) -> None:
        refused(await bench.ask(path, {}, method=method), 501, "unimplemented")

    with_worker(tmp_path / "run", body)
