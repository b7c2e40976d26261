"""The frame around scenarios: how one is found, asked, timed, judged and stored.

To add one, put a module into `bench/scenarios/`; its name is the scenario's (`_` is written `-`). It has

    SUMMARY = "one line for `python -m bench list`"
    NEEDS: tuple[Need, ...] = ("wrk", "cores")          # optional: what must be here, else it is skipped
    def add_arguments(parser: argparse.ArgumentParser) -> None      # optional: flags of its own
    def run(options: Options) -> Result

`run` gets an empty folder, tells progress through `options.say`, respects `options.quick` (a few seconds in all, for
`tests/bench/test_scenarios.py`, which runs every scenario so) and returns a Result. Importing a scenario module does
nothing and is cheap; heavy libraries are imported in `run`.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench import machine, scenarios
from bench.result import Result
from registry.onnx import available_providers
from tests.support.tools import find_tool

RESULTS = machine.ROOT / "bench" / "results"
DISTURBED_PCT = 5.0  # of all cores, by others and the host: above it a result says so itself
Need = Literal["wrk", "cores", "material", "gpu"]


@dataclass
class Options:
    """What a scenario is asked for. `pairs` and `seconds` are None where the scenario's own default is meant."""

    folder: Path
    quick: bool = False
    pairs: int | None = None
    seconds: float | None = None
    arguments: argparse.Namespace = field(default_factory=argparse.Namespace)  # the scenario's own flags
    say: Callable[[str], None] = lambda text: print(text, flush=True)

    def pairs_or(self, usual: int, quick: int = 1) -> int:
        """How many alternating pairs to run."""
        return self.pairs or (quick if self.quick else usual)

    def seconds_or(self, usual: float, quick: float = 0.3) -> float:
        """How long one run lasts."""
        return self.seconds or (quick if self.quick else usual)

    @property
    def material(self) -> Path:
        """The folder of real models and data; present where the scenario's NEEDS name it."""
        return Path(os.environ["DRIFTGATE_TEST_MATERIAL"])

    @property
    def wrk(self) -> str:
        """The program; present where the scenario's NEEDS name it."""
        return str(find_tool("wrk"))


@dataclass(frozen=True)
class Scenario:
    """A module of bench/scenarios."""

    name: str
    module: str

    def load(self) -> Any:
        """The module."""
        return importlib.import_module(self.module)

    def lacks(self) -> str:
        """Why it cannot run here; empty when it can."""
        for need in getattr(self.load(), "NEEDS", ()):
            if need == "wrk" and find_tool("wrk") is None:
                return "wrk is not here (`make tools`)"
            if need == "cores" and (shutil.which("taskset") is None or len(os.sched_getaffinity(0)) < 2):
                return "needs taskset and two cores"
            if need == "gpu" and "CUDAExecutionProvider" not in available_providers():
                return "onnxruntime has no GPU provider here: pip install 'driftgate[cuda]' on a machine with a GPU"
            if need == "material" and not os.environ.get("DRIFTGATE_TEST_MATERIAL"):
                return "DRIFTGATE_TEST_MATERIAL is not set"
        return ""


def discover() -> dict[str, Scenario]:
    """Every scenario, by name."""
    found = sorted(module.name for module in pkgutil.iter_modules(scenarios.__path__))
    names = [name for name in found if not name.startswith("_")]
    return {name.replace("_", "-"): Scenario(name.replace("_", "-"), f"{scenarios.__name__}.{name}") for name in names}


def parser_of(scenario: Scenario) -> argparse.ArgumentParser:
    """The flags that all scenarios share, and this one's own."""
    module = scenario.load()
    parser = argparse.ArgumentParser(
        prog=f"python -m bench run {scenario.name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="a few seconds: does it run? its figures mean nothing")
    parser.add_argument("--pairs", type=int, help="alternating runs of each contestant")
    parser.add_argument("--seconds", type=float, help="of one run")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the result file (%(default)s)")
    if hasattr(module, "add_arguments"):
        module.add_arguments(parser)
    return parser


def execute(scenario: Scenario, words: Sequence[str]) -> tuple[Result, Path]:
    """Run it, stamp it, store it, print it."""
    arguments = parser_of(scenario).parse_args(words)
    disturbance = machine.Disturbance()
    started, found = time.monotonic(), machine.commit()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {text}", flush=True)

    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with tempfile.TemporaryDirectory(prefix="driftgate-bench-", ignore_cleanup_errors=True) as folder:
        options = Options(Path(folder), arguments.quick, arguments.pairs, arguments.seconds, arguments, say)
        result: Result = scenario.load().run(options)
    disturbed = disturbance.shares()
    result.machine = {**machine.describe(), **disturbed}
    result.commit, result.when, result.quick = found, when, arguments.quick
    if sum(disturbed.values()) > DISTURBED_PCT:
        told = "{others_pct:g} % of the machine were taken by other work, {stolen_pct:g} % by the host".format(
            **disturbed
        )
        result.notes.append(f"{told}, while this ran: only ratios mean something")
    result.command = " ".join(["python -m bench run", scenario.name, *without_places(words)])
    stamp = when.replace("-", "").replace(":", "")
    path = arguments.results / f"{'quick-' if arguments.quick else ''}{scenario.name}-{found['id']}-{stamp}.json"
    result.save(path)
    print(f"\n{scenario.name}: {scenario.load().SUMMARY}\n{result.table()}\n  stored in {_short(path)}\n", flush=True)
    return result, path


def run_all(names: Sequence[str], words: Sequence[str]) -> int:
    """Run these one after the other; 1 when a bar was missed or one broke, 2 when nothing could run."""
    known, ran, bad = discover(), 0, False
    for name in names:
        reason = known[name].lacks()
        if reason:
            print(f"{name}: skipped, {reason}", file=sys.stderr)
            bad = bad or len(names) == 1
            continue
        try:
            result, _ = execute(known[name], words)
        except Exception as error:  # the others shall still run
            if len(names) == 1:
                raise
            print(f"{name}: broke, {error!r}", file=sys.stderr)
            bad = True
            continue
        ran += 1
        bad = bad or (bool(result.missed) and not result.quick)
    return 2 if not ran else int(bad)


def without_places(words: Sequence[str]) -> list[str]:
    """The flags less those that say where things lie here, which means nothing elsewhere.

    >>> without_places(["--pairs", "5", "--results", "/tmp/r", "--folder=/tmp/p", "--quick"])
    ['--pairs', '5', '--quick']
    """
    kept, skip = [], False
    for word in words:
        name, has_value, _ = word.partition("=")
        if name in ("--results", "--folder"):
            skip = not has_value
        elif not skip:
            kept.append(word)
        else:
            skip = False
    return kept


def _short(path: Path) -> Path:
    path = path.resolve()
    return path.relative_to(machine.ROOT) if path.is_relative_to(machine.ROOT) else path
