"""A model with loops: a value in a request says how long its run takes, so no run of it may stop the event loop."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

from gateway.data.routes import RouteEntry
from tests.support import models
from tests.support.registering import Bench as Registering
from tests.support.serving import Answer, Bench, aspire, with_worker


async def ask(bench: Bench, turns: int, **headers: str) -> Answer:
    tensors = [
        {"name": "turns", "shape": [], "datatype": "INT64", "data": [turns]},
        {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]},
    ]
    return await bench.ask("/v2/models/m/infer", {"inputs": tensors}, headers=headers)


def test_registration_finds_loops(tmp_path: Path) -> None:
    bench = Registering(tmp_path / "home")
    found = [
        bench.register(model, path).row.manifest.probe.loops
        for model, path in (("m", models.turning(tmp_path / "m.onnx")), ("n", models.linear(tmp_path / "n.onnx")))
    ]
    assert found == [True, False]


def test_runs_of_a_model_with_loops_are_short_on_a_thread_and_can_be_ended(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        version = aspire(models.turning(tmp_path / "a.onnx"), batch="never", by_rows=False, loops=True)
        await bench.route("m", RouteEntry(champion=1, aspired={1: version}))
        servable: Any = bench.worker.fleet._loaded["m"][1].servable
        run, threads = servable._run, set()

        def noted(*given: Any) -> Any:
            threads.add(threading.current_thread().name)
            return run(*given)

        servable._run = noted
        for _ in range(8):  # long enough to be known as short
            answer = await ask(bench, 2)
            assert (answer.status, answer.json["outputs"][0]["data"]) == (200, [3, 4, 5])
        assert threads == {"run_0"}
        late = await ask(bench, 1 << 62, **{"x-deadline-ms": "50"})  # on the event loop it would never come back
        assert (late.status, late.json["code"]) == (504, "deadline_exceeded")
        for _ in range(200):
            if not bench.worker.scheduler.running:
                return
            await asyncio.sleep(0.005)
        raise AssertionError("the run goes on")

    with_worker(tmp_path / "run", body)
