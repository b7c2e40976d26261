"""A rollout's plan: what moves when, which guardrails watch it, and how often it may be wrong.

Invariant: a `Plan` that exists can be followed. Everything a user can write is checked here, once, with all faults
reported together. Called by `rollout start` (file or JSON body), the planner, the judge and the machine. Pure.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from math import isfinite
from typing import Any, Literal, cast

from registry.errors import InvalidPlan
from registry.formats import check_stamp, stamped

GuardrailName = Literal["errors", "latency", "shadow_disagreement", "output_drift", "labels", "data_quality"]

# Shares of max_false_rollback_probability. Splitting it over five costs 1.2 x in delay (statistics.md, Rollouts 6).
ROLLBACK_SHARES: Mapping[str, float] = {
    "errors": 0.4,
    "latency": 0.2,
    "shadow_disagreement": 0.2,
    "output_drift": 0.0,  # above its tolerance it holds; it never rolls back alone
    "labels": 0.1,
    "data_quality": 0.1,
}

_RATE_KEYS = ("tolerated_ratio", "max_ratio", "max_excess")
_GUARDRAIL_KEYS: Mapping[str, tuple[str, ...]] = {
    "errors": _RATE_KEYS,
    "latency": (*_RATE_KEYS, "slowdown"),
    "shadow_disagreement": ("expect", "limit"),
    "output_drift": ("tolerance",),
    "labels": ("margin",),
    "data_quality": _RATE_KEYS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One move of the split. A shadow step gives the candidate copies only, and has weight 0."""

    shadow: bool = False
    weight_pct: float = 0.0
    min_requests: int = 100  # the canary's (or shadow's) own answers in this step; a floor
    max_minutes: float = 1440.0  # after that it holds, timed out, until its condition is met

    @property
    def weight(self) -> float:
        """The candidate's share of answers, 0 to 1."""
        return self.weight_pct / 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Guardrail:
    """What one guardrail tolerates. Only the keys that its name knows mean anything."""

    name: GuardrailName
    tolerated_ratio: float = 1.0  # rolled back on evidence that the canary's rate is above champion's x this
    max_ratio: float = 2.0  # promoted on evidence that it is below champion's x this,
    max_excess: float = 0.005  # or below champion's + this; in between: hold
    slowdown: float = 1.25  # latency: the canary's event is slower than this x the champion's p99
    expect: Literal["new", "same"] = "new"  # shadow_disagreement: what kind of successor this is
    limit: float | None = None  # shadow_disagreement: says the limit outright
    tolerance: float = 0.20  # output_drift: total variation
    margin: float = 0.01  # labels: non-inferior within this

    @property
    def rollback_share(self) -> float:
        """This guardrail's share of the plan's false rollback probability; 0 means that it only holds."""
        return ROLLBACK_SHARES[self.name]

    @property
    def is_measured(self) -> bool:
        """Whether its limit follows what is measured on the candidate's reference rows."""
        return self.name == "shadow_disagreement" and self.limit is None and self.expect == "new"


DEFAULT_STEPS = (
    Step(shadow=True, min_requests=600),
    Step(weight_pct=5.0, min_requests=100, max_minutes=60.0),
    Step(weight_pct=50.0, min_requests=500, max_minutes=1440.0),
)
DEFAULT_GUARDRAILS = tuple(Guardrail(name=cast(GuardrailName, name)) for name in _GUARDRAIL_KEYS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A whole rollout plan; the defaults are the contract's."""

    key: str = "request"  # or "header:<name>"
    burn_in_requests: int = 20  # per worker, not counted as evidence
    soak_minutes: float = 60.0  # after promotion the old champion stays loaded
    max_false_rollback_probability: float = 0.001
    max_false_promotion_probability: float = 0.05
    on_unknown: Literal["hold", "step_down"] = "hold"
    steps: tuple[Step, ...] = DEFAULT_STEPS
    guardrails: tuple[Guardrail, ...] = DEFAULT_GUARDRAILS

    def guardrail(self, name: str) -> Guardrail | None:
        """The guardrail of this name, if the plan has it."""
        return next((guardrail for guardrail in self.guardrails if guardrail.name == name), None)

    @property
    def has_shadow_step(self) -> bool:
        """Whether a step runs the candidate on copies alone."""
        return any(step.shadow for step in self.steps)

    def to_dict(self) -> dict[str, Any]:
        """The plan as stored: stamped, with TOML's own keys, every default written out."""
        scalars = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _TABLES}
        return stamped(
            "plan",
            {
                **scalars,
                "step": [{key: getattr(step, key) for key in _STEP_CHECKS} for step in self.steps],
                "guardrail": [_guardrail_dict(guardrail) for guardrail in self.guardrails],
            },
        )


