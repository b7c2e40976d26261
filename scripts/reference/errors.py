"""docs/reference/errors.md: every error that an answer can carry, from the tree and its one table of statuses."""

from __future__ import annotations

import inspect

from gateway.problems import retry_after_s, status_of
from registry import errors
from registry.errors import ServingError
from scripts.reference.table import table

INTRODUCTION = """# Errors

Every error on every route of both ports answers in one shape, and the command line's `--json` prints the same:

```json
{"error": "<a sentence for people>", "code": "<for programs>", "details": {}, "request_id": "<as in x-request-id>"}
```

Codes are stable: a program may compare them. `details` holds what the sentence says, as values. Answers with 429 and
503 carry `Retry-After`, in seconds.

"""


def page() -> str:
    """The page."""
    rows = [
        [
            f"`{kind.code}`",
            str(status_of(kind(""))),
            _again(kind),
            _parents(kind),
            (inspect.getdoc(kind) or "").rstrip("."),
        ]
        for kind in _leaves(ServingError)
    ]
    return INTRODUCTION + table(["Code", "Status", "Retry-After", "Kind", "Meaning"], rows)


def _leaves(kind: type[ServingError]) -> list[type[ServingError]]:
    below = [
        child
        for child in vars(errors).values()
        if isinstance(child, type) and issubclass(child, ServingError) and child.__bases__ == (kind,)
    ]
    return [leaf for child in below for leaf in _leaves(child)] if below else [kind]


def _parents(kind: type[ServingError]) -> str:
    return ", ".join(
        f"`{parent.code}`"
        for parent in kind.__mro__[1:]
        if parent not in (ServingError, Exception) and issubclass(parent, ServingError)
    )


def _again(kind: type[ServingError]) -> str:
    return "yes" if retry_after_s(kind("")) is not None else ""
