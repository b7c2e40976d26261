"""The whole demo, as `make demo` runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.flights import made


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_demo_promotes_the_second_model_and_rolls_the_third_back(tmp_path: Path) -> None:
    made()  # skips where the demo's packages are not installed
    home = tmp_path / "home"
    done = subprocess.run(
        [sys.executable, "-P", "-m", "driftgate", "demo", "--json", "--home", str(home)],
        capture_output=True,
        text=True,
        check=False,
        timeout=380,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    outcome = json.loads(done.stdout)
    assert outcome["ok"]
    assert outcome["failed"] == 0
    assert outcome["champion"] == 2
    assert outcome["rolled_back"]["state"] == "rolled_back"
    assert (home / "registry.db").is_file(), "a folder that was named is kept"
