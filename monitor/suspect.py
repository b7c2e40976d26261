"""The world changed, or the release broke? Told from what moved: inputs, the old version's answers, the new one's.

Why: both look alike on a dashboard, and only one is mended by a rollback. Invariant: pure; what was not measured takes
part in no claim. Called by whoever shows drift of a model with two versions in traffic (from a window's measurements),
and when an alarm is told (from the alarms that are up).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from registry.vocabulary import Verdict

if TYPE_CHECKING:  # they come with scipy, which this file has no use for
    from monitor.alarms import Key as AlarmKey
    from monitor.watch import Evidence

_NAMED = 3  # features in a sentence
_NEAR = 0.5  # of the way to an alarm, in log10: whether it moved is open


class Judged(Protocol):
    """A measurement, or anything else that says whether a feature moved."""

    @property
    def feature(self) -> str: ...
    @property
    def verdict(self) -> Verdict: ...


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a feature stands now: in alarm, surely not, or open."""

    feature: str
    verdict: Verdict


def standing(alarms: Iterable[AlarmKey], strongest: Evidence | None, side: str) -> list[Standing]:
    """What moved of one side of a version: its alarms that are up, and the strongest evidence there that is none.

    Detectors of two versions are seldom equally fast, so while one is half way to an alarm, nothing is said to stand
    still.
    """
    found = [Standing(feature, Verdict.BREACH) for kind, feature, _, _ in alarms if kind == side]
    if not found and strongest is not None:
        is_open = not strongest.rows or strongest.evidence_log10 > _NEAR * strongest.limit_log10
        found.append(Standing(strongest.feature, Verdict.UNKNOWN if is_open else Verdict.PASS))
    return found


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


def attribute(inputs: Iterable[Judged], old_outputs: Iterable[Judged], new_outputs: Iterable[Judged]) -> Attribution:
    """World or release, from what is known at one time: of the inputs, and of each version's own answers.

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
        if old.known and new.known:
            return Attribution(Suspect.INPUTS, f"Inputs moved ({seen.told}); no version's answers did.")
        return Attribution(Suspect.UNKNOWN, f"Inputs moved ({seen.told}); whether the answers did is open yet.")
    if seen.known and new.known:
        return Attribution(Suspect.NOTHING, "Nothing moved beyond its limit.")
    return Attribution(Suspect.UNKNOWN, "Too little was measured to tell.")


@dataclass(frozen=True, slots=True)
class _Verdicts:
    moved: tuple[str, ...]
    known: bool

    @classmethod
    def of(cls, measurements: Iterable[Judged]) -> _Verdicts:
        found = list(measurements)
        moved = dict.fromkeys(m.feature for m in found if m.verdict is Verdict.BREACH)
        return cls(tuple(moved), any(m.verdict is not Verdict.UNKNOWN for m in found))

    @property
    def told(self) -> str:
        names = ", ".join(self.moved[:_NAMED])
        return names + (f" and {len(self.moved) - _NAMED} more" if len(self.moved) > _NAMED else "")
