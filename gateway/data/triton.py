"""What Triton's clients and dashboards ask beside inference: metadata, configuration, statistics.

Every answer is a plain dict in the JSON form of Triton's protocol, which is also protobuf's JSON form of the gRPC
messages: the HTTP routes (`triton_http.py`) and the gRPC service say the same because they ask the same functions.
Nothing here is fast, and nothing here is asked by the hot path. The repository's part is `repository.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway.data.codecs import v2
from gateway.data.fleet import Fleet
from gateway.data.page_layout import STAGES
from gateway.data.page_reader import PageSnapshot, Totals, read_pages
from gateway.data.repository import Repository
from gateway.data.servable import Servable
from registry.errors import NotReady, VersionNotFound
from registry.vocabulary import TensorSpec

NAME = "driftgate"
# What a client may rely on, in Triton's words. model_repository: the index always, load and unload by a setting.
EXTENSIONS = (
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "statistics",
)
PLATFORM, BACKEND = "onnxruntime_onnx", "onnxruntime"
_DATA_TYPES = {"BYTES": "TYPE_STRING"}  # the others are TYPE_ and the datatype's name
# Roles whose requests a caller sent; a shadow's runs answer nobody.
_ANSWERING = ("champion", "canary", "direct", "fallback")


class Triton:
    """The questions about models that this worker answers; those that change something are `repository`'s."""

    def __init__(self, fleet: Fleet, run: Path, repository: Repository, workers: int, release: str) -> None:
        self.repository = repository
        self._fleet = fleet
        self._run = run
        self._workers = workers
        self._release = release

    def server_metadata(self) -> dict[str, Any]:
        """Who this is, and which extensions of the protocol it speaks."""
        return {"name": NAME, "version": self._release, "extensions": list(EXTENSIONS)}

    def model_metadata(self, model: str, version: int | None) -> dict[str, Any]:
        """A version's tensors, or the champion's. Raises ModelNotFound, VersionNotFound, NotReady."""
        servable = self._servable(model, version)
        versions = [version] if version is not None else sorted(self._fleet.entry(model).aspired)
        return v2.model_metadata(model, versions, servable.manifest.inputs, servable.manifest.outputs)

    def config(self, model: str, version: int | None) -> dict[str, Any]:
        """Triton's ModelConfig of a version, or of the champion. Raises ModelNotFound, VersionNotFound, NotReady."""
        servable = self._servable(model, version)
        return model_config(servable, sorted(self._fleet.entry(model).aspired), self._workers)

    async def statistics(self, model: str | None, version: int | None) -> dict[str, Any]:
        """Triton's `model_stats`, of the whole host: the pages of all worker slots, added up.

        model None: every version that is ready here; version None: every ready version of the model. Counters go on
        over restarts of workers. Raises ModelNotFound, VersionNotFound, NotReady.
        """
        fleet = self._fleet
        if model is not None:
            self._servable(model, version)
        asked = [
            (name, number)
            for name in (fleet.models() if model is None else [model])
            for number in sorted(fleet.entry(name).aspired)
            if version in (None, number) and fleet.servable(name, number) is not None
        ]
        pages = await asyncio.get_running_loop().run_in_executor(None, read_pages, self._run)
        return {"model_stats": [model_statistics(pages, *key) for key in asked]}

    def _servable(self, model: str, version: int | None) -> Servable:
        entry = self._fleet.entry(model)
        servable = self._fleet.servable(model, version)
        if servable is not None:
            return servable
        if version is not None and version not in entry.aspired:
            raise VersionNotFound(f"model {model!r} serves no version {version}", model=model)
        raise NotReady(f"model {model!r} is not ready here", model=model)


# ---- configuration


