"""Reports of several servers as one table in Markdown: `python -m tests.conformance.table NAME=REPORT.json ...`.

Of each group and level: passed of those that apply. `–` where none applies. Below it, each case that some server fails.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.conformance.case import GROUPS

Report = list[dict[str, Any]]


def row(cells: Sequence[str]) -> str:
    """One line of the table."""
    return f"| {' | '.join(cells)} |"


def share(report: Report, level: str, group: str | None = None) -> str:
    """`passed/applicable` of a level, of one group or of all."""
    of = [c["verdict"] for c in report if c["level"] == level and group in (None, c["group"])]
    applicable = len(of) - of.count("not applicable")
    return f"{of.count('passed')}/{applicable}" if applicable else "–"


def table(reports: dict[str, Report]) -> list[str]:
    """The table by group, and its totals."""
    heads = [f"{name} {level}" for name in reports for level in ("MUST", "SHOULD")]
    lines = [row(["group", *heads]), row(["---"] * (len(heads) + 1))]
    for group in (*GROUPS, None):
        cells = [share(report, level, group) for report in reports.values() for level in ("MUST", "SHOULD")]
        lines.append(row([group or "**all**", *cells]))
    return lines


def failures(reports: dict[str, Report]) -> list[str]:
    """One line a case that some server fails, with who fails it."""
    by_name: dict[tuple[str, str, str], list[str]] = {}
    for name, report in reports.items():
        for case in report:
            if case["verdict"] == "failed":
                by_name.setdefault((case["group"], case["name"], case["level"]), []).append(name)
    lines = [row(["group", "case", "level", "failed by"]), row(["---"] * 4)]
    for (group, case_name, level), names in sorted(by_name.items(), key=lambda item: GROUPS.index(item[0][0])):
        lines.append(row([group, case_name.replace("_", " "), level, ", ".join(names)]))
    return lines


def main(words: Sequence[str]) -> None:
    """See above."""
    reports: dict[str, Report] = {}
    for word in words:
        name, _, path = word.partition("=")
        reports[name] = json.loads(Path(path).read_text())["cases"]
    if not reports:
        sys.exit(__doc__)
    print("\n".join([*table(reports), "", *failures(reports)]))


if __name__ == "__main__":
    main(sys.argv[1:])