def parse(source: bytes | str | Mapping[str, Any]) -> Plan:
    """A plan from TOML text or from the same keys as a dict (stamped or not).

    Raises: InvalidPlan with the first 20 faults or so in its details; FormatTooNew for a newer release's plan.

    >>> parse(b"").steps[1].weight_pct
    5.0
    """
    document = _read_toml(source) if isinstance(source, bytes | str) else dict(source)
    if "format" in document:
        check_stamp("plan", document)
        document = {key: value for key, value in document.items() if key not in ("format", "v")}
    faults: list[str] = []
    scalars = _read_table("", document, _PLAN_CHECKS, faults, also=("step", "guardrail"))
    steps = _read_steps(document.get("step"), faults)
    guardrails = _read_guardrails(document.get("guardrail"), faults)
    if faults:
        raise InvalidPlan("; ".join(faults), faults=faults)
    return Plan(**scalars, steps=steps, guardrails=guardrails)


# -- what each key must be ---------------------------------------------------------------------------------------------

_Check = Callable[[Any], Any]  # gives the value as stored, or raises ValueError with what is wanted


def _number(low: float, high: float, *, open_low: bool = False, open_high: bool = False) -> _Check:
    wanted = f"a number {'above' if open_low else 'from'} {low:g} {'and below' if open_high else 'to'} {high:g}"

    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise ValueError(wanted)
        if value < low or value > high or (open_low and value == low) or (open_high and value == high):
            raise ValueError(wanted)
        return float(value)

    return check


def _whole(low: int, high: int) -> _Check:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return check


def _one_of(*choices: str) -> _Check:
    def check(value: Any) -> str:
        if value not in choices:
            raise ValueError(" or ".join(f'"{choice}"' for choice in choices))
        return str(value)

    return check


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _key(value: Any) -> str:
    name = value.removeprefix("header:") if isinstance(value, str) else ""
    is_token = 0 < len(name) <= 100 and name.isascii() and all(sign.isalnum() or sign in "-_." for sign in name)
    if value != "request" and not (is_token and name != value):
        raise ValueError('"request" or "header:<name>"')
    return "request" if value == "request" else f"header:{name.lower()}"


def _maybe(check: _Check) -> _Check:
    return lambda value: None if value is None else check(value)


_MOST_FAULTS = 20  # of a plan that are told; who sends more sends no plan
_SHOWN = 60  # characters of a key that nobody knows
_TABLES = ("steps", "guardrails")
_PLAN_CHECKS: Mapping[str, _Check] = {
    "key": _key,
    "burn_in_requests": _whole(0, 1_000_000),
    "soak_minutes": _number(0, 525_600),
    "max_false_rollback_probability": _number(0, 0.5, open_low=True),
    "max_false_promotion_probability": _number(0, 0.5, open_low=True),
    "on_unknown": _one_of("hold", "step_down"),
}
_STEP_CHECKS: Mapping[str, _Check] = {
    "shadow": _flag,
    "weight_pct": _number(0, 99),  # at 100 no champion is left to compare with
    "min_requests": _whole(1, 10**12),
    "max_minutes": _number(0, 525_600, open_low=True),
}
_VALUE_CHECKS: Mapping[str, _Check] = {
    "tolerated_ratio": _number(1, 100),
    "max_ratio": _number(1, 100, open_low=True),
    "max_excess": _number(0, 0.5, open_low=True),
    "slowdown": _number(1, 100),
    "expect": _one_of("new", "same"),
    "limit": _maybe(_number(0, 1, open_low=True, open_high=True)),
    "tolerance": _number(0, 1, open_low=True),
    "margin": _number(0, 0.5, open_low=True),
}


