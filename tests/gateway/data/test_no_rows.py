"""Requests of no rows, tensors without elements or axes, models without inputs: answered when the model can."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from gateway.data.page_reader import read_pages
from gateway.data.routes import RouteEntry
from gateway.data.servable import MOST_EMPTY_ROWS, MOST_TEXTS, InputSlot
from monitor.lane import LaneReader
from registry.errors import PayloadTooLarge
from registry.manifest import Manifest
from registry.vocabulary import TensorSpec
from tests.support import models, typed_models
from tests.support.serving import Answer, Bench, aspire, with_worker

F32 = TensorProto.FLOAT


def tensor(shape: Sequence[int], data: Sequence[Any] = (), name: str = "x", datatype: str = "FP32") -> dict[str, Any]:
    return {"name": name, "shape": list(shape), "datatype": datatype, "data": list(data)}


async def infer(bench: Bench, *tensors: dict[str, Any], headers: dict[str, str] | None = None) -> Answer:
    return await bench.ask("/v2/models/m/infer", {"inputs": list(tensors)}, headers=headers)


def test_requests_of_no_rows_are_answered_with_none_and_logged_as_nothing(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", RouteEntry(champion=1, aspired={1: aspire(models.linear(tmp_path / "a.onnx"))}))
        for _ in range(3):
            good, empty, double, last = await asyncio.gather(
                bench.infer("m", [[1, 2, 3]]),
                infer(bench, tensor([0, 3])),
                bench.infer("m", [[1, 2, 3], [4, 5, 6]]),
                infer(bench, tensor([0, 3])),
            )
            assert [answer.status for answer in (good, empty, double, last)] == [200] * 4
            for answer in (empty, last):
                assert answer.json["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [0, 2], "data": []}]
            assert double.json["outputs"][0]["data"][:2] == good.json["outputs"][0]["data"]
        assert (await infer(bench, tensor([0, 3]))).status == 200  # nothing else waits: run at once
        rows = LaneReader.open(next((tmp_path / "run/lanes").glob("*champion*"))).read(100)
        assert sorted(rows["features"].tolist()) == sorted([[1, 2, 3]] * 6 + [[4, 5, 6]] * 3)
        assert (rows["flags"] == 0).all()
        assert set(zip(rows["row"].tolist(), rows["rows"].tolist(), strict=True)) == {(0, 1), (0, 2), (1, 2)}

    with_worker(tmp_path / "run", body)


def test_requests_of_no_rows_count_as_answers_in_a_rollout_with_keys_limits_and_a_shadow(tmp_path: Path) -> None:
    limits = ((-100.0, 100.0), (-100.0, 100.0))

    async def body(bench: Bench) -> None:
        entry = RouteEntry(
            champion=1,
            candidate=2,
            weight=0.5,
            salt="5a" * 16,
            rollout_id="01",
            shadow=True,
            aspired={
                1: aspire(models.linear(tmp_path / "a.onnx"), limits=limits),
                2: aspire(models.linear(tmp_path / "b.onnx", seed=1), limits=limits),
            },
        )
        await bench.route("m", entry)
        for user in range(20):
            headers = {"x-routing-key": f"u{user}"} if user % 2 else {}
            assert (await infer(bench, tensor([0, 3]), headers=headers)).status == 200
        await asyncio.sleep(0.02)
        assert not list((tmp_path / "run/lanes").glob("*"))
        page = read_pages(tmp_path / "run")[0]
        assert sum(segment.requests for segment in page.segments) == 10
        assert sum(segment.errors + segment.bad_outputs for segment in page.segments) == 0

    with_worker(tmp_path / "run", body)


def test_a_model_that_makes_a_number_of_no_rows_is_not_let_off_its_nan(tmp_path: Path) -> None:
    ends = [models.value("x", F32, ["N", 3])], [models.value("y", F32, [1, 1])]
    nodes = [helper.make_node("ReduceSum", ["x"], ["s"]), helper.make_node("Reciprocal", ["s"], ["y"])]
    path = models.build(tmp_path / "a.onnx", nodes, *ends)

    async def body(bench: Bench) -> None:
        await bench.route("m", RouteEntry(champion=1, aspired={1: aspire(path, batch="never")}))
        empty = await infer(bench, tensor([0, 3]))
        assert (empty.status, empty.json["code"]) == (500, "inference_failed")
        assert (await infer(bench, tensor([1, 3], [1, 1, 2]))).json["outputs"][0]["data"] == [0.25]

    with_worker(tmp_path / "run", body)


@pytest.mark.parametrize("shape", [[2**62, 0], [MOST_EMPTY_ROWS + 1, 0], [0, 2**40], [2**31, 2**31, 0]])
def test_rows_that_hold_nothing_are_bounded(tmp_path: Path, shape: list[int]) -> None:
    path = typed_models.identity(tmp_path / "a.onnx", F32, [*"NMK"][: len(shape)])

    async def body(bench: Bench) -> None:
        await bench.route("m", RouteEntry(champion=1, aspired={1: aspire(path)}))
        refused = await infer(bench, tensor(shape))
        assert (refused.status, refused.json["code"]) == (413, "payload_too_large")
        fine = await infer(bench, tensor([5, 0, 7][: len(shape)]))
        assert fine.json["outputs"][0]["shape"] == [5, 0, 7][: len(shape)]

    with_worker(tmp_path / "run", body)


def test_a_tensor_of_very_many_texts_is_refused_before_it_is_read() -> None:
    slot = InputSlot(TensorSpec("x", "BYTES", (None,)), np.dtype(object))
    slot.check_shape([MOST_TEXTS])
    with pytest.raises(PayloadTooLarge, match="the limit is"):
        slot.check_shape([MOST_TEXTS + 1])


def test_a_value_without_axes_is_refused_by_a_model_of_rows_that_declares_no_rank(tmp_path: Path) -> None:
    path = typed_models.identity(tmp_path / "a.onnx", F32, None)

    async def body(bench: Bench) -> None:
        spec = aspire(path)
        manifest = Manifest.from_json(Path(spec.manifest_path).read_text())
        free = replace(manifest, inputs=(TensorSpec("x", "FP32", None),))  # as the probe finds it
        Path(spec.manifest_path).write_text(free.to_json())
        await bench.route("m", RouteEntry(champion=1, aspired={1: spec}))
        answer = await infer(bench, tensor([], [1]))
        assert (answer.status, answer.json["code"]) == (400, "tensor_mismatch")
        assert (await infer(bench, tensor([2, 1], [1, 2]))).json["outputs"][0]["data"] == [1, 2]

    with_worker(tmp_path / "run", body)


def test_a_model_without_inputs_is_asked_with_an_empty_list(tmp_path: Path) -> None:
    path = typed_models.constant(tmp_path / "a.onnx")

    async def body(bench: Bench) -> None:
        await bench.route("m", RouteEntry(champion=1, aspired={1: aspire(path, batch="never", by_rows=False)}))
        answers = await asyncio.gather(*(infer(bench) for _ in range(5)))
        assert {answer.status for answer in answers} == {200}
        assert answers[0].json["outputs"] == [{"name": "y", "datatype": "INT64", "shape": [3], "data": [1, 2, 3]}]

    with_worker(tmp_path / "run", body)


def test_an_answer_without_elements_is_logged_as_a_row_without_columns(tmp_path: Path) -> None:
    path = typed_models.identity(tmp_path / "a.onnx", F32, [0, 3])

    async def body(bench: Bench) -> None:
        await bench.route("m", RouteEntry(champion=1, aspired={1: aspire(path, batch="never", by_rows=False)}))
        answers = await asyncio.gather(*(infer(bench, tensor([0, 3])) for _ in range(5)))
        assert [answer.json["outputs"][0]["shape"] for answer in answers] == [[0, 3]] * 5
        rows = LaneReader.open(next((tmp_path / "run/lanes").glob("*champion*"))).read(100)
        assert len(rows) == 5
        assert rows["outputs"].shape == (5, 0)
        assert np.all(rows["rows"] == 1)

    with_worker(tmp_path / "run", body)
