"""From a file, the environment and flags to one checked settings tree, with where each value came from.

Defaults < TOML (`driftgate.toml`) < environment (`DRIFTGATE_GATEWAY__BATCH__MAX_ROWS`) < flags. The variables of a
hosting platform are other defaults (`platforms.py`). Everything is checked once, at the start, and all faults are
reported together, each with its origin and the nearest known name. Children of `driftgate serve` get the finished tree
as JSON, so they read neither files nor variables. Called by the command line, by workers and by the controller:
standard library only.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from gateway.platforms import platform_defaults
from gateway.settings import Settings
from registry.errors import InvalidSetting

PREFIX = "DRIFTGATE_"
CONFIG_NAME = "driftgate.toml"

# What each number may be, both ends included. A number that is not here may be anything that is not negative.
RANGES: dict[str, tuple[float, float]] = {
    "gateway.port": (0, 65535),
    "gateway.grpc_port": (0, 65535),
    "gateway.workers": (1, 256),
    "gateway.lease_s": (1.0, 60.0),
    "gateway.threads": (1, 1024),
    "gateway.idle_poll_us": (0.0, 1000.0),
    "gateway.batch.max_rows": (1, 65536),
    "gateway.batch.latency_target_ms": (0.01, 1e7),
    "gateway.batch.warm_up_s": (0.0, 600.0),
    "gateway.limits.body_bytes": (1024, 2**40),
    "gateway.limits.incoming_bytes": (1024, 2**40),
    "gateway.limits.tensor_elements": (1, 2**40),
    "gateway.limits.answer_bytes": (1024, 2**40),
    "gateway.limits.unread_bytes": (1024, 2**40),
    "gateway.limits.json_depth": (4, 512),
    "gateway.limits.waiting_requests": (1, 2**20),
    "gateway.breaker.failures": (0, 1000),
    "gateway.breaker.within_s": (0.001, 86400.0),
    "gateway.breaker.cool_down_s": (0.1, 3600.0),
    "gateway.shadow.busy_share": (0.0, 1.0),
    "gateway.shadow.busy_above": (0.0, 1.0),
    "control.port": (0, 65535),
    "registry.probe_seconds": (1.0, 86400.0),
    "registry.probe_memory_mb": (256, 2**24),
    "registry.probe_file_mb": (1, 2**24),
    "monitor.tick_ms": (10, 10_000),
    "monitor.tile_s": (1, 60),
    "monitor.keep_tiles_h": (1, 24 * 366),
    "monitor.latency_window_s": (1, 3600),
    "monitor.join_memory_rows": (1, 2**28),
    "monitor.label_memory": (1, 2**28),
    "monitor.false_alarms_per_month": (1e-6, 1e6),
    "monitor.features_shown": (1, 10_000),
    "monitor.features_shown_in_all": (1, 1_000_000),
    "lanes.lane_bytes": (64 * 1024, 2**40),
    "lanes.lane_seconds": (0.0, 60.0),
    "lanes.lane_rows_per_request": (1, 2**20),
}
# Settings that are one of a few words.
CHOICES: dict[str, tuple[str, ...]] = {
    "gateway.grpc": ("auto", "on", "off"),
    "gateway.load.when": ("start", "request"),
}
_PATHS = frozenset(("gateway.predict_route", "gateway.health_route"))
_PATH = re.compile(r"/[!-~]*")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A finished tree and, for every value's dotted name, where it came from."""

    settings: Settings
    origins: Mapping[str, str]


