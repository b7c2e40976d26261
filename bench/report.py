"""docs/benchmarks.md from result files: `python -m bench report FILES… [--write docs/benchmarks.md]`.

Ratios first, because they hold elsewhere too; then every figure with its spread, machine, commit and command; doubts
are said beside them. Quick runs are refused, since their figures mean nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.result import Bar, Result, UnreadableResult, number, read
from bench.scenario import discover, without_places

_HEAD = """<!-- Made by `python -m bench report` from result files. Do not edit: measure again instead. -->

# Benchmarks

What serving with Driftgate costs, beside something that ran in turn with it on the same core. Every figure is the
median of several runs, with the lowest and the highest; every section names the command that makes it.

"""

_YOURSELF = """## Measure it yourself

    make tools                                        # wrk, without root
    make bench-list                                   # what can be measured here
    make bench SCENARIO="hot-path overload"           # or all; ARGS=--quick only tries whether it runs
    python -m bench peers install                     # the other servers, from PyPI, into bench/.peers/
    make bench SCENARIO=peers
    python -m bench compare BEFORE.json AFTER.json    # what a change changed, beyond the spread
    python -m bench plot FILE.json                    # distributions and curves as PNG
    python -m bench report FILE.json …                # this page

Results lie in `bench/results/`. A scenario is one module in [bench/scenarios](../bench/scenarios/__init__.py);
[bench/scenario.py](../bench/scenario.py) says what it must have.
"""

_DOUBTS = """## Doubts

- **Two cores.** Server and load have one each, unless a section says otherwise. Nothing here tells how it scales beyond
  two workers, and the controller shares the server's core, which a larger machine would spare it.
- **A shared, virtual machine.** Absolute figures differ from hour to hour, by a third and more. Contestants therefore
  run in turn, a few seconds each, and a ratio is made within a pair; trust ratios, and those most that have a small
  spread.
- **One model each.** The small model is a 100-tree LightGBM on 30 floats. With a larger model, what a server adds
  weighs less, and all ratios move towards one.
- **Closed loop hides waiting.** wrk asks again only when it was answered; its p99 is what a connection sees, not what
  callers would who do not wait for each other. Scenarios about waiting use an open loop, counted from the intended
  send.
- **Other servers have one configuration each**, the one named in the section. Someone who knows one of them well may
  get more out of it: [bench/peers](../bench/peers/registry.py) is where to try, and we take corrections.
"""


def render(results: Sequence[Result]) -> str:
    """The page."""
    ordered = _ordered(results)
    bars = [(result, bar) for result in ordered for bar in result.bars]
    lines = [_HEAD.rstrip()]
    for title, are_ratios in (("Ratios", True), ("Promises", False)):
        rows = [_bar_row(result, bar) for result, bar in bars if _is_ratio(result, bar) == are_ratios]
        if rows:
            lines += ["", f"## {title}", "", "| | Measured | Wanted | |", "| --- | ---: | ---: | --- |", *rows]
    lines += ["", _DOUBTS.rstrip(), "", "## Figures", ""]
    for result in ordered:
        lines += [*_section(result), ""]
    lines += [_YOURSELF]
    return "\n".join(lines).rstrip() + "\n"


def _ordered(results: Sequence[Result]) -> list[Result]:
    names = list(discover())
    return sorted(results, key=lambda r: (names.index(r.scenario) if r.scenario in names else len(names), r.when))


def _is_ratio(result: Result, bar: Bar) -> bool:
    return result.figures[bar.figure].unit == "x"


def _bar_row(result: Result, bar: Bar) -> str:
    figure = result.figures[bar.figure]
    relation = {">=": "at least", "<=": "at most", "==": ""}[bar.relation]
    low, high = number(min(figure.values)), number(max(figure.values))
    spread = "" if low == high else f" ({low} to {high})"
    unit = "" if figure.unit == "x" else f" {figure.unit}"
    held = "holds" if result.holds(bar) else "**missed**"
    link = f"[{result.scenario}](#{result.scenario})"
    wanted = f"{relation} {number(bar.limit)}".strip()
    return f"| {link}: {bar.says} | {number(figure.median)}{spread}{unit} | {wanted} | {held} |"


def _section(result: Result) -> Iterator[str]:
    scenario = discover().get(result.scenario)
    yield f"### {result.scenario}"
    yield ""
    if scenario is not None:
        summary = str(scenario.load().SUMMARY)
        yield f"{summary[0].upper()}{summary[1:]}."
        yield ""
    machine, commit = result.machine, result.commit
    versions = ", ".join(f"{name} {version}" for name, version in machine.get("versions", {}).items())
    yield f"    {' '.join(without_places(result.command.split()))}"
    yield ""
    changed = " with changes" if commit.get("changed") else ""
    yield (
        f"Commit {commit.get('id')}{changed}, {result.when}; {machine.get('cpu')}, {machine.get('cores')} cores, "
        f"{'.'.join(str(machine.get('kernel')).split('.')[:2])}, Python {machine.get('python')}, {versions}."
    )
    yield ""
    contestants = {name: fact for name, fact in result.facts.items() if isinstance(fact, dict) and "package" in fact}
    yield from (f"- {name}: `{fact['package']}`, {fact['settings']}" for name, fact in contestants.items())
    if contestants:
        yield ""
    yield "| | Median | From | To | Unit | Runs |"
    yield "| --- | ---: | ---: | ---: | --- | ---: |"
    for name, figure in result.figures.items():
        low, high = number(min(figure.values)), number(max(figure.values))
        yield f"| {name} | {number(figure.median)} | {low} | {high} | {figure.unit} | {len(figure.values)} |"
    if result.notes:
        yield ""
        yield from (f"- Doubt: {note.splitlines()[0].rstrip('.')}." for note in result.notes)


def main(words: Sequence[str]) -> int:
    """Print or write the page; 2 when a file cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m bench report", description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--write", type=Path, help="instead of printing")
    arguments = parser.parse_args(words)
    try:
        results = [read(path) for path in arguments.files]
    except UnreadableResult as error:
        print(error, file=sys.stderr)
        return 2
    if quick := [str(path) for path, result in zip(arguments.files, results, strict=True) if result.quick]:
        print(f"quick runs are no measurements: {', '.join(quick)}", file=sys.stderr)
        return 2
    page = render(results)
    if arguments.write is None:
        print(page, end="")
    else:
        arguments.write.write_text(page)
        print(f"{arguments.write}: {len(results)} results")
    return 0
