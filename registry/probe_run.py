"""What the probing process does with a model: look, load, run, join. Imported in that process only.

One job is one pass: `run_job` looks at the file, opens a session as a worker would, and runs the golden set, the
reference rows (when the parent has read them), or made-up inputs. What it returns becomes the manifest's probe result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry import golden, rows
from registry.artifacts import checked_relative
from registry.errors import ArtifactRejected, InferenceFailed, LoadFailed
from registry.graph import GraphFacts, read_graph
from registry.manifest import spec_to_dict
from registry.onnx import (
    FLOATS,
    NUMPY_DTYPES,
    Session,
    open_session,
    runtime_version,
)
from registry.options import ServingOptions
from registry.probe_child import is_value_independent
from registry.probe_model import ProbedModel, Tensors
from registry.tensors import load_tensors, save_tensors

Tell = Callable[[str, float], None]

_SEED = 20130101
_FREE_SIZES = (1, 2, 8, 32, 48, 64, 224)  # made-up sizes of free dimensions, tried in turn
_MOST_MADE_UP = 1 << 26  # elements of one made-up input
_REFERENCE_LADDER = (50_000, 20_000, 5_000, 1_000, 200, 50)  # rows that are run, when all would take too long
_OUTPUT_BYTES = 512 << 20  # outputs kept for the profile
_CHUNK = 64  # rows in one run of exact models


def run_job(job: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
    """Do one job → the result document. Raises ArtifactRejected, LoadFailed."""
    started = time.monotonic()
    model = Path(job["model"])
    tell("reading the model", 0.0)
    facts = read_graph(model)
    missing = [name for name in facts.external if str(checked_relative(name)) not in job["data"]]
    if missing:
        return {"external": list(facts.external)}  # the parent lays the files beside the model, and asks again
    tell("loading the model", 0.0)
    probe = ProbedModel(job, facts, _open(job, model, facts))
    work, seconds = Path(job["work"]), float(job["limits"]["seconds"])
    finding: rows.RowsFinding | None = None
    proven, reason = True, ""
    result: dict[str, Any] = {}
    if job["golden"]:
        tell("running the golden set", 0.0)
        finding = _run_golden(job, probe, work, seconds)
    if job["feeds"]:
        tell("running reference rows", 0.0)
        finding = _merge(finding, _run_reference(job, probe, work, tell, started))
    elif not job["golden"] and not job["later"]:
        tell("running made-up inputs", 0.0)
        proven, reason, finding = _run_made_up(probe)
    if not job["later"]:
        probe.name_classes()
    if probe.examples:
        _compare_declared(probe, finding)
        save_tensors(work / "examples.tensors", probe.examples)
    if job["nan"] == "refuse" and probe.non_finite[1]:
        probe.warnings.append(
            f"{probe.non_finite[1]} of {probe.non_finite[0]} given runs returned a non-finite number: such answers "
            'count as errors, unless the options say nan = "allow"'
        )
    finding = finding or rows.RowsFinding(False, False, "not run yet", 0)
    result.update(
        inputs=[spec_to_dict(spec) for spec in probe.inputs],
        outputs=[spec_to_dict(spec) for spec in probe.outputs],
        warnings=probe.warnings,
        probe={
            "run": "proven" if proven else "unproven",
            "reason": reason,
            "batch": "exact" if finding.exact else "never",
            "batch_reason": finding.reason,
            "by_rows": finding.by_rows,
            "rows_tried": finding.rows,
            "joined_rows": finding.joined_rows,
            "onnxruntime": runtime_version(),
            "opset": facts.opset,
        },
    )
    return result


def _open(job: Mapping[str, Any], model: Path, facts: GraphFacts) -> Session:
    try:
        return open_session(model, int(job["threads"]), ServingOptions.from_dict(job["options"]))
    except LoadFailed as error:
        text = error.message
        if facts.foreign:
            text = f"it uses custom operators ({', '.join(facts.foreign)}), which are not supported: {text}"
        raise ArtifactRejected(text, kind=error.details.get("kind")) from None


def _run_golden(job: Mapping[str, Any], probe: ProbedModel, work: Path, seconds: float) -> rows.RowsFinding:
    cases = golden.read_golden(Path(job["golden"]), probe.inputs, probe.outputs, probe.every_output, probe.constants)
    if job["nan"] == "refuse":
        golden.refuse_non_finite(cases)
    stored: Tensors = {}
    for number, case in enumerate(cases):
        outputs = probe.run_given(case.inputs, f"the golden set's {case.name} fails")
        try:
            golden.compare(case, dict(zip(probe.names, outputs, strict=True)))
        except ArtifactRejected as error:
            if all(map(rows.same_bits, outputs, probe.run(case.inputs))):
                raise
            raise ArtifactRejected(
                f"{error.message} (it returns something else each time that it is run on this input)", **error.details
            ) from None
        stored.update({f"{number}:in:{name}": array for name, array in case.inputs.items()})
        stored.update({f"{number}:out:{name}": array for name, array in case.outputs.items()})
    save_tensors(work / "golden.tensors", stored)
    largest = max(cases, key=lambda case: rows.common_rows(case.inputs) or 0)
    return _find(job, probe, _joined_cases(cases) or largest.inputs, seconds, "the golden set's rows fail")


def _joined_cases(cases: Sequence[golden.GoldenCase]) -> Tensors | None:
    """All cases as rows of one, when their shapes allow it."""
    try:
        if len(cases) < 2 or not all(rows.common_rows(case.inputs) for case in cases):
            return None
        return {name: np.concatenate([case.inputs[name] for case in cases]) for name in cases[0].inputs}
    except ValueError:
        return None


def _find(job: Mapping[str, Any], probe: ProbedModel, feeds: Tensors, seconds: float, what: str) -> rows.RowsFinding:
    """Whether rows may be joined. A given row that fails alone refuses only where rows are what is asked for."""
    try:
        return rows.find_exactness(
            probe.run,
            feeds,
            probe.inputs,
            rng=np.random.default_rng(_SEED),
            budget_s=seconds / 4,
            max_rows=int(job["max_rows"]),
        )
    except InferenceFailed as error:
        return rows.RowsFinding(False, False, f"{what} when they are run one by one: {error.message}", 0)


def _merge(first: rows.RowsFinding | None, second: rows.RowsFinding) -> rows.RowsFinding:
    """Both the golden set's and the reference's rows: a difference in either forbids joining."""
    if first is None or first.exact:
        return second if second.rows or first is None else first
    if second.exact and first.rows < 2:
        return second  # too few golden rows say nothing against it
    return rows.RowsFinding(second.by_rows, False, first.reason, first.rows + second.rows)


def _run_reference(
    job: Mapping[str, Any], probe: ProbedModel, work: Path, tell: Tell, started: float
) -> rows.RowsFinding:
    feeds = load_tensors(Path(job["feeds"]))
    count = rows.common_rows(feeds)
    if not count:
        raise ArtifactRejected("the reference has no rows")
    seconds = float(job["limits"]["seconds"])
    single = rows.one(feeds, probe.inputs, 0)
    probe.run_given(single, "reference row 1 fails")
    before = time.monotonic()
    probe.run_given(single, "reference row 1 fails")
    row_s = time.monotonic() - before
    finding = _find(job, probe, feeds, seconds, "the reference's rows fail")
    left_s = max(1.0, (seconds - (time.monotonic() - started)) * 0.5)
    row_bytes = max(1, sum(_size(array) for array in probe.examples.values()))
    # A ladder, not the exact number: the same reference gives the same profile although no two runs take as long.
    fits = [count, *(step for step in _REFERENCE_LADDER if step < count)]
    share = 1 / 8 if finding.exact else 1.0
    wanted = next((n for n in fits if n * row_s * share <= left_s and n * row_bytes <= _OUTPUT_BYTES), fits[-1])
    chosen = np.arange(count)
    if wanted < count:
        chosen = np.sort(np.random.default_rng(_SEED).permutation(count)[:wanted])
        probe.warnings.append(
            f"the outputs' profile is fitted on {wanted} of {count} reference rows: running all would take too long"
        )
    collected: list[list[NDArray[Any]]] = []
    for done, part in _parts(chosen, _CHUNK if finding.exact else 1):
        index = [int(row) for row in part]
        feed = rows.take(feeds, index) if finding.by_rows else rows.one(feeds, probe.inputs, index[0])
        collected.append(probe.run_given(feed, f"reference row {index[0] + 1} fails"))
        if len(collected) % 256 == 0:
            tell("running reference rows", done / len(chosen))
    stacked = _stack(probe.names, collected, finding.by_rows, len(chosen))
    ragged = [name for name in probe.names if name not in stacked]
    if ragged:
        parts = _one_by_one(collected) if finding.by_rows else collected
        finding = rows.RowsFinding(
            False, False, f"the shape of output {ragged[0]!r} varies from row to row", finding.rows
        )
        stacked = _stack(probe.names, parts, False, len(chosen))
        _save_ragged(work / "ragged.tensors", probe, ragged, parts)
    save_tensors(work / "outputs.tensors", stacked)
    save_tensors(work / "rows.tensors", {"rows": chosen})
    return finding


def _parts(chosen: NDArray[Any], size: int) -> Iterator[tuple[int, NDArray[Any]]]:
    for start in range(0, len(chosen), size):
        yield start, chosen[start : start + size]


def _stack(names: Sequence[str], parts: list[list[NDArray[Any]]], by_rows: bool, count: int) -> Tensors:
    """Outputs with rows first. An output whose shape varies from row to row is left out."""
    stacked = {}
    for number, name in enumerate(names):
        arrays = [part[number] for part in parts]
        try:
            whole = np.concatenate(arrays) if by_rows else np.stack(arrays)
        except ValueError:
            continue
        if whole.shape[0] == count:
            stacked[name] = whole
    return stacked


def _one_by_one(parts: list[list[NDArray[Any]]]) -> list[list[NDArray[Any]]]:
    """Joined runs as runs of one row each."""
    return [[array[row : row + 1] for array in part] for part in parts for row in range(len(part[0]))]


def _save_ragged(path: Path, probe: ProbedModel, names: Sequence[str], parts: list[list[NDArray[Any]]]) -> None:
    """Keep outputs of varying shape run by run (the parent puts them together), and free what varies in their specs."""
    saved: Tensors = {}
    specs = list(probe.outputs)
    for name in names:
        number = probe.names.index(name)
        shapes = {part[number].shape for part in parts}
        saved.update({f"{row}:{name}": part[number] for row, part in enumerate(parts)})
        sizes = list(zip(*shapes, strict=True)) if len({len(shape) for shape in shapes}) == 1 else None
        free = None if sizes is None else tuple(axis[0] if len(set(axis)) == 1 else None for axis in sizes)
        specs[number] = replace(specs[number], shape=free)
    save_tensors(path, saved)
    probe.outputs = tuple(specs)


def _size(array: NDArray[Any]) -> int:
    return sum(len(str(item)) for item in array.ravel()) if array.dtype == object else array.nbytes


def _run_made_up(probe: ProbedModel) -> tuple[bool, str, rows.RowsFinding]:
    """Run on inputs that nobody promised to be right: only what no value would cure refuses."""
    first: InferenceFailed | None = None
    for size in _FREE_SIZES:
        feeds = _made_up(probe, size)
        if feeds is None:
            break
        try:
            outputs = probe.run(feeds)
        except InferenceFailed as error:
            if is_value_independent(error):
                raise ArtifactRejected(error.message, kind=error.details.get("kind")) from None
            first = first or error
            if all(spec.shape is not None and None not in spec.shape[1:] for spec in probe.inputs):
                break  # no other size can be tried
            continue
        probe.examples = dict(zip(probe.names, outputs, strict=True))
        try:
            found = rows.find_structure(probe.run, feeds, probe.inputs)
        except InferenceFailed as error:
            return True, "", rows.RowsFinding(False, False, f"a single made-up row fails: {error.message}", 0)
        reason = found.reason or "no golden or reference rows were given to prove it on"
        return True, "", rows.RowsFinding(found.by_rows, False, reason, 0)
    reason = "made-up inputs fail" + (f": {first.message}" if first else ": they would be too large")
    probe.warnings.append(
        f"{reason}. The version was never seen to run: it is never batched, and serves only when an alias or a rollout "
        "with a shadow step says so. Give --golden or --reference rows to prove it."
    )
    return False, reason, rows.RowsFinding(False, False, "it was never seen to run", 0)


def _made_up(probe: ProbedModel, size: int) -> Tensors | None:
    """One row of everything: free first dimensions, and free ones of the same name elsewhere, are 1; others `size`."""
    rng = np.random.default_rng(_SEED)
    named = {node.name: list(node.shape) for node in probe.session.get_inputs()}
    rows_names = {shape[0] for shape in named.values() if shape and isinstance(shape[0], str)} - {"?"}
    feeds: Tensors = {}
    for spec in probe.inputs:
        declared = (None,) if spec.shape is None else spec.shape
        names = named[spec.name] if spec.shape else [None]
        shape = tuple(
            (1 if axis == 0 or names[axis] in rows_names else size) if n is None else n
            for axis, n in enumerate(declared)
        )
        if int(np.prod(shape, dtype=np.float64)) > _MOST_MADE_UP:
            return None
        dtype = NUMPY_DTYPES[spec.datatype]
        if dtype.kind == "O":
            array: NDArray[Any] = np.full(shape, "a", dtype=object)
        elif spec.datatype in FLOATS:
            array = rng.random(shape).astype(dtype)
        else:
            array = rng.integers(0, 2, shape).astype(dtype)
        feeds[spec.name] = np.asarray(array, dtype=dtype)
    return feeds


def _compare_declared(probe: ProbedModel, finding: rows.RowsFinding | None) -> None:
    """Correct the outputs' declared shapes where the model returned others, and say so."""
    by_rows = finding is not None and finding.by_rows
    inputs_free = by_rows and all(not spec.shape or spec.shape[0] is None for spec in probe.inputs)
    specs = []
    for spec in probe.outputs:
        got = probe.examples[spec.name].shape
        true: tuple[int | None, ...] | None = spec.shape
        if spec.shape is not None and len(spec.shape) == len(got):
            true = tuple(n if n == size else None for n, size in zip(spec.shape, got, strict=True))
            if inputs_free:  # the rows follow the inputs', so a declared number of them is a lie too
                true = (None, *true[1:])
        elif spec.shape is not None:
            true = (None, *got[1:]) if by_rows else None
        if true != spec.shape and spec.classes is None:  # of maps no shape is declared
            probe.warnings.append(
                f"output {spec.name!r} declares shape {_shown(spec.shape)}, which is not what it returns"
            )
        specs.append(replace(spec, shape=true))
    probe.outputs = tuple(specs)


def _shown(shape: tuple[int | None, ...] | None) -> str:
    return "unknown" if shape is None else "[" + ", ".join("?" if n is None else str(n) for n in shape) + "]"
