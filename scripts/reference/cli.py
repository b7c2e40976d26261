"""docs/reference/cli.md: every command with its arguments, options and examples, from the command tree itself."""

from __future__ import annotations

from typing import Any

import typer.main

from gateway.cli import app
from scripts.reference.table import table

INTRODUCTION = """# Command line

`driftgate COMMAND --help` says the same. Exit status: 0 done, 1 refused or failed, 2 usage. With `--json` a command
prints one JSON document (an error too) and nothing else on standard output. `--home DIR` works with every command.

"""
_METAVARS = {"str": "TEXT", "int": "N", "float": "NUMBER", "Path": "PATH"}


def page() -> str:
    """The page."""
    return INTRODUCTION + "\n".join(_sections(typer.main.get_command(app), "driftgate"))


def _sections(command: Any, path: str) -> list[str]:
    if hasattr(command, "commands"):
        children = [(name, child) for name, child in command.commands.items() if not child.hidden]
        return [section for name, child in children for section in _sections(child, f"{path} {name}")]
    shown = [parameter for parameter in command.params if not parameter.hidden]
    arguments = [parameter for parameter in shown if _is_argument(parameter)]
    options = [parameter for parameter in shown if not _is_argument(parameter)]
    words = [path, *(_usage(argument) for argument in arguments), *(["[OPTIONS]"] if options else [])]
    text = f"## {path}\n\n    {' '.join(words)}\n\n{(command.help or '').strip()}\n"
    if shown:
        rows = [
            [f"`{_names(parameter)}`", _default(parameter), parameter.help or ""] for parameter in arguments + options
        ]
        text += "\n" + table(["", "Default", "Meaning"], rows)
    examples = _examples(command.epilog)
    if examples:
        text += "\nExamples:\n\n" + "".join(f"    {example}\n" for example in examples)
    return [text]


def _is_argument(parameter: Any) -> bool:
    return not parameter.opts[0].startswith("-")


def _usage(argument: Any) -> str:
    return argument.metavar if argument.required else f"[{argument.metavar}]"


def _names(parameter: Any) -> str:
    if _is_argument(parameter):
        return str(parameter.metavar)
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    if parameter.is_flag or parameter.count:
        return names
    kind = getattr(parameter.type_descriptor.annotation, "__name__", "")
    return f"{names} {parameter.metavar or _METAVARS.get(kind, 'TEXT')}" + ("…" if parameter.multiple else "")


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if isinstance(parameter.show_default, str):
        return f"`{parameter.show_default}`"
    value = parameter.default
    return f"`{value}`" if isinstance(value, int | float | str) and value not in ("", False) else ""


def _examples(epilog: str | None) -> list[str]:
    """The commands of an epilog like `Examples:  driftgate a  ·  driftgate b`."""
    text = " ".join((epilog or "").split()).partition(":")[2]
    return [example.strip() for example in text.split("·") if example.strip().startswith("driftgate")]
