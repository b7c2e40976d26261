"""`driftgate serve`, `settings`, `doctor` and `demo`: what starts a server, or looks at where one would run."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from gateway.cli_common import AsJson, Shell, emit, err, plain_table
from gateway.settings_load import leaves, variable_of
from registry.errors import InvalidSetting
from registry.home import Home

Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings as TOML; otherwise driftgate.toml in the state folder."),
]
RunDir = Annotated[
    Path | None,
    typer.Option("--run-dir", metavar="DIR", help="Where lanes, pages and the route table lie; a tmpfs is fine."),
]


def register_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(
        epilog="Examples:  driftgate serve  ·  driftgate serve --workers 2 --port 9000  ·  "
        "driftgate serve --run-dir /dev/shm/driftgate"
    )(serve)
    app.command(epilog="Examples:  driftgate settings  ·  driftgate settings --json --config driftgate.toml")(settings)
    app.command(epilog="Examples:  driftgate doctor  ·  driftgate doctor --json")(doctor)
    app.command(epilog="Examples:  driftgate demo  ·  driftgate demo --keep")(demo)


def serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address of the data port.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Data port; 0 takes a free one.", show_default="8080")] = None,
    grpc_port: Annotated[
        int | None,
        typer.Option(
            help="Insist on gRPC on this port; 0 takes a free one.", show_default="8082, where the extra is installed"
        ),
    ] = None,
    control_host: Annotated[
        str | None, typer.Option(help="Address of the control port.", show_default="127.0.0.1")
    ] = None,
    control_port: Annotated[
        int | None, typer.Option(help="Control port; 0 takes a free one.", show_default="8081")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes on the data port.", show_default="1")] = None,
    config: Config = None,
    run_dir: RunDir = None,
    as_json: AsJson = False,
) -> None:
    """Serve the registered models: workers on the data port, the controller on the control port.

    Runs until SIGTERM or Ctrl-C, then drains: readiness is off, what is in flight is answered, exit 0.
    """
    from gateway.serve_lock import Serving
    from gateway.supervisor import serve as serve_until_told

    shell: Shell = context.obj
    home = shell.home(create=True, run_dir=run_dir)
    flags = {
        "gateway.host": host,
        "gateway.port": port,
        "gateway.grpc_port": grpc_port,
        "gateway.grpc": None if grpc_port is None else "on",
        "gateway.workers": workers,
        "control.host": control_host,
        "control.port": control_port,
    }
    loaded = shell.settings(home.root, flags, config)

    def say(line: str) -> None:
        err().print(f"[dim]driftgate[/] {escape(line)}", soft_wrap=True)

    def on_ready(serving: Serving) -> None:
        if as_json:
            sys.stdout.write(json.dumps(dataclasses.asdict(serving)) + "\n")
            sys.stdout.flush()
        over_grpc = f", over gRPC at {serving.grpc_url}" if serving.grpc_url else ""
        say(f"ready: predictions at {serving.data_url}{over_grpc}, control and metrics at {serving.control_url}")

    say(f"starting with state in {home.root}")
    _sweep(home, loaded.settings.registry.artifacts_url)
    raise typer.Exit(serve_until_told(home, loaded.settings, say=say, on_ready=on_ready))


def settings(context: typer.Context, config: Config = None, as_json: AsJson = False) -> None:
    """Print every setting, its value, and where that value came from."""
    shell: Shell = context.obj
    loaded = shell.settings(_found_home(shell).root, config=config)
    rows = [
        {
            "name": name,
            "value": _public(_value(loaded.settings, name)),
            "default": default,
            "origin": loaded.origins[name],
            "variable": variable_of(name),
        }
        for name, _kind, default in leaves()
    ]

    def show(console: Any) -> None:
        table = plain_table("Settings (defaults < TOML < environment < flags)", "setting", "value", "from")
        for row in rows:
            style = "dim" if row["origin"] == "default" else "bold"
            table.add_row(row["name"], escape(_shown(row["value"])), escape(row["origin"]), style=style)
        console.print(table)

    emit(as_json, {"settings": rows}, show)


def doctor(context: typer.Context, config: Config = None, as_json: AsJson = False) -> None:
    """Check this machine for real: can a model run here, is there room, are the ports free, does the server answer?

    Exit 0 when a server can run here, 1 when something must be mended first.
    """
    from gateway.doctor import examine

    shell: Shell = context.obj
    home = _found_home(shell)
    loaded = shell.settings(home.root, config=config)
    findings = examine(home, loaded.settings, shell.environ)

    def show(console: Any) -> None:
        colours = {"ok": "green", "warning": "yellow", "failed": "red"}
        table = plain_table(f"State folder {home.root}", "check", "", "found")
        for finding in findings:
            told = escape(finding.told) + (f"\n[dim]{escape(finding.advice)}[/]" if finding.advice else "")
            table.add_row(finding.name, f"[{colours[finding.status]}]{finding.status}[/]", told)
        console.print(table)

    failed = any(finding.status == "failed" for finding in findings)
    document = {"ok": not failed, "checks": [dataclasses.asdict(finding) for finding in findings]}
    emit(as_json, document, show)
    raise typer.Exit(1 if failed else 0)


def demo(
    context: typer.Context,
    keep: Annotated[bool, typer.Option("--keep", help="Leave it serving at the end, until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Watch the whole main job on real flights: serve, split, watch, promote a good model, roll back a bad one.

    Takes under four minutes. Uses a new state folder and free ports, and removes them at the end. Exit 0 only if no
    request failed, version 2 became champion and version 3 was rolled back on evidence.
    """
    from gateway.demo.story import run

    shell: Shell = context.obj
    raise typer.Exit(run(err(), keep=keep, as_json=as_json, home=shell.home_flag))


def _found_home(shell: Shell) -> Home:
    """The state folder that would be used, also when it does not exist yet: these commands look, and create nothing."""
    try:
        return shell.home()
    except InvalidSetting:
        root = shell.home_flag or Path(shell.environ.get("DRIFTGATE_HOME") or shell.cwd / ".driftgate")
        root = root.expanduser().absolute()
        return Home(root=root, run=root / "run")


def _sweep(home: Home, artifacts_url: str) -> None:
    """Remove what interrupted registrations left, where staging lies on this machine."""
    from registry.artifacts import ArtifactStore, is_url

    remote = is_url(artifacts_url) and not artifacts_url.startswith("file://")
    with contextlib.suppress(OSError):  # then it stays until the next start
        ArtifactStore(home.artifacts if remote or not artifacts_url else artifacts_url).sweep()


def _value(settings: Any, name: str) -> Any:
    for part in name.split("."):
        settings = getattr(settings, part)
    return settings


def _public(value: Any) -> Any:
    """The same without the password of a URL: what is printed here ends in tickets and logs.

    >>> _public("postgresql://ann:s3:c@ret@db/models?password=x&sslmode=require")
    'postgresql://ann:***@db/models?password=***&sslmode=require'
    """
    if not isinstance(value, str) or "://" not in value:
        return value
    value = re.sub(r"(://[^:/@]*):.*@", r"\1:***@", value)
    return re.sub(r"([?&;][^=&;]*(?:password|passwd|secret|token)[^=&;]*=)[^&;]*", r"\1***", value, flags=re.I)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) or "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if value != "" else "-"
