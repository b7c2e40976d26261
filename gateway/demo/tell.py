"""How the demo speaks: lines that stay, one line that moves, and its tables. Decides nothing. Called by the story."""

from __future__ import annotations

import calendar
import time
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from gateway.cli_common import plain_table, shown_number
from gateway.demo.models import PairOnHoldout

_PLAIN_EVERY_S = 5.0  # off a terminal, the moving line is printed this often

MODELS = {
    1: "linear, ignores the departure delay",
    2: "boosting, uses the departure delay in minutes",
    3: "boosting, trained with that delay in seconds",
}
MONTHS = ("", *calendar.month_name[1:])


class Teller:
    """Prints with the seconds since it began."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._began_s = time.monotonic()
        self._status: Status | None = None
        self._printed_s = 0.0

    @property
    def elapsed_s(self) -> float:
        """Since the demo began."""
        return time.monotonic() - self._began_s

    def title(self, text: str) -> None:
        """A new act."""
        self.still()
        self.console.print()
        self.console.rule(f"[bold]{escape(text)}[/]", align="left", style="cyan")

    def say(self, text: str, style: str = "") -> None:
        """A line that stays."""
        self.console.print(f"[dim]{self.elapsed_s:5.0f} s[/]  {text}", style=style or None, soft_wrap=True)

    def command(self, words: Iterable[str]) -> None:
        """A command as a user would type it."""
        self.say(f"[bold]$ {escape(' '.join(words))}[/]")

    def quote(self, text: str) -> None:
        """What a command printed."""
        for line in text.splitlines():
            if not line.strip():
                continue
            self.console.print(f"         {escape(line)}", style="dim", soft_wrap=True)

    def move(self, text: str) -> None:
        """The line that moves: redrawn on a terminal, printed every few seconds elsewhere."""
        if self.console.is_terminal:
            shown = f"[dim]{self.elapsed_s:5.0f} s[/]  {text}"
            if self._status is None:
                self._status = self.console.status(shown)
                self._status.start()
            else:
                self._status.update(shown)
        elif time.monotonic() - self._printed_s >= _PLAIN_EVERY_S:
            self._printed_s = time.monotonic()
            self.say(text)

    def still(self) -> None:
        """Take the moving line away."""
        if self._status is not None:
            self._status.stop()
            self._status = None


def holdout_table(errors: Mapping[int, float], pairs: Iterable[PairOnHoldout]) -> Table:
    """Each model's error, and each pair's distance, on flights that none has seen."""
    table = plain_table(
        "On April to June, which no model has seen",
        ">version",
        "what it is",
        ">mean error",
        "against",
        ">disagree",
        ">flip late/not",
        ">closer to the truth",
    )
    by_candidate = {pair.candidate: pair for pair in pairs}
    for number, error in errors.items():
        pair = by_candidate.get(number)
        table.add_row(
            str(number),
            MODELS[number],
            f"{error:.1f} min",
            *(
                ("-", "-", "-", "-")
                if pair is None
                else (
                    f"version {pair.champion}",
                    f"{pair.disagreement:.0%}",
                    f"{pair.flips:.0%}",
                    f"{pair.closer:.0%}",
                )
            ),
        )
    return table


def drift_table(title: str, items: Iterable[Mapping[str, Any]]) -> Table:
    """Features that moved, worst first."""
    table = plain_table(title, "feature", "kind", "statistic", ">value", ">limit", ">rows", "window")
    for item in items:
        table.add_row(
            escape(str(item["feature"])),
            str(item["kind"]),
            str(item["statistic"]),
            shown_number(item["value"]),
            shown_number(item["threshold"]),
            shown_number(item["rows"]),
            str(item["window"]),
        )
    return table


def closing_table(rows: Iterable[tuple[str, str, bool | None]]) -> Table:
    """What happened; the last column says whether it is what a demo must show (None: only told)."""
    table = plain_table("", "", "", "")
    table.show_header, table.title = False, None
    marks = {True: "[green]✔[/]", False: "[red]✘[/]", None: ""}
    for name, told, good in rows:
        table.add_row(name, told, marks[good])
    return table
