"""What all commands share: where the state is, who is asked, how answers and errors are printed.

Invariant: standard output carries the answer and nothing else (with --json exactly one JSON document); progress, hints
and errors go to standard error. Called by the gateway/cli_*.py modules.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from gateway.client_control import ControlClient, find_server, require_server
from gateway.settings_load import Loaded, find_config, load
from registry.errors import MalformedRequest, ServingError
from registry.home import Home, find_home

AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as one JSON document.")]
DATE_FORMAT_HELP = (
    "How texts write dates, where that can be read in two ways: day-first, month-first, year-first, or a format such "
    "as %d.%m.%y."
)
DateFormat = Annotated[str | None, typer.Option("--date-format", metavar="FORMAT", help=DATE_FORMAT_HELP)]
# What a reference file's columns are.
Columns = Annotated[
    str | None, typer.Option("--columns", metavar="A,B,…", help="Which reference columns are the input's, in order.")
]
Target = Annotated[str | None, typer.Option("--target", metavar="NAME", help="The reference column that is the label.")]
Prediction = Annotated[
    str | None, typer.Option("--prediction", metavar="NAME", help="The reference column that is a prediction.")
]
ByTime = Annotated[
    str | None, typer.Option("--by-time", metavar="NAME", help="The reference column with the rows' moments.")
]
Unordered = Annotated[bool, typer.Option("--unordered", help="The reference's rows are in no order of time.")]
ModelArgument = Annotated[str, typer.Argument(metavar="NAME", help="A model's name.")]

_SHOWN_VERDICT = {"pass": "green", "breach": "red", "unknown": "yellow"}


class UsageFault(MalformedRequest):
    """A word of the command line that can mean nothing: exit code 2, and with --json still a document."""


UsageFault.code = MalformedRequest.code  # for programs it is no code of its own


@dataclass(slots=True)
class Shell:
    """Where a command was typed."""

    home_flag: Path | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    cwd: Path = field(default_factory=Path.cwd)

    def home(self, *, create: bool = False, run_dir: Path | None = None) -> Home:
        """The state folder meant. Raises InvalidSetting, saying where it looked."""
        return find_home(self.home_flag, self.environ, self.cwd, create=create, run_dir=run_dir)

    def settings(self, home: Path, flags: Mapping[str, Any] | None = None, config: Path | None = None) -> Loaded:
        """The settings that apply here, and where each came from."""
        return load(find_config(config, home, self.cwd), self.environ, flags or {})

    def server(self, home: Home) -> ControlClient | None:
        """The server of that state folder, if one runs."""
        return find_server(home, self.environ)

    def require_server(self, home: Home | None = None) -> ControlClient:
        """The running server. Raises ServerNotFound."""
        return require_server(home or self.home(), self.environ)


class Screen(Console):
    """Shows what files, callers and servers said, and never does it: a column may be named `\\x1b[2J`, which clears a
    terminal, and a text may turn the direction of what follows it. Such characters are shown as signs of their own."""

    def render_str(self, text: str, **how: Any) -> Text:  # every string passes here, those in tables too
        return super().render_str(text.translate(_HARMLESS), **how)


_HARMLESS: dict[int, int | str] = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"},  # pictures of them, such as ␛
    0x7F: "␡",
    **dict.fromkeys((*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)), "�"),
}


def out() -> Console:
    """Standard output as it is now (tests exchange it). Off a terminal, lines are as long as they need to be."""
    return Screen(soft_wrap=False, highlight=False, width=None if sys.stdout.isatty() else 160)


def err() -> Console:
    """Standard error as it is now."""
    return Screen(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 160)


def emit(as_json: bool, document: Any, show: Callable[[Console], None]) -> None:
    """Print an answer: the document with --json, else what show prints."""
    if as_json:
        sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2, default=str) + "\n")
    else:
        show(out())


def report_error(error: ServingError, as_json: bool) -> None:
    """Print an error: for programs in the API's own shape on standard output, for people on standard error."""
    if as_json:
        body = {"error": error.message, "code": error.code, "details": error.details}
        sys.stdout.write(json.dumps(body, ensure_ascii=False, default=str) + "\n")
    first, *rest = error.message.splitlines() or [error.code]
    err().print(f"[bold red]error[/] [dim]({error.code})[/] {escape(first)}", soft_wrap=True)
    for line in rest:
        err().print(f"  {escape(line)}", soft_wrap=True)


def shortened(name: Any, most: int = 120) -> str:
    """A name that a file or a caller chose, in a few lines at most.

    >>> shortened("amount"), shortened("amount", 5)
    ('amount', 'amou…')
    """
    text = str(name)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def shown_time(moment: str | None) -> str:
    """An RFC 3339 time, shortened to what a reader needs.

    >>> shown_time("2026-01-31T12:00:00.000000Z")
    '2026-01-31 12:00:00Z'
    """
    if not moment:
        return "-"
    return moment[:19].replace("T", " ") + "Z"


def shown_verdict(verdict: str, cause: str | None) -> str:
    """A verdict in its colour, with its cause."""
    colour = _SHOWN_VERDICT.get(verdict, "white")
    return f"[{colour}]{verdict}[/]" + (f" [dim]({cause})[/]" if cause else "")


def shown_number(value: Any, digits: int = 3) -> str:
    """A number or a dash.

    >>> shown_number(None), shown_number(0.12345), shown_number(1234)
    ('-', '0.123', '1,234')
    """
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.{digits}g}"


def plain_table(title: str, *columns: str) -> Table:
    """A table as all commands print it; a column whose name starts with > is flushed right, and what a narrow terminal
    has no room for goes on in the next line."""
    table = Table(title=title, title_justify="left", header_style="bold", title_style="bold")
    for column in columns:
        is_number = column.startswith(">")
        table.add_column(column.removeprefix(">"), justify="right" if is_number else "left", overflow="fold")
    return table


def version_number(text: str) -> int:
    """A version as users type it: 3 or v3.

    >>> version_number("v3")
    3
    """
    digits = text.removeprefix("v")
    if not digits.isdecimal() or not 0 < int(digits) < 2**31:
        raise UsageFault(f"{text!r} is not a version: versions are numbered 1, 2, 3 …")
    return int(digits)


def read_pairs(pairs: list[str]) -> dict[str, str]:
    """`--tag K=V` options as a dict."""
    read: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageFault(f"--tag wants KEY=VALUE, got {pair!r}")
        read[key] = value
    return read
