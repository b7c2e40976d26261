"""What is booked, and what is told, when a request gets no answer of the model.

Invariant: what is the caller's fault counts for no version, what is not counts for the one that was asked, and each
request that was run is a row of its lane. Called by `predict.py`, by connections and by the gRPC services, which also
tell of requests that never got as far. Event loop only.
"""

from __future__ import annotations

import logging
from time import perf_counter_ns

import orjson

from gateway import problems
from gateway.data.accounts import Accounts
from gateway.data.fleet import Fleet
from gateway.data.pending import Pending
from gateway.data.tap import Tap
from gateway.data.traffic import Loaded
from registry.errors import BreakerOpen, CallerError, InferenceFailed, NotReady, Overloaded, ServingError

logger = logging.getLogger(__name__)

JSON = (b"content-type", b"application/json")
_SHED: dict[type[ServingError], str] = {Overloaded: "overloaded", NotReady: "not_ready", BreakerOpen: "breaker"}


class Failures:
    """The errors of one worker's requests."""

    def __init__(self, fleet: Fleet, accounts: Accounts, tap: Tap | None) -> None:
        self._fleet = fleet
        self._accounts = accounts
        self._tap = tap

    def lost(self, pending: Pending) -> None:
        """Record and book a routed request that gets no answer of the model: an error event of its arm."""
        self._record_error(pending)
        arm = pending.arm
        keyed = None if pending.key_row is None else [pending.key_row]
        self._accounts.evidence(arm, [perf_counter_ns() - pending.arrived_ns], errors=1, key_rows=keyed)

    def end_badly(self, pending: Pending, error: ServingError) -> None:
        """Give up on a request that has been run. It counts against its version unless it is the caller's fault."""
        if isinstance(error, CallerError):
            self._record_error(pending)
        else:
            self.lost(pending)
        pending.fail(error)

    def no_room(self, pending: Pending, error: ServingError) -> None:
        """There is no memory for a run, or for its answer, which says nothing of the version: no error event."""
        self._record_error(pending)
        pending.fail(error)

    def unwritten(self, pending: Pending, error: Exception) -> None:
        """The model has answered, and it cannot be told: a bug of ours, or an answer that this form cannot hold."""
        if not isinstance(error, ServingError):
            logger.exception("an answer of %s could not be written", pending.arm.loaded.servable.model)
            error = InferenceFailed(f"the answer could not be written: {error}")
        self.end_badly(pending, error)

    def is_callers_fault(self, loaded: Loaded, pending: Pending) -> bool:
        """Whether a run failed because the request's shapes disagree; then it is told so, and nobody is asked instead.

        Where the champion would take them, it is the canary that cannot take what it should.
        """
        shapes = {name: feed.shape for name, feed in zip(loaded.servable.input_names, pending.feeds, strict=True)}
        mismatch = loaded.servable.disagreement(shapes)
        champion = pending.arm.stand_in if pending.arm.is_canary else None
        if mismatch is None or (champion is not None and champion.loaded.servable.disagreement(shapes) is None):
            return False
        self.end_badly(pending, mismatch)
        return True

    def _record_error(self, pending: Pending) -> None:
        arm = pending.arm
        if self._tap is not None:
            self._tap.record_error(arm.loaded, arm.role, arm.epoch, pending.hash)

    def refused(self, error: ServingError, pending: Pending, model: str) -> int:
        """Book a request that got an error instead of an answer → its HTTP status."""
        status = problems.status_of(error)
        if pending.queued:
            self._accounts.failed(pending.arm, pending.protocol, status, perf_counter_ns() - pending.arrived_ns)
        else:
            known = model if self._fleet.knows(model) else ""
            shed = _SHED.get(type(error))
            self._accounts.refused(known, pending.protocol, status, shed and error.details.get("reason", shed))
        return status

    def refusal(
        self, error: ServingError, pending: Pending, model: str
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """Book an error → the status, headers and body that tell it over HTTP."""
        status = self.refused(error, pending, model)
        headers = [JSON, (b"x-request-id", pending.identity)]
        if pending.queued:
            headers += pending.arm.headers
        retry_after_s = problems.retry_after_s(error)
        if retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % retry_after_s))
        if "accept_encoding" in error.details:
            headers.append((b"accept-encoding", error.details["accept_encoding"].encode()))
        body = orjson.dumps(problems.body_of(error, pending.identity.decode()))
        headers.append((b"content-length", b"%d" % len(body)))
        return status, headers, body
