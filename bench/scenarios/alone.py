"""A model that takes milliseconds, behind the gateway and alone: how much of the core is still the model's?

magika (5 to 8 ms a row, int32 [n, 2048]), a light resnet50 (some 55 ms) and a light squeezenet (some 5 ms), both asked
with an image in a raw buffer, by eight clients, against onnxruntime in a loop on the same core with the same input.
Beside them the least that a server in Python can be (`bench/thin_server.py`), which tells how much of the distance is
the gateway's own. In turn, ratios within pairs. The resnet comes with the onnx package, the others are of the material.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from bench import wrk
from bench.pairs import alternate
from bench.result import Result
from bench.scenario import Need, Options
from bench.servers import SERVER_CORE, Gateway, free_port, on_cores, program, python

SUMMARY = "magika, resnet and squeezenet behind the gateway at 8 clients, against onnxruntime alone in a loop"
NEEDS: tuple[Need, ...] = ("wrk", "cores", "material")
BAR = 0.97


@dataclass(frozen=True)
class Subject:
    """A model and the input to ask it with."""

    path: Path  # in the material, unless it is absolute
    input: str
    datatype: str
    array: Any
    longer: float = 1.0  # than the others a round takes: what is unfinished at its end is not counted


def subjects() -> dict[str, Subject]:
    """By name."""
    rng = np.random.default_rng(7)
    octets = rng.integers(0, 256, (1, 2048), dtype=np.int32)
    image = rng.normal(size=(1, 3, 224, 224)).astype(np.float32)
    resnet = Path(str(files("onnx").joinpath("backend/test/data/light/light_resnet50.onnx")))
    return {
        "magika": Subject(Path("models/real/magika_standard_v3_2.onnx"), "bytes", "INT32", octets),
        "resnet": Subject(resnet, "gpu_0/data_0", "FP32", image, longer=3.0),
        "squeezenet": Subject(Path("models/light/light_squeezenet.onnx"), "data_0", "FP32", image),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of this scenario."""
    parser.add_argument("--connections", type=int, default=8, help="(%(default)s)")
    parser.add_argument("--models", nargs="+", choices=list(subjects()), default=list(subjects()), metavar="NAME")


def write_body(folder: Path, name: str, subject: Subject) -> dict[str, str]:
    """The request's body in a file, and what `image.lua` reads from its environment."""
    about = {
        "name": subject.input,
        "datatype": subject.datatype,
        "shape": subject.array.shape,
        "parameters": {"binary_data_size": subject.array.nbytes},
    }
    text = orjson.dumps({"inputs": [about], "parameters": {"binary_data_output": True}})
    path = folder / f"{name}.body"
    path.write_bytes(text + subject.array.tobytes())
    return {"BENCH_BODY": str(path), "BENCH_JSON_BYTES": str(len(text))}


def in_a_loop(model: Path, array: Path, seconds: float) -> wrk.Sample:
    """onnxruntime alone, on the server's core."""
    with on_cores([SERVER_CORE]):
        done = subprocess.run(
            python("-m", "bench.bare_loop", str(model), str(array), str(seconds)), capture_output=True, text=True
        )
    if done.returncode:
        raise RuntimeError(f"the loop failed: {done.stderr}")
    return wrk.Sample(json.loads(done.stdout)["runs_per_s"], 0, 0, 0, 0)


def run(options: Options) -> Result:
    """Run it."""
    result, folder, bad = Result("alone"), options.folder, 0
    pairs, seconds = options.pairs_or(7), options.seconds_or(3, 1)
    chosen = {name: subject for name, subject in subjects().items() if name in options.arguments.models}
    gateway = Gateway(folder / "home")
    for name, subject in chosen.items():
        gateway.register(name, options.material / subject.path)
        np.save(folder / f"{name}.npy", subject.array)
    with gateway:
        for name, subject in chosen.items():
            gateway.wait_ready(name)
            options.say(name)
            samples = _in_turn(gateway, name, subject, options, pairs, seconds * subject.longer)
            bad += sum(sample.bad for kind in ("gateway", "thin server") for sample in samples[kind])
            rates = {kind: [sample.requests_per_s for sample in some] for kind, some in samples.items()}
            for kind, unit in (("gateway", "requests/s"), ("thin server", "requests/s"), ("alone", "runs/s")):
                result.add(f"{name}, {kind}", unit, rates[kind], "higher")
            result.ratio(f"{name}, gateway / alone", rates["gateway"], rates["alone"])
            result.ratio(f"{name}, thin server / alone", rates["thin server"], rates["alone"])
            result.bar(f"{name} against onnxruntime alone", f"{name}, gateway / alone", ">=", BAR)
    result.add("failed requests", "requests", bad, "lower")
    result.bar("no request failed", "failed requests", "==", 0)
    return result


def _in_turn(
    gateway: Gateway, name: str, subject: Subject, options: Options, pairs: int, seconds: float
) -> dict[str, list[wrk.Sample]]:
    folder, model, port = options.folder, options.material / subject.path, free_port()
    shape = ",".join(map(str, subject.array.shape))
    thin, up = python("-m", "bench.thin_server", str(model), shape, str(port)), f"http://127.0.0.1:{port}/"
    flags = {"connections": options.arguments.connections, "environ": write_body(folder, name, subject)}
    with program(thin, up):
        urls = {"gateway": gateway.infer_url(name), "thin server": up}
        ask = {kind: partial(wrk.load, options.wrk, url, "image.lua", **flags) for kind, url in urls.items()}
        ask["alone"] = partial(in_a_loop, model, folder / f"{name}.npy")
        for kind in urls:
            ask[kind](seconds=1)  # warm
        return alternate({kind: partial(one, seconds=seconds) for kind, one in ask.items()}, pairs, options.say, str)
