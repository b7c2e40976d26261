"""Where a version runs: the decision, apart from onnxruntime itself, which `onnx.py` asks.

Invariant: a version never runs elsewhere than its options say without being told. An execution provider that is absent
refuses the version, or, where `provider_fallback` names another, is told wherever the version is shown. Pure; standard
library only.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from registry.errors import LoadFailed
from registry.options import ServingOptions

CPU = "CPUExecutionProvider"
NAMES = {"cpu": CPU, "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
_HELP = "pip install 'driftgate[cuda]' on a machine with a GPU, or let the options say provider_fallback = \"cpu\""


@dataclass(frozen=True, slots=True)
class Choice:
    """Providers in onnxruntime's order of preference, with their options; and why it is not what was asked for."""

    providers: tuple[tuple[str, dict[str, str]], ...]
    fell_back: str = ""

    @property
    def first(self) -> str:
        """The provider that the version is meant to run on."""
        return self.providers[0][0]


def choose(options: ServingOptions, available: Collection[str]) -> Choice:
    """The providers for a version, of those that this onnxruntime has. Raises LoadFailed when one is absent.

    >>> choose(ServingOptions(provider="cuda", provider_fallback="cpu"), [CPU]).first
    'CPUExecutionProvider'
    """
    wanted = NAMES.get(options.provider)
    if wanted is None or wanted not in available:
        known = ", ".join(name for name, full in NAMES.items() if full in available)
        return fallen(options, f"provider {options.provider!r} is not available here, only {known}: {_HELP}")
    if wanted == CPU:
        return Choice(((CPU, {}),))
    given = dict(options.provider_options)
    cuda = {name: given[name] for name in ("device_id",) if name in given}
    if options.device_memory_mb is not None:
        # The arena doubles by default, and would meet the limit at half of it.
        cuda |= {"gpu_mem_limit": str(options.device_memory_mb << 20), "arena_extend_strategy": "kSameAsRequested"}
    if options.provider == "cuda":
        return Choice(((wanted, {**cuda, **given}), (CPU, {})))
    return Choice(((wanted, given), (NAMES["cuda"], cuda), (CPU, {})))


def fallen(options: ServingOptions, reason: str) -> Choice:
    """What is left when the provider asked for cannot be used. Raises LoadFailed unless the options declare it."""
    if options.provider_fallback != "cpu":
        raise LoadFailed(reason, kind="provider")
    return Choice(((CPU, {}),), reason)


def is_absent(choice: Choice, used: Collection[str]) -> bool:
    """Whether the provider meant is not among those that an open session says it uses.

    onnxruntime opens a session without a provider whose libraries or device are missing, and only logs it.
    """
    return choice.first not in used


def told(options: ServingOptions, used: Collection[str]) -> str:
    """A sentence when a session does not run where it was meant to; empty otherwise.

    >>> told(ServingOptions(provider="cuda", provider_fallback="cpu"), [CPU])
    'it runs on cpu: its provider cuda is not available here, and provider_fallback allows that'
    """
    if NAMES.get(options.provider) in used:
        return ""
    return f"it runs on cpu: its provider {options.provider} is not available here, and provider_fallback allows that"


def optimized_name(model_sha256: str, options: ServingOptions, runtime: str) -> str:
    """File name of a model as onnxruntime optimised it: for this release of it and this kind of processor only."""
    parts = (runtime, options.graph_optimization, str(options.threads), platform.machine(), _processor())
    return f"{model_sha256}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.onnx"


def _processor() -> str:
    """What tells processors apart whose vector instructions differ, and with them the best layout."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
