"""`driftgate profile`: another reference profile for a version that exists, from a table or from its live traffic.

Why apart from registration: the version stays what it is, digest and all; the profile gets the version's next number
and is in use from then on, and every measurement names the one it used. Invariant: a profile is of the columns that the
version's rows are logged in, whatever the table is like, and nothing is stored before it was fitted. Called by the
command line when no server runs, and by the controller's child process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.registration import (
    Progress,
    columns_of,
    fit_profile,
    probe_limits,
    read_reference,
    text_of,
    truth_of,
)
from gateway.settings import Settings
from registry.clock import rfc3339
from registry.errors import ArtifactRejected, MalformedRequest
from registry.home import Home

if TYPE_CHECKING:
    from monitor.profile import ReferenceProfile
    from monitor.record import LogSchema
    from registry.artifacts import ArtifactStore
    from registry.catalog import Catalog, ProfileRow, VersionRow

_FIRST_S, _LAST_S = 1e8, 253_402_300_800.0  # the years 1973 and 10000


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileRequest:
    """What `driftgate profile` and `POST models/{m}/versions/{v}/profiles` ask for: one of reference and from_traffic.

    reference is an absolute path or fsspec URL; from_traffic how far back, in seconds.
    """

    model: str
    version: int
    reference: str | None = None
    from_traffic_s: int | None = None
    columns: tuple[str, ...] | None = None
    target: str | None = None
    prediction: str | None = None
    by_time: str | None = None
    date_format: str | None = None
    unordered: bool = False
    actor: str = "local"

    def to_body(self) -> dict[str, Any]:
        """The body of the POST; model and version are in the path, the actor is the server's to say."""
        given = {
            "reference": self.reference,
            "from_traffic": None if self.from_traffic_s is None else f"{self.from_traffic_s}s",
            "columns": None if self.columns is None else list(self.columns),
            "target": self.target,
            "prediction": self.prediction,
            "by_time": self.by_time,
            "date_format": self.date_format,
            "unordered": self.unordered or None,
        }
        return {name: value for name, value in given.items() if value is not None}

    @classmethod
    def from_body(cls, model: str, version: int, body: Mapping[str, Any], actor: str) -> ProfileRequest:
        """The request that a body asks for; unknown fields are ignored. Raises MalformedRequest."""
        from gateway.control.drifting import seconds_of

        window = text_of(body, "from_traffic")
        return cls(
            model=model,
            version=version,
            reference=text_of(body, "reference"),
            from_traffic_s=None if window is None else seconds_of(window),
            columns=columns_of(body),
            target=text_of(body, "target"),
            prediction=text_of(body, "prediction"),
            by_time=text_of(body, "by_time"),
            date_format=text_of(body, "date_format"),
            unordered=truth_of(body, "unordered"),
            actor=actor,
        ).checked()

    def checked(self) -> ProfileRequest:
        """This. Raises MalformedRequest where its parts cannot be meant together."""
        from monitor.dates import check_format
        from registry.register import check_order

        if (self.reference is None) == (self.from_traffic_s is None):
            raise MalformedRequest("a profile is made either from a 'reference' or 'from_traffic': give one of them")
        ordered = (self.by_time, self.date_format, self.unordered)
        described = (self.columns, self.target, self.prediction, *ordered)
        if self.reference is None and any(described):
            raise MalformedRequest(
                "columns, target, prediction, by_time, date_format and unordered describe a reference"
            )
        check_order(*ordered)
        if self.date_format is not None:
            check_format(self.date_format)
        return self


def run_profile(home: Home, settings: Settings, request: ProfileRequest, progress: Progress) -> dict[str, Any]:
    """Make, store and number one profile → as the API shows it. Slow; `progress` is told what, and how much is done.

    Raises ArtifactRejected with the reason, ModelNotFound, VersionNotFound, MalformedRequest.
    """
    from registry.artifacts import ArtifactStore
    from registry.catalog import Catalog

    artifacts = ArtifactStore(settings.registry.artifacts_url or home.artifacts, cache=home.artifacts)
    catalog = Catalog.open(settings.registry.database_url or home.database_url)
    try:
        row = catalog.version(request.model, request.version)
        notes: tuple[str, ...] = ()
        if request.from_traffic_s is None:
            profile, notes = _from_reference(row, artifacts, settings, request, progress)
            source = Path(request.reference or "").name
        else:
            from gateway.profiling_traffic import from_traffic

            profile, notes = from_traffic(home, catalog, artifacts, row, request.from_traffic_s)
            source = f"the traffic of {_duration(request.from_traffic_s)}"
        progress("storing", 0.0)
        found, created = _store(catalog, artifacts, request, profile, source)
        progress("done", 1.0)
        return {
            **profile_document(found, profile),
            "model": request.model,
            "version": request.version,
            "created": created,
            "warnings": [*notes, *profile.warnings()],
        }
    finally:
        catalog.close()


