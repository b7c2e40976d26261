"""The world changed, or the release broke? Told from what moved: inputs, the old version's answers, the new one's.

Why: both look alike on a dashboard, and only one is mended by a rollback. Invariant: pure; what was not measured takes
part in no claim. Called by whoever shows or reports drift of a model with two versions in traffic.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from registry.vocabulary import Verdict

if TYPE_CHECKING:  # it comes with scipy, which this file has no use for
    from monitor.drift import Measurement

_NAMED = 3  # features in a sentence


class Suspect(StrEnum):
    """What most likely changed."""

    WORLD = "world"  # inputs moved, and the answers of both versions with them
    RELEASE = "release"  # only the new version's answers moved
    INPUTS = "inputs"  # inputs moved, no answer did
    UPSTREAM = "upstream"  # both versions' answers moved, and no single input did
    NOTHING = "nothing"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Attribution:
    """Who is to be asked first, and why, in a sentence."""

    suspect: Suspect
    sentence: str


def attribute(
    inputs: Iterable[Measurement], old_outputs: Iterable[Measurement], new_outputs: Iterable[Measurement]
) -> Attribution:
    """World or release, from one window's measurements: of the inputs, and of each version's own answers.

    Each version is compared with its own profile, so a new version that rightly answers otherwise has not moved. What
    is unknown takes part in no claim.
    """
    seen, old, new = _Verdicts.of(inputs), _Verdicts.of(old_outputs), _Verdicts.of(new_outputs)
    if new.moved:
        if old.moved:
            if seen.moved:
                return Attribution(
                    Suspect.WORLD,
                    f"The world changed: {seen.told} moved, and the answers of both versions with it.",
                )
            if seen.known:
                return Attribution(
                    Suspect.UPSTREAM,
                    "The answers of both versions moved and no single input did: look for what they share, "
                    "such as inputs that changed together.",
                )
            return Attribution(Suspect.UNKNOWN, "Both versions' answers moved; the inputs were not measured.")
        if old.known:
            also = f" Inputs moved too ({seen.told}), and left the old version's answers as they were."
            return Attribution(
                Suspect.RELEASE,
                f"The release broke: {new.told} of the new version moved, the old version's answers did not."
                + (also if seen.moved else ""),
            )
        return Attribution(
            Suspect.UNKNOWN, "The new version's answers moved; the old version's were not measured, so why is open."
        )
    if old.moved:
        return Attribution(
            Suspect.WORLD if seen.moved else Suspect.UNKNOWN,
            f"The old version's answers moved ({old.told})"
            + (f", and so did {seen.told}: the world changed." if seen.moved else "; nothing else did."),
        )
    if seen.moved:
        return Attribution(Suspect.INPUTS, f"Inputs moved ({seen.told}); no version's answers did.")
    if seen.known and new.known:
        return Attribution(Suspect.NOTHING, "Nothing moved beyond its limit.")
    return Attribution(Suspect.UNKNOWN, "Too little was measured to tell.")


@dataclass(frozen=True, slots=True)
class _Verdicts:
    moved: tuple[str, ...]
    known: bool

    @classmethod
    def of(cls, measurements: Iterable[Measurement]) -> _Verdicts:
        found = list(measurements)
        moved = dict.fromkeys(m.feature for m in found if m.verdict is Verdict.BREACH)
        return cls(tuple(moved), any(m.verdict is not Verdict.UNKNOWN for m in found))

    @property
    def told(self) -> str:
        names = ", ".join(self.moved[:_NAMED])
        return names + (f" and {len(self.moved) - _NAMED} more" if len(self.moved) > _NAMED else "")
