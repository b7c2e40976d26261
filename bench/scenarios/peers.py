"""Other servers on the same model: each in turn with the gateway, on the same core, asked by the same load.

The gateway runs with everything on (90/10 split, tap, monitor). Every peer's first answer is compared with
onnxruntime's before it is measured. `python -m bench peers install` makes their environments; those that are not
installed are skipped, which the result says.
"""

from __future__ import annotations

import argparse
import contextlib
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from bench import models, wrk
from bench.pairs import alternate
from bench.peers.registry import FOLDER, MODEL, PEERS, Peer
from bench.peers.running import open_model
from bench.result import Result
from bench.scenario import Need, Options
from bench.scenarios.hot_path import PLAN, gateway_of, prepare
from bench.servers import Gateway, free_port, program
from tests.conformance.peers import environments

SUMMARY = "MLServer, KServe, BentoML, LitServe, Ray Serve and Triton on the same model, in alternation with the gateway"
NEEDS: tuple[Need, ...] = ("wrk", "cores")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of this scenario."""
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the environments are (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=list(PEERS), default=list(PEERS), metavar="NAME")
    parser.add_argument("--connections", type=int, default=64, help="(%(default)s)")


def first_number(answer: Any) -> float:
    """The prediction, whatever form the server gives it.

    >>> [first_number(a) for a in ({"outputs": [{"shape": [1], "data": [2.5]}]}, {"y": [[2.5]]}, [[2.5]])]
    [2.5, 2.5, 2.5]
    """
    match answer:
        case {"outputs": [first, *_]}:
            return first_number(first["data"])
        case {"y": inner}:
            return first_number(inner)
        case [first, *_]:
            return first_number(first)
        case _:
            return float(answer)


def check(url: str, peer: Peer, expected: float) -> None:
    """Raise RuntimeError unless the server predicts what the model does."""
    row = models.rows(1, 5)
    data = [float(value) for value in row[0]]
    tensor = {"name": "x", "shape": [1, models.FEATURES], "datatype": "FP32", "data": data}
    answer = httpx.post(url, json={"x": [data]} if peer.style == "plain" else {"inputs": [tensor]}, timeout=30)
    if answer.status_code != 200 or abs(first_number(answer.json()) - expected) > 1e-3:
        raise RuntimeError(f"{url} gave {answer.status_code} {answer.text[:500]}, expected {expected}")


def run(options: Options) -> Result:
    """Run it."""
    result, arguments = Result("peers"), options.arguments
    pairs, seconds = options.pairs_or(7), options.seconds_or(2, 1)
    folder = arguments.folder.resolve()
    options.say("training two 100-tree models and registering them")
    prepare(options.folder)
    model = options.folder / "m1.onnx"
    expected = float(open_model(str(model))(models.rows(1, 5))[0][0])
    with gateway_of(options.folder, "home") as gateway:
        gateway.wait_ready(MODEL)
        gateway.start_rollout(MODEL, 2, PLAN, 10.0)
        bad = 0
        for name in arguments.only:
            peer = PEERS[name]
            if not environments.is_installed(folder, name, peer.packages):
                result.notes.append(f"{name} is not installed (python -m bench peers install {name})")
                continue
            try:
                bad += _against(options, result, gateway, name, folder, expected, pairs, seconds)
            except RuntimeError as error:  # the others shall still be measured
                options.say(f"{name}: {error}")
                result.notes.append(f"{name} could not be measured: {str(error)[:200]}")
    result.add("failed requests of the gateway", "requests", bad, "lower")
    result.bar("no request to the gateway failed", "failed requests of the gateway", "==", 0)
    return result


def _against(
    options: Options,
    result: Result,
    gateway: Gateway,
    name: str,
    folder: Path,
    expected: float,
    pairs: int,
    seconds: float,
) -> int:
    peer, connections = PEERS[name], options.arguments.connections
    start = peer.start(folder, options.folder / "m1.onnx", free_port(), free_port())
    options.say(f"{name}: {peer.package}, {peer.settings}")
    log = options.folder / f"{name}.log"
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            program(start.command, start.ready, environ=start.environ, log=log, cwd=folder, start_s=120)
        )
        check(start.infer, peer, expected)
        asking = {"connections": connections, "seconds": seconds}
        ask = {
            "gateway": partial(wrk.load, options.wrk, gateway.infer_url(MODEL), "rows.lua", **asking),
            name: partial(
                wrk.load, options.wrk, start.infer, "rows.lua", environ={"BENCH_STYLE": peer.style}, **asking
            ),
        }
        for run_once in ask.values():
            run_once(seconds=1 if options.quick else 3)  # warm
        samples = alternate(ask, pairs, options.say, str)
    ours, theirs = samples["gateway"], samples[name]
    failed = sum(sample.bad for sample in theirs)
    if silent := [sample for sample in theirs if not sample.requests]:  # no ratio to nothing
        result.notes.append(f"{name} answered nothing in {len(silent)} of {len(theirs)} runs, which are left out")
        ours = [mine for mine, other in zip(ours, theirs, strict=True) if other.requests]
        theirs = [sample for sample in theirs if sample.requests]
    if not theirs:
        raise RuntimeError("it answered nothing")
    result.add(f"{name}", "requests/s", [sample.requests_per_s for sample in theirs], "higher")
    result.add(f"{name}, p99", "ms", [sample.p99_us / 1e3 for sample in theirs])
    result.add(f"gateway beside {name}", "requests/s", [sample.requests_per_s for sample in ours], "higher")
    result.add(f"gateway beside {name}, p99", "ms", [sample.p99_us / 1e3 for sample in ours], "lower")
    ratio = f"gateway / {name}"
    result.ratio(ratio, [sample.requests_per_s for sample in ours], [sample.requests_per_s for sample in theirs])
    if peer.bar is not None:
        result.bar(f"requests/s against {name}", ratio, ">=", peer.bar)
    result.facts[name] = {"package": peer.package, "settings": peer.settings}
    if failed:
        result.notes.append(f"{failed} requests to {name} failed")
    return sum(sample.bad for sample in samples["gateway"])
