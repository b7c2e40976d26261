"""The probing process: reads a hostile model, runs it, and says what it found. A fresh interpreter, never a fork.

`python -P -m driftgate probe` reads one job (JSON) from stdin, limits itself before it touches the file, tells its
progress as JSON lines on stdout, and leaves `result.json` (and tensor files) in the job's work folder. Whatever
happens here (a crash, no memory, an endless loop) happens to this process only. Started by `registry/probe.py`.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
# Faults that no other value of the inputs would cure.
_VALUE_INDEPENDENT = ("NotImplemented", "not_a_tensor")
_VALUE_INDEPENDENT_TEXT = ("numpy type", "not implemented", "could not find an implementation")


def main(argv: Sequence[str]) -> int:
    """Do one job. Returns 0 whenever a result was written, refusals included."""
    job = json.loads(sys.stdin.read())
    limit_process(job["limits"], job["parent"])
    from registry.errors import ServingError

    work = Path(job["work"])
    afterwards = None
    try:
        from registry.probe_run import run_job

        result, afterwards = run_job(job, _tell)
    except ServingError as error:
        result = refusal(error)
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        result = {"refused": {"message": f"probing wrote a file above {job['limits']['file_mb']} MB"}}
    except MemoryError:
        result = {"refused": {"message": f"probing needs more than {job['limits']['memory_mb']} MB of memory"}}
    leave(work, result)
    if afterwards is not None:
        afterwards()  # may end this process
    return 0


def leave(work: Path, result: Mapping[str, Any]) -> None:
    """Write down the result, in the place of an earlier one if there is one."""
    aside = work / "result.json.aside"
    aside.write_text(json.dumps(result))
    aside.replace(work / "result.json")


def limit_process(limits: Mapping[str, float], parent: int) -> None:
    """Bound this process for good (cpu_s, memory_mb, file_mb), and let it die with the one that asked."""
    megabyte = 1 << 20
    cpu_s = max(1, int(limits["cpu_s"]))
    for kind, most in (
        (resource.RLIMIT_AS, int(limits["memory_mb"]) * megabyte),
        (resource.RLIMIT_FSIZE, int(limits["file_mb"]) * megabyte),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        resource.setrlimit(kind, (most, most + 1 if kind == resource.RLIMIT_CPU else most))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            raise SystemExit(1)


def _tell(stage: str, share: float) -> None:
    """One line of progress; a parent that no longer listens is no reason to fail."""
    try:
        sys.stdout.write(json.dumps({"stage": stage, "share": round(share, 3)}) + "\n")
        sys.stdout.flush()
    except OSError:
        pass


def refusal(error: Any) -> dict[str, Any]:
    """A refusal as the result says it. A lack of memory is told apart: it may pass on a larger host."""
    text = str(error.message)
    return {"refused": {"message": text, "details": {key: str(value)[:200] for key, value in error.details.items()}}}


def is_value_independent(error: Any) -> bool:
    """Whether this failure of a run would happen with any values: the model can never answer here."""
    text = str(error.message).lower()
    return error.details.get("kind") in _VALUE_INDEPENDENT or any(part in text for part in _VALUE_INDEPENDENT_TEXT)
