"""`driftgate register`, `models` and `alias`: through the running server when there is one, else in the database."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from gateway.cli_common import (
    AsJson,
    ByTime,
    Columns,
    DateFormat,
    ModelArgument,
    Prediction,
    Shell,
    Target,
    Unordered,
    emit,
    err,
    plain_table,
    read_pairs,
    shown_time,
    version_number,
)
from gateway.cli_curves import batching_line, curve_table
from gateway.client_control import name_in_path
from registry.home import Home
from registry.vocabulary import CHAMPION_ALIAS

ACTOR = "local"  # who uses this machine's files; with a server, its principal for loopback has the same name
_REGISTER_S = 900.0  # a large model is copied, probed and fitted meanwhile


def register_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(
        epilog="Examples:  driftgate register fraud model.onnx --reference train.csv --target label --alias champion"
        "  ·  "
        "driftgate register fraud ./folder --golden golden.npz --tag team=risk"
    )(register)
    app.command(epilog="Examples:  driftgate models  ·  driftgate models fraud  ·  driftgate models fraud --json")(
        models
    )
    app.command(epilog="Examples:  driftgate alias fraud champion 2  ·  driftgate alias fraud stable 1")(alias)


def register(
    context: typer.Context,
    name: ModelArgument,
    path: Annotated[str, typer.Argument(metavar="PATH", help="An .onnx file, a folder with one, or an fsspec URL.")],
    reference: Annotated[
        str | None, typer.Option(metavar="FILE", help="CSV or Parquet: rows that the model was trained for.")
    ] = None,
    golden: Annotated[
        str | None, typer.Option(metavar="FILE", help=".npz with in:NAME and out:NAME, or ONNX test data.")
    ] = None,
    columns: Columns = None,
    target: Target = None,
    prediction: Prediction = None,
    by_time: ByTime = None,
    date_format: DateFormat = None,
    unordered: Unordered = False,
    options: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Options as TOML: batch limits, provider, NaN policy, types of features."),
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="K=V", help="A tag; may be given again.")] = None,
    alias_name: Annotated[
        str | None, typer.Option("--alias", metavar="ALIAS", help="Point this alias at the version, such as champion.")
    ] = None,
    new_version: Annotated[bool, typer.Option("--new-version", help="A new number even for known content.")] = False,
    as_json: AsJson = False,
) -> None:
    """Copy a model into the registry, probe what it can do in a process of its own, and give it the next number.

    Refused, with the reason: what does not load, crashes, or fails on its golden or reference rows.
    """
    from gateway.registration import Request

    shell: Shell = context.obj
    home = shell.home(create=True)
    request = Request(
        model=name,
        path=anywhere(path, shell.cwd),
        reference=None if reference is None else anywhere(reference, shell.cwd),
        golden=None if golden is None else anywhere(golden, shell.cwd),
        columns=None if columns is None else tuple(part.strip() for part in columns.split(",") if part.strip()),
        target=target,
        prediction=prediction,
        by_time=by_time,
        date_format=date_format,
        unordered=unordered,
        options=_read_options(options),
        tags=read_pairs(tag or []),
        new_version=new_version,
        actor=ACTOR,
    )
    if alias_name is not None:  # told before minutes are spent, and before a version is made
        from registry.catalog import check_alias

        check_alias(alias_name)
    answer = _register(shell, home, request, alias_name)

    def show(console: Console) -> None:
        what = "registered" if answer["created"] else "already registered, nothing new"
        console.print(f"[bold]{escape(name)}[/] version [bold]{answer['version']}[/]: {what}", soft_wrap=True)
        console.print(f"  digest {answer['digest']}", soft_wrap=True)
        if answer.get("run") == "unproven":
            console.print("  [yellow]unproven[/]: it failed on made-up inputs; give --reference or --golden rows")
        for warning in answer.get("warnings", ()):
            console.print(f"  [yellow]note[/] {escape(str(warning))}", soft_wrap=True)
        if answer.get("alias"):
            console.print(f"  alias [bold]{answer['alias']}[/] points here")

    emit(as_json, answer, show)


def models(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One model, with its versions.")] = None,
    as_json: AsJson = False,
) -> None:
    """List models, or the versions of one."""
    shell: Shell = context.obj
    home = shell.home()
    if name is None:
        listed = list(_all_models(shell, home))

        def show_all(console: Console) -> None:
            if not listed:
                console.print("no models yet; add one: driftgate register NAME model.onnx --alias champion")
                return
            table = plain_table("Models", "model", ">versions", "aliases", "rollout", "since")
            for row in listed:
                table.add_row(
                    escape(row["model"]),
                    str(row["version_count"]),
                    ", ".join(f"{alias} → {version}" for alias, version in row["aliases"].items()) or "-",
                    "-" if not row.get("rollout") else row["rollout"]["state"],
                    shown_time(row["created_at"]),
                )
            console.print(table)

        emit(as_json, {"items": listed}, show_all)
        return
    found = _one_model(shell, home, name)

    def show_one(console: Console) -> None:
        by_version: dict[int, list[str]] = {}
        for alias_of, version in found["aliases"].items():
            by_version.setdefault(version, []).append(alias_of)
        tags = ["tags"] if any(row["tags"] for row in found["versions"]) else []
        table = plain_table(f"{name}", ">version", "aliases", "run", "batches", "reference", *tags, "since", "digest")
        for row in found["versions"]:
            table.add_row(
                str(row["version"]),
                ", ".join(by_version.get(row["version"], [])) or "-",
                row["run"],
                row["batch"],
                "yes" if row["has_reference"] else "no",
                *([escape(", ".join(f"{key}={value}" for key, value in row["tags"].items())) or "-"] if tags else []),
                shown_time(row["created_at"]),
                row["digest"][:12],
            )
        console.print(table)
        for row in found["versions"]:
            console.print(f"  {batching_line(row['version'], row['batching'])}", soft_wrap=True)
            for part in curve_table(row["version"], row["curves"]) if row.get("curves") else ():
                console.print(part)
            if row["provider"] != "cpu":
                console.print(f"  version {row['version']} is for the provider {row['provider']}", soft_wrap=True)
            for note in row.get("notes", ()):  # only a running server knows where a version runs
                console.print(f"  version {row['version']} now: [yellow]{escape(str(note))}[/]", soft_wrap=True)
            for warning in row["warnings"]:
                console.print(f"  version {row['version']}: [yellow]{escape(str(warning))}[/]", soft_wrap=True)

    emit(as_json, found, show_one)


def alias(
    context: typer.Context,
    name: ModelArgument,
    alias_name: Annotated[str, typer.Argument(metavar="ALIAS", help="Lower case, such as champion or stable.")],
    version: Annotated[str, typer.Argument(metavar="VERSION", help="The number it shall point to.")],
    reason: Annotated[str, typer.Option(help="Kept in the history.")] = "",
    as_json: AsJson = False,
) -> None:
    """Point an alias at a version. `champion` answers by default: moving it switches all traffic at once."""
    shell: Shell = context.obj
    home = shell.home()
    answer = _set_alias(shell, home, name, alias_name, version_number(version), reason)
    emit(
        as_json,
        answer,
        lambda console: console.print(
            f"[bold]{escape(name)}[/] {escape(alias_name)} → version {answer['version']}", soft_wrap=True
        ),
    )


# -- the two ways ------------------------------------------------------------------------------------------------------


def _register(shell: Shell, home: Home, request: Any, alias_name: str | None) -> dict[str, Any]:
    server = shell.server(home)
    if server is not None:
        with server, progress(f"{request.model}: the server at {server.url} registers it"):
            body = {**request.to_body(), **({"alias": alias_name} if alias_name else {})}
            answer: dict[str, Any] = server.post(
                f"models/{name_in_path(request.model)}/versions", body, timeout_s=_REGISTER_S
            )
        return answer
    from gateway.registration import registered_document, run_registration

    if alias_name is not None:
        with _catalog(shell, home) as catalog:
            catalog.check_no_rollout(request.model, alias_name)
    with progress(f"{request.model}: registering") as advance:
        registered = run_registration(home, shell.settings(home.root).settings, request, advance)
    answer = registered_document(registered)
    answer["alias"] = alias_name
    if alias_name is not None:
        _set_alias(shell, home, request.model, alias_name, answer["version"], "at registration")
    return answer


def _set_alias(shell: Shell, home: Home, model: str, name: str, version: int, reason: str) -> dict[str, Any]:
    server = shell.server(home)
    if server is not None:
        with server:
            path = f"models/{name_in_path(model)}/aliases/{name_in_path(name)}"
            answer: dict[str, Any] = server.post(path, {"version": version, "reason": reason}, timeout_s=120.0)
        return answer
    with _catalog(shell, home) as catalog:
        row = _move_alias(catalog, model, name, version, reason)
    return {"alias": row.alias, "version": row.version, "since": row.since, "revision": row.revision}


def _move_alias(catalog: Any, model: str, name: str, version: int, reason: str) -> Any:
    """Move an alias without a server; of a champion that changes, the history tells as the controller would tell it."""
    from gateway.control.store import note_takeover
    from monitor.rollout_record import Moment
    from registry.catalog import ANY
    from registry.clock import SystemClock

    if name != CHAMPION_ALIAS:
        return catalog.set_alias(model, name, version, expected=ANY, actor=ACTOR, reason=reason)
    with catalog.transaction():
        found = catalog.aliases(model).get(name)
        old = None if found is None else found.version
        row = catalog.set_alias(model, name, version, expected=old, actor=ACTOR, reason=reason)
        if old is not None and old != version:
            note_takeover(catalog, model, old, version, Moment(SystemClock().wall_ns()), ACTOR)
    return row


def _all_models(shell: Shell, home: Home) -> Iterator[dict[str, Any]]:
    server = shell.server(home)
    if server is not None:
        with server:
            yield from server.items("models")
        return
    with _catalog(shell, home) as catalog:
        for row in catalog.models():
            yield _model_document(catalog, row)


def _one_model(shell: Shell, home: Home, name: str) -> dict[str, Any]:
    server = shell.server(home)
    if server is not None:
        with server:
            found: dict[str, Any] = server.get(f"models/{name_in_path(name)}")
        return found
    from gateway.registration import version_document

    with _catalog(shell, home) as catalog:
        versions = [version_document(row) for row in catalog.versions(name)]
        row = next(row for row in catalog.models() if row.model == name)
        return {**_model_document(catalog, row), "versions": versions}


def _model_document(catalog: Any, row: Any) -> dict[str, Any]:
    running = catalog.active_rollouts(row.model)
    return {
        "model": row.model,
        "created_at": row.created_at,
        "version_count": row.versions,
        "latest": row.latest,
        "aliases": {alias_of: found.version for alias_of, found in catalog.aliases(row.model).items()},
        "rollout": None if not running else {"id": running[0]["id"], "state": running[0]["state"]},
    }


@contextmanager
def _catalog(shell: Shell, home: Home) -> Iterator[Any]:
    from registry.catalog import Catalog

    settings = shell.settings(home.root).settings.registry
    catalog = Catalog.open(settings.database_url or home.database_url)
    try:
        yield catalog
    finally:
        catalog.close()


@contextmanager
def progress(title: str) -> Iterator[Callable[[str, float], None]]:
    """A bar on standard error; the function given takes what is being done and how much is done, 0 to 1."""
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TimeElapsedColumn(),
        console=err(),
        transient=True,
    )
    with bar:
        task = bar.add_task(escape(title), total=None)

        def advance(what: str, share: float) -> None:
            bar.update(task, description=escape(f"{title}: {what}"), total=1.0, completed=min(1.0, max(0.0, share)))

        yield advance


def anywhere(path: str, cwd: Path) -> str:
    """A path that means the same in every process; URLs stay as they are."""
    if "://" in path:
        return path
    with contextlib.suppress(RuntimeError):  # ~somebody without a home: a name like any other
        path = str(Path(path).expanduser())
    return str((cwd / path).absolute())


def _read_options(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    from gateway.settings_load import read_toml

    return read_toml(path)
