"""Many models registered for real, several at a time, each as the champion of its name."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.registration import fit, read_reference
from registry.artifacts import ArtifactStore
from registry.catalog import Catalog
from registry.errors import ArtifactRejected
from registry.home import Home
from registry.manifest import Manifest, ServingOptions
from registry.probe import ProbeLimits
from registry.register import Registration, register


@dataclass(frozen=True, slots=True)
class Given:
    """What to register."""

    path: Path
    golden: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def register_all(home: Path, given: Mapping[str, Given]) -> dict[str, Manifest | str]:
    """Register each under its name → its manifest, or why it was refused."""
    state = Home(root=home, run=home / "run")
    state.create()
    Catalog.open(state.database_url).close()  # its tables

    def one(name: str) -> Manifest | str:
        catalog = Catalog.open(state.database_url)
        wanted = given[name]
        request = Registration(
            model=name,
            path=str(wanted.path),
            actor="local",
            golden=None if wanted.golden is None else str(wanted.golden),
            options=ServingOptions.from_dict(wanted.options),
            alias="champion",
        )
        limits = ProbeLimits(seconds=60, memory_mb=4096, max_rows=8)
        try:
            done = register(
                request,
                catalog,
                ArtifactStore(state.artifacts),
                limits,
                lambda _stage, _share: None,
                fit=fit,
                read_reference=read_reference,
            )
            return done.row.manifest
        except ArtifactRejected as error:
            return error.message
        finally:
            catalog.close()

    with ThreadPoolExecutor(3) as pool:
        return dict(zip(given, pool.map(one, given), strict=True))
