"""Registering a version, put together: the registry's steps with what only the monitor knows how to do.

`registry.register` imports nobody, so it is handed functions: how reference rows are read, how a log schema is made,
how a profile is fitted. This is the one place that hands them over. Called by the command line when no server runs, and
by the controller's registration child process, never in the controller itself (it reads large files and fits).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from gateway.settings import Settings
from registry.errors import ArtifactRejected, InvalidSetting, MalformedRequest
from registry.home import Home
from registry.vocabulary import FeatureType, TensorSpec

if TYPE_CHECKING:
    from monitor.profile import ReferenceProfile
    from monitor.record import LogSchema
    from registry.catalog import VersionRow
    from registry.probe import ProbeLimits
    from registry.register import FitInput, FitResult, ReferenceRows, Registered

Progress = Callable[[str, float], None]  # what is being done, and how much is done, 0 to 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What `driftgate register` and `POST models/{m}/versions` ask for. Paths are absolute, or fsspec URLs."""

    model: str
    path: str
    reference: str | None = None
    golden: str | None = None
    columns: tuple[str, ...] | None = None
    target: str | None = None
    prediction: str | None = None
    by_time: str | None = None
    date_format: str | None = None
    unordered: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    new_version: bool = False
    actor: str = "local"

    def to_body(self) -> dict[str, Any]:
        """The body of `POST models/{m}/versions`; the model is in the path, the actor is the server's to say."""
        given = {
            "reference": self.reference,
            "golden": self.golden,
            "columns": None if self.columns is None else list(self.columns),
            "target": self.target,
            "prediction": self.prediction,
            "by_time": self.by_time,
            "date_format": self.date_format,
            "unordered": self.unordered or None,
            "options": dict(self.options) or None,
            "tags": dict(self.tags) or None,
            "new_version": self.new_version or None,
        }
        return {"path": self.path, **{name: value for name, value in given.items() if value is not None}}

    @classmethod
    def from_body(cls, model: str, body: Mapping[str, Any], actor: str) -> Request:
        """The request that a body asks for; unknown fields are ignored. Raises MalformedRequest."""
        path = text_of(body, "path")
        if not path:
            raise MalformedRequest("the body needs 'path', a path or URL that this server can read")
        options, tags = (given if (given := body.get(name)) is not None else {} for name in ("options", "tags"))
        if not isinstance(options, Mapping):
            raise MalformedRequest("'options' must be an object with the keys of an options file")
        if not isinstance(tags, Mapping) or not all(isinstance(value, str) for value in tags.values()):
            raise MalformedRequest("'tags' must be an object of texts")
        return cls(
            model=model,
            path=path,
            reference=text_of(body, "reference"),
            golden=text_of(body, "golden"),
            columns=columns_of(body),
            target=text_of(body, "target"),
            prediction=text_of(body, "prediction"),
            by_time=text_of(body, "by_time"),
            date_format=text_of(body, "date_format"),
            unordered=truth_of(body, "unordered"),
            options=dict(options),
            tags=dict(tags),
            new_version=truth_of(body, "new_version"),
            actor=actor,
        )


def run_registration(home: Home, settings: Settings, request: Request, progress: Progress) -> Registered:
    """Copy, probe, fit, store and number one version. Slow; `progress` is told what is being done, and how much.

    Raises ArtifactRejected with the reason, MalformedRequest for a bad name, InvalidSetting for bad options.
    """
    from monitor.dates import check_format
    from registry.artifacts import ArtifactStore
    from registry.catalog import Catalog
    from registry.manifest import ServingOptions
    from registry.register import Registration, register

    options = ServingOptions.from_dict(request.options)
    if request.date_format is not None:
        check_format(request.date_format)
    wanted = Registration(
        model=request.model,
        path=request.path,
        actor=request.actor,
        reference=request.reference,
        columns=request.columns,
        target=request.target,
        prediction=request.prediction,
        by_time=request.by_time,
        date_format=request.date_format,
        unordered=request.unordered,
        golden=request.golden,
        options=options,
        tags=request.tags,
        new_version=request.new_version,
    )
    artifacts = ArtifactStore(settings.registry.artifacts_url or home.artifacts, cache=home.artifacts)
    artifacts.sweep()  # what an interrupted registration left
    catalog = Catalog.open(settings.registry.database_url or home.database_url)
    try:
        limits = probe_limits(settings)
        return register(wanted, catalog, artifacts, limits, progress, fit=fit, read_reference=read_reference)
    finally:
        catalog.close()


def probe_limits(settings: Settings) -> ProbeLimits:
    """What a probe may take."""
    from registry.probe import ProbeLimits

    return ProbeLimits(
        seconds=settings.registry.probe_seconds,
        memory_mb=settings.registry.probe_memory_mb,
        file_mb=settings.registry.probe_file_mb,
        threads=settings.gateway.threads,
        max_rows=settings.gateway.batch.max_rows,
    )


def registered_document(registered: Registered) -> dict[str, Any]:
    """What was registered, as `driftgate register --json` and the control API show it."""
    return {
        **version_document(registered.row),
        "created": registered.created,
        "warnings": list(registered.warnings or registered.row.warnings),
    }


