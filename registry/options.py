"""How a version is served: what `--options FILE.toml` may say. Part of the version's identity.

Invariant: only what differs from the default is stored, so a new option never changes an old version's digest. Every
fault of a file is told at once, with the nearest known name. Read by registry, workers and controller; standard library
only.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any, Literal, get_args

from registry.errors import InvalidSetting
from registry.vocabulary import FeatureType

PROVIDERS = ("cpu", "cuda", "tensorrt")
GRAPH_LEVELS = ("all", "layout", "extended", "basic", "none")
FALLBACKS = ("previous", "constant")
MOST_CONSTANT_VALUES = 10_000
_DEEPEST_CONSTANT = 8
MOST_PROVIDER_OPTIONS = 64
MOST_FEATURES = 10_000
_TYPES: tuple[str, ...] = get_args(FeatureType)
_TYPES_TOLD = ", ".join(_TYPES)
_PROVIDER_OPTION = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingOptions:
    """How a version is served. Everything here is part of the version's identity."""

    max_batch_rows: int | None = None  # rows in one run, at most; None: the gateway's setting, 1: never joined
    batch_tolerance: float | None = None  # how far a number of a joined answer may be from the one alone; None: no bit
    latency_target_ms: float | None = None  # joined runs are kept short enough for it; None: the gateway's setting
    provider: str = "cpu"  # cpu | cuda | tensorrt: where it runs
    nan: Literal["refuse", "allow"] = "refuse"  # refuse: a non-finite output is an error event
    threads: int | None = None  # onnxruntime threads inside one run; None: the gateway's setting
    outputs: tuple[str, ...] | None = None  # the outputs that are served; None: all of them
    output_limits: tuple[tuple[str, float, float], ...] = ()  # (output column, low, high), for data quality
    features: tuple[tuple[str, str, tuple[str, ...]], ...] = ()  # (column, its type or "", texts that mean missing)
    provider_fallback: str = "none"  # where the provider is absent: none, the version is refused | cpu, and it is told
    provider_options: tuple[tuple[str, str], ...] = ()  # as onnxruntime's provider names them, such as device_id
    device_memory_mb: int | None = None  # of the device, for this version in one worker; None: as it needs
    io_binding: bool = False  # inputs and outputs are bound to the device for each run, rather than copied by the call
    memory_arena: bool = True  # onnxruntime keeps what a run needed for the next; off: less memory, slower runs
    graph_optimization: str = "all"  # all | layout | extended | basic | none
    cache_optimized: bool = False  # keep the optimised model on disk, so that it loads faster the next time
    answer_cache_bytes: int = 0  # answers kept in a worker, for requests that are equal bit by bit; 0: none
    fallback: tuple[str, ...] = ()  # who answers, as champion, for a run that fails: previous | constant, in this order
    fallback_constant: tuple[tuple[str, Any], ...] = ()  # (output, what a row of it holds, in nested tuples)

    def to_dict(self) -> dict[str, Any]:
        """Only what differs from the default, so that a new option never changes an old version's digest."""
        return {
            item.name: _plain(getattr(self, item.name))
            for item in fields(self)
            if getattr(self, item.name) != item.default
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> ServingOptions:
        """Read options as a user writes them in `--options FILE.toml`, or as stored.

        `output_limits` may be a table `{column = [low, high]}`, `features` one of types, or of `{type, missing}`.
        Raises InvalidSetting with every fault at once.
        """
        known = [item.name for item in fields(cls)]
        faults: list[str] = []
        values: dict[str, Any] = {}
        for name, value in document.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                faults.append(f"unknown option {name!r}" + (f", did you mean {near[0]!r}?" if near else ""))
                continue
            try:
                values[name] = _OPTION_READERS[name](value)
            except (TypeError, ValueError) as error:
                faults.append(f"option {name!r}: {error}, got {value!r:.200}")
        if faults:
            raise InvalidSetting("serving options cannot be used: " + "; ".join(faults), faults=faults, known=known)
        options = cls(**values)
        fault = options.contradiction()
        if fault:
            raise InvalidSetting(f"serving options cannot be used: {fault}", faults=[fault], known=known)
        return options

    def contradiction(self) -> str:
        """What cannot be meant together; empty when nothing contradicts."""
        device_only = {
            "provider_options": bool(self.provider_options),
            "device_memory_mb": self.device_memory_mb is not None,
            "provider_fallback": self.provider_fallback != "none",
        }
        given = [name for name, is_given in device_only.items() if is_given]
        if self.provider == "cpu" and given:
            return f"{', '.join(given)}: the provider is cpu, which has none of that"
        if self.provider != "cpu" and self.cache_optimized:
            return "cache_optimized: an optimised model can be kept for the provider cpu only"
        if bool(self.fallback_constant) != ("constant" in self.fallback):
            return 'fallback_constant: it is used, and needed, where fallback names "constant"'
        return ""


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _one_of(*words: str) -> Any:
    def read(value: Any) -> str:
        if value not in words:
            raise ValueError(f"wants one of {', '.join(words)}")
        return str(value)

    return read


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("wants true or false")
    return value


def _whole(low: int, high: int) -> Any:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"wants a whole number from {low} to {high}")
        return value

    return read


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError("wants a number above 0")
    return float(value)


def _provider_options(value: Any) -> tuple[tuple[str, str], ...]:
    """A table of texts, numbers and booleans; onnxruntime takes texts. A stored list of pairs reads the same."""
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(pairs, list | tuple) or len(pairs) > MOST_PROVIDER_OPTIONS:
        raise ValueError(f"wants a table of at most {MOST_PROVIDER_OPTIONS} options")
    told = {}
    for name, said in pairs:
        if not isinstance(name, str) or not _PROVIDER_OPTION.fullmatch(name):
            raise ValueError(f"has an option named {name!r:.80}, which no provider has")
        if not isinstance(said, str | int | float) or len(str(said)) > 4096:
            raise ValueError(f"option {name}: wants a text, a number or a boolean")
        told[name] = ("1" if said else "0") if isinstance(said, bool) else str(said)
    return tuple(sorted(told.items()))


