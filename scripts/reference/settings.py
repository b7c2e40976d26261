"""docs/reference/settings.md: every setting, from the dataclasses and the comment behind each field."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, get_type_hints

from gateway.settings import Settings
from gateway.settings_load import CONFIG_NAME, PREFIX, RANGES
from scripts.reference.comments import comments_of
from scripts.reference.table import table

INTRODUCTION = f"""# Settings

Defaults < `{CONFIG_NAME}` < environment < flags. The file is the one that `--config` names, else the one in the state
folder or where the command was typed. In it, `gateway.batch.max_rows` is the key `max_rows` under `[gateway.batch]`; in
the environment it is `{PREFIX}GATEWAY__BATCH__MAX_ROWS`. Everything is checked at the start, and all faults are told
together. `driftgate settings` prints every value and where it came from.

"""


def page() -> str:
    """The page."""
    return INTRODUCTION + "\n".join(_sections(Settings, ""))


def _sections(tree: type[Any], prefix: str) -> list[str]:
    hints = get_type_hints(tree)
    comments = _told(tree)
    plain = [field for field in fields(tree) if not is_dataclass(hints[field.name])]
    sections = []
    if plain:
        rows = [
            [
                f"`{prefix}{field.name}`",
                _type(hints[field.name]),
                f"`{_default(field)}`",
                _range(prefix + field.name),
                comments[field.name],
            ]
            for field in plain
        ]
        title = f"## {prefix.removesuffix('.')}\n\n{(tree.__doc__ or '').strip()}\n\n"
        sections.append(title + table(["Setting", "Type", "Default", "Allowed", "Meaning"], rows))
    for field in fields(tree):
        if is_dataclass(hints[field.name]):
            sections += _sections(hints[field.name], f"{prefix}{field.name}.")
    return sections


def _told(tree: type[Any]) -> dict[str, str]:
    """Field → the comment on its line. A field without one is a fault of the code, told by name."""
    found = comments_of(tree)
    hints = get_type_hints(tree)
    silent = [field.name for field in fields(tree) if field.name not in found and not is_dataclass(hints[field.name])]
    if silent:
        raise SystemExit(f"{tree.__module__}.{tree.__name__}: no comment behind {', '.join(silent)}")
    return found


def _type(hint: Any) -> str:
    return {int: "whole number", float: "number", str: "text", bool: "true or false"}.get(hint, "list of texts")


def _default(field: Field[Any]) -> str:
    value = field.default
    if value is MISSING and field.default_factory is not MISSING:
        value = field.default_factory()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return str(list(value))
    return str(value) or '""'


def _range(name: str) -> str:
    if name not in RANGES:
        return ""
    low, high = RANGES[name]
    return f"{low:,g} to {high:,.0f}" if high > 1 else f"{low:g} to {high:g}"
