"""`driftgate profile`: another reference profile for a version, through the running server, else in the database."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from gateway.cli_common import (
    AsJson,
    ByTime,
    Columns,
    DateFormat,
    Prediction,
    Shell,
    Target,
    Unordered,
    UsageFault,
    emit,
    plain_table,
    shown_number,
    shown_time,
    version_number,
)
from gateway.cli_models import ACTOR, anywhere, progress
from gateway.client_control import name_in_path
from registry.home import Home

_PROFILE_S = 900.0  # a large table is read and run meanwhile
_MOST_SHOWN = 40  # columns; the others with --json


def register_commands(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command(
        epilog="Examples:  driftgate profile fraud:2 --reference march.parquet --target label --by-time at  ·  "
        "driftgate profile fraud:2 --from-traffic 24h"
    )(profile)


def profile(
    context: typer.Context,
    which: Annotated[str, typer.Argument(metavar="NAME:VERSION", help="A model and the number of its version.")],
    reference: Annotated[
        str | None, typer.Option(metavar="FILE", help="CSV or Parquet: what the version is to be compared with.")
    ] = None,
    from_traffic: Annotated[
        str | None, typer.Option(metavar="24h", help="Instead: what it saw lately, at most 7d.")
    ] = None,
    columns: Columns = None,
    target: Target = None,
    prediction: Prediction = None,
    by_time: ByTime = None,
    date_format: DateFormat = None,
    unordered: Unordered = False,
    as_json: AsJson = False,
) -> None:
    """Compare a version with other reference rows from now on: a new numbered profile, which measurements name.

    The version stays what it is. Earlier profiles stay, too; the last one is in use.
    """
    from gateway.profiling import ProfileRequest

    model, colon, number = which.rpartition(":")
    if not colon or not model:
        raise UsageFault(f"which version? got {which!r}, wanted NAME:VERSION, such as fraud:2")
    shell: Shell = context.obj
    home = shell.home()
    given = {
        "reference": None if reference is None else anywhere(reference, shell.cwd),
        "from_traffic": from_traffic,
        "columns": columns,
        "target": target,
        "prediction": prediction,
        "by_time": by_time,
        "date_format": date_format,
        "unordered": unordered,
    }
    request = ProfileRequest.from_body(model, version_number(number), given, ACTOR)
    answer = _profile(shell, home, request)
    emit(as_json, answer, lambda console: _show(console, answer))


def _profile(shell: Shell, home: Home, request: Any) -> dict[str, Any]:
    title = f"{request.model}:{request.version}"
    server = shell.server(home)
    if server is not None:
        with server, progress(f"{title}: the server at {server.url} fits a profile"):
            path = f"models/{name_in_path(request.model)}/versions/{request.version}/profiles"
            answer: dict[str, Any] = server.post(path, request.to_body(), timeout_s=_PROFILE_S)
        return answer
    from gateway.profiling import run_profile

    with progress(title) as advance:
        return run_profile(home, shell.settings(home.root).settings, request, advance)


def _show(console: Console, answer: dict[str, Any]) -> None:
    what = "profile" if answer["created"] else "known already: profile"
    console.print(
        f"[bold]{escape(answer['model'])}[/] version {answer['version']}: {what} [bold]{answer['number']}[/], "
        f"{answer['rows']:,} rows of {escape(answer['source'])}  [dim]{answer['profile'][:12]}[/]",
        soft_wrap=True,
    )
    if answer.get("ordered") and answer.get("since"):
        console.print(f"  from {shown_time(answer['since'])} to {shown_time(answer['until'])}", soft_wrap=True)
    table = plain_table("", "column", "kind", "type", ">bins", ">missing", ">design effect", ">tile rows", "season")
    for column in answer["columns"][:_MOST_SHOWN]:
        rows = column["rows"]
        block = column["block_rows"]
        table.add_row(
            escape(column["name"]),
            column["kind"],
            column["type"].replace("_", " "),
            str(column["bins"]),
            f"{column['missing'] / rows:.1%}" if rows and column["missing"] else "-",
            shown_number(column["design_effect"]) if column["design_effect"] > 1.0 else "-",
            "unknown" if block is None else f"{'' if column['levelled'] else '> '}{block:,}",
            ", ".join(_shown_period(hours) for hours in column["season_h"]) or "-",
        )
    console.print(table)
    more = len(answer["columns"]) - _MOST_SHOWN
    if more > 0:
        console.print(f"  and {more:,} columns more, which --json has")
    for warning in answer["warnings"]:
        console.print(f"  [yellow]note[/] {escape(str(warning))}", soft_wrap=True)


def _shown_period(hours: float) -> str:
    return f"{hours / 24:g} d" if hours > 24 else f"{hours:g} h"
