"""`driftgate drift`: what moved, by how much, against which limit: as the running monitor sees it, or between files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from gateway.cli_common import (
    DATE_FORMAT_HELP,
    AsJson,
    Shell,
    UsageFault,
    emit,
    plain_table,
    shortened,
    shown_number,
    shown_time,
    shown_verdict,
)
from gateway.client_control import name_in_path

_OFFLINE = "Between two files"
MOST_SHOWN = 30  # rows of a live table
_PAST = "The latest rows do not show what raised it; it ends when it is certain that the column went back."
_NARROW = 90  # columns of a terminal, below which its kind stands beside a feature's name


def register_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(
        epilog="Examples:  driftgate drift fraud  ·  driftgate drift fraud --window 1h --json  ·  "
        "driftgate drift --reference train.parquet --current today.parquet --html report.html"
    )(drift)


def drift(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A model's name: what the running server sees of it.")
    ] = None,
    window: Annotated[str | None, typer.Option(metavar="DURATION", help="Over the last 5m, 1h …")] = None,
    reference: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="CSV or Parquet: what was promised.", rich_help_panel=_OFFLINE),
    ] = None,
    current: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="CSV or Parquet: what is compared with it.", rich_help_panel=_OFFLINE),
    ] = None,
    by_time: Annotated[
        str | None,
        typer.Option(
            metavar="COL",
            help="Read the current rows in the order of this column, and say when each feature began to move.",
            rich_help_panel=_OFFLINE,
        ),
    ] = None,
    date_format: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT",
            help=DATE_FORMAT_HELP,
            rich_help_panel=_OFFLINE,
        ),
    ] = None,
    column_type: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            metavar="COL=TYPE",
            help="Not what was inferred: number, integer, boolean, category, date or text. May be repeated.",
            rich_help_panel=_OFFLINE,
        ),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(metavar="COL", help="A column to leave out. May be repeated.", rich_help_panel=_OFFLINE),
    ] = None,
    prediction: Annotated[
        list[str] | None,
        typer.Option(metavar="COL", help="A column that a model said. May be repeated.", rich_help_panel=_OFFLINE),
    ] = None,
    missing: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CODE",
            help="A value that means missing, such as -999, besides the usual ones. May be repeated.",
            rich_help_panel=_OFFLINE,
        ),
    ] = None,
    false_alarm_probability: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            help="Of any false alarm in the run, over all features and statistics; 0.01 if not given.",
            rich_help_panel=_OFFLINE,
        ),
    ] = None,
    independent_rows: Annotated[
        bool,
        typer.Option(
            "--independent-rows", help="The order of the reference's rows means nothing.", rich_help_panel=_OFFLINE
        ),
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also write a report with plots: one page, no script.", rich_help_panel=_OFFLINE
        ),
    ] = None,
    fail_on_alarm: Annotated[
        bool, typer.Option("--fail-on-alarm", help="Exit with 1 if anything moved.", rich_help_panel=_OFFLINE)
    ] = False,
    as_json: AsJson = False,
) -> None:
    """What moved, worst first: a model's traffic against its reference profile, or one file against another."""
    offline = [by_time, date_format, column_type, skip, prediction, missing, false_alarm_probability, html]
    if reference is None and current is None:
        if name is None:
            raise UsageFault("drift wants a model's NAME, or two files: --reference FILE --current FILE")
        if any(offline) or independent_rows or fail_on_alarm:
            raise UsageFault("a model's drift takes --window only; the other options go with --reference and --current")
        _live(context.obj, name, window, as_json)
        return
    if name is not None or window is not None:
        raise UsageFault("either a model's NAME (and --window), or --reference and --current; not both")
    if reference is None or current is None:
        raise UsageFault(f"--{'current' if current is None else 'reference'} FILE is missing: drift compares two files")
    from gateway.cli_drift_files import compare_files

    alarms = compare_files(
        reference,
        current,
        html=html,
        as_json=as_json,
        by_time=by_time,
        date_format=date_format,
        types=_types(column_type or []),
        skip=skip or [],
        outputs=prediction or [],
        missing_codes=missing or [],
        independent_rows=independent_rows,
        **({} if false_alarm_probability is None else {"false_alarm_probability": false_alarm_probability}),
    )
    if fail_on_alarm and alarms:
        raise typer.Exit(1)