def load(path: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> Loaded:
    """The settings that a process started with this file, environment and flags has.

    flags: dotted name → value; None means that the flag was not given. Raises InvalidSetting naming every fault.
    """
    known = {name: kind for name, kind, _default in leaves()}
    values: dict[str, Any] = {name: default for name, _kind, default in leaves()}
    origins = dict.fromkeys(values, "default")
    faults: list[str] = []

    def put(name: str, raw: Any, origin: str, shown: str) -> None:
        if name not in known:
            faults.append(f"{origin}: there is no setting {shown}{_nearest(name, known, shown)}")
            return
        try:
            values[name] = _checked(name, known[name], raw, text=origin.startswith("environment"))
        except ValueError as fault:
            faults.append(f"{origin}: {shown} {fault}")
            return
        origins[name] = origin

    for name, raw, variable in platform_defaults(environ):
        put(name, raw, f"environment ({variable})", variable)
    if path is not None:
        for name, raw in _flat(read_toml(path), known):
            put(name, raw, str(path), name)
    for variable in sorted(environ):
        # Every setting lies in a branch, so its variable has a double underscore; DRIFTGATE_HOME has none.
        if variable.startswith(PREFIX) and "__" in variable:
            name = variable.removeprefix(PREFIX).lower().replace("__", ".")
            put(name, environ[variable], "environment", variable)
    for name, raw in flags.items():
        if raw is not None:
            put(name, raw, "flag", name)
    if faults:
        raise InvalidSetting("\n".join(faults), faults=faults)
    return Loaded(_build(Settings, "", values), origins)


def find_config(flag: Path | None, home: Path, cwd: Path) -> Path | None:
    """The TOML file that applies: the one named, else driftgate.toml in the state folder, else in cwd, else none."""
    if flag is not None:
        return flag
    return next((folder / CONFIG_NAME for folder in (home, cwd) if (folder / CONFIG_NAME).is_file()), None)


def to_json(settings: Settings) -> str:
    """The whole tree, for a child process."""
    return json.dumps(asdict(settings))


def from_json(text: str) -> Settings:
    """The tree that to_json wrote; checked again, because it comes from outside this process.

    >>> from_json(to_json(Settings())) == Settings()
    True
    """
    try:
        document = json.loads(text)
    except ValueError as fault:
        raise InvalidSetting(f"the settings given to this process are not JSON: {fault}") from None
    if not isinstance(document, dict):
        raise InvalidSetting("the settings given to this process are not an object")
    known = {name: kind for name, kind, _default in leaves()}
    flags: dict[str, Any] = dict(_flat(document, known))
    return load(None, {}, flags).settings


def leaves(cls: type = Settings, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every setting as (dotted name, type, default), in the order of the source."""
    hints = get_type_hints(cls)
    default = cls()
    for item in fields(cls):
        kind = hints[item.name]
        name = f"{prefix}{item.name}"
        if is_dataclass(kind) and isinstance(kind, type):
            yield from leaves(kind, f"{name}.")
        else:
            yield name, kind, getattr(default, item.name)


def variable_of(name: str) -> str:
    """The environment variable of a setting.

    >>> variable_of("gateway.batch.max_rows")
    'DRIFTGATE_GATEWAY__BATCH__MAX_ROWS'
    """
    return PREFIX + name.replace(".", "__").upper()


def _build(cls: type, prefix: str, values: Mapping[str, Any]) -> Any:
    hints = get_type_hints(cls)
    return cls(
        **{
            item.name: _build(hints[item.name], f"{prefix}{item.name}.", values)
            if is_dataclass(hints[item.name])
            else values[f"{prefix}{item.name}"]
            for item in fields(cls)
        }
    )


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file. Raises InvalidSetting with its name."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as fault:
        raise InvalidSetting(f"{path}: cannot be read: {fault.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        raise InvalidSetting(f"{path}: not TOML: {fault}") from None


def _flat(document: Mapping[str, Any], known: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names of a nested document. A table where a plain setting belongs stays whole; its type is refused."""
    for key, value in document.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and name not in known:
            yield from _flat(value, known, f"{name}.")
        else:
            yield name, value


def _checked(name: str, kind: Any, raw: Any, *, text: bool) -> Any:
    value = _converted(kind, raw, text=text)
    if name in CHOICES and value not in CHOICES[name]:
        raise ValueError(f"is {value!r}, wanted {', '.join(CHOICES[name][:-1])} or {CHOICES[name][-1]}")
    if name in _PATHS and value and _PATH.fullmatch(value) is None:
        raise ValueError(f"is {value!r}, wanted a path that begins with /")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    low, high = RANGES.get(name, (0, math.inf))
    if not low <= value <= high:
        wanted = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise ValueError(f"is {value}, wanted {wanted}")
    return value


def _converted(kind: Any, raw: Any, *, text: bool) -> Any:
    """raw as the setting's type. Variables are text and are parsed; elsewhere the type must already be right."""
    if kind is bool:
        if text and isinstance(raw, str) and raw.lower() in _WORDS:
            return _WORDS[raw.lower()]
        if isinstance(raw, bool):
            return raw
        raise ValueError(f"is {raw!r}, wanted true or false")
    if kind is int or kind is float:
        word = "a whole number" if kind is int else "a number"
        if text and isinstance(raw, str):
            try:
                raw = int(raw) if kind is int else float(raw)
            except ValueError:
                raise ValueError(f"is {raw!r}, wanted {word}") from None
        if isinstance(raw, bool) or not isinstance(raw, int if kind is int else int | float) or not math.isfinite(raw):
            raise ValueError(f"is {raw!r}, wanted {word}")
        return kind(raw)
    if kind is str:
        if isinstance(raw, str | Path):
            return str(raw)
        raise ValueError(f"is {raw!r}, wanted a text")
    # What is left is tuple[str, ...]: a list in TOML, commas in a variable.
    if text and isinstance(raw, str):
        return tuple(word.strip() for word in raw.split(",") if word.strip())
    if isinstance(raw, list | tuple) and all(isinstance(word, str) for word in raw):
        return tuple(raw)
    raise ValueError(f"is {raw!r}, wanted a list of texts")


_WORDS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


def _nearest(name: str, known: Mapping[str, Any], shown: str) -> str:
    """A hint in the spelling that the user used."""
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not found:
        by_leaf = [candidate for candidate in known if candidate.rpartition(".")[2] == name.rpartition(".")[2]]
        found = by_leaf[:1]
    if not found:
        return "; `driftgate settings` lists them all"
    return f"; did you mean {variable_of(found[0]) if shown.startswith(PREFIX) else found[0]}?"