def version_document(row: VersionRow) -> dict[str, Any]:
    """One version, as `driftgate models NAME --json` shows it: the same as `GET models/{m}/versions`."""
    from registry.manifest import spec_to_dict

    manifest = row.manifest
    batching = manifest.batching
    return {
        "model": row.model,
        "version": row.version,
        "digest": row.digest,
        "created_at": row.created_at,
        "actor": row.actor,
        "tags": dict(row.tags),
        "warnings": list(row.warnings),
        "run": manifest.probe.run,
        "batch": batching.kind,
        "batching": {
            "kind": batching.kind,
            "reason": batching.reason,
            "inputs": [] if batching.axes is None else list(batching.axes.inputs),
            "outputs": [] if batching.axes is None else list(batching.axes.outputs),
            "rows_proven": batching.rows_proven,
            "tolerance": batching.tolerance,
            "largest_difference": batching.largest_difference,
        },
        "provider": manifest.options.provider,
        "has_reference": manifest.profile is not None,
        "inputs": [spec_to_dict(spec) for spec in manifest.inputs],
        "outputs": [spec_to_dict(spec) for spec in manifest.outputs],
    }


def fit(given: FitInput) -> FitResult:
    """The log schema of a version and, where a reference was given, its profile.

    Raises InvalidSetting where the option `features` says what cannot be, ArtifactRejected where the reference shows
    that it is not so.
    """
    from monitor.feature_types import impossible, settle, unknown_columns
    from monitor.record import make_log_schema
    from registry.register import FitResult

    schema = make_log_schema(given.inputs, given.outputs, given.by_rows, given.columns, given.examples or None)
    schema = settle(schema, given.features, given.feeds)
    has_rows = given.feeds is not None and given.outputs_seen is not None and given.rows_run is not None
    faults, unknown = impossible(schema, given.features), unknown_columns(schema, given.features, given.columns)
    if faults or (has_rows and unknown):
        faults = [*faults, *(unknown if has_rows else ())]
        raise InvalidSetting(f"serving options cannot be used: option 'features': {'; '.join(faults)}", faults=faults)
    if not has_rows:  # a table that comes later may name the columns
        return FitResult(None, schema.to_dict(), tuple(f"option 'features': {fault}" for fault in unknown))
    profile = fit_profile(schema, given)
    return FitResult(profile.to_bytes(), schema.to_dict(), tuple(profile.warnings()))


def fit_profile(schema: LogSchema, given: FitInput) -> ReferenceProfile:
    """The profile of reference rows that were run, gathered by the same code that the workers log with.

    Inputs are of all rows; outputs, and the requests of a model whose axis 0 is not rows, of those that were run.
    Raises ArtifactRejected where these rows contradict the types that their owner says.
    """
    from monitor import profile
    from monitor.feature_types import contradicted
    from monitor.reference_order import Order

    if given.feeds is None or given.outputs_seen is None or given.rows_run is None:
        raise ValueError("no reference rows were run")
    order = given.order if isinstance(given.order, Order) else Order()
    ran = order.take(given.rows_run)
    feeds, count = given.feeds, len(next(iter(given.feeds.values())))
    if not schema.by_rows:
        feeds, count, order = {name: array[given.rows_run] for name, array in feeds.items()}, len(given.rows_run), ran
    types = {column: cast("FeatureType", kind) for column, kind, _ in given.features if kind}
    inputs = _gathered(schema, "inputs", feeds, count)
    outputs = _gathered(schema, "outputs", given.outputs_seen, len(given.rows_run))
    faults = [*contradicted(schema.inputs, inputs, types), *contradicted(schema.outputs, outputs, types)]
    if faults:
        raise ArtifactRejected(f"the reference is not as option 'features' says: {'; '.join(faults)}")
    return profile.fit(
        schema,
        inputs,
        outputs,
        types=types,
        order=order,
        output_order=ran,
        together=True,
    )


def _gathered(
    schema: LogSchema, which: Literal["inputs", "outputs"], tensors: Mapping[str, NDArray[Any]], rows: int
) -> NDArray[Any]:
    """(rows, columns) of reference tensors; of a model whose axis 0 is not rows, each row was a request of its own."""
    from monitor.record import Gatherer

    columns, dtype = (schema.inputs, schema.input_dtype) if which == "inputs" else (schema.outputs, schema.output_dtype)
    gatherer = Gatherer(columns, schema.by_rows, dtype)
    if schema.by_rows:
        return gatherer(tensors, rows)
    parts = [gatherer({name: array[row] for name, array in tensors.items()}, 1) for row in range(rows)]
    return np.concatenate(parts) if parts else gatherer(tensors, 0)


def read_reference(
    path: Path,
    inputs: tuple[TensorSpec, ...],
    columns: tuple[str, ...] | None,
    target: str | None,
    prediction: str | None,
    progress: Callable[[float], None],
    *,
    by_time: str | None,
    date_format: str | None,
    unordered: bool,
    missing: Mapping[str, tuple[str, ...]],
) -> ReferenceRows:
    from monitor import reference

    return reference.read_reference(
        path,
        inputs,
        columns,
        target,
        prediction,
        lambda _what, share: progress(share),
        by_time=by_time,
        date_format=date_format,
        unordered=unordered,
        missing=missing,
    )


def columns_of(body: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The columns of a body: a list of names, or one text with commas. Raises MalformedRequest."""
    columns = body.get("columns")
    if isinstance(columns, str):
        columns = [part.strip() for part in columns.split(",") if part.strip()]
    if columns is None:
        return None
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        raise MalformedRequest("'columns' must be a list of names")
    return tuple(columns)


def truth_of(body: Mapping[str, Any], name: str) -> bool:
    """A switch of a body, off when absent. Raises MalformedRequest."""
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise MalformedRequest(f"{name!r} must be true or false")
    return value


def text_of(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is not None and (not isinstance(value, str) or len(value) > 4096):
        raise MalformedRequest(f"{name!r} must be a text")
    return value or None