def _outputs(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not value or not all(isinstance(name, str) and name for name in value):
        raise ValueError("wants a list of output names")
    if len(set(value)) != len(value):
        raise ValueError("names an output twice")
    return tuple(value)


def _output_limits(value: Any) -> tuple[tuple[str, float, float], ...]:
    if isinstance(value, Mapping):
        try:
            value = [(name, low, high) for name, (low, high) in value.items()]
        except (TypeError, ValueError):
            raise ValueError("wants a table of column = [low, high]") from None
    if not isinstance(value, list | tuple):
        raise ValueError("wants a table of column = [low, high]")
    limits = []
    for item in value:
        name, low, high = item
        if not isinstance(name, str) or not float("-inf") < float(low) <= float(high) < float("inf"):
            raise ValueError("wants finite numbers, low before high")
        limits.append((name, float(low), float(high)))
    return tuple(sorted(limits))


def _features(value: Any) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """Types by column: `age = "integer"`, or `{ type = "numeric", missing = ["?"] }`; stored lists read the same."""
    if isinstance(value, Mapping):
        value = [(column, *_feature(column, said)) for column, said in value.items()]
    if not isinstance(value, list | tuple) or len(value) > MOST_FEATURES:
        raise ValueError(f"wants a table of at most {MOST_FEATURES} columns")
    if not all(isinstance(item, list | tuple) and len(item) == 3 for item in value):
        raise ValueError("wants a table of column = type")
    features = []
    for column, kind, missing in value:
        if not isinstance(column, str) or (kind and kind not in _TYPES):
            raise ValueError(
                f"column {column!r:.80}: {kind!r:.80} is no type{_near_type(kind)}; it is one of {_TYPES_TOLD}"
            )
        if not isinstance(missing, list | tuple) or not all(isinstance(code, str) and code for code in missing):
            raise ValueError(f"column {column}: missing wants a list of texts")
        features.append((column, str(kind), tuple(sorted(set(missing)))))
    return tuple(sorted(features))


def _feature(column: object, said: object) -> tuple[object, object]:
    """Type and missing codes, as a table says them of one column."""
    if isinstance(said, str):
        return said, ()
    if not isinstance(said, Mapping):
        raise ValueError(f'column {column!r:.80} wants a type, or {{ type = "numeric", missing = ["?"] }}')
    unknown = sorted(set(said) - {"type", "missing"})
    if unknown:
        raise ValueError(f"column {column!r:.80} says {unknown[0]!r:.80}, and what it may say is type and missing")
    return said.get("type", ""), said.get("missing", ())


def _near_type(word: object) -> str:
    """The type that somebody means who says it in another word, such as `text` or `category`."""
    text = str(word).lower()
    near = [kind for kind in _TYPES if text and kind.startswith(text)] or difflib.get_close_matches(text, _TYPES, n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def _fallback(value: Any) -> tuple[str, ...]:
    steps = [value] if isinstance(value, str) else value
    if not isinstance(steps, list | tuple) or not all(step in FALLBACKS for step in steps):
        raise ValueError(f"wants a list of {', '.join(FALLBACKS)}")
    if len(set(steps)) != len(steps) or "constant" in steps[:-1]:
        raise ValueError("names each once, and constant last: it never fails")
    return tuple(steps)


def _fallback_constant(value: Any) -> tuple[tuple[str, Any], ...]:
    """A table of output = value, or nested lists of values. A stored list of pairs reads the same."""
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(pairs, list | tuple):
        raise ValueError("wants a table of output = value")
    constant, left = {}, MOST_CONSTANT_VALUES
    for name, said in pairs:
        if not isinstance(name, str):
            raise ValueError("wants a table of output = value")
        constant[name], left = _nested(said, left, _DEEPEST_CONSTANT)
    return tuple(sorted(constant.items()))


def _nested(value: Any, left: int, depth: int) -> tuple[Any, int]:
    """The value with its lists as tuples, and how many more values there may be."""
    if left == 0:
        raise ValueError(f"has more than {MOST_CONSTANT_VALUES} values and lists")
    if isinstance(value, list | tuple):
        if depth == 0:
            raise ValueError(f"has lists deeper than {_DEEPEST_CONSTANT}")
        items, left = [], left - 1
        for item in value:
            nested, left = _nested(item, left, depth - 1)
            items.append(nested)
        return tuple(items), left
    if not isinstance(value, bool | int | float | str) or (isinstance(value, float) and not isfinite(value)):
        raise ValueError("wants texts, booleans and finite numbers")
    return value, left - 1


_OPTION_READERS: dict[str, Any] = {
    "max_batch_rows": _whole(1, 65_536),
    "batch_tolerance": _positive,
    "latency_target_ms": _positive,
    "provider": _one_of(*PROVIDERS),
    "nan": _one_of("refuse", "allow"),
    "threads": _whole(1, 1024),
    "outputs": _outputs,
    "output_limits": _output_limits,
    "features": _features,
    "provider_fallback": _one_of("none", "cpu"),
    "provider_options": _provider_options,
    "device_memory_mb": _whole(1, 1 << 22),
    "io_binding": _bool,
    "memory_arena": _bool,
    "graph_optimization": _one_of(*GRAPH_LEVELS),
    "cache_optimized": _bool,
    "answer_cache_bytes": _whole(0, 1 << 40),
    "fallback": _fallback,
    "fallback_constant": _fallback_constant,
}
