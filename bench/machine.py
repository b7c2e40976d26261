"""What a measurement was taken on: processor, kernel, versions, commit. Never the name of the host.

Every result file carries both, because a figure without its machine and its code is a rumour. Called by the frame.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("numpy", "onnxruntime", "uvicorn", "uvloop", "httptools", "orjson")


class Disturbance:
    """What else ran on the machine from its making to `shares`: work of others, and time that the hypervisor took."""

    def __init__(self) -> None:
        self._wall, self._used, self._stolen, self._own = self._now()

    def shares(self) -> dict[str, float]:
        """Percent of all cores. Ours is what this process and its ended children used; call it when they have ended."""
        wall, used, stolen, own = self._now()
        cores_s = max(wall - self._wall, 1e-9) * (os.cpu_count() or 1)
        others = max(0.0, used - self._used - (own - self._own))
        return {
            "others_pct": round(100 * others / cores_s, 1),
            "stolen_pct": round(100 * (stolen - self._stolen) / cores_s, 1),
        }

    @staticmethod
    def _now() -> tuple[float, float, float, float]:
        times = psutil.cpu_times()
        kinds = ("user", "nice", "system", "irq", "softirq")
        own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return (
            time.monotonic(),
            sum(getattr(times, kind, 0.0) for kind in kinds),
            getattr(times, "steal", 0.0),
            sum(usage.ru_utime + usage.ru_stime for usage in own),
        )


def describe() -> dict[str, Any]:
    """Processor, cores, memory, kernel, Python and the versions that matter."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def commit() -> dict[str, Any]:
    """The commit that is measured (short), and whether the tree differs from it."""
    git = shutil.which("git")
    if git is None:
        return {"id": "unknown", "changed": True}

    def say(*words: str) -> str:
        return subprocess.run([git, *words], capture_output=True, text=True, cwd=ROOT).stdout.strip()

    return {
        "id": say("rev-parse", "--short=10", "HEAD") or "unknown",
        "changed": bool(say("status", "--porcelain", "--untracked-files=no")),
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, IndexError):
        return platform.processor() or "unknown"