def _read_toml(source: bytes | str) -> dict[str, Any]:
    try:
        return tomllib.loads(source.decode() if isinstance(source, bytes) else source)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidPlan(f"the plan is not TOML: {error}", faults=[str(error)]) from error


def _read_table(
    place: str, table: Mapping[str, Any], checks: Mapping[str, _Check], faults: list[str], also: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The known keys of one table, checked; what is wrong with the others goes to faults."""
    read: dict[str, Any] = {}
    for key, value in table.items():
        if key in also:
            continue
        if len(faults) >= _MOST_FAULTS:
            break
        if key not in checks:
            near = get_close_matches(str(key)[:_SHOWN], [*checks, *also], n=1)
            faults.append(
                f"{place}{str(key)[:_SHOWN]} is not a key here" + (f"; did you mean {near[0]}?" if near else "")
            )
            continue
        try:
            read[key] = checks[key](value)
        except ValueError as wanted:
            faults.append(f"{place}{key} must be {wanted}, got {value!r:.60}")
    return read


def _tables(name: str, value: Any, most: int, faults: list[str]) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        faults.append(f"{name} must be a list of tables, [[{name}]]")
        return []
    if not 1 <= len(value) <= most:
        faults.append(f"a plan has 1 to {most} [[{name}]] tables, got {len(value)}")
        return []
    return value


def _read_steps(value: Any, faults: list[str]) -> tuple[Step, ...]:
    if value is None:
        return DEFAULT_STEPS
    steps = []
    for index, table in enumerate(_tables("step", value, 100, faults)):
        step = Step(**_read_table(f"step {index + 1}: ", table, _STEP_CHECKS, faults))
        if step.shadow and step.weight_pct > 0:
            faults.append(f"step {index + 1}: a shadow step answers nobody, so it has no weight_pct")
        if not step.shadow and step.weight_pct == 0 and "weight_pct" not in _named_in(faults, index):
            faults.append(f"step {index + 1}: needs weight_pct, or shadow = true")
        steps.append(step)
    if steps and steps[-1].shadow:
        faults.append("the last step needs weight_pct: promotion needs answers that users got")
    return tuple(steps)


def _named_in(faults: list[str], index: int) -> str:
    return " ".join(fault for fault in faults if fault.startswith(f"step {index + 1}: "))


def _read_guardrails(value: Any, faults: list[str]) -> tuple[Guardrail, ...]:
    if value is None:
        return DEFAULT_GUARDRAILS
    guardrails: dict[str, Guardrail] = {}
    for index, table in enumerate(_tables("guardrail", value, len(_GUARDRAIL_KEYS), faults)):
        name = str(table.get("name"))
        if name not in _GUARDRAIL_KEYS:
            near = get_close_matches(name[:_SHOWN], list(_GUARDRAIL_KEYS), n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(_GUARDRAIL_KEYS)}"
            faults.append(f"guardrail {index + 1}: no guardrail is named {name!r:.60}; {hint}")
            continue
        if name in guardrails:
            faults.append(f"guardrail {name} is given twice")
        checks = {key: _VALUE_CHECKS[key] for key in _GUARDRAIL_KEYS[name]}
        read = _read_table(f"guardrail {name}: ", table, checks, faults, also=("name",))
        guardrails[name] = Guardrail(name=cast(GuardrailName, name), **read)
        if guardrails[name].tolerated_ratio >= guardrails[name].max_ratio:
            faults.append(f"guardrail {name}: tolerated_ratio must be below max_ratio")
    return tuple(guardrails.values())


def _guardrail_dict(guardrail: Guardrail) -> dict[str, Any]:
    values = {key: getattr(guardrail, key) for key in _GUARDRAIL_KEYS[guardrail.name]}
    return {"name": guardrail.name, **{key: value for key, value in values.items() if value is not None}}
