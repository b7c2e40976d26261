"""A thousand registered models under a 2 GiB budget: what memory they take, and what a warm answer costs among them.

Two gateways on one core, with the same settings: one serves a single model, the other a thousand of 8 MiB each (8 GiB
in all; one file under a thousand names, which each worker session reads into memory of its own), loaded when a request
wants one. All models are asked once, several at a time, then at random with a preference (Zipf's law), and the worker's
resident memory is read all the while. In between one model that is not in memory is asked by many at once. Then wrk
asks one warm model of either gateway in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from bench import wrk
from bench.pairs import alternate
from bench.result import Result
from bench.scenario import Need, Options
from bench.servers import Gateway

SUMMARY = "1,000 models on demand under a memory budget: resident memory, cold loads, p99 of a warm answer"
NEEDS: tuple[Need, ...] = ("wrk", "cores")
FEATURES, ROWS, WIDTH = 30, 2048, 1024  # ROWS x WIDTH floats are 8 MiB
AT_ONCE = 8  # requests for cold models
TOGETHER = 50  # requests for the same cold model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of this scenario."""
    parser.add_argument("--models", type=int, help="registered models (1000; quick: 60)")
    parser.add_argument("--budget-mib", type=int, help="memory budget of the worker (2048; quick: 400)")


def write_model(path: Path) -> None:
    """An embedding of 8 MiB and a linear part: large in memory, quick to run."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(1)
    weights: dict[str, np.ndarray[Any, Any]] = {
        "table": rng.normal(size=(ROWS, WIDTH)).astype(np.float32),
        "w": rng.normal(size=(FEATURES, 1)).astype(np.float32),
        "low": np.array(0, np.float32),
        "high": np.array(ROWS - 1, np.float32),
        "first": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "axes": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Slice", ["x", "first", "one", "axes"], ["code"]),
        helper.make_node("Clip", ["code", "low", "high"], ["clipped"]),
        helper.make_node("Cast", ["clipped"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["rows"], axis=0),
        helper.make_node("ReduceMean", ["rows"], ["mean"], axes=[2], keepdims=0),
        helper.make_node("MatMul", ["x", "w"], ["linear"]),
        helper.make_node("Add", ["mean", "linear"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "embedding",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", FEATURES])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def register(gateway: Gateway, folder: Path, names: Iterable[str]) -> None:
    """Register the first name as a user would, with rows that prove it, and the others with the manifest found."""
    from registry.catalog import Catalog
    from registry.home import Home

    first, *others = names
    write_model(folder / "model.onnx")
    rows = np.random.default_rng(2).normal(size=(500, FEATURES)).astype(np.float32)
    header = ",".join(f"f{i}" for i in range(FEATURES))
    np.savetxt(folder / "rows.csv", rows, delimiter=",", header=header, comments="", fmt="%.6f")
    gateway.register(first, folder / "model.onnx", "--reference", str(folder / "rows.csv"))
    catalog = Catalog.open(Home(root=gateway.home, run=gateway.home / "run").database_url)
    manifest = catalog.version(first, 1).manifest
    for start in range(0, len(others), 100):
        with catalog.transaction():
            for name in others[start : start + 100]:
                catalog.add_version(name, manifest, actor="bench")
                catalog.set_alias(name, "champion", 1, expected=None, actor="bench")
    catalog.close()


class Asking:
    """Requests to many models, the time each took, and the worker's memory meanwhile."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        (pid,) = gateway.pids("worker")
        self._worker = psutil.Process(pid)
        self.most_mib = 0.0
        self.bad = 0
        data = np.random.default_rng(3).normal(size=FEATURES).round(6).tolist()
        self._body = {"inputs": [{"name": "x", "shape": [1, FEATURES], "datatype": "FP32", "data": data}]}

    async def each(self, names: list[str], at_once: int) -> list[float]:
        """Ask each of these, so many at a time → milliseconds of each."""
        queue, times = iter(names), list[float]()
        limits = httpx.Limits(max_connections=at_once)
        async with httpx.AsyncClient(base_url=self._gateway.data_url, limits=limits, timeout=60) as client:

            async def ask() -> None:
                for name in queue:
                    began = time.perf_counter()
                    answer = await client.post(f"/v2/models/{name}/infer", json=self._body)
                    times.append((time.perf_counter() - began) * 1e3)
                    self.bad += answer.status_code != 200

            watching = asyncio.create_task(self._watch())
            await asyncio.gather(*(ask() for _ in range(at_once)))
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
        return times

    async def _watch(self) -> None:
        while True:
            self.most_mib = max(self.most_mib, self._worker.memory_info().rss / 2**20)
            await asyncio.sleep(0.01)


def loads(gateway: Gateway) -> float:
    """Loads so far."""
    return sum(gateway.metrics()["driftgate_loads_total"].values())