def model_config(servable: Servable, versions: Sequence[int], workers: int) -> dict[str, Any]:
    """Triton's ModelConfig of a loaded version.

    max_batch_size is above 0 only where every request is made of rows and the metadata shows the rows as a leading -1;
    then `dims` are those of one row, as Triton has it. Otherwise it is 0 and `dims` are the whole shape.
    """
    manifest = servable.manifest
    most_rows = servable.max_rows if has_batch_axis(servable) else 0
    skipped = 1 if most_rows else 0
    config: dict[str, Any] = {
        "name": servable.model,
        "platform": PLATFORM,
        "backend": BACKEND,
        "version_policy": {"specific": {"versions": list(versions)}},
        "max_batch_size": most_rows,
        "input": [
            {
                **_tensor(spec, skipped),
                "format": "FORMAT_NONE",
                "is_shape_tensor": False,
                "allow_ragged_batch": False,
                "optional": False,
            }
            for spec in manifest.inputs
        ],
        "output": [
            {**_tensor(spec, skipped), "label_filename": "", "is_shape_tensor": False} for spec in manifest.outputs
        ],
        "instance_group": [
            {
                "name": servable.model,
                "kind": "KIND_GPU" if manifest.options.provider == "cuda" else "KIND_CPU",
                "count": workers,
            }
        ],
        "default_model_filename": manifest.files[0].path,
        "parameters": {},
        "model_transaction_policy": {"decoupled": False},
    }
    if servable.joinable and has_batch_axis(servable):
        config["dynamic_batching"] = {"preferred_batch_size": [servable.max_rows], "max_queue_delay_microseconds": 0}
    return config


def has_batch_axis(servable: Servable) -> bool:
    """Whether Triton's clients may be told of a batch axis: rows on axis 0 everywhere, free in every input.

    An input of rank 1 has nothing left behind its rows, which Triton's clients take for a tensor without elements.
    """
    manifest = servable.manifest
    return (
        servable.by_rows
        and bool(manifest.inputs)
        and all(spec.shape is not None and len(spec.shape) > 1 and spec.shape[0] is None for spec in manifest.inputs)
        and all(spec.shape is None or len(spec.shape) > 0 for spec in manifest.outputs)
    )


def _tensor(spec: TensorSpec, skipped: int) -> dict[str, Any]:
    shape = [None] * (skipped + 1) if spec.shape is None else list(spec.shape)
    dims = [-1 if size is None else size for size in shape[skipped:]]
    return {"name": spec.name, "data_type": _DATA_TYPES.get(spec.datatype, f"TYPE_{spec.datatype}"), "dims": dims}


# ---- statistics


def model_statistics(pages: Iterable[PageSnapshot], model: str, version: int) -> dict[str, Any]:
    """One entry of `model_stats`. Durations are in nanoseconds; counts are of requests but where said otherwise.

    A success is an answer; a failure is a request that was decoded and then got none. What is refused before that, as
    malformed, is no statistic of a version. inference_count is in rows and execution_count in runs, as Triton counts
    them for a model that batches. Times of one batch size are not kept, so batch_stats is empty: `driftgate_batch_rows`
    tells the sizes of runs.
    """
    totals = [found for page in pages for role in _ANSWERING if (found := page.totals.get((model, version, role)))]
    answered = sum(count for total in totals for (_, code), count in total.codes.items() if code == "200")
    failed = sum(count for total in totals for (_, code), count in total.codes.items() if code != "200")
    spent = {stage: _ns(total.stage_sum_us[index] for total in totals) for index, stage in enumerate(STAGES)}
    success_ns = sum(spent.values())
    fail_ns = max(0, _ns(total.latency_sum_us for total in totals) - success_ns) if failed else 0
    return {
        "name": model,
        "version": str(version),
        "inference_count": sum(total.batch_rows_sum for total in totals),
        "execution_count": sum(_runs(total) for total in totals),
        "inference_stats": {
            "success": _duration(answered, success_ns),
            "fail": _duration(failed, fail_ns),
            "queue": _duration(answered, spent["queue"]),
            "compute_input": _duration(answered, spent["decode"]),
            "compute_infer": _duration(answered, spent["infer"]),
            "compute_output": _duration(answered, spent["encode"]),
            "cache_hit": _duration(0, 0),
            "cache_miss": _duration(0, 0),
        },
        "batch_stats": [],
    }


def _runs(total: Totals) -> int:
    return int(total.batch_rows_counts.sum())


def _ns(microseconds: Iterable[float]) -> int:
    return round(sum(microseconds) * 1000.0)


def _duration(count: int, ns: int) -> Mapping[str, int]:
    return {"count": count, "ns": ns}
