"""When two versions disagree about the same row: the one rule, for live pairs and for reference rows.

A class disagrees when it differs; a number when it lies farther away than half a standard deviation of the champion's
output. Invariant: pure. Called by `joins.py` (pairs) and in the child process that compares a candidate with the
champion on its reference rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from monitor.answers import Answers
from monitor.profile import ReferenceProfile

DISAGREE_SD = 0.5  # two numbers disagree when they differ by more than this many sd of the champion's output


def tolerances(champion: ReferenceProfile | None) -> dict[str, float]:
    """How far two numbers may lie apart, by output; a number without one is not compared."""
    if champion is None:
        return {}
    outputs = zip(champion.outputs, champion.output_sds(), strict=True)
    return {column.name: DISAGREE_SD * sd for column, sd in outputs if sd is not None and sd > 0}


def differing(
    champion: Answers,
    aligned: list[tuple[int, int]],
    left: NDArray[np.float64],
    right: NDArray[np.float64],
    tolerance_of: Mapping[str, float],
) -> dict[str, NDArray[np.bool_]]:
    """Which rows disagree in which answer, by the champion's name of it; empty when nothing can be compared.

    `left` and `right` are what champion and candidate said (n, answers), as `Answers.reduce` gives it, and `aligned`
    is what `answers.align` says of them.
    """
    found: dict[str, NDArray[np.bool_]] = {}
    for i, j in aligned:
        answer = champion.items[i]
        ours, theirs = left[:, i], right[:, j]
        both_missing = np.isnan(ours) & np.isnan(theirs)
        if answer.kind == "class":
            found[answer.name] = (ours != theirs) & ~both_missing
        elif (tolerance := tolerance_of.get(answer.name)) is not None:
            found[answer.name] = ~((np.abs(ours - theirs) <= tolerance) | (ours == theirs) | both_missing)
    return found
