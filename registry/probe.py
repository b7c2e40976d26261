"""Probing a model in a process of its own, with limits: the parent's side.

Invariant: nothing of a model is parsed or run in this process. The child is a fresh interpreter (never a fork of one
that may hold a session), bounded in memory, processor time, file size and wall time, and killed with everything that
it started when it is late. Called by `registry/register.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry import probe_empty
from registry.errors import ArtifactRejected, StateDamaged
from registry.manifest import ProbeResult, ServingOptions, spec_from_dict
from registry.tensors import load_tensors, save_tensors
from registry.vocabulary import TensorSpec

Progress = Callable[[str, float], None]
_KEPT_ENVIRONMENT = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "VIRTUAL_ENV",
)
_LINE_BYTES = 1 << 16
_UNBOUNDED_MB = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeLimits:
    """What probing one model may cost."""

    seconds: float = 120.0  # wall time of one pass
    memory_mb: int = 8192  # address space
    file_mb: int = 4096  # largest file written
    threads: int = 1  # onnxruntime threads, unless the options say otherwise: as the workers will use
    max_rows: int = 64  # rows in a joined run up to which joining is tried


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one pass found."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    probe: ProbeResult
    warnings: tuple[str, ...]
    examples: Mapping[str, NDArray[Any]]  # outputs of the last run
    # Rows first, of `reference_rows`; an output of varying shape is an object array that holds an array for each row.
    reference_outputs: Mapping[str, NDArray[Any]] | None
    reference_rows: NDArray[np.int64] | None  # which reference rows were run, rising
    golden: Path | None  # the golden set in the stored form, inside the work folder
    guarded: Path | None = None  # what is to be loaded in the model's place; see `graph.py`


def probe(
    model: Path,
    work: Path,
    *,
    options: ServingOptions,
    limits: ProbeLimits,
    data: Sequence[str] = (),
    golden: Path | None = None,
    feeds: Mapping[str, NDArray[Any]] | None = None,
    later: bool = False,
    guarded: Path | None = None,
    progress: Progress | None = None,
) -> Finding | list[str]:
    """One pass over a model → what was found, or the locations of external data that still has to be laid beside it.

    `data` names what lies there already; `work` is an empty folder; `feeds` are reference rows, rows first; `later`
    says that reference rows will follow, so nothing has to be made up. `guarded` is where a guarded graph is written,
    beside the model, and loaded from if there is one; None: the model is as it will be loaded. Raises ArtifactRejected
    with the reason.
    """
    job = {
        "model": str(model),
        "work": str(work),
        "data": list(data),
        "golden": None if golden is None else str(golden),
        "feeds": None,
        "later": later,
        "guarded": None if guarded is None else str(guarded),
        "empty": None,
        "threads": options.threads or limits.threads,
        "options": options.to_dict(),
        "outputs": None if options.outputs is None else list(options.outputs),
        "nan": options.nan,
        "max_rows": options.max_batch_rows or limits.max_rows,
        "parent": os.getpid(),
        "limits": {
            "seconds": limits.seconds,
            "cpu_s": limits.seconds * max(1, options.threads or limits.threads),
            # A GPU's driver maps all of its memory, and the host's, into the process: that cannot be bounded so.
            "memory_mb": limits.memory_mb if options.provider == "cpu" else _UNBOUNDED_MB,
            "file_mb": limits.file_mb,
        },
    }
    if feeds is not None:
        save_tensors(work / "feeds.tensors", feeds)
        job["feeds"] = str(work / "feeds.tensors")
    result = _run(job, work, limits, progress)
    if "refused" in result:
        refused = result["refused"]
        raise ArtifactRejected(_told(refused["message"], limits), **refused.get("details", {}))
    if "external" in result:
        return [str(name) for name in result["external"]]
    found = _finding(result, work)
    never_empty = _never_empty(result.get("empty", ()), job, work, limits)
    return replace(
        found,
        probe=replace(found.probe, never_empty=never_empty),
        guarded=guarded if guarded is not None and guarded.exists() else None,
    )


def _never_empty(
    cases: Sequence[Any], job: Mapping[str, Any], work: Path, limits: ProbeLimits
) -> tuple[probe_empty.Place, ...]:
    """The inputs and axes of which a size of 0 ended the child; each time another one goes on behind it."""
    found: dict[probe_empty.Place, None] = {}
    if cases and not (work / "empty.log").exists():  # it ended before, beside made-up rows
        _run({**job, "empty": {"cases": cases, "first": 0}}, work, limits, None)
    while (ended := probe_empty.ended_at(work / "empty.log")) is not None and ended < len(cases):
        found.update(dict.fromkeys((str(name), int(axis)) for name, axis in cases[ended]))
        (work / "empty.log").unlink()
        if ended + 1 < len(cases):
            _run({**job, "empty": {"cases": cases, "first": ended + 1}}, work, limits, None)
    return tuple(found)


def _finding(result: Mapping[str, Any], work: Path) -> Finding:
    def tensors(name: str) -> dict[str, NDArray[Any]] | None:
        return load_tensors(work / name) if (work / name).exists() else None

    try:
        chosen = tensors("rows.tensors")
        return Finding(
            inputs=tuple(spec_from_dict(spec) for spec in result["inputs"]),
            outputs=tuple(spec_from_dict(spec) for spec in result["outputs"]),
            probe=ProbeResult.from_dict(result["probe"]),
            warnings=tuple(result["warnings"]),
            examples=tensors("examples.tensors") or {},
            reference_outputs=_with_ragged(tensors("outputs.tensors"), tensors("ragged.tensors")),
            reference_rows=None if chosen is None else chosen["rows"],
            golden=work / "golden.tensors" if (work / "golden.tensors").exists() else None,
        )
    except (KeyError, TypeError, ValueError, StateDamaged) as error:
        raise ArtifactRejected(f"probing left no readable result: {error}") from None


def _with_ragged(
    outputs: dict[str, NDArray[Any]] | None, ragged: dict[str, NDArray[Any]] | None
) -> dict[str, NDArray[Any]] | None:
    by_name: dict[str, list[NDArray[Any]]] = {}
    for key, array in (ragged or {}).items():
        by_name.setdefault(key.partition(":")[2], []).append(array)
    for name, arrays in by_name.items():
        whole = np.empty(len(arrays), dtype=object)
        for row, array in enumerate(arrays):
            whole[row] = array
        outputs = {**(outputs or {}), name: whole}
    return outputs


def _run(job: Mapping[str, Any], work: Path, limits: ProbeLimits, progress: Progress | None) -> dict[str, Any]:
    """Start the child, watch it, and read its result. Raises ArtifactRejected when it left none: crashed, or late."""
    environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
    environment["OMP_NUM_THREADS"] = environment["OPENBLAS_NUM_THREADS"] = "1"
    stage = "starting"
    (work / "result.json").unlink(missing_ok=True)
    with (work / "job.json").open("w+") as stdin, (work / "stderr").open("wb") as stderr:
        json.dump(job, stdin)
        stdin.seek(0)
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "driftgate", "probe"],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment,
            cwd=work,
            start_new_session=True,
        )
        try:
            in_time, stage = _watch(child, limits.seconds, progress)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # nothing of it is left, whatever happened
            code = child.wait()
            if child.stdout:
                child.stdout.close()
    if not in_time and not (work / "result.json").exists():
        raise ArtifactRejected(f"probing took longer than {limits.seconds:g} s, while {stage}", stage=stage)
    try:
        result = json.loads((work / "result.json").read_bytes())
    except (OSError, ValueError):
        raise ArtifactRejected(_crash(code, stage, limits, work / "stderr"), stage=stage, exit=code) from None
    return result if isinstance(result, dict) else {}


def _watch(child: subprocess.Popen[bytes], seconds: float, progress: Progress | None) -> tuple[bool, str]:
    """Read progress until the child has ended → (ended in time, the last stage)."""
    stage, pending = "starting", b""
    assert child.stdout is not None
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return False, stage
            if not selector.select(left):
                continue
            chunk = os.read(child.stdout.fileno(), _LINE_BYTES)
            if not chunk:
                break
            *lines, pending = (pending + chunk).split(b"\n")
            pending = pending[-_LINE_BYTES:]
            for line in lines:
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    document = json.loads(line)
                    stage = str(document["stage"])[:80]
                    if progress is not None:
                        progress(stage, float(document["share"]))
    try:
        child.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return False, stage
    return True, stage


def _crash(code: int, stage: str, limits: ProbeLimits, stderr: Path) -> str:
    if -code == signal.SIGXCPU:
        return f"probing used more than its processor time, while {stage}"
    if -code == signal.SIGXFSZ:
        return f"probing wrote a file above {limits.file_mb} MB, while {stage}"
    how = f"exit code {code}"
    if code < 0:
        how = signal.Signals(-code).name
    text = stderr.read_bytes()[-4000:].decode("utf-8", "replace").strip()
    last = text.splitlines()[-1][:300] if text else ""
    if "MemoryError" in last or "bad_alloc" in text:
        return f"probing needs more than {limits.memory_mb} MB of memory, while {stage}"
    return f"the model crashed the probing process ({how}), while {stage}" + (f": {last}" if last else "")


def _told(message: str, limits: ProbeLimits) -> str:
    lower = message.lower()
    if "bad_alloc" in lower or "bad allocation" in lower or "failed to allocate memory" in lower:
        return f"probing needs more than {limits.memory_mb} MB of memory: {message}"
    return message
