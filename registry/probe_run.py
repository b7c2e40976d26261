"""What the probing process does with a model: look, load, run, join. Imported in that process only.

One job is one pass: `run_job` looks at the file, opens a session as a worker would, and runs the golden set, the
reference rows (when the parent has read them), or made-up inputs. What it returns becomes the manifest's probe result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry import golden, probe_empty, probe_strangers, rows
from registry.artifacts import checked_relative
from registry.errors import ArtifactRejected, InferenceFailed, LoadFailed
from registry.graph import GraphFacts, read_graph
from registry.manifest import ProbeResult, spec_to_dict
from registry.onnx import (
    FLOATS,
    NUMPY_DTYPES,
    Session,
    axis_names,
    open_session,
    runtime_version,
)
from registry.options import ServingOptions
from registry.probe_axes import find_axes
from registry.probe_batching import BatchingFinding, find_batching
from registry.probe_child import is_value_independent, leave
from registry.probe_model import ProbedModel, Tensors
from registry.probe_reference import Reference, Tell
from registry.rows import Feeds
from registry.tensors import load_tensors, save_tensors

_SEED = 20130101
_FREE_SIZES = (1, 2, 8, 32, 48, 64, 224)  # made-up sizes of free dimensions, tried in turn
_MOST_MADE_UP = 1 << 26  # elements of one made-up input


def run_job(job: Mapping[str, Any], tell: Tell) -> tuple[dict[str, Any], Callable[[], None] | None]:
    """Do one job → the result document, and what is to be done when it has been written down.

    Raises ArtifactRejected, LoadFailed.
    """
    started = time.monotonic()
    model = Path(job["model"])
    tell("reading the model", 0.0)
    facts = read_graph(model)
    missing = [name for name in facts.external if str(checked_relative(name)) not in job["data"]]
    if missing:
        return {"external": list(facts.external)}, None  # the parent lays them beside the model, and asks again
    if job["guarded"] and facts.guarded is not None:
        model = Path(job["guarded"])
        model.write_bytes(facts.guarded.SerializeToString())
    facts = replace(facts, guarded=None)  # its memory is wanted
    tell("loading the model", 0.0)
    probe = ProbedModel(job, facts, _open(job, model, facts))
    work, seconds = Path(job["work"]), float(job["limits"]["seconds"])
    if job["empty"] is not None:
        cases = [tuple((name, axis) for name, axis in case) for case in job["empty"]["cases"]]
        feeds = load_tensors(work / "one.tensors")
        return {}, _empty(job, probe, feeds, cases, job["empty"]["first"])
    finding: BatchingFinding | None = None
    proven, reason = True, ""
    given: list[Tensors] = []  # requests that the user gave
    if job["golden"]:
        tell("running the golden set", 0.0)
        given = _run_golden(job, probe, work)
    if job["feeds"]:
        tell("running reference rows", 0.0)
        reference = Reference(load_tensors(Path(job["feeds"])), probe)
        given += reference.some()
        finding = _find(job, probe, given, seconds)
        finding = reference.run(finding, work, tell, (seconds - (time.monotonic() - started)) / 2)
    elif given and not job["later"]:
        finding = _find(job, probe, given, seconds)
    elif not job["later"]:
        tell("running made-up inputs", 0.0)
        proven, reason, finding, made_up = _run_made_up(probe)
        given += made_up
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
    finding = finding or BatchingFinding(False, "never", "not run yet")
    found = ProbeResult(
        run="proven" if proven else "unproven",
        reason=reason,
        batch=finding.kind,
        batch_reason=finding.reason,
        by_rows=finding.by_rows,
        rows_tried=finding.rows,
        joined_rows=finding.joined_rows,
        onnxruntime=runtime_version(),
        opset=facts.opset,
        axes=finding.axes,
        largest_difference=finding.largest_difference,
        shared=finding.shared,
        loops=facts.loops,
    )
    result = {
        "inputs": [spec_to_dict(spec) for spec in probe.inputs],
        "outputs": [spec_to_dict(spec) for spec in probe.outputs],
        "warnings": probe.warnings,
        "probe": found.to_dict(),
    }
    if job["later"] or not given:
        return result, None
    whole = given[0]
    empty = probe_empty.cases_of(whole, probe.inputs, axis_names(probe.session), by_rows=finding.by_rows)
    save_tensors(work / "one.tensors", whole)
    result["empty"] = empty
    try_empty = _empty(job, probe, whole, empty, 0)
    if finding.axes is None or finding.kind == "never":
        return result, try_empty
    # What is tried now may end this process, and then this is what is true.
    ended = replace(found, batch="never", batch_reason="a made-up row in the run of a given one ended the process")

    def afterwards() -> None:
        tell("running made-up rows beside given ones", 0.0)
        harm = _harm(job, probe, given, finding)
        told = replace(found, batch="never", batch_reason=harm) if harm else found
        leave(work, {**result, "probe": told.to_dict()})
        try_empty()

    return {**result, "probe": ended.to_dict()}, afterwards


def _harm(job: Mapping[str, Any], probe: ProbedModel, given: Sequence[Feeds], finding: BatchingFinding) -> str:
    assert finding.axes is not None
    options = ServingOptions.from_dict(job["options"])
    return probe_strangers.harm(
        probe.run,
        given,
        probe.inputs,
        finding.axes,
        options.batch_tolerance if finding.kind == "within_tolerance" else None,
        budget_s=float(job["limits"]["seconds"]) / 8,
        loops=probe.facts.loops,
    )


def _empty(
    job: Mapping[str, Any], probe: ProbedModel, feeds: Tensors, cases: Sequence[probe_empty.Case], first: int
) -> Callable[[], None]:
    log, budget_s = Path(job["work"]) / "empty.log", float(job["limits"]["seconds"]) / 8
    return partial(probe_empty.try_all, probe.run, feeds, cases, log, first, budget_s)


def _open(job: Mapping[str, Any], model: Path, facts: GraphFacts) -> Session:
    try:
        return open_session(model, int(job["threads"]), ServingOptions.from_dict(job["options"]))
    except LoadFailed as error:
        text = error.message
        if facts.foreign:
            text = f"it uses custom operators ({', '.join(facts.foreign)}), which are not supported: {text}"
        raise ArtifactRejected(text, kind=error.details.get("kind")) from None


def _run_golden(job: Mapping[str, Any], probe: ProbedModel, work: Path) -> list[Tensors]:
    """Run every case and compare → their inputs."""
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
    return [dict(case.inputs) for case in cases]


def _find(job: Mapping[str, Any], probe: ProbedModel, requests: Sequence[Feeds], seconds: float) -> BatchingFinding:
    """Whether, and along which axes, requests may be joined."""
    return find_batching(
        probe.run,
        requests,
        probe.inputs,
        rng=np.random.default_rng(_SEED),
        budget_s=seconds / 4,
        max_rows=int(job["max_rows"]),
        tolerance=ServingOptions.from_dict(job["options"]).batch_tolerance,
    )


def _run_made_up(probe: ProbedModel) -> tuple[bool, str, BatchingFinding, list[Tensors]]:
    """Run on inputs that nobody promised to be right: only what no value would cure refuses.

    Last of the result: the request that it answered, if any.
    """
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
        found = next(find_axes(probe.run, [feeds], probe.inputs))
        reason = found.reason or "no golden or reference rows were given to prove it on"
        return True, "", BatchingFinding(found.by_rows, "never", reason), [feeds]
    reason = "made-up inputs fail" + (f": {first.message}" if first else ": they would be too large")
    probe.warnings.append(
        f"{reason}. The version was never seen to run: it is never batched, and serves only when an alias or a rollout "
        "with a shadow step says so. Give --golden or --reference rows to prove it."
    )
    return False, reason, BatchingFinding(False, "never", "it was never seen to run"), []


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


def _compare_declared(probe: ProbedModel, finding: BatchingFinding | None) -> None:
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