def _types(pairs: list[str]) -> dict[str, str]:
    read: dict[str, str] = {}
    for pair in pairs:
        column, equals, kind = pair.rpartition("=")
        if not equals or not column:
            raise UsageFault(f"--type wants COL=TYPE, got {pair!r}")
        read[column] = kind
    return read


def _live(shell: Shell, name: str, window: str | None, as_json: bool) -> None:
    with shell.require_server() as server:
        answer = server.get(f"models/{name_in_path(name)}/drift", window=window)
    items = sorted([*answer["items"], *answer.get("fast", [])], key=_excess, reverse=True)

    def show(console: Console) -> None:
        if not items:
            console.print("nothing was compared yet: no traffic, or no version with --reference data", soft_wrap=True)
            return
        versions = len({item.get("version") for item in items}) > 1
        title = f"{name}: now against the reference"
        wide = console.width >= _NARROW
        kinds = ("kind",) if wide else ()
        columns = ("feature", *kinds, "statistic", ">value", ">limit", ">rows", "window", "verdict")
        table = plain_table(title, *(("version" if wide else "",) if versions else ()), *columns)
        for item in items[:MOST_SHOWN]:
            table.add_row(
                *((f"{'' if wide else 'v'}{item['version']}",) if versions else ()),
                escape(shortened(item["feature"])) + ("" if wide or item["kind"] == "input" else " [dim](output)[/]"),
                *((item["kind"],) if wide else ()),
                item["statistic"],
                shown_number(item["value"]),
                shown_number(item["threshold"]),
                shown_number(item["rows"]),
                str(item["window"]),
                shown_verdict(item["verdict"], item.get("cause")),
            )
        console.print(table)
        if len(items) > MOST_SHOWN:
            console.print(f"[dim]and {len(items) - MOST_SHOWN:,} more: --json has all[/]")
        for line in (*_told(answer), *_changes(answer)):
            console.print(line, soft_wrap=True)

    emit(as_json, {**answer, "items": sorted(answer["items"], key=_excess, reverse=True)}, show)


def _told(answer: dict[str, Any]) -> Iterator[str]:
    """A sentence for each column in alarm, and whom to ask first."""
    up = {(alarm["version"], alarm["kind"], alarm["feature"]): alarm["since"] for alarm in answer.get("alarms", ())}
    for found in answer.get("features", ()):
        since = up.get((found["version"], found["kind"], found["feature"]))
        if since is not None:
            where = f"{escape(found['feature'])} [dim](version {found['version']}, since {shown_time(since)})[/]"
            yield f"[red]alarm[/] {where} {escape(found['sentence'] if found['moved'] else _PAST)}"
    for together in answer.get("multivariate", ()):
        since = up.get((together["version"], "input", together["feature"]))
        if since is not None:
            where = f"{together['feature']} [dim](version {together['version']}, since {shown_time(since)})[/]"
            yield f"[red]alarm[/] {where} {escape(together['sentence'])}"
    if answer.get("suspect"):
        yield escape(answer["suspect"]["sentence"])


def _changes(answer: dict[str, Any]) -> Iterator[str]:
    """A sentence for each stream of scores or losses in which ADWIN or Page-Hinkley found something."""
    for seen in answer.get("scores", ()):
        found = [change for change in seen["changes"] if change["count"]]
        if found:
            what = " and ".join(f"{change['detector']} {change['count']:,}" for change in found)
            last = shown_time(max(change["last_at"] for change in found))
            who = f"{escape(seen['output'])} [dim]({seen['stream']} of version {seen['version']}, {seen['role']})[/]"
            now = f"mean {shown_number(seen['mean'])} of the last {seen['window_rows']:,} rows"
            yield f"[dim]changes, no alarm:[/] {who} {now}; {what}, the last {last}"


def _excess(item: dict[str, float | None]) -> float:
    """How far beyond its limit, as a ratio; what has no value comes last."""
    value, threshold = item.get("value"), item.get("threshold")
    if value is None:
        return -1.0
    return value / threshold if threshold else value
