"""Whose failure it is: one request's is not its batch-mates', and a caller's is not the version's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway.data.codecs import v2
from gateway.data.codecs.call import Call
from gateway.data.page import read_pages
from gateway.data.routes import RouteEntry
from monitor.lane import LaneReader
from monitor.record import ERROR
from registry.errors import UnsupportedMedia
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
        assert bench.worker.fleet.traffic("m").waiting == 0
        assert bench.worker.predict.inflight == 0

    with_worker(tmp_path / "run", body)
