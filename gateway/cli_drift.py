"""`driftgate drift`: what moved, by how much, against which limit, as the running monitor sees it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from gateway.cli_common import AsJson, ModelArgument, Shell, emit, plain_table, shown_number, shown_verdict
from gateway.client_control import name_in_path


def register_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(epilog="Examples:  driftgate drift fraud  ·  driftgate drift fraud --window 1h --json")(drift)


def drift(
    context: typer.Context,
    name: ModelArgument,
    window: Annotated[str | None, typer.Option(metavar="DURATION", help="Over the last 5m, 1h …")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare what a model sees and says now with its reference profile, feature by feature, worst first."""
    shell: Shell = context.obj
    with shell.require_server() as server:
        answer = server.get(f"models/{name_in_path(name)}/drift", window=window)
    items = sorted(answer["items"], key=_excess, reverse=True)

    def show(console: Console) -> None:
        if not items:
            console.print("nothing was compared yet: no traffic, or no version with --reference data", soft_wrap=True)
            return
        title = f"{name}: now against the reference"
        table = plain_table(title, "feature", "kind", "statistic", ">value", ">limit", ">rows", "window", "verdict")
        for item in items:
            table.add_row(
                escape(str(item["feature"])),
                item["kind"],
                item["statistic"],
                shown_number(item["value"]),
                shown_number(item["threshold"]),
                shown_number(item["rows"]),
                str(item["window"]),
                shown_verdict(item["verdict"], item.get("cause")),
            )
        console.print(table)

    emit(as_json, {"items": items}, show)


def _excess(item: dict[str, float | None]) -> float:
    """How far beyond its limit, as a ratio; what has no value comes last."""
    value, threshold = item.get("value"), item.get("threshold")
    if value is None:
        return -1.0
    return value / threshold if threshold else value
