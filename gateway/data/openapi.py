"""`/openapi.json` of the data port: the words of `operations.py`, and for each ready version a request that it accepts.

A version that is ready here has paths of its own in the document (`/v2/models/churn/infer` beside
`/v2/models/{model}/infer`), so that a page sends its example as it stands. Invariant: the document is bounded, however
many models there are, and is made anew only when the route table's epoch or the set of ready versions changed; a
version's example is made once. It is made in a thread, one at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from gateway.data.examples import example, v1_body, v2_body
from gateway.data.fleet import Fleet
from gateway.data.operations import OPERATIONS, TAGS, Operation, components, describe
from gateway.data.servable import Servable, Tensor
from registry.errors import ModelNotFound

MOST_MODELS = 20
MOST_VERSIONS = 3  # of one model, its champion first
MOST_RUN_S = 2.0  # for trying examples, all together, each time the document is made

_INTRODUCTION = """\
Predictions, health and metadata. Every error has one shape, with a stable `code`. gRPC has a port of its own.

A model that is ready has a section of its own, with a request that it accepts.\
"""
_MODEL = "/v2/models/{model}"


@dataclass(frozen=True, slots=True)
class Shown:
    """A ready version and its example."""

    servable: Servable
    is_champion: bool
    feeds: Sequence[Tensor] | None


def document(release: str, shown: Sequence[Shown], left_out: int) -> dict[str, Any]:
    """The OpenAPI 3.1 description of the data port. left_out: models that have no section of their own."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        described = describe(operation)
        if "ModelName" in operation.headers:
            _add_choice(described, shown)
        paths.setdefault(operation.path, {})[operation.method.lower()] = described
    tags: dict[str, str] = {}
    for version in shown:
        name = f"model {version.servable.model}"
        if version.is_champion:
            tags[name] = _signature(version.servable)
        tags.setdefault(name, "")
        for operation in OPERATIONS:
            concrete = _of_version(operation, version)
            if concrete is not None and concrete.path not in paths:  # "stats" is a name, and a route of its own
                described = describe(concrete)
                _add_example(described, operation, version)
                paths.setdefault(concrete.path, {})[concrete.method.lower()] = described
    introduction = _INTRODUCTION
    if left_out:
        introduction += f" {left_out} more models are served that have none: this page shows {MOST_MODELS}."
    return {
        "openapi": "3.1.0",
        "info": {"title": "Driftgate data port", "version": release, "description": introduction},
        "tags": [{"name": name, "description": text} for name, text in {**tags, **TAGS}.items()],
        "paths": paths,
        "components": components(),
    }


def _of_version(operation: Operation, shown: Shown) -> Operation | None:
    """The operation on one model's own path; None where the page gains nothing by it."""
    names_version = "{version}" in operation.path
    if "{model}" not in operation.path or "{label}" in operation.path or names_version == shown.is_champion:
        return None
    if operation.method != "POST" and operation.path != _MODEL:
        return None
    if operation.method == "POST" and not operation.is_inference:
        return None
    servable = shown.servable
    path = operation.path.replace("{model}", servable.model).replace("{version}", str(servable.version))
    return replace(operation, path=path, tag=f"model {servable.model}")


def _add_example(described: dict[str, Any], operation: Operation, shown: Shown) -> None:
    if not operation.is_inference:
        return
    if shown.feeds is None:
        described["description"] = "No example: one would be too long to show, or none that was tried is accepted."
        return
    slots = shown.servable.slots
    body = (
        v2_body(slots, shown.feeds)
        if operation.body == "V2Request"
        else v1_body(slots, shown.feeds, by_rows=shown.servable.by_rows)
    )
    described["requestBody"]["content"]["application/json"]["example"] = body


def _add_choice(described: dict[str, Any], shown: Sequence[Shown]) -> None:
    """Examples for a path that names no model."""
    examples = {
        version.servable.model: {
            "summary": f"for {version.servable.model}",
            "value": v1_body(version.servable.slots, version.feeds, by_rows=version.servable.by_rows),
        }
        for version in shown
        if version.is_champion and version.feeds is not None
    }
    if examples:
        described["requestBody"]["content"]["application/json"]["examples"] = examples


def _signature(servable: Servable) -> str:
    manifest = servable.manifest
    ends = []
    for title, specs in (("Takes", manifest.inputs), ("Gives", manifest.outputs)):
        told = ", ".join(f"{spec.name} {spec.datatype} {_shape(spec.shape)}" for spec in specs[:8])
        ends.append(f"{title} {told}{', …' if len(specs) > 8 else ''}.")
    return _plain(" ".join(ends))


def _shape(shape: Sequence[int | None] | None) -> str:
    return "of any shape" if shape is None else "[" + ", ".join("?" if n is None else str(n) for n in shape) + "]"


def _plain(text: str) -> str:
    """Names come from models: no markup and no link is made of them."""
    return "".join(f"\\{sign}" if sign in "\\`*_{}[]<>()#+!|&~" else sign for sign in text)


Key = tuple[str, int]


class _Ready(NamedTuple):
    servable: Servable
    is_champion: bool
    sample_path: str | None

    @property
    def key(self) -> Key:
        return self.servable.model, self.servable.version


class DataDocument:
    """The document of one worker, kept while it is true."""

    def __init__(self, fleet: Fleet, release: str) -> None:
        self._fleet = fleet
        self._release = release
        self._examples: dict[Key, Sequence[Tensor] | None] = {}
        self._made_of: object = None
        self._text = b""
        self._making = asyncio.Lock()

    async def __call__(self) -> bytes:
        """The JSON text now."""
        async with self._making:
            names = self._fleet.models()
            wanted = [version for name in names[:MOST_MODELS] for version in self._ready(name)]
            state = (self._fleet.epoch, tuple(version.key for version in wanted))
            if state != self._made_of:
                self._text = await self._make(wanted, max(0, len(names) - MOST_MODELS))
                self._made_of = state
            return self._text

    def _ready(self, model: str) -> list[_Ready]:
        """The versions of a model that can be leased here, its champion first."""
        try:
            entry = self._fleet.entry(model)
        except ModelNotFound:  # it left a moment ago
            return []
        ready = []
        for version in sorted(entry.aspired, key=lambda version: (version != entry.champion, -version)):
            servable = self._fleet.servable(model, version)
            if servable is not None:
                ready.append(_Ready(servable, version == entry.champion, entry.aspired[version].sample_path))
        return ready[:MOST_VERSIONS]

    async def _make(self, wanted: Sequence[_Ready], left_out: int) -> bytes:
        keys = {version.key for version in wanted}
        self._examples = {key: feeds for key, feeds in self._examples.items() if key in keys}
        for version in wanted:
            version.servable.leases += 1
        try:
            return await asyncio.to_thread(self._write, wanted, left_out)
        finally:
            for version in wanted:
                version.servable.leases -= 1

    def _write(self, wanted: Sequence[_Ready], left_out: int) -> bytes:
        until_s = time.monotonic() + MOST_RUN_S
        shown = []
        for version in wanted:
            if version.key not in self._examples:
                path = None if version.sample_path is None else Path(version.sample_path)
                self._examples[version.key] = example(version.servable, path, lambda: time.monotonic() < until_s)
            shown.append(Shown(version.servable, version.is_champion, self._examples[version.key]))
        return orjson.dumps(document(self._release, shown, left_out))
