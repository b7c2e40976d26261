"""Registering a version, from top to bottom: copy, probe, fit, store, name.

Invariant: nothing is stored before everything was found good, and the catalog's row comes last; a registration that
dies half way leaves files at most. What belongs to the monitor (reading a reference, fitting the profile, the log
schema) is handed in, because the registry knows nobody. Called by the command line and the controller's child process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from registry.artifacts import ArtifactStore, fetch, hash_file, is_url
from registry.catalog import ANY, Catalog, VersionRow
from registry.constants import constant_of
from registry.errors import ArtifactRejected, MalformedRequest
from registry.manifest import FileDigest, Manifest, ServingOptions
from registry.probe import Finding, ProbeLimits, Progress, probe
from registry.sample import sample_bytes
from registry.source import Source, find_source, name_beside, stage_data, stage_golden, stage_model
from registry.vocabulary import CANARY_ALIAS, TensorSpec, is_alias_name, is_model_name

Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What `driftgate register` was asked for."""

    model: str
    path: str  # a file, a folder, or an fsspec URL
    actor: str
    reference: str | None = None  # CSV or Parquet
    columns: tuple[str, ...] | None = None
    target: str | None = None
    prediction: str | None = None
    by_time: str | None = None  # the reference's column of moments
    date_format: str | None = None  # how its texts write them
    unordered: bool = False  # the reference's rows are in no order of time
    golden: str | None = None
    options: ServingOptions = field(default_factory=ServingOptions)
    tags: Mapping[str, str] = field(default_factory=dict)
    alias: str | None = None
    new_version: bool = False


class ReferenceRows(Protocol):
    """What reading a reference gives: arrays by input name, rows first."""

    @property
    def feeds(self) -> Mapping[str, NDArray[Any]]: ...
    @property
    def columns(self) -> tuple[str, ...]: ...
    @property
    def order(self) -> object: ...
    @property
    def notes(self) -> tuple[str, ...]: ...


class ReadReference(Protocol):
    """`monitor/reference.py`: read the file, as far as it belongs to these inputs."""

    def __call__(
        self,
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
    ) -> ReferenceRows: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FitInput:
    """What the log schema and the profile are made of."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    by_rows: bool
    examples: Tensors  # outputs of some run; empty when the model was never seen to run
    columns: tuple[str, ...] | None = None  # names of a single 2-D input's columns, or of the inputs
    feeds: Tensors | None = None  # all reference rows; None: no reference was given
    outputs_seen: Tensors | None = None  # outputs, rows first, of the rows in `rows_run`; see Finding.reference_outputs
    rows_run: NDArray[np.int64] | None = None  # which reference rows were run, rising; all, where time allowed
    order: object = None  # what reading found of the rows' order
    features: tuple[tuple[str, str, tuple[str, ...]], ...] = ()  # as in ServingOptions


@dataclass(frozen=True, slots=True)
class FitResult:
    """profile_bytes is None without a reference."""

    profile_bytes: bytes | None
    log_schema: dict[str, Any]
    warnings: tuple[str, ...] = ()


Fit = Callable[[FitInput], FitResult | None]


@dataclass(frozen=True, slots=True)
class Registered:
    """The version, whether it is new, and what its owner should know."""

    row: VersionRow
    created: bool
    warnings: tuple[str, ...]


def register(
    request: Registration,
    catalog: Catalog,
    artifacts: ArtifactStore,
    limits: ProbeLimits,
    progress: Progress,
    *,
    fit: Fit,
    read_reference: ReadReference,
) -> Registered:
    """Register a version. Slow; `progress` is told (what is being done, share of it from 0 to 1).

    Raises ArtifactRejected with the reason, MalformedRequest for a bad name, or what moving the alias raises.
    """
    _check_names(request)
    with artifacts.staging() as scratch:
        progress("copying the model", 0.0)
        (scratch / "fetched").mkdir()
        (scratch / "model").mkdir()
        source = find_source(request.path, scratch / "fetched")
        staged = _Staged(source, scratch, [stage_model(source, scratch / "model", lambda x: progress("copying", x))])
        golden = None if request.golden is None else stage_golden(request.golden, scratch, scratch / "fetched")
        found, fitted, feeds, notes = _examine(request, staged, golden, limits, progress, fit, read_reference)
        warnings = (*found.warnings, *notes, *(fitted.warnings if fitted else ()))
        if request.options.cache_optimized and len(staged.files) > 1:
            raise ArtifactRejected("cache_optimized is for models in one file; this one has external data")
        _check_constant(request.options, found)
        progress("storing", 0.0)
        for item in staged.files:
            artifacts.adopt(scratch / "model" / item.path, item.sha256)
        guarded = _store_guarded(artifacts, found.guarded)
        profile = fitted.profile_bytes if fitted else None
        sample = None if feeds is None else sample_bytes(feeds)
        manifest = Manifest(
            files=tuple(staged.files),
            options=request.options,
            profile=None if profile is None else artifacts.put_bytes(profile),
            golden=_store_golden(artifacts, found.golden),
            inputs=found.inputs,
            outputs=found.outputs,
            probe=found.probe,
            log_schema=fitted.log_schema if fitted else None,
            reference_rows=None if sample is None else artifacts.put_bytes(sample),
            guarded=guarded,
        )
    with catalog.transaction():
        row, created = catalog.add_version(
            request.model,
            manifest,
            actor=request.actor,
            tags=request.tags,
            warnings=warnings,
            new_version=request.new_version,
        )
        if request.alias is not None:
            catalog.set_alias(
                request.model, request.alias, row.version, expected=ANY, actor=request.actor, reason="registration"
            )
    progress("done", 1.0)
    return Registered(row, created, warnings)


def _check_names(request: Registration) -> None:
    """Bad names are told before minutes are spent."""
    if not is_model_name(request.model):
        raise MalformedRequest(f"{request.model!r} cannot name a model: letters, digits, '.', '_' and '-', up to 100")
    if request.alias is not None and (not is_alias_name(request.alias) or request.alias == CANARY_ALIAS):
        raise MalformedRequest(f"{request.alias!r} cannot be given as an alias here")
    ordered = (request.by_time, request.date_format, request.unordered)
    described = (request.columns, request.target, request.prediction, *ordered)
    if request.reference is None and any(described):
        raise MalformedRequest(
            "columns, target, prediction, by_time, date_format and unordered describe a reference, and none was given"
        )
    check_order(*ordered)


def check_order(by_time: str | None, date_format: str | None, unordered: bool) -> None:
    """Raises MalformedRequest for rows that are said to be in an order of time and in none, or dates of nothing."""
    if date_format is not None and by_time is None:
        raise MalformedRequest("date_format says how the column of by_time writes dates: name that, too")
    if by_time is not None and unordered:
        raise MalformedRequest("by_time and unordered contradict each other")


def missing_codes(options: ServingOptions) -> dict[str, tuple[str, ...]]:
    """Column → texts that stand for a missing number in its tables."""
    return {column: codes for column, _, codes in options.features if codes}


def _check_constant(options: ServingOptions, found: Finding) -> None:
    """Raises ArtifactRejected for a constant answer that is not one of this version's outputs."""
    if options.fallback_constant:
        try:
            constant_of(options.fallback_constant, found.outputs, by_rows=found.probe.by_rows)
        except ValueError as error:
            raise ArtifactRejected(f"fallback_constant does not fit the model: {error}") from None