def run(options: Options) -> Result:
    """Run it."""
    result, folder = Result("on-demand"), options.folder
    count = options.arguments.models or (60 if options.quick else 1000)
    budget_mib = options.arguments.budget_mib or (400 if options.quick else 2048)
    names = [f"m{i:04d}" for i in range(count)]
    settings: dict[str, Any] = {
        "gateway__load__when": "request",
        "gateway__load__memory_budget_bytes": budget_mib << 20,
        "lanes__lane_bytes": 256 * 1024,
    }
    options.say(f"registering {count} models of 8 MiB")
    gateways = {"single": Gateway(folder / "single", **settings), "many": Gateway(folder / "many", **settings)}
    register(gateways["single"], folder, names[:1])
    register(gateways["many"], folder, names)
    with contextlib.ExitStack() as stack:
        for gateway in gateways.values():
            stack.enter_context(gateway)
            gateway.wait_ready(names[-1] if gateway is gateways["many"] else names[0])
        asking = Asking(gateways["many"])
        result.add("worker before any load", "MiB", gateways["many"].memory_mib()["worker"])
        options.say("asking every model once")
        began = time.perf_counter()
        cold = asyncio.run(asking.each(names, AT_ONCE))
        result.add("first answers", "models/s", count / (time.perf_counter() - began), "higher")
        result.add(f"first answer, p50, {AT_ONCE} at once", "ms", float(np.percentile(cold, 50)), "lower")
        result.add(f"first answer, p99, {AT_ONCE} at once", "ms", float(np.percentile(cold, 99)), "lower")
        options.say("asking at random, some models much more often")
        rng = np.random.default_rng(4)
        chosen = (rng.zipf(1.2, size=20 * count) - 1) % count
        mixed = asyncio.run(asking.each([names[i] for i in chosen[: 100 if options.quick else 1000]], AT_ONCE))
        result.add("answers at random, p50", "ms", float(np.percentile(mixed, 50)), "lower")
        options.say(f"{TOGETHER} at once for a model that is not in memory")
        asyncio.run(asking.each(names[: count // 2], AT_ONCE))  # the last name has left
        time.sleep(1.0)
        before = loads(gateways["many"])
        asyncio.run(asking.each([names[-1]] * TOGETHER, TOGETHER))
        time.sleep(1.0)
        result.add(f"loads for {TOGETHER} requests at once", "loads", loads(gateways["many"]) - before)
        found = gateways["many"].metrics()
        taken = found["driftgate_version_memory_bytes"].values()
        result.add("measured size of a version", "MiB", [value / 2**20 for value in taken])
        result.add("versions in memory", "versions", sum(found["driftgate_loaded_versions"].values()))
        result.add("loads", "loads", loads(gateways["many"]))
        result.add("evictions", "versions", sum(found["driftgate_load_evictions_total"].values()))
        result.add("most resident memory", "MiB", asking.most_mib, "lower")
        result.add("requests not answered with 200", "requests", asking.bad, "lower")
        options.say("one warm model, among many and alone")
        seconds = options.seconds_or(3, 1)
        ask = {
            kind: partial(
                wrk.load, options.wrk, gateway.infer_url(names[0]), "rows.lua", connections=16, seconds=seconds
            )
            for kind, gateway in gateways.items()
        }
        for run_once in ask.values():
            run_once(seconds=1)  # loads and warms it
        samples = alternate(ask, options.pairs_or(9), options.say, str)
        for kind, some in samples.items():
            result.add(f"warm, {kind}, p99", "ms", [sample.p99_us / 1e3 for sample in some], "lower")
            result.add(f"warm, {kind}", "requests/s", [sample.requests_per_s for sample in some], "higher")
        tails = {kind: [sample.p99_us for sample in some] for kind, some in samples.items()}
        result.ratio("warm p99, many / single", tails["many"], tails["single"], "lower")
        options.say("both gateways idle")
        idle(result, gateways, 2.0 if options.quick else 10.0)
    result.bar(f"resident memory stays under {budget_mib} MiB", "most resident memory", "<=", budget_mib)
    result.bar("p99 of a warm answer among many against alone", "warm p99, many / single", "<=", 1.1)
    result.bar("requests at once for one cold model cause one load", f"loads for {TOGETHER} requests at once", "==", 1)
    result.bar("every request was answered", "requests not answered with 200", "==", 0)
    result.facts.update(models=count, budget_mib=budget_mib, settings=settings)
    return result


def idle(result: Result, gateways: dict[str, Gateway], seconds: float) -> None:
    """Processor time of workers and controllers that nobody asks anything, in percent of a core."""
    processes = {
        (kind, part): [psutil.Process(pid) for pid in gateway.pids(part)]
        for kind, gateway in gateways.items()
        for part in ("worker", "controller")
    }

    def spent() -> dict[tuple[str, str], float]:
        return {key: sum(sum(process.cpu_times()[:2]) for process in group) for key, group in processes.items()}

    before = spent()
    time.sleep(seconds)
    for (kind, part), cpu_s in spent().items():
        result.add(f"idle {part}, {kind}", "% of a core", 100 * (cpu_s - before[kind, part]) / seconds, "lower")
