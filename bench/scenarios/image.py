"""Images in raw buffers: the gateway, with everything on, against a bare app that does frombuffer and run.

FP32 [1, 3, 224, 224] in, a light squeezenet (shared material) behind it. Both servers run on one core, wrk on the other
asks them in turn; what counts is the ratio within a pair. Decoding JSON of as many numbers is timed beside it, against
np.asarray(orjson.loads(…)).
"""

from __future__ import annotations

import argparse
import contextlib
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from bench import wrk
from bench.pairs import alternate
from bench.result import Result
from bench.scenario import Need, Options
from bench.servers import Gateway, free_port, program, python

SUMMARY = "binary images of 150,528 floats through a light squeezenet: the gateway against a bare app"
NEEDS: tuple[Need, ...] = ("wrk", "cores", "material")
MODEL = "squeezenet"
SHAPE = (1, 3, 224, 224)
BAR, JSON_BAR = 0.95, 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of this scenario."""
    parser.add_argument("--connections", type=int, default=8, help="(%(default)s)")


def write_body(folder: Path) -> dict[str, str]:
    """The request's body in a file, and what `image.lua` reads from its environment."""
    values = np.random.default_rng(7).normal(size=SHAPE).astype(np.float32)
    tensor = {"name": "data_0", "datatype": "FP32", "shape": SHAPE, "parameters": {"binary_data_size": values.nbytes}}
    text = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    path = folder / "body"
    path.write_bytes(text + values.tobytes())
    return {"BENCH_BODY": str(path), "BENCH_JSON_BYTES": str(len(text))}


def json_times(rounds: int) -> dict[str, list[float]]:
    """Milliseconds to decode a JSON body of one image: by the gateway's reader, and by orjson and numpy, in turn."""
    from gateway.data.codecs import json_numbers

    values = np.random.default_rng(7).normal(size=int(np.prod(SHAPE))).astype(np.float32)
    body = orjson.dumps({"inputs": [{"name": "x", "data": values.astype(np.float64).tolist()}]})

    def quick() -> Any:
        document = json_numbers.load(body, 100)
        return None if document is None else document["inputs"][0]["data"].array(values.dtype)

    def plain() -> Any:
        return np.asarray(orjson.loads(body)["inputs"][0]["data"])

    if not np.array_equal(quick(), values):
        raise RuntimeError("the quick reader gave other numbers")

    def timed(run: Any) -> float:
        started = time.perf_counter()
        run()
        return (time.perf_counter() - started) * 1e3

    ask = {"gateway": partial(timed, quick), "orjson": partial(timed, plain)}
    return alternate(ask, rounds, lambda _: None, str)


def run(options: Options) -> Result:
    """Run it."""
    result, folder = Result("image"), options.folder
    pairs, seconds, connections = options.pairs_or(15), options.seconds_or(2, 1), options.arguments.connections
    model = options.material / "models" / "light" / "light_squeezenet.onnx"
    environ = write_body(folder)
    with contextlib.ExitStack() as stack:
        port = free_port()
        bare = python("-m", "bench.bare_image", str(model), str(port))
        stack.enter_context(program(bare, f"http://127.0.0.1:{port}/ready"))
        gateway = Gateway(folder / "home")
        gateway.register(MODEL, model)
        stack.enter_context(gateway).wait_ready(MODEL)
        urls = {"gateway": gateway.infer_url(MODEL), "bare": f"http://127.0.0.1:{port}/infer"}
        flags = {"connections": connections, "environ": environ}
        ask = {
            kind: partial(wrk.load, options.wrk, url, "image.lua", **flags, seconds=seconds)
            for kind, url in urls.items()
        }
        for run_once in ask.values():
            run_once(seconds=1)  # warm
        samples = alternate(ask, pairs, options.say, str)
    for kind, some in samples.items():
        result.add(f"{kind}", "requests/s", [sample.requests_per_s for sample in some], "higher")
        result.add(f"{kind}, p99", "ms", [sample.p99_us / 1e3 for sample in some], "lower")
    rates = {kind: [sample.requests_per_s for sample in some] for kind, some in samples.items()}
    result.ratio("gateway / bare", rates["gateway"], rates["bare"])
    result.bar("binary images against the bare app", "gateway / bare", ">=", BAR)
    times = json_times(3 if options.quick else 30)
    for kind, some_ms in times.items():
        result.add(f"JSON of 150,528 numbers, {kind}", "ms", some_ms, "lower")
    result.ratio("JSON, gateway's reader / orjson and numpy", times["gateway"], times["orjson"], "lower")
    result.bar("time to read large JSON", "JSON, gateway's reader / orjson and numpy", "<=", JSON_BAR)
    result.add("failed requests", "requests", sum(s.bad for some in samples.values() for s in some), "lower")
    result.bar("no request failed", "failed requests", "==", 0)
    return result
