"""What a version is, for ever: its files, how it is served, what probing it found.

A version's digest is the SHA-256 of what was *given* (file digests, serving options, profile, golden set), so the same
gift under the same name is the same version. What was *found* (specs, probe result, log schema, a sample of reference
rows) is stored beside it and never part of the digest: probing again on another host must not make another version.
Invariant: a manifest is never changed after it is stored. Read by registry, workers and controller; standard library
only.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from registry.batching import Axes, Batching, Kind
from registry.errors import InvalidSetting, StateDamaged
from registry.formats import check_stamp, stamped
from registry.options import ServingOptions as ServingOptions
from registry.vocabulary import TensorSpec

# The options that formats 1 and 2 have.
_FIRST_OPTIONS = frozenset(("max_batch_rows", "provider", "nan", "threads", "outputs", "output_limits"))
_SHA256 = re.compile(r"[0-9a-f]{64}")


def canonical(document: Any) -> bytes:
    """The one JSON text of a document: sorted keys, no spaces, ASCII.

    >>> canonical({"b": 1, "a": [None, "é"]})
    b'{"a":[null,"\\\\u00e9"],"b":1}'
    """
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


@dataclass(frozen=True, slots=True)
class FileDigest:
    """One file of a version, as a name relative to the version's folder."""

    path: str
    sha256: str
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """As stored."""
        return {"path": self.path, "sha256": self.sha256, "bytes": self.bytes}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> FileDigest:
        """The reverse of to_dict. Raises KeyError or TypeError."""
        return cls(document["path"], document["sha256"], document["bytes"])


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What running the version in a child process found."""

    run: Literal["proven", "unproven"]  # unproven: it was never seen to run; `reason` says why
    reason: str
    batch: Kind  # whether requests may be joined; see Batching
    batch_reason: str
    by_rows: bool  # axis 0 of every input and output is rows; False: a request is one row
    rows_tried: int  # given rows that were run alone and joined
    onnxruntime: str
    joined_rows: int = 0  # every size of a joined run up to this one was tried
    opset: Mapping[str, int] = field(default_factory=dict)  # domain ("" is ONNX's own) → version
    axes: Axes | None = None  # where rows lie; None: on axis 0 if by_rows, else nowhere
    largest_difference: float | None = None  # of a number that came out otherwise when joined; None: none did
    shared: tuple[str, ...] = ()  # see Batching
    never_empty: tuple[tuple[str, int], ...] = ()  # inputs and axes of which a size of 0 ended the process
    loops: bool = False  # how long a run takes may depend on the values in a request, without a bound

    def to_dict(self) -> dict[str, Any]:
        """As stored; what an older release does not know only where it says something."""
        document = {item.name: getattr(self, item.name) for item in fields(self)}
        document["opset"] = dict(self.opset)
        document["axes"] = None if self.axes is None else self.axes.to_dict()
        document["shared"] = list(self.shared)
        document["never_empty"] = [list(place) for place in self.never_empty]
        new = ("axes", "largest_difference", "shared", "never_empty", "loops")
        return {name: value for name, value in document.items() if value or name not in new}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> ProbeResult:
        """The reverse of to_dict; unknown fields are ignored. Raises KeyError, TypeError or ValueError."""
        known = {item.name for item in fields(cls)}
        values = {name: value for name, value in document.items() if name in known}
        if values.get("axes") is not None:
            values["axes"] = Axes.from_dict(values["axes"])
        values["shared"] = tuple(str(digest) for digest in values.get("shared", ()))
        values["never_empty"] = tuple((str(name), int(axis)) for name, axis in values.get("never_empty", ()))
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One immutable version. `files[0]` is the model, the others its external data."""

    files: tuple[FileDigest, ...]
    options: ServingOptions
    profile: str | None  # sha256 of the reference profile that it was registered with
    golden: str | None  # sha256 of the golden set, as stored
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]  # the served outputs, in the order in which they are answered
    probe: ProbeResult
    log_schema: dict[str, Any] | None = None  # how its rows are logged; only the monitor reads it
    reference_rows: str | None = None  # sha256 of a sample of the reference's rows (`registry/sample.py`), if kept
    guarded: FileDigest | None = None  # what is loaded in the model's place, beside its data: see `graph.py`

    @property
    def loaded(self) -> FileDigest:
        """The model file that is loaded."""
        return self.guarded or self.files[0]

    @property
    def laid_out(self) -> tuple[FileDigest, ...]:
        """All files that must lie beside each other for that."""
        return self.files if self.guarded is None else (*self.files, self.guarded)

    def identity(self) -> dict[str, Any]:
        """What the digest is taken of. The model file's own name is not in it: external data is found by name."""
        model, *data = self.files
        return {
            "model": model.sha256,
            "data": sorted([item.path, item.sha256] for item in data),
            "options": self.options.to_dict(),
            "profile": self.profile,
            "golden": self.golden,
        }

    @property
    def digest(self) -> str:
        """The version's digest, 64 hex digits."""
        return hashlib.sha256(canonical(self.identity())).hexdigest()

    @property
    def batching(self) -> Batching:
        """Whether and how requests may be joined: what was found, as far as the options allow it."""
        probe, tolerance = self.probe, self.options.batch_tolerance
        axes = probe.axes
        if axes is None and probe.by_rows:
            axes = Axes((0,) * len(self.inputs), (0,) * len(self.outputs))
        kind = probe.batch
        if probe.run != "proven" or axes is None or probe.joined_rows < 2:
            kind = "never"
        if kind == "within_tolerance" and (tolerance is None or not (probe.largest_difference or 0.0) <= tolerance):
            kind = "never"
        return Batching(
            kind=kind,
            reason=probe.batch_reason,
            axes=None if kind == "never" else axes,
            rows_proven=probe.joined_rows,
            tolerance=tolerance,
            largest_difference=0.0 if kind == "exact" else probe.largest_difference,
            shared=probe.shared,
        )

    def to_json(self) -> str:
        """The stored document."""
        return json.dumps(
            stamped(
                "manifest",
                {
                    "digest": self.digest,
                    "files": [item.to_dict() for item in self.files],
                    "options": self.options.to_dict(),
                    "profile": self.profile,
                    "golden": self.golden,
                    "inputs": [spec_to_dict(spec) for spec in self.inputs],
                    "outputs": [spec_to_dict(spec) for spec in self.outputs],
                    "probe": self.probe.to_dict(),
                    "log_schema": self.log_schema,
                    "reference_rows": self.reference_rows,
                    **({} if self.guarded is None else {"guarded": self.guarded.to_dict()}),
                },
                self._format(),
            )
        )

    def _format(self) -> int:
        """The lowest format that says all of this: an older release must refuse what it would misread."""
        has_other_axes = self.probe.axes is not None and not self.probe.axes.are_rows
        if has_other_axes or self.options.to_dict().keys() - _FIRST_OPTIONS or self._logs_lengths():
            return 3
        return 2 if any(_is_new(spec) for spec in (*self.inputs, *self.outputs)) else 1

    def _logs_lengths(self) -> bool:
        """Whether an input is logged as the length of its text, which format 1 did not have."""
        return any(column[2] == "length" for column in (self.log_schema or {}).get("inputs", ()))

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Read a stored manifest. Raises StateDamaged when it is not one, FormatTooNew for a newer release's."""
        try:
            document = json.loads(text)
        except ValueError as error:
            raise StateDamaged(f"a manifest is not JSON: {error}") from None
        if not isinstance(document, dict):
            raise StateDamaged("a manifest is not a JSON object")
        check_stamp("manifest", document)
        try:
            manifest = cls(
                files=tuple(FileDigest.from_dict(item) for item in document["files"]),
                options=ServingOptions.from_dict(document["options"]),
                profile=document["profile"],
                golden=document["golden"],
                inputs=tuple(spec_from_dict(spec) for spec in document["inputs"]),
                outputs=tuple(spec_from_dict(spec) for spec in document["outputs"]),
                probe=ProbeResult.from_dict(document["probe"]),
                log_schema=document.get("log_schema"),
                reference_rows=document.get("reference_rows"),
                guarded=FileDigest.from_dict(document["guarded"]) if document.get("guarded") else None,
            )
            digest = manifest.digest
        except (KeyError, TypeError, ValueError, AttributeError, InvalidSetting) as error:
            raise StateDamaged(f"a manifest cannot be read: {error!r}") from None
        if digest != document.get("digest"):
            raise StateDamaged(f"a manifest says digest {document.get('digest')}, its content gives {digest}")
        axes = manifest.probe.axes
        if axes and (len(axes.inputs), len(axes.outputs)) != (len(manifest.inputs), len(manifest.outputs)):
            raise StateDamaged("a manifest has axes for other inputs or outputs than it names")
        if not all(_SHA256.fullmatch(item.sha256) for item in manifest.laid_out):
            raise StateDamaged("a manifest names a file by something that is no SHA-256")
        if manifest.reference_rows is not None and not _SHA256.fullmatch(str(manifest.reference_rows)):
            raise StateDamaged("a manifest names its reference rows by something that is no SHA-256")
        return manifest


def _is_new(spec: TensorSpec) -> bool:
    """Whether a tensor is one that format 1 did not have: an older release must refuse it, not serve it wrongly."""
    return spec.classes is not None or spec.datatype == "BF16"


def spec_to_dict(spec: TensorSpec) -> dict[str, Any]:
    """A tensor spec as JSON; None stands for a free dimension or an unknown rank. Classes only where there are some."""
    document: dict[str, Any] = {
        "name": spec.name,
        "datatype": spec.datatype,
        "shape": None if spec.shape is None else list(spec.shape),
    }
    if spec.classes is not None:
        document["classes"] = list(spec.classes)
    return document


def spec_from_dict(document: Mapping[str, Any]) -> TensorSpec:
    """The reverse of spec_to_dict."""
    shape, classes = document["shape"], document.get("classes")
    return TensorSpec(
        document["name"],
        document["datatype"],
        None if shape is None else tuple(shape),
        None if classes is None else tuple(str(name) for name in classes),
    )
