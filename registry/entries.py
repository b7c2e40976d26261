"""What the catalog answers with: one small frozen row for each kind of thing. Nothing here does anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from registry.clock import rfc3339
from registry.manifest import Manifest


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model."""

    model: str
    created_ns: int
    versions: int  # how many; the newest has the highest number
    latest: int | None

    @property
    def created_at(self) -> str:
        """RFC 3339, UTC."""
        return rfc3339(self.created_ns)


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One version with what may change about it: its tags."""

    model: str
    version: int
    digest: str
    manifest: Manifest
    created_ns: int
    actor: str
    tags: Mapping[str, str]
    warnings: tuple[str, ...]

    @property
    def created_at(self) -> str:
        """RFC 3339, UTC."""
        return rfc3339(self.created_ns)


@dataclass(frozen=True, slots=True)
class AliasRow:
    """Where an alias points, since when, and how often it has moved."""

    alias: str
    version: int
    since_ns: int
    revision: int

    @property
    def since(self) -> str:
        """RFC 3339, UTC."""
        return rfc3339(self.since_ns)


@dataclass(frozen=True, slots=True)
class AliasChange:
    """One move of an alias. A version of None: it was removed."""

    alias: str
    version: int | None
    previous: int | None
    revision: int
    time_ns: int
    actor: str
    reason: str

    @property
    def time(self) -> str:
        """RFC 3339, UTC."""
        return rfc3339(self.time_ns)


@dataclass(frozen=True, slots=True)
class TagChange:
    """One change of a tag. A value of None: it was removed."""

    version: int
    key: str
    value: str | None
    time_ns: int
    actor: str


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """A reference profile bound to a version. Number 1 came with its registration, if it had a reference."""

    number: int
    sha256: str
    source: str
    time_ns: int
    actor: str

    @property
    def time(self) -> str:
        """RFC 3339, UTC."""
        return rfc3339(self.time_ns)


@dataclass(frozen=True, slots=True)
class EventRow:
    """Something that happened, told once. Ids rise and are never reused."""

    id: int
    time_ns: int
    type: str
    model: str | None
    version: int | None
    actor: str
    data: Mapping[str, Any]

    @property
    def time(self) -> str:
        """RFC 3339, UTC."""
        return rfc3339(self.time_ns)
