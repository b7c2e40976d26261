"""Two result files of one scenario, figure by figure: `python -m bench compare BEFORE AFTER`.

A change counts as one only when the middle halves of the two sets of values do not touch; the machine is noisy, and a
difference of medians alone says nothing. Ratios against something that ran beside are the ones to trust.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.result import Figure, Result, UnreadableResult, number, read


@dataclass(frozen=True)
class Change:
    """One figure in both files."""

    name: str
    unit: str
    before: Figure
    after: Figure

    @property
    def relative(self) -> float | None:
        """Of the medians; None from zero."""
        return self.after.median / self.before.median - 1 if self.before.median else None

    @property
    def verdict(self) -> str:
        """better, worse, changed (where neither way is good), or within spread."""
        (low, high), (low_now, high_now) = middle_half(self.before.values), middle_half(self.after.values)
        if low_now <= high and low <= high_now:
            return "within spread"
        if not self.after.better:
            return "changed"
        return "better" if (self.after.median > self.before.median) == (self.after.better == "higher") else "worse"


def middle_half(values: Sequence[float]) -> tuple[float, float]:
    """The quartiles.

    >>> middle_half([1.0, 2.0, 3.0, 4.0, 5.0])
    (2.0, 4.0)
    """
    return float(np.percentile(values, 25)), float(np.percentile(values, 75))


def changes(before: Result, after: Result) -> list[Change]:
    """Figures that both have, in the order of the first."""
    return [
        Change(name, figure.unit, figure, after.figures[name])
        for name, figure in before.figures.items()
        if name in after.figures
    ]


def warnings(before: Result, after: Result) -> list[str]:
    """Why the two may not be comparable."""
    found = []
    if before.machine.get("cpu") != after.machine.get("cpu") or before.machine.get("cores") != after.machine.get(
        "cores"
    ):
        found.append("they ran on different machines: only ratios may be compared")
    found += [f"{name} is a quick run: its figures mean nothing" for name, r in _both(before, after) if r.quick]
    for name, result in _both(before, after):
        found += [f"{name}: {note}" for note in result.notes]
    missing = set(before.figures) ^ set(after.figures)
    if missing:
        found.append(f"only one of them has: {', '.join(sorted(missing))}")
    return found


def _both(before: Result, after: Result) -> tuple[tuple[str, Result], tuple[str, Result]]:
    return ("before", before), ("after", after)


def main(words: Sequence[str]) -> int:
    """Print the table; 1 when something became worse, 2 when the files cannot be compared."""
    parser = argparse.ArgumentParser(prog="python -m bench compare", description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    arguments = parser.parse_args(words)
    try:
        before, after = read(arguments.before), read(arguments.after)
    except UnreadableResult as error:
        print(error, file=sys.stderr)
        return 2
    if before.scenario != after.scenario:
        print(f"one is of {before.scenario}, the other of {after.scenario}", file=sys.stderr)
        return 2
    table = Table(title=f"{before.scenario}: {_called(before)} → {_called(after)}", box=None, title_justify="left")
    for heading in ("", "unit", "before", "after"):
        table.add_column(heading, justify="right" if heading in ("before", "after") else "left")
    table.add_column("change", justify="right")
    table.add_column("")
    found = changes(before, after)
    style = {"better": "green", "worse": "red", "changed": "yellow", "within spread": "dim"}
    for change in found:
        relative = "" if change.relative is None else f"{change.relative:+.1%}"
        cells = [change.name, change.unit, _told(change.before), _told(change.after), relative, change.verdict]
        table.add_row(*cells, style=style[change.verdict])
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    for warning in warnings(before, after):
        console.print(f"note: {warning}", markup=False)
    return int(any(change.verdict == "worse" for change in found))


def _called(result: Result) -> str:
    return (
        f"{result.commit.get('id', 'unknown')}{' with changes' if result.commit.get('changed') else ''}, {result.when}"
    )


def _told(figure: Figure) -> str:
    if len(figure.values) == 1:
        return number(figure.median)
    low, high = middle_half(figure.values)
    return f"{number(figure.median)} ({number(low)} to {number(high)})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
