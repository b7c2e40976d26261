"""The comparing process: candidate and champion on the candidate's reference rows. A fresh interpreter, never a fork.

`python -P -m gateway.control.measure_child` reads one job (JSON) from its standard input, limits itself, and writes one
JSON answer to its standard output. Invariant: rows are run as they would be served, and compared by the rule that live
pairs are compared by (`monitor/agreement.py`). Started by `gateway/control/measure.py`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor.agreement import differing, tolerances
from monitor.answers import Answers, align
from monitor.profile import ReferenceProfile
from monitor.record import Gatherer, LogSchema
from registry.artifacts import ArtifactStore
from registry.errors import InferenceFailed, LoadFailed, ServingError
from registry.manifest import Manifest
from registry.onnx import open_session, runner
from registry.probe_child import limit_process
from registry.rows import common_rows, one, take
from registry.tensors import load_tensors

LEAST_ROWS = 20  # of fewer, a share says nothing that a limit should follow
_CHUNK = 64
_SEED = 20130101
_NICE = 10  # workers go first


class NotCompared(Exception):
    """There is no share to tell; the message says why."""


class _Version:
    """A loaded version and what its rows say."""

    def __init__(self, name: str, manifest: Manifest, artifacts: ArtifactStore, threads: int) -> None:
        if manifest.log_schema is None:
            raise NotCompared(f"{name} has no log schema, so nothing says what its answers are")
        self.name = name
        self.manifest = manifest
        self.failure = ""  # the last one
        schema = LogSchema.from_dict(manifest.log_schema)
        self.answers = Answers(schema)
        self._gather = Gatherer(schema.outputs, schema.by_rows, schema.output_dtype)
        self._outputs = [spec.name for spec in manifest.outputs]
        options = manifest.options
        try:
            session = open_session(artifacts.materialise(manifest), threads, options)
        except LoadFailed as error:
            raise NotCompared(f"{name} cannot be loaded: {error.message}") from None
        self._run = runner(session, manifest.outputs, options.io_binding)

    @property
    def joined(self) -> int:
        """Rows that one run may hold: as many as surely change no bit."""
        batching = self.manifest.batching
        is_plain = batching.kind == "exact" and batching.axes is not None and batching.axes.are_rows
        return max(1, batching.rows_proven) if is_plain else 1

    def say(self, feeds: Mapping[str, NDArray[Any]], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n, answers). Raises InferenceFailed."""
        parts = []
        for start in range(0, len(rows), self.joined):
            part = rows[start : start + self.joined]
            feed = take(feeds, part) if self.joined > 1 else one(feeds, self.manifest.inputs, int(part[0]))
            said = self._gather(dict(zip(self._outputs, self._run(feed), strict=True)), len(part))
            parts.append(self.answers.reduce(said))
        return np.concatenate(parts)


def compare(job: Mapping[str, Any], began_s: float) -> dict[str, Any]:
    """Do one job → {"rows", "kept", "disagreements", "by_output"}. Raises NotCompared, ServingError."""
    artifacts = ArtifactStore(job["artifacts"], cache=Path(job["cache"]))
    manifests = [Manifest.from_json(job[arm]) for arm in ("champion", "candidate")]
    names = [f"champion {job['champion_version']}", f"version {job['candidate_version']}"]
    profile = None
    if job["profile"] is not None:
        profile = ReferenceProfile.from_bytes(artifacts.read(job["profile"]))
    champion, candidate = (
        _Version(name, manifest, artifacts, int(job["threads"]))
        for name, manifest in zip(names, manifests, strict=True)
    )
    aligned, allowed = align(champion.answers, candidate.answers), tolerances(profile)
    feeds = load_tensors(artifacts.path(str(manifests[1].reference_rows)))
    kept = common_rows(feeds) or 0
    rows, disagreements = 0, 0
    by_output: dict[str, int] = {}
    # In a random order, so that what there was no time for is missing at random.
    for part in _parts(np.random.default_rng(_SEED).permutation(kept)):
        if time.monotonic() - began_s > float(job["seconds"]):
            break
        left, right, ran = _both(champion, candidate, feeds, part)
        found = differing(champion.answers, aligned, left, right, allowed)
        if not found:
            raise NotCompared(
                "their answers cannot be compared: they have no output of one name and kind, or they are numbers and "
                "the champion has no profile to say when two disagree"
            )
        rows += ran
        disagreements += int(np.any(list(found.values()), axis=0).sum())
        for name, differ in found.items():
            by_output[name] = by_output.get(name, 0) + int(differ.sum())
    if rows < LEAST_ROWS:
        why = champion.failure or ("there was no time for more" if kept >= LEAST_ROWS else f"{LEAST_ROWS} are needed")
        raise NotCompared(f"only {rows} of its {kept:,} reference rows could be compared: {why}")
    return {"rows": rows, "kept": kept, "disagreements": disagreements, "by_output": by_output}


def _parts(order: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(order), _CHUNK):
        yield np.sort(order[start : start + _CHUNK])


def _both(
    champion: _Version, candidate: _Version, feeds: Mapping[str, NDArray[Any]], part: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """What both say of these rows, without those that the champion cannot answer: they would make no pair either."""
    try:
        left = champion.say(feeds, part)
    except InferenceFailed:
        answered = [(row, said) for row in part if (said := _alone(champion, feeds, int(row))) is not None]
        part = np.array([row for row, _ in answered], np.int64)
        if not len(part):
            return np.empty((0, len(champion.answers))), np.empty((0, len(candidate.answers))), 0
        left = np.concatenate([said for _, said in answered])
    try:
        right = candidate.say(feeds, part)
    except InferenceFailed as error:
        raise NotCompared(f"{candidate.name} failed on its own reference rows: {error.message}") from None
    return left, right, len(part)


def _alone(version: _Version, feeds: Mapping[str, NDArray[Any]], row: int) -> NDArray[np.float64] | None:
    try:
        return version.say(feeds, np.array([row], np.int64))
    except InferenceFailed as error:
        version.failure = f"{version.name} failed on row {row + 1}: {error.message}"
        return None


def main() -> int:
    """The child: one comparison."""
    began_s = time.monotonic()
    job = json.load(sys.stdin)
    limit_process(job["limits"], job["parent"])
    os.nice(_NICE)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s compare %(levelname)s %(message)s", stream=sys.stderr)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints goes to the log, not into the answer
    try:
        answer: dict[str, Any] = {"done": compare(job, began_s)}
    except NotCompared as error:
        answer = {"refused": str(error)}
    except ServingError as error:
        answer = {"refused": error.message}
    except MemoryError:
        answer = {"refused": f"comparing them needs more than {job['limits']['memory_mb']} MB of memory"}
    answers.write(json.dumps(answer))
    answers.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
