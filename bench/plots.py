"""Result files as pictures: `python -m bench plot FILES… [--folder DIR]`, one PNG for each file.

Panels: ratios pair by pair beside what they must reach, latency distributions up to their far tail (the usual scale of
HdrHistogram), and curves over time or size. matplotlib is imported when it is needed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.result import Curve, Result, UnreadableResult, read

_COLOURS = ("#0b6e99", "#d9730d", "#448361", "#9065b0", "#c14c8a", "#787774")
_TAIL = (50.0, 90.0, 99.0, 99.9, 99.99)


def ratios_of(result: Result) -> list[str]:
    """Figures that compare two contestants."""
    return [name for name, figure in result.figures.items() if figure.unit == "x"]


def distribution(encoded: str) -> tuple[list[float], list[float]]:
    """A stored histogram as (1 / (1 - share), milliseconds), up to its largest value."""
    from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

    histogram = HdrHistogram.decode(encoded.encode())
    total, seen = histogram.get_total_count(), 0
    xs, ys = [], []
    for item in histogram.get_recorded_iterator():
        seen += item.count_added_in_this_iter_step
        xs.append(total / max(total - seen, 0.5))  # the largest value lies past every share below 1
        ys.append(item.value_iterated_to / 1e3)
    return xs, ys


def plot(result: Result, path: Path) -> None:
    """Write the PNG. Raises ValueError where there is nothing to draw."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    by_axis: dict[tuple[str, str], dict[str, Curve]] = {}
    for name, curve in result.curves.items():
        by_axis.setdefault((curve.x_label, curve.y_label), {})[name] = curve
    ratios, tails = ratios_of(result), {name: text for name, text in result.histograms.items() if text}
    panels = bool(ratios) + bool(tails) + len(by_axis)
    if not panels:
        raise ValueError(f"{result.scenario} has neither ratios nor distributions nor curves")
    heights = [0.9 + 0.45 * len(ratios)] * bool(ratios) + [3.4] * (bool(tails) + len(by_axis))
    figure, grid = pyplot.subplots(
        panels, 1, figsize=(9, sum(heights) + 0.8), height_ratios=heights, squeeze=False, layout="constrained"
    )
    axes = iter(grid[:, 0])
    if ratios:
        _ratios(next(axes), result, ratios)
    if tails:
        _tails(next(axes), tails)
    for (x_label, y_label), curves in by_axis.items():
        _curves(next(axes), x_label, y_label, curves)
    commit = f"{result.commit.get('id', 'unknown')}{' with changes' if result.commit.get('changed') else ''}"
    machine = f"{result.machine.get('cpu', '')}, {result.machine.get('cores', '?')} cores"
    figure.suptitle(f"{result.scenario}   {commit}   {result.when}\n{machine}", fontsize=9, x=0.01, ha="left")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _ratios(axis: Any, result: Result, names: list[str]) -> None:
    limits = {bar.figure: bar for bar in result.bars}
    for row, name in enumerate(reversed(names)):
        figure = result.figures[name]
        axis.plot(figure.values, [row] * len(figure.values), "o", color=_COLOURS[0], alpha=0.45, markersize=5)
        axis.plot([figure.median] * 2, [row - 0.3, row + 0.3], color=_COLOURS[0], linewidth=2)
        if name in limits:
            bar, good = limits[name], result.holds(limits[name])
            colour = _COLOURS[2] if good else "#c4302b"
            axis.plot([bar.limit] * 2, [row - 0.4, row + 0.4], color=colour, linewidth=1.2, linestyle="--")
            axis.annotate(
                f"{bar.relation} {bar.limit:g}", (bar.limit, row + 0.42), fontsize=7, color=colour, ha="center"
            )
    axis.set_yticks(range(len(names)), [*reversed(names)], fontsize=8)
    axis.set_ylim(-0.6, len(names) - 0.2)
    axis.set_xlabel("ratio: each pair a dot, the median a bar, the limit dashed", fontsize=8)
    _tidy(axis)


def _tails(axis: Any, tails: dict[str, str]) -> None:
    for colour, (name, text) in zip(_COLOURS, tails.items(), strict=False):
        xs, ys = distribution(text)
        axis.step(xs, ys, where="post", color=colour, label=name, linewidth=1.4)
    axis.set_xscale("log")
    axis.set_yscale("log")
    shares = [1 / (1 - share / 100) for share in _TAIL]
    axis.set_xticks(shares, [f"{share:g} %" for share in _TAIL], fontsize=8)
    axis.minorticks_off()
    axis.set_xlim(left=1.5)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_xlabel("share of requests answered within", fontsize=8)
    axis.set_ylabel("ms from the intended send", fontsize=8)
    axis.legend(fontsize=8, frameon=False)
    _tidy(axis)


def _curves(axis: Any, x_label: str, y_label: str, curves: dict[str, Curve]) -> None:
    for colour, (name, curve) in zip(_COLOURS, curves.items(), strict=False):
        axis.plot(curve.x, curve.y, color=colour, label=name, linewidth=1.4)
    axis.set_xlabel(x_label, fontsize=8)
    axis.set_ylabel(y_label, fontsize=8)
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=8, frameon=False)
    _tidy(axis)


def _tidy(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.tick_params(labelsize=8)


def main(words: Sequence[str]) -> int:
    """Draw them; 1 when one had nothing to draw, 2 when one cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m bench plot", description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--folder", type=Path, help="where to; default: beside each file")
    arguments = parser.parse_args(words)
    code = 0
    for path in arguments.files:
        try:
            result = read(path)
        except UnreadableResult as error:
            print(error, file=sys.stderr)
            return 2
        to = (arguments.folder or path.parent) / f"{path.stem}.png"
        to.parent.mkdir(parents=True, exist_ok=True)
        try:
            plot(result, to)
            print(to)
        except ValueError as error:
            print(error, file=sys.stderr)
            code = 1
    return code
