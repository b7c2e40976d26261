"""Versioned stored formats. Every stored document starts with its kind and version; a newer one is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from registry.errors import FormatTooNew, StateDamaged

# The newest version of each kind that this release reads, and the one that it writes where nothing else is said.
VERSIONS = {
    "manifest": 3,  # 1 for all that release 0.1 can serve: `manifest.py`
    "profile": 3,  # 1, of release 0.1, knew no types, seasons or order; 2 nothing of columns together
    "tile": 1,
    "plan": 1,
    "event": 1,
    "routes": 1,
    "lane": 2,  # 1 held whole rows one after another
    "page": 1,
    "rollout": 1,
    "wishes": 1,
    "curve": 1,
    "detector": 1,
    "alarms": 1,
    "stream": 1,
    "evaluation": 1,
    "together": 1,
    "audit": 1,
    "scores": 1,
}


def stamped(kind: str, body: Mapping[str, Any], version: int | None = None) -> dict[str, Any]:
    """A document of this kind, its stamp first; a version lower than the newest lets older releases read it.

    >>> stamped("plan", {"key": "request"})
    {'format': 'driftgate.plan', 'v': 1, 'key': 'request'}
    """
    return {"format": f"driftgate.{kind}", "v": version or VERSIONS[kind], **body}


def check_stamp(kind: str, document: Mapping[str, Any]) -> None:
    """Raise StateDamaged for another kind of document, FormatTooNew for a newer version of this one."""
    if document.get("format") != f"driftgate.{kind}":
        raise StateDamaged(f"expected a driftgate.{kind} document, got {document.get('format')!r}")
    version = document.get("v")
    if not isinstance(version, int) or version < 1:
        raise StateDamaged(f"a driftgate.{kind} document has version {version!r}")
    if version > VERSIONS[kind]:
        raise FormatTooNew(
            f"driftgate.{kind} v{version} was written by a newer release; this one reads up to v{VERSIONS[kind]}"
        )
