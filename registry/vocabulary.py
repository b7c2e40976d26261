"""The nouns that every part shares. Plain values, standard library only, nothing here does anything.

One word for one thing: what is called a *role* here is a role in metrics, headers, the database and the docs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NewType

ModelName = NewType("ModelName", str)
VersionNumber = NewType("VersionNumber", int)

DEFAULT_TENANT = "default"

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_ALIAS_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")

CHAMPION_ALIAS = "champion"
CANARY_ALIAS = "canary"


# What a table's column holds, where its owner says so.
FeatureType = Literal["numeric", "integer", "categorical", "boolean", "text_length"]


class Role(StrEnum):
    """Why a version answered (or merely ran) a request."""

    CHAMPION = "champion"  # answers by default
    CANARY = "canary"  # answers the share that the split gives it
    SHADOW = "shadow"  # answers nobody; is recorded and compared
    DIRECT = "direct"  # the caller named the version or the role; never evidence
    FALLBACK = "fallback"  # answered in place of another version; never evidence


class Verdict(StrEnum):
    """What a guardrail says. UNKNOWN always comes with a Cause; no data is neither good nor bad."""

    PASS = "pass"  # noqa: S105 - not a password
    BREACH = "breach"
    UNKNOWN = "unknown"


class Cause(StrEnum):
    """Why a verdict is unknown, or why a rollout holds."""

    NO_TRAFFIC = "no_traffic"
    STALE = "stale"
    ERROR = "error"
    NOT_ENOUGH = "not_enough"
    NOT_CONFIGURED = "not_configured"
    PAUSED = "paused"
    TIMED_OUT = "timed_out"
    BREACH = "breach"
    OPERATOR = "operator"


class RolloutState(StrEnum):
    """Where a rollout stands. The last four are final."""

    DRAFT = "draft"
    WARMING = "warming"  # the candidate is aspired; not every live worker is READY yet
    SHADOW = "shadow"  # the candidate runs on copies and answers nobody
    CANARY = "canary"  # the candidate answers a share
    HOLD = "hold"  # stays where it is, with a cause; evidence goes on being read
    PROMOTING = "promoting"  # the champion alias is moving
    SOAK = "soak"  # promoted; the old champion stays loaded
    SUCCEEDED = "succeeded"
    ROLLING_BACK = "rolling_back"  # weight is 0; the record is being written
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"  # an operator ended it
    SUPERSEDED = "superseded"  # another rollout took its place


FINAL_STATES = frozenset(
    {RolloutState.SUCCEEDED, RolloutState.ROLLED_BACK, RolloutState.ABORTED, RolloutState.SUPERSEDED}
)


class LoadState(StrEnum):
    """What one worker says of one aspired version."""

    LOADING = "loading"
    READY = "ready"  # published after it can be leased
    FAILED = "failed"  # published with a reason; not retried until it is aspired anew
    DRAINING = "draining"  # published before it stops being leasable
    AVAILABLE = "available"  # never published: known, not in memory, and loaded when a request wants it


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One declared input or output of a model.

    `datatype` is the Open Inference name (FP32, INT64, BYTES …). A dimension of None is free; a rank of None
    (`shape is None`) is unknown. Declared output shapes may lie, so nothing is ever split by them. `classes` names the
    columns of an output that the model itself gives as a sequence of maps.
    """

    name: str
    datatype: str
    shape: tuple[int | None, ...] | None
    classes: tuple[str, ...] | None = None


def is_model_name(text: str) -> bool:
    """Whether text may name a model."""
    return _MODEL_NAME.fullmatch(text) is not None


def is_alias_name(text: str) -> bool:
    """Whether text may name an alias: lower case, not a number, not `latest`."""
    return _ALIAS_NAME.fullmatch(text) is not None and not text.isdecimal() and text != "latest"
