"""What was found of columns together, as plain values: the part of a comparison that no column shows by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["pass", "breach", "unknown"]


@dataclass(frozen=True, slots=True)
class MultivariateStatistic:
    """One distance between sampled rows of the two tables, over all columns together.

    mmd: the squared distance of the two samples' random Fourier features; its effect is the distance itself with the
    noise's part taken off (0 to 1.4). reconstruction: how far the shares of variance lie apart that the reference's
    principal components leave unexplained; its effect is the signed difference. `p` is the permutation test's.
    """

    name: Literal["mmd", "reconstruction"]
    value: float
    threshold: float
    effect: float
    rows: int
    reference_rows: int
    verdict: Verdict
    p: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "statistic": self.name,
            "value": self.value,
            "threshold": self.threshold,
            "effect": self.effect,
            "rows": self.rows,
            "reference_rows": self.reference_rows,
            "verdict": self.verdict,
            "p": self.p,
        }


@dataclass(frozen=True, slots=True)
class PairMoved:
    """Two columns (or categories of them) whose correlation moved beyond chance: that of normal scores."""

    first: str
    second: str
    reference: float
    current: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "first": self.first,
            "second": self.second,
            "reference": self.reference,
            "current": self.current,
        }


@dataclass(frozen=True, slots=True)
class ColumnError:
    """One column's share of the variance that the reference's principal components leave unexplained."""

    feature: str
    reference: float
    current: float

    def to_dict(self) -> dict[str, Any]:
        return {"feature": self.feature, "reference": self.reference, "current": self.current}


@dataclass(frozen=True, slots=True)
class Multivariate:
    """Whether rows as a whole are still those of the reference: found on sampled rows, `rows` of each side.

    columns: how many took part; left_out: those whose rows depend on each other for longer than the reference shows.
    run_rows: rows came in runs of so many neighbours, 1 where they are independent. pairs, errors: what leads, most
    first, where an alarm has something that stands out. statistics is empty where the verdict is unknown.
    """

    verdict: Verdict
    cause: str | None
    explanation: str
    statistics: tuple[MultivariateStatistic, ...]
    columns: int
    rows: int
    run_rows: int
    left_out: tuple[str, ...]
    pairs: tuple[PairMoved, ...] = ()
    errors: tuple[ColumnError, ...] = ()

    @property
    def alarm(self) -> bool:
        return self.verdict == "breach"

    def remarks(self) -> list[str]:
        """What was not compared, and why, in plain sentences."""
        said = [f"Columns together: {self.explanation}"] if self.verdict == "unknown" else []
        if self.left_out:
            said.append(
                "Not among the columns that were compared together, because their rows depend on each other for longer "
                f"than a sample of the reference can show: {', '.join(self.left_out)}."
            )
        return said

    def to_dict(self) -> dict[str, Any]:
        return {
            "alarm": self.alarm,
            "verdict": self.verdict,
            "cause": self.cause,
            "explanation": self.explanation,
            "statistics": [item.to_dict() for item in self.statistics],
            "columns": self.columns,
            "rows": self.rows,
            "run_rows": self.run_rows,
            "pairs": [item.to_dict() for item in self.pairs],
            "errors": [item.to_dict() for item in self.errors],
            "left_out": list(self.left_out),
        }
