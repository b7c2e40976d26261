"""docs/reference/plan.md: the rollout plan that an empty file means, every key written out, from monitor/plan.py."""

from __future__ import annotations

from typing import Any

from monitor.plan import ROLLBACK_SHARES, Guardrail, Plan, Step
from scripts.reference.comments import comments_of
from scripts.reference.table import table

INTRODUCTION = """# Rollout plan

`driftgate rollout start NAME VERSION --plan FILE` takes TOML. Every key has a default, and an empty file is a good
plan: it means exactly this.

"""

AFTER = """
A plan that names a `[[step]]` or a `[[guardrail]]` has those and no others. A guardrail whose source never existed in a
rollout (no label yet, no profile, no shadow step) takes no part; one that had data and lost it holds. The
probability of a false rollback is spent over the guardrails in these shares; a guardrail with share 0 holds
and never rolls back:

"""


def page() -> str:
    """The page."""
    document = {key: value for key, value in Plan().to_dict().items() if key not in ("format", "v")}
    comments = {**comments_of(Plan), **comments_of(Step), **comments_of(Guardrail)}
    tables = {key: value for key, value in document.items() if isinstance(value, list)}
    lines = [_line(key, value, comments) for key, value in document.items() if key not in tables]
    for name, entries in tables.items():
        for entry in entries:
            lines += ["", f"[[{name}]]"]
            lines += [_line(key, value, comments) for key, value in entry.items() if value is not None]
    text = INTRODUCTION + "```toml\n" + "\n".join(lines) + "\n```\n" + AFTER
    return text + table(["Guardrail", "Share"], [[f"`{name}`", str(share)] for name, share in ROLLBACK_SHARES.items()])


def _line(key: str, value: Any, comments: dict[str, str]) -> str:
    comment = comments.pop(key, "")  # said where the key first stands
    shown = str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)
    return f"{key} = {shown}".ljust(40) + f"# {comment}" if comment else f"{key} = {shown}"
