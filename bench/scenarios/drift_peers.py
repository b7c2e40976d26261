"""River, alibi-detect, NannyML and Evidently on the same rows as our monitor and our offline comparison.

Each contestant is a fresh interpreter that loads both tables as arrays; its clock starts after its imports and ends
when every column has a verdict, learning from the reference included where it learns. They take turns, and ratios are
of one run. Every tenth column is shifted by half a deviation. What each calls an alarm, and whether it keeps a promise
on false ones, differs; what is compared is current values judged in a second.

`--install` makes the others' environments, in `--folder`; those that are not there are skipped, which the result says.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench import machine
from bench.peers.registry import FOLDER
from bench.result import Result
from bench.scenario import Options
from tests.conformance.peers import environments

SUMMARY = "values judged per second by our monitor and comparison, River, alibi-detect, NannyML and Evidently"
SHIFT_EVERY, SHIFT = 10, 0.5

_BEFORE = """
    import json, sys, time
    import numpy as np
    reference, current = np.load(sys.argv[1]), np.load(sys.argv[2])
    names = [f"x{at}" for at in range(current.shape[1])]
"""
_AFTER = """
    print(json.dumps({"seconds": took, "alarms": int(alarms)}))
"""
_MONITOR = """
    from monitor.budget import Budget, EVALUATE_ROWS
    from monitor.counts import Counter
    from monitor.detectors import FastDetector, Limits
    from monitor.profile import fit
    from monitor.record import make_log_schema
    from registry.vocabulary import TensorSpec
    schema = make_log_schema([TensorSpec("x", "FP64", (None, len(names)))], [], by_rows=True, columns=names)
    profile = fit(schema, reference, np.empty((0, 0)))
    counter, detector = Counter(profile.input_bins(), "f8"), FastDetector(profile.inputs, "input")
    evaluations, budget = len(current) / EVALUATE_ROWS, Budget(0.01).among(["inputs", "quality"])
    limits = Limits(
        budget.log_threshold("inputs", evaluations * len(names)),
        budget.log_threshold("quality", evaluations * len(names)),
    )
    began = time.perf_counter()
    raised = set()
    for row in range(0, len(current), EVALUATE_ROWS):
        counts = counter.count(current[row : row + EVALUATE_ROWS])
        raised |= {each.feature for each in detector.update(counts, float(row), limits).raised}
    took = time.perf_counter() - began
    alarms = len(raised)
"""
_COMPARE = """
    import pandas
    from driftgate import drift
    drift.compare({"x": [0.0, 1.0]}, {"x": [0.0, 1.0]})  # its imports are lazy
    old, new = pandas.DataFrame(reference, columns=names), pandas.DataFrame(current, columns=names)
    began = time.perf_counter()
    found = drift.compare(old, new)
    took = time.perf_counter() - began
    alarms = len(found.alarms)
"""
_RIVER = """
    from river.drift import ADWIN
    columns = current.T.tolist()
    began = time.perf_counter()
    alarms = 0
    for column in columns:
        detector, seen = ADWIN(), False
        for value in column:
            detector.update(value)
            seen = seen or detector.drift_detected
        alarms += seen
    took = time.perf_counter() - began
"""
_ALIBI = """
    from alibi_detect.cd import KSDrift
    began = time.perf_counter()
    found = KSDrift(reference, p_val=0.05 / len(names)).predict(current, drift_type="feature")
    took = time.perf_counter() - began
    alarms = found["data"]["is_drift"].sum()
"""
_NANNYML = """
    import pandas
    from nannyml import UnivariateDriftCalculator
    old, new = pandas.DataFrame(reference, columns=names), pandas.DataFrame(current, columns=names)
    began = time.perf_counter()
    found = UnivariateDriftCalculator(column_names=names).fit(old).calculate(new)
    took = time.perf_counter() - began
    table = found.to_df()
    alarms = sum(bool(table[name, "jensen_shannon", "alert"][-10:].any()) for name in names)
"""
_EVIDENTLY = """
    import pandas
    from evidently import Report
    from evidently.presets import DataDriftPreset
    old, new = pandas.DataFrame(reference, columns=names), pandas.DataFrame(current, columns=names)
    began = time.perf_counter()
    snapshot = Report([DataDriftPreset()]).run(new, old)
    took = time.perf_counter() - began
    values = [metric["value"] for metric in snapshot.dict()["metrics"]]
    alarms = next(value["count"] for value in values if isinstance(value, dict) and "count" in value)
