"""What the code says behind each field of a dataclass: the comments that reference pages are made of."""

from __future__ import annotations

import inspect
import io
import tokenize
from typing import Any


def comments_of(tree: type[Any]) -> dict[str, str]:
    """Field → the comment on its line, of a dataclass."""
    found: dict[str, str] = {}
    name = ""
    for token in tokenize.generate_tokens(io.StringIO(inspect.getsource(tree)).readline):
        if token.type == tokenize.NAME and token.line.lstrip().startswith(f"{token.string}:"):
            name = token.string
        if token.type == tokenize.COMMENT and name:
            found[name] = token.string.lstrip("# ")
    return found
