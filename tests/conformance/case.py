"""What a case is: a function that asks a server something and asserts what it answers, with a level and a reason.

Levels. MUST: the Open Inference specification, the binary tensor extension or HTTP itself says so, or no other answer
can be right. SHOULD: what Triton does, or what clients have come to rely on. A case that needs a model which the server
does not have, or a feature that it does not offer, is not applicable, which is neither passed nor failed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.conformance.target import Answer, Target
from tests.conformance.wire import error

MUST, SHOULD = "MUST", "SHOULD"
GROUPS = (
    "health",
    "metadata",
    "infer",
    "types",
    "binary",
    "raw",
    "compression",
    "errors",
    "http",
    "repository",
    "grpc",
)
OPTIONAL = frozenset(("binary", "raw", "compression", "repository", "config", "statistics", "grpc", "stream"))


@dataclass(frozen=True)
class Case:
    """One case. `needs` are names of models; `group` is also the feature it belongs to, where that is optional."""

    group: str
    name: str
    level: str
    reason: str
    needs: tuple[str, ...]
    features: frozenset[str]
    run: Callable[[Target], None]

    @property
    def title(self) -> str:
        """The name as words."""
        return self.name.replace("_", " ")

    def not_applicable(self, target: Target) -> str:
        """Why this case says nothing about the target; empty: it does."""
        absent = sorted(self.features & target.without)
        if absent:
            return f"not offered: {', '.join(absent)}"
        missing = [name for name in self.needs if not target.has(name)]
        return f"no model {', '.join(missing)} there" if missing else ""


CASES: list[Case] = []


class Group:
    """Makes cases of one group: a decorator for each level."""

    def __init__(self, name: str, *features: str, needs: Sequence[str] = ()) -> None:
        assert name in GROUPS
        self.name = name
        self.needs = tuple(needs)
        self.features = frozenset(({name} | set(features)) & OPTIONAL)

    def must(
        self, reason: str, *needs: str, features: Sequence[str] = ()
    ) -> Callable[[Callable[[Target], None]], None]:
        """A case at level MUST, for this reason."""
        return self._decorator(MUST, reason, needs, features)

    def should(
        self, reason: str, *needs: str, features: Sequence[str] = ()
    ) -> Callable[[Callable[[Target], None]], None]:
        """A case at level SHOULD, for this reason."""
        return self._decorator(SHOULD, reason, needs, features)

    def add(
        self,
        level: str,
        name: str,
        reason: str,
        run: Callable[[Target], None],
        needs: Sequence[str] = (),
        features: Sequence[str] = (),
    ) -> None:
        """A case made by a table."""
        wanted = tuple(dict.fromkeys((*self.needs, *needs)))
        assert all(case.name != name or case.group != self.name for case in CASES), f"two cases are called {name}"
        CASES.append(Case(self.name, name, level, reason, wanted, self.features | set(features), run))

    def refuses(
        self,
        level: str,
        name: str,
        reason: str,
        ask: Callable[[Target], Answer],
        needs: Sequence[str] = (),
        features: Sequence[str] = (),
    ) -> None:
        """Two cases: refused with `error` (this level), and by a 4xx (SHOULD: "typically 400" is all that is said)."""

        def is_refused(target: Target) -> None:
            error(ask(target))
            assert target.is_live(), "the server is no longer live"

        def is_the_callers(target: Target) -> None:
            status = ask(target).status
            assert 400 <= status < 500, f"status {status}"

        self.add(level, f"{name}_is_refused", reason, is_refused, needs, features)
        why = "4xx says that sending it again is no use"
        self.add(SHOULD, f"{name}_is_the_callers_fault", why, is_the_callers, needs, features)

    def _decorator(
        self, level: str, reason: str, needs: Sequence[str], features: Sequence[str]
    ) -> Callable[[Callable[[Target], None]], None]:
        def keep(run: Callable[[Target], None]) -> None:
            self.add(level, run.__name__, reason, run, needs, features)

        return keep