"""


@dataclass(frozen=True)
class Contestant:
    """One way to judge rows; `packages` are what its own environment holds, none where it is ours."""

    name: str
    program: str
    packages: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Its environment's name."""
        return "drift-" + self.name.split()[0].lower()


OURS = (Contestant("Driftgate monitor", _MONITOR), Contestant("Driftgate compare", _COMPARE))
OTHERS = (
    Contestant("River ADWIN", _RIVER, ("river==0.26.1",)),
    Contestant("alibi-detect KSDrift", _ALIBI, ("alibi-detect==0.13.0",)),
    # statsmodels: imported by NannyML, not required by its wheel.
    Contestant("NannyML Jensen-Shannon", _NANNYML, ("nannyml==0.13.1", "statsmodels")),
    Contestant("Evidently DataDriftPreset", _EVIDENTLY, ("evidently==0.7.23",)),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of this scenario."""
    parser.add_argument("--rows", type=int, default=10_000, help="of each table (%(default)s)")
    parser.add_argument("--features", type=int, default=30, help="(%(default)s)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the environments are (%(default)s)")
    parser.add_argument("--install", action="store_true", help="make the others' environments first")


def run(options: Options) -> Result:
    """Run it."""
    result, arguments = Result("drift-peers"), options.arguments
    rows, features = (2000, 10) if options.quick else (arguments.rows, arguments.features)
    tables = [_table(options.folder / f"{name}.npy", rows, features, name) for name in ("reference", "current")]
    contestants = list(OURS)
    for other in OTHERS:
        if arguments.install:
            environments.install(arguments.folder, other.folder, other.packages)
        if environments.is_installed(arguments.folder, other.folder, other.packages):
            contestants.append(other)
        else:
            result.notes.append(f"{other.name} was not measured: it is not installed (--install)")
    speeds: dict[str, list[float]] = {each.name: [] for each in contestants}
    for _ in range(options.pairs_or(5)):
        for each in contestants:
            seconds, alarms = _once(each, arguments.folder, tables)
            speeds[each.name].append(rows * features / seconds / 1e6)
            result.facts[f"columns in alarm, {each.name}"] = alarms
            options.say(f"{each.name}: {speeds[each.name][-1]:.2f} M values/s")
    for each in contestants:
        result.add(each.name, "M values/s", speeds[each.name], "higher")
    for each in contestants[len(OURS) :]:
        for ours in OURS:
            result.ratio(f"{ours.name} over {each.name}", speeds[ours.name], speeds[each.name])
    for ours in OURS:
        result.add(f"{ours.name}, columns in alarm", "", result.facts[f"columns in alarm, {ours.name}"])
        shifted = len(range(0, features, SHIFT_EVERY))
        result.bar(f"{ours.name} alarms exactly the shifted", f"{ours.name}, columns in alarm", "==", shifted)
    result.facts |= {"rows": rows, "features": features}
    return result


def _once(contestant: Contestant, folder: Path, tables: list[Path]) -> tuple[float, int]:
    """One judgement in a process of its own: seconds, columns in alarm."""
    is_ours = not contestant.packages
    interpreter = sys.executable if is_ours else folder / contestant.folder / "bin/python"
    text = "".join(map(textwrap.dedent, (_BEFORE, contestant.program, _AFTER)))
    done = subprocess.run(
        [interpreter, "-W", "ignore", "-c", text, *map(str, tables)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(machine.ROOT) if is_ours else ""},
    )
    if done.returncode:
        raise RuntimeError(f"{contestant.name} could not judge the rows: {done.stderr[-2000:]}")
    said = json.loads(done.stdout.splitlines()[-1])
    return float(said["seconds"]), int(said["alarms"])


def _table(path: Path, rows: int, features: int, name: str) -> Path:
    """Normal values; every tenth column of the current table is shifted."""
    is_current = name == "current"
    values = np.random.default_rng(is_current).normal(size=(rows, features))
    if is_current:
        values[:, ::SHIFT_EVERY] += SHIFT
    np.save(path, values)
    return path
