"""What is told of columns together: which pairs parted or met, what is rebuilt worse, in numbers and a plain sentence.

Invariant: what is named moved beyond chance, and no cause is claimed: columns that moved by themselves move with others
too, so the sentence says how many did. Pure. Called by `monitor/live.py` for events and by the API.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monitor.profile import ReferenceProfile
from monitor.splits import Split
from monitor.store import Told
from monitor.together_watch import NAME, PairThatMoved, TogetherDetector
from monitor.watch import Evidence
from registry.clock import rfc3339

_MOST_TOLD = 3  # pairs in a sentence


def together_event(
    key: tuple[str, int],
    profile: ReferenceProfile,
    detector: TogetherDetector,
    raised: Sequence[Evidence],
    alone: Sequence[str],
) -> Told:
    """Columns together are not as they were; alone: inputs that have an alarm of their own."""
    model, version = key
    first = min(raised, key=lambda row: row.limit_log10 - row.evidence_log10)
    data: dict[str, Any] = {
        "sentence": f"The inputs of version {version} do not go together as in the reference: "
        f"{together_sentence(profile, detector, alone)}",
        "window": "fast",
        "rows": first.rows,
        "profile": profile.digest,
        "features": [NAME],
        "started_at": rfc3339(round(first.start_s * 1e9)),
        "evidence": [row.to_dict() for row in raised],
        "multivariate": what_moved(profile, detector),
    }
    return Told("drift.alarm", model, version, data)


def what_moved(profile: ReferenceProfile, detector: TogetherDetector) -> dict[str, Any]:
    """The pairs and columns that contribute most, as JSON."""
    before, now = detector.unexplained()
    names = [column.name for column in profile.inputs]
    return {
        "pairs": [
            {
                "first": names[pair.first.column],
                "second": names[pair.second.column],
                "question": _question(profile, pair.first, pair.second),
                "reference": pair.reference,
                "current": pair.current,
            }
            for pair in detector.pairs_that_moved()
        ],
        "unexplained": {"reference": before, "current": now},
        "columns": [
            {"feature": names[found.column], "reference": found.reference, "current": found.current}
            for found in detector.columns_unexplained()
        ],
    }


def together_sentence(profile: ReferenceProfile, detector: TogetherDetector, alone: Sequence[str]) -> str:
    """What moved, in words; alone: inputs that have an alarm of their own."""
    said = [_pair(profile, pair) for pair in detector.pairs_that_moved()[:_MOST_TOLD]]
    before, now = detector.unexplained()
    if not said:
        columns = ", ".join(profile.inputs[found.column].name for found in detector.columns_unexplained()[:_MOST_TOLD])
        most = f", most in {columns}" if columns and now > before else ""
        said = [
            f"the reference's principal components leave {now:.1%} of its variance unexplained, {before:.1%} in the "
            f"reference{most}"
        ]
    if not alone:
        told = "No input moved by itself."
    elif len(alone) == 1:
        told = f"{alone[0]} moved by itself too, which may be all of it."
    else:
        told = f"{len(alone):,} inputs moved by themselves too, which may be all of it."
    return f"{'; '.join(said)}. {told}"


def _pair(profile: ReferenceProfile, pair: PairThatMoved) -> str:
    return f"{_question(profile, pair.first, pair.second)} in {pair.current:.1%} of rows, {pair.reference:.1%} before"


def _question(profile: ReferenceProfile, first: Split, second: Split) -> str:
    names = [profile.inputs[split.column].name for split in (first, second)]
    if first.kind == second.kind == "high":
        return f"{names[0]} and {names[1]} are on the same side of their medians"
    if first.kind == second.kind == "outer":
        return f"{names[0]} and {names[1]} are both far from or both near their medians"
    return f"{_answer(profile, first)} just where {_answer(profile, second)}"


def _answer(profile: ReferenceProfile, split: Split) -> str:
    column = profile.inputs[split.column]
    if split.kind == "high":
        return f"{column.name} is high"
    if split.kind == "outer":
        return f"{column.name} is far from its median"
    values = column.bins.values
    if column.hashed or split.bin is None or split.bin >= len(values):
        return f"{column.name} is of one category"
    return f"{column.name} is {values[split.bin]:g}"
