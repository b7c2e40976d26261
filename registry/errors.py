"""Every error that a user can meet, as one tree. Knows no HTTP: `gateway/problems.py` holds the one translation.

ServingError                     code: the class name in snake case; details: a small dict, safe to show
├─ CallerError
│   ├─ MalformedRequest          the body, a header or a parameter cannot be read
│   ├─ TensorMismatch            a tensor differs from what the model wants
│   ├─ PayloadTooLarge
│   ├─ HeadersTooLarge           the request line and headers, or their number
│   ├─ SlowRequest               the head or the body took too long to arrive
│   ├─ UnsupportedMedia          a content type or encoding that no codec reads
│   ├─ MethodNotAllowed
│   ├─ Unimplemented             a part of the protocol that this server does not offer
│   ├─ NotEnabled                a setting of this server says no
│   ├─ Cancelled                 the caller went away before the answer
│   ├─ ForbiddenOrigin           a page of another site tried to change state
│   ├─ MisdirectedRequest        a Host header that is not ours
│   ├─ NotPermitted              no principal, or one without the right
│   ├─ InvalidPlan               a rollout plan that cannot be followed
│   ├─ InvalidSetting            a settings file, variable or flag that cannot be used
│   └─ ArtifactRejected          a model, golden set or reference that was refused, with the reason
├─ UnknownName
│   ├─ ModelNotFound
│   ├─ VersionNotFound
│   ├─ AliasNotFound
│   ├─ RolloutNotFound
│   └─ RouteNotFound             no such path
├─ Conflict
│   ├─ RolloutActive
│   ├─ IllegalTransition         not in this state
│   └─ AliasMoved                compare-and-swap lost
├─ Unavailable                   retry_after_s says when to try again
│   ├─ OverQuota
│   ├─ Overloaded
│   ├─ BreakerOpen               the version's runs failed one after the other, so none is tried for a while
│   ├─ NotReady
│   ├─ Draining
│   ├─ DeadlineExceeded
│   ├─ StorageFailed             a full disk, or a database that is locked or away
│   └─ ServerNotFound            the command needs a running server and found none
└─ Fault
    ├─ LoadFailed
    ├─ InferenceFailed
    ├─ FormatTooNew              a stored format of a newer release
    ├─ StateDamaged              a stored file is not what it says it is
    └─ InternalError             a bug of ours; the log has the trace
"""

from __future__ import annotations

import errno
import re
from typing import Any, ClassVar

_STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_WORD = re.compile(r"(?<!^)(?=[A-Z])")


class ServingError(Exception):
    """Base of all. `message` is for people; `code` and `details` are for programs."""

    code: ClassVar[str] = "serving_error"

    def __init_subclass__(cls) -> None:
        cls.code = _WORD.sub("_", cls.__name__).lower()

    def __init__(self, message: str, *, retry_after_s: float | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        self.retry_after_s = retry_after_s


class CallerError(ServingError):
    """The caller can mend it."""


class MalformedRequest(CallerError):
    """The body, a header or a parameter cannot be read."""


class TensorMismatch(CallerError):
    """A tensor differs from what the model wants."""


class PayloadTooLarge(CallerError):
    """More bytes, elements or rows than the limit."""


class HeadersTooLarge(CallerError):
    """More bytes in the request line and headers, or more headers, than the limit."""


class SlowRequest(CallerError):
    """The request's head or body did not arrive in time."""


class UnsupportedMedia(CallerError):
    """A content type or encoding that no codec reads."""


class MethodNotAllowed(CallerError):
    """The path exists, the method does not."""


class Unimplemented(CallerError):
    """A part of the protocol that this server does not offer."""


class NotEnabled(CallerError):
    """A setting of this server says no."""


class Cancelled(CallerError):
    """The caller went away before the answer."""


class ForbiddenOrigin(CallerError):
    """A page of another site tried to change state."""


class MisdirectedRequest(CallerError):
    """A Host header that is not ours."""


class NotPermitted(CallerError):
    """No principal, or one without the right."""


class InvalidPlan(CallerError):
    """A rollout plan that cannot be followed."""


class InvalidSetting(CallerError):
    """A settings file, variable or flag that cannot be used."""


class ArtifactRejected(CallerError):
    """A model, golden set or reference that was refused, with the reason."""


class UnknownName(ServingError):
    """Nothing has that name."""


class ModelNotFound(UnknownName):
    """No such model."""


class VersionNotFound(UnknownName):
    """The model has no such version."""


class AliasNotFound(UnknownName):
    """The model has no such alias."""


class RolloutNotFound(UnknownName):
    """The model never had a rollout."""


class RouteNotFound(UnknownName):
    """No such path."""


class Conflict(ServingError):
    """Possible, but not in the present state."""


class RolloutActive(Conflict):
    """A rollout of this model is running."""


class IllegalTransition(Conflict):
    """Not in this state."""


class AliasMoved(Conflict):
    """Compare-and-swap lost: somebody moved the alias first."""


class Unavailable(ServingError):
    """Not now; `retry_after_s` says when to try again."""


class OverQuota(Unavailable):
    """The caller's own limit."""


class Overloaded(Unavailable):
    """The server's limit."""


class BreakerOpen(Unavailable):
    """The version's runs failed one after the other, or ended the worker, so none is tried for a while."""


class NotReady(Unavailable):
    """Not loaded here, or not yet."""


class Draining(Unavailable):
    """Shutting down."""


class DeadlineExceeded(Unavailable):
    """The caller's deadline has passed or cannot be met."""


class StorageFailed(Unavailable):
    """Files or the database cannot be written or read now."""

    @classmethod
    def of(cls, error: OSError) -> StorageFailed | None:
        """What a fault of the file system is to a caller, where a disk is full, broken or read-only."""
        if error.errno not in _STORAGE:
            return None
        where = f"{error.filename}: " if error.filename else ""
        return cls(f"this cannot be stored now: {where}{error.strerror}", retry_after_s=5.0)


class ServerNotFound(Unavailable):
    """The command needs a running server and found none."""


class Fault(ServingError):
    """Ours, or the model's."""


class LoadFailed(Fault):
    """A version could not be loaded."""


class InferenceFailed(Fault):
    """The model failed on these inputs."""


class FormatTooNew(Fault):
    """A stored format of a newer release."""


class StateDamaged(Fault):
    """A stored file is not what it says it is."""


class InternalError(Fault):
    """A bug of ours; the log has the trace."""
