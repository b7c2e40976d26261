"""Outside programs that some tests drive: found in .tools/bin (`make tools`) or on PATH, else the test is skipped.

Where DRIFTGATE_REQUIRE_TOOLS is set (.ci/run sets it) a missing program fails the test instead, so that a skip cannot
pass for a success.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def find_tool(name: str) -> Path | None:
    """Where the program is, or None."""
    here = ROOT / ".tools" / "bin" / name
    if here.is_file():
        return here
    found = shutil.which(name)
    return Path(found) if found else None


def need_tool(name: str) -> Path:
    """Where the program is; skips (or, where tools are required, fails) the calling test when it is nowhere."""
    found = find_tool(name)
    if found is not None:
        return found
    reason = f"{name} is neither in .tools/bin nor on PATH: `make tools` unpacks it where apt is"
    if os.environ.get("DRIFTGATE_REQUIRE_TOOLS"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