@dataclass(slots=True)
class _Staged:
    """The copies that are probed, and later stored."""

    source: Source
    scratch: Path
    files: list[FileDigest]  # the model first
    passes: int = 0

    def look(self, **how: Any) -> Finding:
        """One pass of the probe; external data is laid beside the model when the probe asks for it."""
        for _ in range(2):
            self.passes += 1
            work = self.scratch / f"work{self.passes}"
            work.mkdir()
            folder = self.scratch / "model"
            guarded = folder / name_beside(item.path for item in self.files)
            found = probe(
                folder / self.files[0].path, work, data=[item.path for item in self.files[1:]], guarded=guarded, **how
            )
            if isinstance(found, Finding):
                return found
            model, data = stage_data(self.source, folder, found, self.files[0])
            self.files = [model, *data]
        raise ArtifactRejected("the model's external data cannot be laid beside it")


def _examine(
    request: Registration,
    staged: _Staged,
    golden: Path | None,
    limits: ProbeLimits,
    progress: Progress,
    fit: Fit,
    read_reference: ReadReference,
) -> tuple[Finding, FitResult | None, Tensors | None, tuple[str, ...]]:
    """Probe the staged copies, with the reference's rows where there is one, and fit → also those rows, and notes."""
    how: dict[str, Any] = {"options": request.options, "limits": limits, "progress": progress}
    if request.reference is None:
        found = staged.look(golden=golden, **how)
        return found, fit(_fit_input(request, found)), None, ()
    first = staged.look(later=True, **how)
    progress("reading the reference", 0.0)
    path = Path(request.reference).expanduser()
    if is_url(request.reference):
        path = fetch(request.reference, staged.scratch / "fetched")
    rows = read_reference(
        path,
        first.inputs,
        request.columns,
        request.target,
        request.prediction,
        lambda share: progress("reading the reference", share),
        by_time=request.by_time,
        date_format=request.date_format,
        unordered=request.unordered,
        missing=missing_codes(request.options),
    )
    found = staged.look(golden=golden, feeds=rows.feeds, **how)
    progress("fitting the profile", 0.0)
    given = replace(
        _fit_input(request, found),
        columns=rows.columns,
        feeds=rows.feeds,
        outputs_seen=found.reference_outputs,
        rows_run=found.reference_rows,
        order=rows.order,
    )
    return found, fit(given), rows.feeds, rows.notes


def _fit_input(request: Registration, found: Finding) -> FitInput:
    return FitInput(
        inputs=found.inputs,
        outputs=found.outputs,
        by_rows=found.probe.by_rows,
        examples=found.examples,
        features=request.options.features,
    )


def _store_guarded(artifacts: ArtifactStore, guarded: Path | None) -> FileDigest | None:
    if guarded is None:
        return None
    file = FileDigest(guarded.name, hash_file(guarded), guarded.stat().st_size)
    artifacts.adopt(guarded, file.sha256)
    return file


def _store_golden(artifacts: ArtifactStore, golden: Path | None) -> str | None:
    if golden is None:
        return None
    digest = hash_file(golden)
    artifacts.adopt(golden, digest)
    return digest
