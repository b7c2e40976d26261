"""Comparing two files: `driftgate.drift.compare` against Evidently's DataDriftPreset, on the same Parquet files.

Each run is a fresh interpreter that reads both files and compares every column; its own clock starts after its imports,
so libraries that are slow to import are not charged for it. Runs alternate. Evidently is optional: name an interpreter
that has it, `DRIFTGATE_BENCH_EVIDENTLY=/path/to/python`, else only our own figures are taken. Our limits keep a promise
on false alarms and Evidently's do not; what is compared is the time until every column has a verdict.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

from bench import machine
from bench.result import Result
from bench.scenario import Options

SUMMARY = "two Parquet files of 300,000 rows x 50 features compared, with Evidently alongside where it is here"
PEER = "DRIFTGATE_BENCH_EVIDENTLY"
RATIO_BAR = 30.0

_OURS = """
    import sys, time, resource
    import numpy, pyarrow.parquet, scipy.special
    from driftgate import drift
    began = time.perf_counter()
    found = drift.compare(sys.argv[1], sys.argv[2])
    took = time.perf_counter() - began
    alarms = len(found.alarms)
"""
_EVIDENTLY = """
    import sys, time, resource
    import pandas
    from evidently import Report
    from evidently.presets import DataDriftPreset
    began = time.perf_counter()
    reference, current = pandas.read_parquet(sys.argv[1]), pandas.read_parquet(sys.argv[2])
    snapshot = Report([DataDriftPreset()]).run(current, reference)
    took = time.perf_counter() - began
    values = [metric["value"] for metric in snapshot.dict()["metrics"]]
    alarms = next(int(value["count"]) for value in values if isinstance(value, dict) and "count" in value)
"""
_TELL = """
    import json
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": took, "alarms": alarms, "mib": peak}))
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of this scenario."""
    parser.add_argument("--rows", type=int, default=300_000, help="of each file (%(default)s)")
    parser.add_argument("--features", type=int, default=50, help="a fifth of them categories (%(default)s)")


def run(options: Options) -> Result:
    """Run it."""
    result = Result("offline")
    rows = 5_000 if options.quick else options.arguments.rows
    features = 10 if options.quick else options.arguments.features
    files = [write(options.folder / name, rows, features, seed) for name, seed in (("a.parquet", 0), ("b.parquet", 1))]
    peer = os.environ.get(PEER)
    ours: list[dict[str, float]] = []
    theirs: list[dict[str, float]] = []
    for number in range(options.pairs_or(5)):
        ours.append(once(sys.executable, _OURS, files))
        options.say(f"pair {number + 1}: driftgate {ours[-1]['seconds']:.2f} s")
        if peer:
            theirs.append(once(peer, _EVIDENTLY, files))
            options.say(f"pair {number + 1}: Evidently {theirs[-1]['seconds']:.2f} s")
    took = [each["seconds"] for each in ours]
    result.add("driftgate", "s", took, "lower")
    result.add("driftgate, values", "M/s", [2 * rows * features / each / 1e6 for each in took], "higher")
    result.add("driftgate, memory", "MiB", [each["mib"] for each in ours], "lower")
    result.add("features in alarm", "", [each["alarms"] for each in ours])
    result.bar("exactly the shifted features alarm", "features in alarm", "==", len(range(0, features, 10)))
    result.facts |= {"rows": rows, "features": features}
    if theirs:
        result.add("Evidently", "s", [each["seconds"] for each in theirs], "lower")
        result.add("Evidently, memory", "MiB", [each["mib"] for each in theirs], "lower")
        result.ratio("Evidently's time over ours", [each["seconds"] for each in theirs], took)
        result.bar("faster than Evidently's DataDriftPreset", "Evidently's time over ours", ">=", RATIO_BAR)
        result.facts["features in alarm, Evidently"] = theirs[0]["alarms"]
    else:
        result.notes.append(f"Evidently was not measured: {PEER} names no interpreter that has it")
    return result


def once(interpreter: str, program: str, files: list[Path]) -> dict[str, float]:
    """One comparison in a process of its own: seconds, alarms, peak memory."""
    text = textwrap.dedent(program) + textwrap.dedent(_TELL)
    env = {**os.environ, "PYTHONPATH": str(machine.ROOT)} if program is _OURS else {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(
        [interpreter, "-W", "ignore", "-c", text, *map(str, files)], capture_output=True, text=True, env=env
    )
    if done.returncode:
        raise RuntimeError(f"{interpreter} could not compare the files: {done.stderr[-2000:]}")
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def write(path: Path, rows: int, features: int, seed: int) -> Path:
    """A file of numbers of several shapes, and categories; every tenth feature of the second file is shifted."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

    rng = np.random.default_rng(seed)
    columns = {}
    for at in range(features):
        shift = 0.2 if seed and at % 10 == 0 else 0.0
        if at % 5 == 4:
            columns[f"c{at}"] = pa.array(rng.choice([f"level {k}" for k in range(8)], rows))
        elif at % 5 == 3:
            columns[f"x{at}"] = pa.array(rng.lognormal(shift, 1.0, rows))
        else:
            columns[f"x{at}"] = pa.array(rng.normal(shift, 1.0, rows))
    parquet.write_table(pa.table(columns), path)
    return path
