"""Registering and profiling for the control API, in a process of its own: it probes and fits, and must delay no tick.

`python -P -m gateway.control.registration` reads one JSON request on its standard input and writes one JSON answer on
its standard output. Invariant: at most `MOST_AT_ONCE` such processes run, and none outlives the controller. The work
itself is `gateway/registration.py` and `gateway/profiling.py`, the same that the commands do without a server.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.orphan import die_with_parent
from gateway.settings import Settings
from gateway.settings_load import from_json, to_json
from registry import errors
from registry.errors import Draining, InternalError, Overloaded, ServingError, StorageFailed
from registry.home import Home

logger = logging.getLogger("driftgate.registration")

MOST_AT_ONCE = 2
_WALL_S = 1800.0  # the probe has limits of its own; this one is for a hung file system
_READ_BYTES = 16 * 1024 * 1024


class Registrar:
    """Starts registrations. Any thread."""

    def __init__(self, home: Home, settings: Settings) -> None:
        self._home = home
        self._settings = settings
        self._slots = threading.BoundedSemaphore(MOST_AT_ONCE)
        self._lock = threading.Lock()
        self._children: set[subprocess.Popen[str]] = set()
        self._closed = False

    def register(self, model: str, body: Mapping[str, Any], actor: str) -> dict[str, Any]:
        """Register what a body asks for; the registered version. Raises also Overloaded, and Draining after `close`."""
        return self._run({"model": model, "body": dict(body), "actor": actor})

    def profile(self, model: str, version: int, body: Mapping[str, Any], actor: str) -> dict[str, Any]:
        """Make the profile that a body asks for; the profile. Raises also Overloaded, and Draining after `close`."""
        return self._run({"model": model, "version": version, "body": dict(body), "actor": actor})

    def _run(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        if not self._slots.acquire(blocking=False):
            raise Overloaded(f"{MOST_AT_ONCE} registrations or profiles are being made already", retry_after_s=5.0)
        try:
            return self._run_child(wanted)
        finally:
            self._slots.release()

    def _run_child(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        request = {
            "home": str(self._home.root),
            "run": str(self._home.run),
            "settings": to_json(self._settings),
            **wanted,
        }
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "gateway.control.registration"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={name: value for name, value in os.environ.items() if name != "DRIFTGATE_SUPERVISOR_FD"},
        )
        with self._lock:
            self._children.add(child)
            if self._closed:
                child.kill()
        try:
            said, _ = child.communicate(json.dumps(request), timeout=_WALL_S)
        except subprocess.TimeoutExpired:
            raise InternalError(
                f"what was asked of {wanted['model']!r} took over {_WALL_S:g} s and was stopped"
            ) from None
        finally:
            child.kill()
            child.wait()
            for stream in (child.stdin, child.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
            with self._lock:
                self._children.discard(child)
        if self._closed and not said:  # `close` stopped it
            raise Draining(f"the server is stopping, and what was asked of {wanted['model']!r} with it; ask again")
        return _read(said[:_READ_BYTES], child.returncode)

    def close(self) -> None:
        """Stop what runs."""
        with self._lock:
            self._closed = True
            for child in self._children:
                child.kill()


def _read(said: str, code: int) -> dict[str, Any]:
    try:
        answer = json.loads(said)
    except ValueError:
        raise InternalError(f"the registration's process ended with {code} and no answer; the log has more") from None
    if "error" in answer:
        raised = _class_of(answer["code"])(answer["error"])
        raised.details = answer["details"]
        raise raised
    document: dict[str, Any] = answer["done"]
    return document


def _class_of(code: str) -> type[ServingError]:
    waiting: list[type[ServingError]] = [ServingError]
    while waiting:
        kind = waiting.pop()
        if kind.code == code:
            return kind
        waiting += kind.__subclasses__()
    return errors.Fault


def main() -> int:
    """The child: one registration, or one profile."""
    die_with_parent()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s registration %(levelname)s %(message)s", stream=sys.stderr
    )
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints goes to the log, not into the answer
    try:
        answer: dict[str, Any] = {"done": _do(json.load(sys.stdin))}
    except ServingError as error:
        answer = {"error": error.message, "code": error.code, "details": _plain(error.details)}
    except Exception as error:
        told: ServingError | None = StorageFailed.of(error) if isinstance(error, OSError) else None
        if told is None:
            logger.exception("a registration failed")
            told = InternalError(f"registration failed: {type(error).__name__}: {error}")
        answer = {"error": told.message, "code": told.code, "details": {}}
    answers.write(json.dumps(answer))
    answers.close()
    return 0


def _do(request: Mapping[str, Any]) -> dict[str, Any]:
    from gateway.profiling import ProfileRequest, run_profile
    from gateway.registration import Request, registered_document, run_registration

    home = Home(root=Path(request["home"]), run=Path(request["run"]))
    if "version" in request:
        asked = ProfileRequest.from_body(request["model"], request["version"], request["body"], request["actor"])
        return run_profile(home, from_json(request["settings"]), asked, _log_progress)
    wanted = Request.from_body(request["model"], request["body"], request["actor"])
    registered = run_registration(home, from_json(request["settings"]), wanted, _log_progress)
    return registered_document(registered)


def _log_progress(what: str, share: float) -> None:
    logger.debug("%s %.0f %%", what, 100 * share)


def _plain(details: Mapping[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(dict(details), default=str))
    return document


if __name__ == "__main__":
    sys.exit(main())
