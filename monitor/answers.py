"""What a version said, reduced to what can be compared: classes and numbers.

Why: pairs and labels need the top class or the predicted number of a row, not all that a model returns; a join memory
of 200,000 rows has to stay small. Invariant: a reduction is a pure function of schema and outputs. `joins.py` calls.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from monitor.record import LogSchema, category_code
from registry.errors import MalformedRequest

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
MAX_ANSWERS = 8  # of one row: later outputs are not compared


@dataclass(frozen=True, slots=True)
class Answer:
    """One thing that a version says of a row. `columns`: places in the logged outputs; several mean class scores.

    `codes`: of scores, the class that each column stands for, as a label column would be logged.
    """

    name: str
    kind: Literal["class", "number"]
    columns: tuple[int, ...]
    hashed: bool = False
    codes: tuple[float, ...] = ()


class Answers:
    """The answers of one schema. Class outputs come first; numbers only count as answers when there is no class."""

    def __init__(self, schema: LogSchema) -> None:
        classes: list[Answer] = []
        numbers: list[Answer] = []
        by_tensor: dict[str, list[int]] = {}
        for at, column in enumerate(schema.outputs):
            by_tensor.setdefault(column.tensor, []).append(at)
            if column.kind == "category":
                classes.append(Answer(column.name, "class", (at,), column.hashed))
            elif column.kind == "number" and column.tensor not in schema.scores:
                numbers.append(Answer(column.name, "number", (at,)))
        if not classes:  # a label beside its scores says the same, so scores count only alone
            classes = [_scores(schema, name, by_tensor[name]) for name in schema.scores if name in by_tensor]
        self.items: tuple[Answer, ...] = tuple((classes or numbers)[:MAX_ANSWERS])

    def __len__(self) -> int:
        return len(self.items)

    def reduce(self, outputs: NDArray[Any]) -> NDArray[np.float64]:
        """(n, O) logged outputs → (n, answers): the class's code or that of the largest score, or the number."""
        out = np.empty((len(outputs), len(self.items)))
        for at, answer in enumerate(self.items):
            if len(answer.columns) == 1:
                out[:, at] = outputs[:, answer.columns[0]]
            else:
                scores = outputs[:, answer.columns]
                out[:, at] = np.array(answer.codes)[scores.argmax(axis=1)]
                out[np.isnan(scores).any(axis=1), at] = np.nan
        return out

    def find(self, name: str | None) -> int | None:
        """The place of an answer by its column's name, or the first for None; None when there is none."""
        if name is None:
            return 0 if self.items else None
        return next((at for at, answer in enumerate(self.items) if answer.name == name), None)

    def code(self, at: int, value: object) -> float:
        """A label as the number that this answer is compared with. Raises MalformedRequest for what is no label."""
        answer = self.items[at]
        try:
            if answer.kind == "class" and answer.hashed:
                return category_code(value if isinstance(value, str) else str(value))
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            wanted = "a number" if answer.kind == "number" else "a class number"
            raise MalformedRequest(f"label for {answer.name!r}: got {value!r:.40}, wanted {wanted}") from None
        if not np.isfinite(number):
            raise MalformedRequest(f"label for {answer.name!r}: got {value!r:.40}, wanted a finite number")
        return number


def _scores(schema: LogSchema, tensor: str, places: list[int]) -> Answer:
    """Scores as one class answer. Classes go by their names: versions may have them in another order, or others."""
    names = [schema.outputs[at].name[len(tensor) + 1 : -1] for at in places]  # of `tensor[name]`
    if all(_INTEGER.fullmatch(name) for name in names):
        return Answer(tensor, "class", tuple(places), codes=tuple(map(float, names)))
    return Answer(tensor, "class", tuple(places), hashed=True, codes=tuple(map(category_code, names)))


def align(champion: Answers, candidate: Answers) -> list[tuple[int, int]]:
    """Which answer of the one is which of the other: by name and kind; two single answers of a kind always match.

    Scores whose classes have names are not compared with what says classes by number.
    """
    pairs = [
        (i, j)
        for i, left in enumerate(champion.items)
        for j, right in enumerate(candidate.items)
        if left.name == right.name and _is_comparable(left, right)
    ]
    if not pairs and len(champion) == len(candidate) == 1 and _is_comparable(champion.items[0], candidate.items[0]):
        return [(0, 0)]
    return pairs


def _is_comparable(left: Answer, right: Answer) -> bool:
    return left.kind == right.kind and (left.hashed == right.hashed or not (left.codes or right.codes))
