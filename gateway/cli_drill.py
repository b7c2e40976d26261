"""`driftgate drill`: a stated shift in a copy of the stream, and how long the monitor takes to see it."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from gateway.cli_common import AsJson, ModelArgument, Shell, emit, err, plain_table, version_number
from gateway.client_control import ControlClient, name_in_path
from registry.errors import NotReady

POLL_S = 0.5
FORMS = "mean+0.5sd, mean-0.2sd, sdx1.5, missing+1%, unseen+5%"
NOTHING_S = 20.0  # without a row to judge


def register_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    epilog = "Examples:  driftgate drill fraud  ·  driftgate drill fraud --feature amount --shift mean+0.2sd"
    app.command(epilog=epilog)(drill)


def drill(
    context: typer.Context,
    name: ModelArgument,
    feature: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which column to shift; the first numeric input without it.")
    ] = None,
    shift: Annotated[list[str] | None, typer.Option(metavar="SHIFT", help=f"{FORMS}. May be repeated.")] = None,
    version: Annotated[str | None, typer.Option(metavar="VERSION", help="The champion without it.")] = None,
    max_minutes: Annotated[float, typer.Option(min=0.1, max=1440.0, help="Give up after so long.")] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Shift a copy of live rows and report after how many the drift detectors see it. Real answers and alarms stay."""
    shell: Shell = context.obj
    body: dict[str, Any] = {"feature": feature, "max_seconds": max_minutes * 60.0}
    if shift:
        body["shifts"] = shift
    if version is not None:
        body["version"] = version_number(version)
    path = f"models/{name_in_path(name)}/drill"
    with shell.require_server() as server:
        begun = server.post(path, body)["items"]
        found = _wait(server, path, [item["id"] for item in begun], as_json)

    def show(console: Console) -> None:
        console.print(_table(name, found))

    emit(as_json, {"items": found}, show)


def _wait(server: ControlClient, path: str, ids: list[str], quiet: bool) -> list[dict[str, Any]]:
    """Follow the drills to their end. Raises NotReady when no rows come."""
    began = time.monotonic()
    with Live(console=err(), transient=True, auto_refresh=False) as display:
        while True:
            found = [item for item in server.get(path)["items"] if item["id"] in ids]
            if len(found) < len(ids):
                raise NotReady("the controller was restarted, and a drill ends with it")
            if all(item["state"] != "running" for item in found):
                return found
            if not any(item["rows"] for item in found) and time.monotonic() - began > NOTHING_S:
                raise NotReady(f"no rows came in {NOTHING_S:.0f} s: a drill needs live traffic of that version")
            if not quiet and sys.stderr.isatty():
                display.update(_table("", found), refresh=True)
            time.sleep(POLL_S)


def _table(name: str, found: list[dict[str, Any]]) -> Table:
    title = f"{name}: how long until a shift is seen" if name else "drilling"
    table = plain_table(title, "column", "shift, in a copy", "result", ">rows", ">seconds")
    words = {"seen": "[green]seen[/]", "not_seen": "[yellow]not seen[/]", "running": "[dim]…[/]"}
    for item in found:
        shift, took = escape(item["shift"]), f"{item['seconds']:.0f}"
        table.add_row(escape(item["feature"]), shift, words[item["state"]], f"{item['rows']:,}", took)
    return table
