"""Images in raw buffers: the gateway, with everything on, against a bare app that does frombuffer and run.

    python -m bench --scenario image [--pairs 15] [--seconds 2] [--connections 8]

FP32 [1, 3, 224, 224] in, a light squeezenet (shared material) behind it. Both servers run on one core, `wrk` on the
other asks them in turn; what counts is the ratio within a pair. Decoding JSON of as many numbers is timed beside it,
against np.asarray(orjson.loads(…)).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from bench.hot_path import RESULTS, ROOT, Sample, commit_id, free_port, machine, pinned, spread, wait_for
from tests.support.tools import find_tool

MODEL = "squeezenet"
SHAPE = (1, 3, 224, 224)
BAR, JSON_BAR = 0.95, 0.5


def write_body(folder: Path) -> dict[str, str]:
    """The request's body in a file, and what `image.lua` reads from its environment."""
    values = np.random.default_rng(7).normal(size=SHAPE).astype(np.float32)
    tensor = {"name": "data_0", "datatype": "FP32", "shape": SHAPE, "parameters": {"binary_data_size": values.nbytes}}
    text = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    path = folder / "body"
    path.write_bytes(text + values.tobytes())
    return {"BENCH_BODY": str(path), "BENCH_JSON_BYTES": str(len(text))}


def load(wrk: str, url: str, environ: dict[str, str], connections: int, seconds: int) -> Sample:
    """One run of wrk on core 1."""
    flags = ["-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(ROOT / "bench/image.lua")]
    done = subprocess.run(
        ["taskset", "-c", "1", wrk, *flags, url], capture_output=True, text=True, env={**os.environ, **environ}
    )
    if done.returncode:
        raise RuntimeError(f"wrk failed: {done.stderr}{done.stdout}")
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    rate = found["requests"] / (found["duration_us"] / 1e6)
    return Sample(rate, found["p50_us"], found["p99_us"], found["requests"], found["bad"])


def start_gateway(home: Path, model: Path, port: int) -> Any:
    """A real `driftgate serve` of this model, on core 0."""
    words = [sys.executable, "-P", "-m", "driftgate", "--home", str(home)]
    register = [*words, "register", MODEL, str(model), "--alias", "champion"]
    done = subprocess.run(register, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"register failed:\n{done.stdout}{done.stderr}")
    ports = ["--port", str(port), "--control-port", str(free_port()), "--grpc-port", str(free_port())]
    process = pinned(0, [*words, "serve", *ports, "--workers", "1"], log=home / "bench.log")
    wait_for(f"http://127.0.0.1:{port}/v2/models/{MODEL}/ready")
    return process


def json_times() -> dict[str, list[float]]:
    """Milliseconds to decode a JSON body of one image: by the gateway's reader, and by orjson and numpy; 30 pairs."""
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
    times: dict[str, list[float]] = {"gateway": [], "orjson_numpy": []}
    for _ in range(30):  # in turn, since other work on the machine comes and goes
        for kind, run in (("gateway", quick), ("orjson_numpy", plain)):
            started = time.perf_counter()
            run()
            times[kind].append((time.perf_counter() - started) * 1e3)
    return times


def main(words: list[str]) -> int:
    """Run it, print it, store it; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--seconds", type=int, default=2, help="of one run")
    parser.add_argument("--connections", type=int, default=8)
    arguments = parser.parse_args(words)
    wrk, material = find_tool("wrk"), os.environ.get("DRIFTGATE_TEST_MATERIAL")
    if wrk is None or material is None or shutil.which("taskset") is None or (os.cpu_count() or 1) < 2:
        print("needs wrk (`make tools`), DRIFTGATE_TEST_MATERIAL, taskset and two cores", file=sys.stderr)
        return 1
    model = Path(material) / "models" / "light" / "light_squeezenet.onnx"
    samples: dict[str, list[Sample]] = {"gateway": [], "bare": []}
    with tempfile.TemporaryDirectory(prefix="driftgate-bench-") as name:
        environ = write_body(Path(name))
        ports = {kind: free_port() for kind in samples}
        bare = pinned(0, [sys.executable, "-m", "bench.bare_image", str(model), str(ports["bare"])])
        gateway = None
        try:
            gateway = start_gateway(Path(name) / "home", model, ports["gateway"])
            urls = {kind: f"http://127.0.0.1:{port}/v2/models/{MODEL}/infer" for kind, port in ports.items()}
            for url in urls.values():
                load(str(wrk), url, environ, arguments.connections, 1)  # warm
            for pair in range(arguments.pairs):
                for kind in list(urls) if pair % 2 == 0 else list(urls)[::-1]:
                    samples[kind].append(load(str(wrk), urls[kind], environ, arguments.connections, arguments.seconds))
                line = "  ".join(f"{kind} {samples[kind][-1].requests_per_s:7.1f}/s" for kind in urls)
                print(f"pair {pair + 1:2d}/{arguments.pairs}: {line}", flush=True)
        finally:
            if gateway is not None:
                gateway.send_signal(signal.SIGTERM)
                gateway.wait(60)
            bare.terminate()
            bare.wait(10)
    times = json_times()
    pairs = zip(samples["gateway"], samples["bare"], strict=True)
    ratios = [ours.requests_per_s / theirs.requests_per_s for ours, theirs in pairs]
    bad = sum(sample.bad for kind in samples.values() for sample in kind)
    document = {
        "benchmark": "image",
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit_id(),
        "machine": machine(),
        "connections": arguments.connections,
        "ratio_to_bare": ratios,
        "json_ms": times,
        "samples": {kind: [asdict(sample) for sample in some] for kind, some in samples.items()},
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"image-{document['commit']}.json"
    path.write_text(json.dumps(document, indent=1))
    shares = [ours / theirs for ours, theirs in zip(*times.values(), strict=True)]
    medians = {kind: statistics.median(some) for kind, some in times.items()}
    print(f"\n{arguments.connections} connections, {arguments.pairs} pairs of {arguments.seconds} s")
    for kind, some in samples.items():
        rate, p99 = (statistics.median(getattr(s, key) for s in some) for key in ("requests_per_s", "p99_us"))
        print(f"  {kind:<8}{rate:8.1f} requests/s   p99 {p99 / 1000:.1f} ms")
    print(f"  gateway / bare app   {spread(ratios)}; the bar is {BAR}")
    print(f"  JSON of 150,528 numbers: {medians['gateway']:.1f} ms, orjson and numpy {medians['orjson_numpy']:.1f} ms")
    print(f"  gateway / np.asarray(orjson.loads(…))   {spread(shares)}; the bar is {JSON_BAR}")
    print(f"  failed requests: {bad}\n  stored in {path.relative_to(ROOT)}")
    return 0 if statistics.median(ratios) >= BAR and statistics.median(shares) <= JSON_BAR and bad == 0 else 1
