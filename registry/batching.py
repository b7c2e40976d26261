"""How requests for a version may be joined: along which axes, and how surely. Plain values, standard library only.

Found by the probe (`registry/probe_batching.py`), stored in the manifest, obeyed by the workers. Invariant: what was
not seen at registration is not joined; a declared shape alone never allows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["exact", "within_tolerance", "never"]


@dataclass(frozen=True, slots=True)
class Axes:
    """The axis of each input and output along which requests lie one after the other, in the manifest's order.

    None: that input has no such axis, so only requests that hold the same value of it may be joined. An output always
    has one: what is said of several requests at once is nobody's answer.
    """

    inputs: tuple[int | None, ...]
    outputs: tuple[int, ...]

    @property
    def are_rows(self) -> bool:
        """Whether all are axis 0: the common case, which costs least."""
        return not any(axis != 0 for axis in (*self.inputs, *self.outputs))

    def to_dict(self) -> dict[str, list[int | None]]:
        """As stored.

        >>> Axes((0, 1, None), (0, 1)).to_dict()
        {'inputs': [0, 1, None], 'outputs': [0, 1]}
        """
        return {"inputs": list(self.inputs), "outputs": list(self.outputs)}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Axes:
        """The reverse of to_dict. Raises KeyError, TypeError or ValueError for anything else."""
        inputs, outputs = tuple(document["inputs"]), tuple(document["outputs"])
        for axis in (*(axis for axis in inputs if axis is not None), *outputs):
            if isinstance(axis, bool) or not isinstance(axis, int) or axis < 0:
                raise ValueError(f"{axis!r} is no axis")
        return cls(inputs, outputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """Whether, and how, requests for a version may be joined.

    `exact`: joined requests gave the bits that single ones give. `within_tolerance`: their numbers differed, by
    `largest_difference` at most on the rows that were tried, and the version's options allow that much. `never`:
    neither; `reason` says why.
    """

    kind: Kind
    reason: str = ""
    axes: Axes | None = None  # None where never
    rows_proven: int = 0  # every size of a joined run up to this one was tried
    tolerance: float | None = None  # what the options allow
    largest_difference: float | None = None  # absolute; None: not measured, or not finite
    # Digests (`registry/rows.py`) of the inputs without an axis for which joining was tried; others are not joined.
    shared: tuple[str, ...] = ()
