"""What a scenario hands back: figures with their single values, bars, curves, and how they are stored.

A figure keeps every value that was measured, so that medians and spread can be made later and two files compared. A
stored result begins with `driftgate.bench` and its version; a newer one is refused by name. Called by every scenario,
and by `bench.compare`, `bench.report` and `bench.plots`, which read files.
"""

from __future__ import annotations

import json
import operator
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

FORMAT, VERSION = "driftgate.bench", 1
Better = Literal["higher", "lower", ""]
Relation = Literal[">=", "<=", "=="]
_RELATIONS = {">=": operator.ge, "<=": operator.le, "==": operator.eq}


class UnreadableResult(Exception):
    """A file that is no result of this bench, or of a newer one."""


@dataclass
class Figure:
    """One quantity, measured once or several times. `better` says which way is good; empty: neither."""

    unit: str
    values: list[float]
    better: Better = ""

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    def __str__(self) -> str:
        if min(self.values) == max(self.values):
            return f"{number(self.median)} {self.unit}"
        return f"{number(self.median)} {self.unit} (from {number(min(self.values))} to {number(max(self.values))})"


@dataclass
class Bar:
    """What a figure's median must reach."""

    says: str
    figure: str
    relation: Relation
    limit: float


@dataclass
class Curve:
    """Something over time or over size, for a plot."""

    x_label: str
    y_label: str
    x: list[float]
    y: list[float]


@dataclass
class Result:
    """All that one scenario measured. `machine`, `commit`, `when`, `command` and `quick` are filled by the frame."""

    scenario: str
    figures: dict[str, Figure] = field(default_factory=dict)
    bars: list[Bar] = field(default_factory=list)
    curves: dict[str, Curve] = field(default_factory=dict)
    histograms: dict[str, str] = field(default_factory=dict)  # HdrHistogram V2, base64, microseconds
    facts: dict[str, Any] = field(default_factory=dict)  # whatever else was true: settings, counters
    notes: list[str] = field(default_factory=list)  # what a reader must know or doubt
    machine: dict[str, Any] = field(default_factory=dict)
    commit: dict[str, Any] = field(default_factory=dict)
    when: str = ""
    command: str = ""
    quick: bool = False

    def add(self, name: str, unit: str, values: float | Iterable[float], better: Better = "") -> Figure:
        """Keep a figure; one value or several of the same quantity."""
        several = [float(values)] if isinstance(values, int | float) else [float(value) for value in values]
        if not several:
            raise ValueError(f"{name}: nothing was measured")
        self.figures[name] = Figure(unit, several, better)
        return self.figures[name]

    def ratio(self, name: str, ours: Sequence[float], theirs: Sequence[float], better: Better = "higher") -> Figure:
        """Keep the ratios within pairs: what is compared ran one after the other, under the same disturbances."""
        return self.add(name, "x", [mine / other for mine, other in zip(ours, theirs, strict=True)], better)

    def bar(self, says: str, figure: str, relation: Relation, limit: float) -> None:
        """State what a figure must reach."""
        self.bars.append(Bar(says, figure, relation, limit))

    def holds(self, bar: Bar) -> bool:
        """Whether the median of the bar's figure is on the right side of its limit."""
        return bool(_RELATIONS[bar.relation](self.figures[bar.figure].median, bar.limit))

    @property
    def missed(self) -> list[Bar]:
        """Bars that do not hold."""
        return [bar for bar in self.bars if not self.holds(bar)]

    def table(self) -> str:
        """Figures, bars and notes, for a terminal."""
        width = max(map(len, self.figures), default=0)
        lines = [f"  {name:<{width}}  {figure}" for name, figure in self.figures.items()]
        for bar in self.bars:
            verdict = (
                ("held" if self.quick else "holds ") if self.holds(bar) else ("not held" if self.quick else "MISSED")
            )
            got = number(self.figures[bar.figure].median)
            lines.append(f"  {verdict} {bar.says}: {got}, wanted {bar.relation} {number(bar.limit)}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        side = path.with_suffix(".part")
        side.write_text(json.dumps({"format": FORMAT, "v": VERSION, **asdict(self)}, indent=1) + "\n")
        side.replace(path)


def read(path: Path) -> Result:
    """A stored result. Raises UnreadableResult for another kind of file, or one that a newer bench wrote."""
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UnreadableResult(f"{path}: {error}") from None
    if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
        raise UnreadableResult(f"{path} is no result of this bench")
    version = document.pop("v", None)
    if not isinstance(version, int) or version > VERSION:
        raise UnreadableResult(f"{path} is {FORMAT} v{version}; this bench reads up to v{VERSION}")
    try:
        return Result(
            **{
                **document,
                "figures": {name: Figure(**some) for name, some in document["figures"].items()},
                "bars": [Bar(**some) for some in document["bars"]],
                "curves": {name: Curve(**some) for name, some in document["curves"].items()},
            }
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise UnreadableResult(f"{path} is damaged: {error!r}") from None


def number(value: float) -> str:
    """Four significant digits, thousands apart, no exponent.

    >>> [number(v) for v in (24183.2, 0.98765, 3.0, 112.25, 0.0)]
    ['24,183', '0.9877', '3', '112.2', '0']
    """
    if value == int(value):
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
