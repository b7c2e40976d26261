"""`driftgate drift --reference A --current B`: the comparison of two files, on a terminal.

Invariant: standard output has the table (or one JSON document); progress goes to standard error, and only where a
person looks. Called by `gateway/cli_drift.py` with checked options.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from driftgate import drift
from driftgate.drift_histogram import cells_of
from driftgate.drift_result import Comparison, FeatureDrift
from gateway.cli_common import UsageFault, emit, err, plain_table, shortened, shown_number, shown_verdict
from registry.errors import MalformedRequest

_SHOWN = 40  # features in the table, besides all that moved
_BLOCKS, _ASCII = " ▁▂▃▄▅▆▇█", " .:-=+*#%"
_CELLS, _FEW_CELLS = 16, 8  # bars of a histogram: where there is room, and where there is not
_TOGETHER = "all columns"
_TINY, _NARROW, _ROOMY = 76, 110, 140  # columns of a terminal, from which the table has histograms, all columns, room


def compare_files(reference: Path, current: Path, *, html: Path | None, as_json: bool, **options: Any) -> bool:
    """Compare, print, and write the report; whether anything moved. Raises UsageFault for options that mean nothing."""
    if html is not None:
        from driftgate.drift_plot import need_charts

        need_charts()  # before minutes of work
        if html.is_dir() or not os.access(html.parent, os.W_OK):
            raise UsageFault(f"--html {html}: no file can be written there")
    with _progress() as progress:
        try:
            found = drift.compare(reference, current, progress=progress, **options)
        except MalformedRequest as error:
            raise UsageFault(error.message) from None
        if html is not None:
            progress("writing the report", 0.0)
            found.write_html(html)
    emit(as_json, found.to_dict(), lambda console: _show(found, console, html))
    return found.is_alarm


def _show(found: Comparison, console: Console, html: Path | None) -> None:
    features = [f for at, f in enumerate(found.features) if f.alarm or at < _SHOWN]
    wide = console.width >= _NARROW
    ramp = _BLOCKS if "utf" in (console.encoding or "").lower() else _ASCII
    title = (
        f"{found.current.name} ({found.current.rows:,} rows) against {found.reference.name} ({found.reference.rows:,})"
    )
    columns = ["feature", *(["type"] if wide else []), "statistic", ">value", ">limit", *([">rows"] if wide else [])]
    drawn = ["reference", "current"] if console.width >= _TINY else []
    table = plain_table(escape(title), *columns, *drawn, "verdict")
    cells = _CELLS if console.width >= _ROOMY else _FEW_CELLS
    for column in table.columns:
        if column.header in drawn:
            column.min_width = cells  # a histogram that is cut short says something else
    for feature in features:
        bars = _bars(feature, ramp, cells)
        table.add_row(
            escape(shortened(feature.feature)),
            *([feature.type] if wide else []),
            feature.statistic,
            shown_number(feature.value),
            shown_number(feature.threshold),
            *([shown_number(feature.rows)] if wide else []),
            *([f"[dim]{bars[0]}[/]", bars[1]] if drawn else []),
            shown_verdict(feature.verdict, feature.cause),
        )
    for row in found.multivariate.statistics if found.multivariate else ():
        table.add_row(
            _TOGETHER,
            *(["together"] if wide else []),
            row.name,
            shown_number(row.value),
            shown_number(row.threshold),
            *([shown_number(row.rows)] if wide else []),
            *([""] * len(drawn)),
            shown_verdict(row.verdict, None),
        )
    console.print(table)
    hidden = len(found.features) - len(features)
    if hidden:
        console.print(f"… and {hidden:,} more features that did not move; --json has them all", soft_wrap=True)
    moved = found.alarms
    console.print()
    if not found.is_alarm:
        unknown = sum(feature.verdict == "unknown" for feature in found.features)
        but = f"; [yellow]{unknown:,} of them could not be judged[/]" if unknown else ""
        said = f"[green]nothing moved[/] beyond its limit in {len(found.features):,} features{but}"
        console.print(said, soft_wrap=True)
    for feature in moved:
        console.print(f"[bold red]{escape(feature.feature)}[/]  {escape(feature.explanation)}", soft_wrap=not wide)
    if found.multivariate and found.multivariate.alarm:
        console.print(f"[bold red]{_TOGETHER}[/]  {escape(found.multivariate.explanation)}", soft_wrap=not wide)
    for line in _remarks(found):
        console.print(f"[dim]{escape(line)}[/]")
    if html is not None:
        console.print(f"report: {escape(str(html))}", soft_wrap=True)


def _remarks(found: Comparison) -> Iterator[str]:
    if found.only_in_reference:
        yield f"only in the reference: {', '.join(found.only_in_reference)}"
    if found.only_in_current:
        yield f"only in the current rows: {', '.join(found.only_in_current)}"
    for item in found.not_compared:
        yield f"not compared: {item.feature}: {item.why}"
    yield from found.notes
    if found.multivariate:
        yield from found.multivariate.remarks()
    yield (
        f"a run without drift raises any alarm at all with a probability of at most {found.false_alarm_probability:g}"
    )


def _bars(feature: FeatureDrift, ramp: str, most: int) -> tuple[str, str]:
    """Both sides as bars of one scale."""
    cells = cells_of(feature, most)
    top = max((max(cell.reference, cell.current) for cell in cells), default=0.0)

    def bar(share: float) -> str:
        if share <= 0.0 or top <= 0.0:
            return ramp[0]
        return ramp[max(1, round(share / top * (len(ramp) - 1)))]

    return "".join(bar(cell.reference) for cell in cells), "".join(bar(cell.current) for cell in cells)


@contextmanager
def _progress() -> Iterator[Callable[[str, float], None]]:
    """Bars on a terminal, silence elsewhere."""
    if not sys.stderr.isatty():
        yield lambda what, share: None
        return
    bars = Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=err(), transient=True)
    tasks: dict[str, Any] = {}
    with bars:

        def told(what: str, share: float) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=1.0)
            bars.update(tasks[what], completed=share)

        yield told
