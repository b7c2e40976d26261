"""How often candidate and champion disagree on the candidate's reference rows: the limit for live pairs follows it.

Why: a successor that is meant to answer differently must not be rolled back for it, and how differently is known before
its first copy. Invariants: no model runs in the controller; one child at a time works beside the rollout, for at most
`SECONDS`; whatever goes wrong is a reason in words, never a number. The controller asks once a tick.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from gateway.settings import Settings
from monitor.rollout import Event, RolloutRecord
from monitor.verdict import MOST_FOLLOWED, disagreement_limit
from registry.catalog import VersionRow
from registry.home import Home
from registry.vocabulary import RolloutState

logger = logging.getLogger(__name__)

SECONDS = 60.0  # from starting the child
_RUN_SHARE = 2 / 3  # of them until no more rows are run
_KEPT = 64  # results that wait to be asked for
_READ_BYTES = 1 << 20
MEASURED_STATES = (RolloutState.WARMING, RolloutState.SHADOW, RolloutState.CANARY, RolloutState.HOLD)


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found; no rows and a reason when nothing was."""

    rows: int = 0  # compared
    kept: int = 0  # in the sample
    disagreements: int = 0
    by_output: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""

    @property
    def disagreement(self) -> float | None:
        """The share of rows that disagree, 0 to 1."""
        return self.disagreements / self.rows if self.rows else None

    def to_json(self) -> dict[str, Any]:
        """As stored with the rollout, and as `GET models/{m}/shadow` shows it."""
        return {**asdict(self), "disagreement_ratio": self.disagreement}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Measured:
        """What to_json wrote."""
        return cls(**{name: document[name] for name in cls.__dataclass_fields__ if name in document})


def measured_event(record: RolloutRecord, found: Measured) -> Event:
    """`rollout.measured`, with a sentence that says what the limit is now, and why."""
    share = found.disagreement
    guardrail = record.plan.guardrail("shadow_disagreement")
    limit = None if guardrail is None else disagreement_limit(guardrail, share)
    if share is None:
        told = f"Version {record.candidate} was not compared with champion {record.champion} beforehand: {found.reason}"
    else:
        rows = f"{found.rows:,}" if found.rows == found.kept else f"{found.rows:,} of {found.kept:,}"
        told = (
            f"On {rows} reference rows of version {record.candidate} it disagrees with champion {record.champion} in "
            f"{100 * share:.1f} %"
        )
    if guardrail is not None and limit is not None:
        if guardrail.is_measured and share is not None and share > MOST_FOLLOWED:
            told += ", which is more than a limit can follow (if it is meant, say limit in the plan)"
        told += f"; the limit for shadow_disagreement is {100 * limit:.3g} %"
    data = {
        "rollout": record.id,
        "champion": record.champion,
        "candidate": record.candidate,
        **found.to_json(),
        "limit": limit,
    }
    return Event("rollout.measured", data, told)


class Measurer:
    """Compares on a thread that waits for a child. `get` and `close` from one thread."""

    def __init__(self, home: Home, settings: Settings, seconds: float = SECONDS) -> None:
        self._home = home
        self._settings = settings
        self._seconds = seconds
        self._lock = threading.Lock()
        self._found: dict[str, Measured] = {}  # by rollout; asked for until the controller has stored it
        self._running: str | None = None
        self._child: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def get(self, rollout: str, champion: VersionRow, candidate: VersionRow, profile: str | None) -> Measured | None:
        """What was found for this rollout; None while that takes time. `profile`: sha256 of the champion's."""
        if candidate.manifest.reference_rows is None:
            return Measured(reason=f"version {candidate.version} was registered without reference rows, or kept none")
        with self._lock:
            if rollout in self._found:
                return self._found[rollout]
            if self._running is None and not self._closed:
                self._running = rollout
                job = self._job(champion, candidate, profile)
                self._thread = threading.Thread(target=self._work, args=(rollout, job), name="measure", daemon=True)
                self._thread.start()
        return None

    def _job(self, champion: VersionRow, candidate: VersionRow, profile: str | None) -> dict[str, Any]:
        settings = self._settings
        options = (champion.manifest.options, candidate.manifest.options)
        threads = max([settings.gateway.threads, *(each.threads or 1 for each in options)])
        return {
            "artifacts": settings.registry.artifacts_url or str(self._home.artifacts),
            "cache": str(self._home.artifacts),
            "champion": champion.manifest.to_json(),
            "champion_version": champion.version,
            "candidate": candidate.manifest.to_json(),
            "candidate_version": candidate.version,
            "profile": profile,
            "threads": settings.gateway.threads,
            "seconds": self._seconds * _RUN_SHARE,
            "parent": os.getpid(),
            "limits": {
                "cpu_s": self._seconds * threads,
                "memory_mb": settings.registry.probe_memory_mb,
                "file_mb": settings.registry.probe_file_mb,
            },
        }

    def _work(self, rollout: str, job: Mapping[str, Any]) -> None:
        try:
            found = self._run(job)
        except Exception as error:
            logger.exception("candidate and champion could not be compared on reference rows")
            found = Measured(reason=f"comparing them failed: {type(error).__name__}: {error}")
        with self._lock:
            self._child = self._running = None
            if self._closed:
                return
            self._found[rollout] = found
            while len(self._found) > _KEPT:
                del self._found[next(iter(self._found))]

    def _run(self, job: Mapping[str, Any]) -> Measured:
        environment = {name: value for name, value in os.environ.items() if name != "DRIFTGATE_SUPERVISOR_FD"}
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "gateway.control.measure_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**environment, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
        )
        with self._lock:
            self._child = child
            if self._closed:
                child.kill()
        try:
            said, _ = child.communicate(json.dumps(job), timeout=self._seconds)
        except subprocess.TimeoutExpired:
            return Measured(reason=f"comparing them took longer than {self._seconds:g} s and was stopped")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # nothing of it is left, whatever happened
            child.wait()
            for stream in (child.stdin, child.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
        return _read(said[:_READ_BYTES], child.returncode)

    def close(self) -> None:
        """Stop what runs; its result is lost, and a later controller begins again."""
        with self._lock:
            self._closed = True
            if self._child is not None:
                self._child.kill()
        if self._thread is not None:
            self._thread.join(5.0)


def _read(said: str, code: int) -> Measured:
    try:
        answer = json.loads(said)
        return Measured(reason=str(answer["refused"])) if "refused" in answer else Measured.from_json(answer["done"])
    except (ValueError, KeyError, TypeError):
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return Measured(reason=f"the process that compared them ended early ({how}); the log may have more")
