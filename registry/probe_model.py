"""A model inside the probing process: its session, what is known of it so far, and the names of its classes.

Used by `registry/probe_run.py`, in that process only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry import providers
from registry.errors import ArtifactRejected, InferenceFailed
from registry.graph import GraphFacts
from registry.maps import classes_of
from registry.onnx import Session, input_specs, is_bfloat16, output_specs, run_untouched, runner
from registry.options import ServingOptions
from registry.vocabulary import TensorSpec

Tensors = dict[str, NDArray[Any]]


class ProbedModel:
    """A loaded model and what is known of it so far."""

    def __init__(self, job: Mapping[str, Any], facts: GraphFacts, session: Session) -> None:
        names = job["outputs"]
        self.session = session
        self.facts = facts
        self.inputs = _with_ranks(input_specs(session), facts)
        self.outputs = _with_ranks(output_specs(session, names), facts)
        self.every_output = [node.name for node in session.get_outputs()]
        self.names = [spec.name for spec in self.outputs]
        self.constants = [node.name for node in session.get_overridable_initializers()]
        options = ServingOptions.from_dict(job["options"])
        self._runner = runner(session, self.outputs, options.io_binding)
        self._are_classes_known = all(spec.classes is None for spec in self.outputs)
        elsewhere = providers.told(options, session.get_providers())
        self.warnings: list[str] = [f"at registration {elsewhere}"] if elsewhere else []
        self.non_finite = [0, 0]  # given runs, and how many of them had a non-finite output
        self.examples: Tensors = {}

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        if not self._are_classes_known:
            self._find_classes(feeds)
        return self._runner(feeds)

    def _find_classes(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        """The names in the maps of a first run; in the model's own order, where the file tells it."""
        names = [spec.name for spec in self.outputs if spec.classes is not None]
        found = dict(zip(names, run_untouched(self.session, feeds, names), strict=True))
        self.outputs = tuple(
            self._with_classes(spec, classes_of(found[spec.name])) if spec.name in found else spec
            for spec in self.outputs
        )
        self._are_classes_known = all(found.values())  # a run of no rows names none
        self._runner = runner(self.session, self.outputs)

    def _with_classes(self, spec: TensorSpec, seen: tuple[str, ...]) -> TensorSpec:
        stated = self.facts.zipped.get(spec.name, ())
        classes = stated if stated and (not seen or sorted(stated) == sorted(seen)) else seen
        return replace(spec, shape=(None, len(classes)), classes=classes)

    def name_classes(self) -> None:
        """Take from the file what no run has told. Raises ArtifactRejected where the file does not tell it either."""
        if not self._are_classes_known:
            self.outputs = tuple(
                self._with_classes(spec, spec.classes) if spec.classes is not None else spec for spec in self.outputs
            )
        for spec in self.outputs:
            if spec.classes == ():
                raise ArtifactRejected(
                    f"the names of the classes of output {spec.name!r} are not known, as the model was never seen to "
                    "run on a row: give --golden or --reference rows",
                    tensor=spec.name,
                )

    def run_given(self, feeds: Mapping[str, NDArray[Any]], what: str) -> list[NDArray[Any]]:
        """A run on rows that the user gave: a failure refuses the version."""
        try:
            outputs = self.run(feeds)
        except InferenceFailed as error:
            raise ArtifactRejected(f"{what}: {error.message}", kind=error.details.get("kind")) from None
        self.examples = dict(zip(self.names, outputs, strict=True))
        self.non_finite[0] += 1
        self.non_finite[1] += any((a.dtype.kind == "f" or is_bfloat16(a)) and not np.isfinite(a).all() for a in outputs)
        return outputs


def _with_ranks(specs: Sequence[TensorSpec], facts: GraphFacts) -> tuple[TensorSpec, ...]:
    """onnxruntime shows an unknown rank as a scalar; the file tells them apart."""
    return tuple(
        TensorSpec(spec.name, spec.datatype, None) if not spec.shape and spec.name in facts.shapeless else spec
        for spec in specs
    )
