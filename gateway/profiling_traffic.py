"""`--from-traffic`: a version's stored tiles, or what its lanes still hold, handed to `monitor/profile_traffic.py`.

Invariant: reads only; whatever a running server counts and drains meanwhile is undisturbed. Called by `profiling.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from monitor.profile import ReferenceProfile
from monitor.profile_traffic import free_texts, profile_of_lanes, profile_of_tiles
from monitor.record import LogSchema
from monitor.store import MonitorStore
from monitor.windows import VersionBins
from registry.clock import SystemClock
from registry.errors import ArtifactRejected
from registry.home import Home

if TYPE_CHECKING:
    from registry.artifacts import ArtifactStore
    from registry.catalog import Catalog, VersionRow


def from_traffic(
    home: Home, catalog: Catalog, artifacts: ArtifactStore, row: VersionRow, seconds: int
) -> tuple[ReferenceProfile, tuple[str, ...]]:
    """The profile of the last so many seconds, and what its owner should know. Raises ArtifactRejected."""
    now_s = SystemClock().wall_ns() // 1_000_000_000
    known = catalog.profiles(row.model, row.version)
    if known:
        used = ReferenceProfile.from_bytes(artifacts.read(known[-1].sha256))
        bins = VersionBins(used.input_bins(), used.output_bins())
        tiles = MonitorStore(catalog).tiles(row.model, row.version, bins, now_s - seconds, now_s + 1)
        made, notes = profile_of_tiles(used, tiles)
        return made, (*notes, *free_texts(made))
    if row.manifest.log_schema is None:
        raise ArtifactRejected(f"version {row.version} of {row.model!r} has no log schema: give --reference")
    schema = LogSchema.from_dict(row.manifest.log_schema)
    profile = profile_of_lanes(home.run / "lanes", row.model, row.version, schema, now_s - seconds)
    span = (profile.until_s or 0.0) - (profile.since_s or 0.0)
    return profile, (
        f"made from the {profile.rows:,} rows of the last {span:,.0f} s that are still there: without a profile, older "
        "traffic was not counted in bins",
        *free_texts(profile),
    )
