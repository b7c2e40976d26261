"""`driftgate rollout …` and `rollback`: always through the running server, which alone moves traffic."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from gateway.cli_common import (
    AsJson,
    ModelArgument,
    Shell,
    emit,
    err,
    plain_table,
    shown_number,
    shown_time,
    shown_verdict,
    version_number,
)
from gateway.client_control import ControlClient, name_in_path
from registry.errors import InvalidPlan, ServingError
from registry.vocabulary import FINAL_STATES, RolloutState

Reason = Annotated[str, typer.Option(help="Kept with the event.")]

_SHOWN_STATE = {
    "succeeded": "green",
    "soak": "green",
    "promoting": "green",
    "rolled_back": "red",
    "rolling_back": "red",
    "aborted": "red",
    "hold": "yellow",
}
_RATE_WINDOW_S = 1.0
_POLL_S = 0.5
_DECIDED = {RolloutState.SOAK, *FINAL_STATES}

rollout = typer.Typer(
    no_args_is_help=True,
    help="Move a model's traffic to a new version, step by step, watched by guardrails.",
    epilog="Examples:  driftgate rollout start fraud 2  ·  driftgate rollout start fraud 2 --plan plan.toml  ·  "
    "driftgate rollout status fraud",
)


def register_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(rollout, name="rollout")
    app.command(epilog="Examples:  driftgate rollback fraud  ·  driftgate rollback fraud --reason 'wrong units'")(
        rollback
    )
    for name, help_text in (
        ("pause", "Hold where it is. Evidence goes on being read, and a rollback still happens by itself."),
        ("resume", "Go on after a pause."),
        ("promote", "Make the candidate champion now, without waiting for evidence."),
        ("abort", "End the rollout: the champion takes all."),
    ):
        rollout.command(name, help=help_text, epilog=f"Example:  driftgate rollout {name} fraud")(_command(name))


@rollout.command(
    epilog="Examples:  driftgate rollout start fraud 2  ·  driftgate rollout start fraud 2 --plan plan.toml"
)
def start(
    context: typer.Context,
    name: ModelArgument,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="The candidate.")],
    plan: Annotated[Path | None, typer.Option(metavar="FILE", help="A plan as TOML; an empty one is good.")] = None,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Begin a rollout of VERSION against the present champion; says first how many requests it will need."""
    from monitor.plan import parse
    from monitor.planner import Assumptions, forecast

    shell: Shell = context.obj
    number = version_number(version)
    try:
        parsed = parse(b"" if plan is None else plan.read_bytes())
    except OSError as fault:
        raise InvalidPlan(f"{plan}: cannot be read: {fault.strerror}") from None
    with shell.require_server() as server:
        try:
            rate, workers = traffic(server, name)
        except ServingError as fault:  # the forecast is then for a server without traffic; the rollout may still begin
            err().print(f"[yellow]traffic could not be measured[/]: {escape(fault.message)}", soft_wrap=True)
            rate, workers = 0.0, 1
        expected = forecast(parsed, Assumptions(requests_per_s=rate, workers=workers))
        if not as_json:
            console = err()
            console.print(f"[bold]What to expect[/] [dim](at {rate:,.0f} requests/s now)[/]")
            for sentence in expected.sentences():
                console.print(f"  {escape(sentence)}", soft_wrap=True)
        body = {"version": number, "plan": parsed.to_dict(), "reason": reason}
        document = server.post(f"models/{name_in_path(name)}/rollout", body)
    emit(as_json, {**document, "forecast": expected.to_json()}, lambda console: show_rollout(console, document))


@rollout.command(epilog="Examples:  driftgate rollout status fraud  ·  driftgate rollout status fraud --wait 60 --json")
def status(
    context: typer.Context,
    name: ModelArgument,
    wait: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0, max=86_400, help="First wait, at most so long, until it has decided."),
    ] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Show the running rollout, or the last one: state, weight, every guardrail's evidence against its limit."""
    shell: Shell = context.obj
    with shell.require_server() as server:
        document = _decided(server, f"models/{name_in_path(name)}/rollout", time.monotonic() + wait)
    emit(as_json, document, lambda console: show_rollout(console, document))


