"""Every case of the suite, against `--target`, or against our own server, which must pass them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.conformance.case import Case
from tests.conformance.target import Target


def _verdict(case: Case, target: Target) -> tuple[str, str]:
    """`passed`, `failed` or `not applicable`, and why."""
    why = case.not_applicable(target)
    if why:
        return "not applicable", why
    try:
        case.run(target)
    except AssertionError as error:
        return "failed", str(error).splitlines()[0][:300] if str(error) else "another answer was wanted"
    except Exception as error:  # whatever a server does to a case is its verdict
        return "failed", f"{type(error).__name__}: {error}".splitlines()[0][:300]
    return "passed", ""


def test_the_server_answers_as_the_case_says(
    asked: Sequence[Case], target: Target, revive: Callable[[], None], record_property: Any
) -> None:
    failures, skipped = [], []
    for case in asked:
        verdict, why = _verdict(case, target)
        if verdict == "failed" and target.has("identity_fp32") and not target.is_well():
            why = f"no ordinary request was answered afterwards: {why}"
            revive()
            if not target.comes_back():
                pytest.exit(f"{case.title}: {why}; and nobody starts the server again", 3)
        entry = {"group": case.group, "name": case.name, "level": case.level, "reason": case.reason}
        record_property("conformance", {**entry, "verdict": verdict, "why": why})
        if verdict == "failed":
            failures.append(f"{case.level} {case.group}: {case.title}: {why} (because {case.reason})")
        elif verdict != "passed":
            skipped.append(why)
    if failures:
        pytest.fail("\n".join(failures), pytrace=False)
    if len(skipped) == len(asked):
        pytest.skip(skipped[0])