def profile_document(row: ProfileRow, profile: ReferenceProfile) -> dict[str, Any]:
    """A profile as the API shows it: what it knows of each column, without bins and counts."""
    return {
        "number": row.number,
        "profile": row.sha256,
        "source": row.source,
        "created_at": row.time,
        "actor": row.actor,
        "rows": profile.rows,
        "ordered": profile.ordered,
        "since": _moment(profile.since_s),
        "until": _moment(profile.until_s),
        "multivariate": profile.together is not None,
        "columns": [
            {
                "name": column.name,
                "kind": kind,
                "type": column.type,
                "bins": column.bins.bins,
                "rows": column.rows,
                "missing": column.missing,
                "design_effect": column.deff,
                "block_rows": column.block_rows,
                "levelled": column.levelled,
                "season_h": [round(wave.period_s / 3600.0, 3) for wave in column.season.waves] if column.season else [],
            }
            for kind, columns in (("input", profile.inputs), ("output", profile.outputs))
            for column in columns
        ],
    }


def _moment(seconds: float | None) -> str | None:
    """As RFC 3339; None where it is not known, or is no date: a reference's moments may be any numbers."""
    return None if seconds is None or not _FIRST_S <= seconds < _LAST_S else rfc3339(round(seconds * 1e9))


def _duration(seconds: int) -> str:
    """In its largest whole unit.

    >>> _duration(86_400), _duration(90)
    ('24 h', '90 s')
    """
    unit, size = next((unit, size) for unit, size in (("h", 3600), ("min", 60), ("s", 1)) if seconds % size == 0)
    return f"{seconds // size} {unit}"


def _store(
    catalog: Catalog, artifacts: ArtifactStore, request: ProfileRequest, profile: ReferenceProfile, source: str
) -> tuple[ProfileRow, bool]:
    """The profile's row, and whether it is new: the one in use is not numbered again."""
    digest = artifacts.put_bytes(profile.to_bytes())
    with catalog.transaction():
        known = catalog.profiles(request.model, request.version)
        if known and known[-1].sha256 == digest:
            return known[-1], False
        row = catalog.add_profile(request.model, request.version, digest, source=source, actor=request.actor)
        data = {"number": row.number, "profile": digest, "source": source, "rows": profile.rows}
        catalog.append_event(
            "profile.added", model=request.model, version=request.version, actor=request.actor, data=data
        )
        return row, True


def _from_reference(
    row: VersionRow, artifacts: ArtifactStore, settings: Settings, request: ProfileRequest, progress: Progress
) -> tuple[ReferenceProfile, tuple[str, ...]]:
    """Read the table, run the version on its rows, and fit."""
    from monitor.feature_types import texts_as_categories, unknown_columns
    from registry.artifacts import fetch, is_url
    from registry.probe import Finding, probe
    from registry.register import FitInput, missing_codes

    manifest = row.manifest
    with artifacts.staging() as scratch:
        progress("reading the reference", 0.0)
        reference = request.reference or ""
        path = fetch(reference, scratch) if is_url(reference) else Path(reference).expanduser()
        rows = read_reference(
            path,
            manifest.inputs,
            request.columns,
            request.target,
            request.prediction,
            lambda share: progress("reading the reference", share),
            by_time=request.by_time,
            date_format=request.date_format,
            unordered=request.unordered,
            missing=missing_codes(manifest.options),
        )
        work = scratch / "work"
        work.mkdir()
        found = probe(
            artifacts.materialise(manifest),
            work,
            options=manifest.options,
            limits=probe_limits(settings),
            data=[item.path for item in manifest.files[1:]],
            feeds=rows.feeds,
            progress=progress,
        )
        if not isinstance(found, Finding):
            raise ArtifactRejected(f"version {row.version} of {row.model!r} lacks its external data", missing=found)
        progress("fitting the profile", 0.0)
        given = FitInput(
            inputs=found.inputs,
            outputs=found.outputs,
            by_rows=found.probe.by_rows,
            examples=found.examples,
            columns=rows.columns,
            feeds=rows.feeds,
            outputs_seen=found.reference_outputs,
            rows_run=found.reference_rows,
            order=rows.order,
            features=manifest.options.features,
        )
        schema, said = log_schema(row, rows.columns), manifest.options.features
        ignored = (f"option 'features': {fault}" for fault in unknown_columns(schema, said, rows.columns))
        notes = (*rows.notes, *ignored, *texts_as_categories(schema, said, rows.feeds))
        return fit_profile(schema, given), notes


def log_schema(row: VersionRow, columns: tuple[str, ...] | None) -> LogSchema:
    """How the version's rows are logged; the numbers of a single input carry a table's names, where it has as many."""
    from monitor.record import LogSchema, make_log_schema

    manifest = row.manifest
    if manifest.log_schema is None:
        return make_log_schema(manifest.inputs, manifest.outputs, manifest.probe.by_rows, columns)
    schema = LogSchema.from_dict(manifest.log_schema)
    plain = len(manifest.inputs) == 1 and all(column.kind != "summary" for column in schema.inputs)
    if columns is None or not plain or len(columns) != len(schema.inputs):
        return schema
    named = zip(schema.inputs, columns, strict=True)
    return replace(schema, inputs=tuple(replace(column, name=name) for column, name in named))
