"""Whose failure it is: one request's is not its batch-mates', and a caller's is not the version's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway.data.codecs import v2
from gateway.data.codecs.call import Call
from gateway.data.page_reader import read_pages
from gateway.data.routes import RouteEntry
from monitor.lane import LaneReader
from monitor.record import ERROR
from registry.errors import UnsupportedMedia
from registry.options import ServingOptions
from tests.support import models
from tests.support.serving import Bench, aspire, with_worker


class _Unwritable(Call):
    """An answer that cannot be written."""

    __slots__ = ("_error",)

    def __init__(self, error: Exception) -> None:
        self._error = error

    def write(self, writer: v2.Writer, outputs: Sequence[Any], rows: int) -> bytes:
        raise self._error


class _UnwritableId(Call):
    """One that is written in one pass with its batch-mates, which its id ends."""

    __slots__ = ()
    joint = True
    id: Any = object()


@pytest.mark.parametrize(
    ("call", "status", "code"),
    [
        (_Unwritable(ValueError("no such digit")), 500, "inference_failed"),
        (_Unwritable(UnsupportedMedia("not in this form")), 415, "unsupported_media"),
        (_UnwritableId(), 500, "inference_failed"),
    ],
)
def test_an_answer_that_cannot_be_written_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call, status: int, code: str
) -> None:
    rows = [[float(i % 8), 2.0, 3.0] for i in range(8)]

    async def body(bench: Bench) -> None:
        aspired = {n: aspire(models.looked_up(tmp_path / f"{n}.onnx")) for n in (1, 2)}
        entry = RouteEntry(champion=1, candidate=2, weight=1.0, salt="5a" * 16, rollout_id="r1", aspired=aspired)
        await bench.route("m", entry)
        predict = bench.worker.predict
        enter = predict._enter

        def entered(pending: Any, *arguments: Any) -> None:
            enter(pending, *arguments)
            if pending.feeds[0][0, 0] == 3:
                pending.call = call

        monkeypatch.setattr(predict, "_enter", entered)
        answers = await asyncio.gather(*(bench.infer("m", [row]) for row in rows))
        assert [answer.status for answer in answers] == [200, 200, 200, status, 200, 200, 200, 200]
        assert answers[3].json["code"] == code
        assert [a.json["outputs"][0]["data"] for i, a in enumerate(answers) if i != 3] == rows[:3] + rows[4:]
        (page,) = read_pages(tmp_path / "run")
        assert page.totals["m", 2, "canary"].codes == {("v2", "200"): 7, ("v2", str(status)): 1}
        (canary,) = [segment for segment in page.segments if segment.role == "canary"]
        assert (canary.requests, canary.errors) == (
            (8, 1) if status == 500 else (7, 0)
        )  # callers' errors are not its own
        logged = LaneReader.open(next((tmp_path / "run/lanes").glob("*canary*"))).read(20)
        assert sorted(logged["flags"] & ERROR) == [0] * 7 + [ERROR]
        assert bench.worker.fleet.traffic("m").inside.waiting == 0
        assert bench.worker.predict.inflight == 0

    with_worker(tmp_path / "run", body)


def pair(a: list[list[float]], b: list[list[float]]) -> Any:
    tensors = [("a", a), ("b", b)]
    return {
        "inputs": [
            {"name": name, "shape": [len(rows), len(rows[0])], "datatype": "FP32", "data": rows}
            for name, rows in tensors
        ]
    }


WHOLE = pair([[1.0, 2.0, 3.0]], [[1.0, 2.0, 3.0]])
APART = pair([[1.0, 2.0, 3.0]], [[1.0, 2.0]])


def test_shapes_that_disagree_are_the_callers_fault_and_count_for_nothing(tmp_path: Path) -> None:
    options = ServingOptions(fallback=("constant",), fallback_constant=(("y", (-1.0,)),))

    async def body(bench: Bench) -> None:
        path = models.added(tmp_path / "a.onnx")
        await bench.route("m", RouteEntry(champion=1, aspired={1: aspire(path, options=options)}))
        for _ in range(25):
            answers = await asyncio.gather(*(bench.ask("/v2/models/m/infer", each) for each in (APART, WHOLE)))
            assert [answer.status for answer in answers] == [400, 200]
        told = 'input "b" has 2 on axis 1, input "a" has 3 on axis 1: both are "T"'
        assert (answers[0].json["code"], answers[0].json["error"]) == ("tensor_mismatch", told)
        assert bench.worker.fleet._loaded["m"][1].breaker is None
        seen = read_pages(tmp_path / "run")[0].totals["m", 1, "champion"]
        assert (seen.failed, seen.codes) == (0, {("v2", "400"): 25, ("v2", "200"): 25})
        broadcast = await bench.ask("/v2/models/m/infer", pair([[1.0, 2.0, 3.0]], [[1.0]]))
        assert broadcast.json["outputs"][0]["data"] == [2.0, 3.0, 4.0]  # what the model takes, it takes

    with_worker(tmp_path / "run", body)


@pytest.mark.parametrize(
    ("champions", "error", "evidence"), [("T", "tensor_mismatch", (0, 0)), ("U", "inference_failed", (1, 1))]
)
def test_a_canary_answers_for_shapes_that_only_it_forbids(
    tmp_path: Path, champions: str, error: str, evidence: tuple[int, int]
) -> None:
    async def body(bench: Bench) -> None:
        champion, canary = models.added(tmp_path / "a.onnx", second=champions), models.added(tmp_path / "b.onnx")
        aspired = {1: aspire(champion), 2: aspire(canary)}
        entry = RouteEntry(champion=1, candidate=2, weight=1.0, salt="5a" * 16, rollout_id="r1", aspired=aspired)
        await bench.route("m", entry)
        answer = await bench.ask("/v2/models/m/infer", APART)
        assert answer.json["code"] == error
        (segment,) = [s for s in read_pages(tmp_path / "run")[0].segments if s.role == "canary"]
        assert (segment.requests, segment.errors) == evidence

    with_worker(tmp_path / "run", body)
