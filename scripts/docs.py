"""Writes docs/reference/ from the code, so that it cannot be wrong: `make docs`. With --check it writes nothing and
fails, showing the difference, when a page is not what the code says: `make docs-check`.

Each page is made by one module of scripts/reference/, from the code alone: no time, no machine, no order of a set.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable
from pathlib import Path

from scripts.reference import cli, errors, metrics, plan, routes, settings

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "reference"
MARK = "<!-- Made by `make docs` from the code. Do not edit: change the code's own words instead. -->\n\n"

PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings.page,
    "metrics.md": metrics.page,
    "errors.md": errors.page,
    "routes.md": routes.page,
    "cli.md": cli.page,
    "plan.md": plan.page,
}


def differences() -> list[str]:
    """Lines of a unified diff from what is on disk to what the code says; empty when they agree."""
    found: list[str] = []
    for name, make in PAGES.items():
        path = FOLDER / name
        have = path.read_text(encoding="utf-8") if path.is_file() else ""
        found += difflib.unified_diff(
            have.splitlines(), (MARK + make()).splitlines(), f"docs/reference/{name}", "the code", lineterm=""
        )
    strangers = {path.name for path in FOLDER.glob("*.md")} - set(PAGES)
    return found + [f"docs/reference/{name}: no page of this name is made" for name in sorted(strangers)]


def write() -> None:
    """Write every page."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, make in PAGES.items():
        (FOLDER / name).write_text(MARK + make(), encoding="utf-8")


def main() -> int:
    """The program; its exit status."""
    parser = argparse.ArgumentParser(description="Write docs/reference/ from the code.")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail when a page is not what the code says"
    )
    if not parser.parse_args().check:
        write()
        return 0
    different = differences()
    print("\n".join(different) or "docs/reference/ is what the code says")
    if different:
        print("\nrun `make docs` and commit what it writes", file=sys.stderr)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