def _decided(server: ControlClient, path: str, until_s: float) -> dict[str, Any]:
    """The rollout once it stepped aside or its candidate answers all, or as it is when the time is over."""
    while True:
        document: dict[str, Any] = server.get(path)
        left_s = until_s - time.monotonic()
        if document["state"] in _DECIDED or left_s <= 0:
            return document
        time.sleep(min(left_s, _POLL_S))


def rollback(context: typer.Context, name: ModelArgument, reason: Reason = "", as_json: AsJson = False) -> None:
    """Now: the champion takes all. When this returns, no later request reaches the canary."""
    shell: Shell = context.obj
    with shell.require_server() as server:
        document = server.post(f"models/{name_in_path(name)}/rollback", {"reason": reason})
    emit(as_json, document, lambda console: show_rollout(console, document))


def _command(verb: str) -> Any:
    def command(context: typer.Context, name: ModelArgument, reason: Reason = "", as_json: AsJson = False) -> None:
        shell: Shell = context.obj
        with shell.require_server() as server:
            document = server.post(f"models/{name_in_path(name)}/rollout/{verb}", {"reason": reason})
        emit(as_json, document, lambda console: show_rollout(console, document))

    command.__name__ = verb
    return command


def show_rollout(console: Console, document: dict[str, Any]) -> None:
    """The contract's rollout object, for people."""
    state = document["state"]
    colour = _SHOWN_STATE.get(state, "cyan")
    cause = f" ({document['cause']})" if document.get("cause") else ""
    console.print(
        f"[bold]{escape(document['model'])}[/] version {document['candidate']} against champion "
        f"{document['champion']}: [{colour}]{state}[/]{cause}, step {document['step'] + 1} of {document['steps']}, "
        f"weight {document['weight_pct']:g} %",
        soft_wrap=True,
    )
    requests = document["requests"]
    console.print(
        f"  answered: champion {requests['champion']:,}, canary {requests['canary']:,}, shadow {requests['shadow']:,}; "
        f"started {shown_time(document['started_at'])}, changed {shown_time(document['updated_at'])}",
        soft_wrap=True,
    )
    if document.get("in_flight") is not None:
        console.print(f"  {document['in_flight']} requests were in flight when it took effect")
    if document.get("reason"):
        console.print(f"  {escape(document['reason'])}", soft_wrap=True)
    if document["guardrails"]:
        table = plain_table(
            "", "guardrail", "verdict", ">rollback evidence", ">promotion evidence", ">champion", ">canary"
        )
        for item in document["guardrails"]:
            table.add_row(
                item["name"],
                shown_verdict(item["verdict"], item.get("cause")),
                _against(item["evidence_log10"], item["limit_log10"]),
                _against(item["promotion_evidence_log10"], item["promotion_limit_log10"]),
                _tally(item["champion"]),
                _tally(item["canary"]),
            )
        console.print(table)
        console.print("[dim]evidence and limits are log10: 3 is what chance shows once in 1,000 rollouts[/]")


def traffic(server: ControlClient, model: str) -> tuple[float, int]:
    """(requests a second answered for a model just now, live workers), read from the server's own metrics."""
    before, began = _answered(server.text("/metrics"), model), time.monotonic()
    time.sleep(_RATE_WINDOW_S)
    after = _answered(server.text("/metrics"), model)
    rate = max(0.0, after - before) / (time.monotonic() - began)
    _status, health = server.health()
    workers = health.get("workers") if isinstance(health, dict) else None
    return rate, workers if isinstance(workers, int) and workers > 0 else 1


def _answered(metrics: str, model: str) -> float:
    """The sum of driftgate_requests_total over one model's lines, shadows apart."""
    total = 0.0
    for line in metrics.splitlines():
        if line.startswith("driftgate_requests_total{") and f'model="{model}"' in line and 'role="shadow"' not in line:
            total += float(line.rsplit(" ", 1)[1])
    return total


def _against(value: float | None, limit: float | None) -> str:
    if value is None:
        return "-"
    reached = limit is not None and value >= limit
    text = f"{shown_number(value)} of {shown_number(limit)}"
    return f"[bold]{text}[/]" if reached else text


def _tally(tally: dict[str, int]) -> str:
    return f"{tally['events']:,} of {tally['requests']:,}"
