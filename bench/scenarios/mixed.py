"""Mixed models in one worker: each model's latency alone, and with the others asked at the same time.

The 100-tree model (500/s), one of 2 ms (50/s) and one of 20 ms (5/s), all by open loop with independent callers:
about a quarter of the core. In turn: each alone, then all together.
"""

from __future__ import annotations

from bench import models
from bench.bodies import json_rows
from bench.open_loop import Stream, offer
from bench.outcomes import Outcomes
from bench.pairs import alternate
from bench.result import Result
from bench.scenario import Need, Options
from bench.schedule import poisson
from bench.servers import Gateway

SUMMARY = "three models in one worker, each asked alone and all together: p50 and p99 of each"
NEEDS: tuple[Need, ...] = ("cores",)
RATES = {"small": 500.0, "2ms": 50.0, "20ms": 5.0}


def run(options: Options) -> Result:
    """Run it."""
    import numpy as np

    result, folder, rng = Result("mixed"), options.folder, np.random.default_rng(5)
    pairs, seconds = options.pairs_or(5), options.seconds_or(6, 2)
    models.train(folder / "small.onnx", 1)
    models.timed(folder / "2ms.onnx", 2.0)
    models.timed(folder / "20ms.onnx", 20.0)
    bodies = json_rows(500, 3)
    gateway = Gateway(folder / "home")
    for name in RATES:
        gateway.register(name, folder / f"{name}.onnx")

    def ask(*names: str) -> Outcomes:
        streams = [
            Stream(name, gateway.port, f"/v2/models/{name}/infer", bodies, poisson(RATES[name], seconds, rng))
            for name in names
        ]
        return offer(streams).outcomes()

    with gateway:
        for name in RATES:
            gateway.wait_ready(name)
        contestants = {f"{name} alone": lambda name=name: ask(name) for name in RATES}
        samples = alternate(
            {**contestants, "all": lambda: ask(*RATES)},
            pairs,
            options.say,
            lambda outcomes: f"p99 {outcomes.percentile(99):.1f} ms",
        )
    for name in RATES:
        alone = [outcomes.percentile(99) for outcomes in samples[f"{name} alone"]]
        mixed = [outcomes.of(name) for outcomes in samples["all"]]
        result.add(f"{name} alone, p50", "ms", [o.percentile(50) for o in samples[f"{name} alone"]], "lower")
        result.add(f"{name} alone, p99", "ms", alone, "lower")
        result.add(f"{name} with the others, p50", "ms", [o.percentile(50) for o in mixed], "lower")
        result.add(f"{name} with the others, p99", "ms", [o.percentile(99) for o in mixed], "lower")
        result.ratio(f"{name}, p99 with the others / alone", [o.percentile(99) for o in mixed], alone, "lower")
        result.histograms[f"{name} with the others"] = mixed[-1].histogram()
    everything = [outcomes for runs in samples.values() for outcomes in runs]
    failed = sum(len(outcomes) - len(outcomes.with_status(200)) for outcomes in everything)
    result.add("failed requests", "requests", failed, "lower")
    result.bar("no request failed", "failed requests", "==", 0)
    return result
