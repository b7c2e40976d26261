"""The command line: `driftgate …`. One place for what every command has in common; the commands are in cli_*.py.

Exit codes: 0 done, 1 refused or failed, 2 usage. `--home` works before and after the command. Imports little at the
start, so that `--help` answers at once; each command imports what it needs. Called by driftgate/__main__.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from gateway import cli_drift, cli_drill, cli_models, cli_profile, cli_rollout, cli_serve
from gateway.cli_common import Shell, UsageFault, report_error
from registry.errors import InternalError, ServingError, StorageFailed

app = typer.Typer(
    name="driftgate",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Begin with:  driftgate demo  ·  then:  driftgate serve, and in another terminal  driftgate register "
    "NAME model.onnx --reference train.csv --alias champion",
)


def _version(wanted: bool) -> None:
    if wanted:
        from driftgate import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def main(
    context: typer.Context,
    home: Annotated[
        Path | None,
        typer.Option(
            "--home",
            metavar="DIR",
            help="State folder; otherwise DRIFTGATE_HOME, the nearest .driftgate upwards, or ./.driftgate. "
            "May also be given after the command.",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Driftgate serves ONNX models, splits their traffic, watches it, and takes a bad version out by itself."""
    context.obj = Shell(home_flag=home)


cli_serve.register_commands(app)
cli_models.register_commands(app)
cli_profile.register_commands(app)
cli_rollout.register_commands(app)
cli_drift.register_commands(app)
cli_drill.register_commands(app)


def run(words: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    try:
        app(args=home_first(words), prog_name="driftgate")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except ServingError as error:
        report_error(error, as_json="--json" in words)
        return 2 if isinstance(error, UsageFault) else 1
    except BrokenPipeError:
        # The reader of our output went away (`driftgate models | head`): nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a full disk, a folder of somebody else, a file where a folder should be
        where = f"{error.filename}: " if error.filename else ""
        told = StorageFailed.of(error) or InternalError(f"{where}{error.strerror or error}")
        report_error(told, as_json="--json" in words)
        return 1
    return 0


def home_first(words: Sequence[str]) -> list[str]:
    """The same words with --home in front, where the program's own options stand.

    >>> home_first(["models", "--home", "x", "--json"])
    ['--home', 'x', 'models', '--json']
    """
    front: list[str] = []
    rest: list[str] = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if word == "--":
            rest += [word, *waiting]
            break
        if word == "--home" and waiting:
            front += [word, waiting.pop(0)]
        elif word.startswith("--home="):
            front.append(word)
        else:
            rest.append(word)
    return front + rest
