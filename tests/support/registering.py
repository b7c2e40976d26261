"""Registering without the monitor: a reference is handed over as arrays, a profile is a digest of what was seen."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from registry.artifacts import ArtifactStore
from registry.catalog import Catalog
from registry.probe import ProbeLimits
from registry.register import FitInput, FitResult, ReferenceRows, Registered, Registration, register
from registry.vocabulary import TensorSpec


@dataclass(frozen=True)
class Rows:
    """Reference rows as `monitor/reference.py` gives them."""

    feeds: Mapping[str, NDArray[Any]]
    columns: tuple[str, ...] = ()
    order: object = None
    notes: tuple[str, ...] = ()


@dataclass
class Bench:
    """A catalog, a store, and what was asked of the monitor's side."""

    home: Path
    limits: ProbeLimits = field(default_factory=lambda: ProbeLimits(seconds=30, memory_mb=4096, max_rows=16))
    seen: list[FitInput] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self.catalog = Catalog.open(f"sqlite:///{self.home / 'registry.db'}")
        self.artifacts = ArtifactStore(self.home / "artifacts")

    def register(
        self, model: str, path: Path | str, rows: Mapping[str, NDArray[Any]] | None = None, **how: Any
    ) -> Registered:
        """Register, with these reference rows where given."""

        def fit(given: FitInput) -> FitResult:
            self.seen.append(given)
            if given.feeds is None or given.outputs_seen is None:
                return FitResult(None, {"by_rows": given.by_rows})
            digest = hashlib.sha256()
            for array in [*given.feeds.values(), *given.outputs_seen.values()]:
                digest.update(repr(array.tolist()).encode())
            return FitResult(digest.digest(), {"by_rows": given.by_rows})

        def read_reference(
            path: Path,
            inputs: tuple[TensorSpec, ...],
            columns: tuple[str, ...] | None,
            target: str | None,
            prediction: str | None,
            progress: Callable[[float], None],
            **_order: object,
        ) -> ReferenceRows:
            assert rows is not None
            progress(1.0)
            return Rows(rows, columns or ())

        request = Registration(
            model=model, path=str(path), actor="ann", reference=None if rows is None else "given.csv", **how
        )
        return register(
            request,
            self.catalog,
            self.artifacts,
            self.limits,
            lambda stage, share: self.told.append(stage),
            fit=fit,
            read_reference=read_reference,
        )
