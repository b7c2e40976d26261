"""Runs what the pages tell a reader to type: the `$ ` lines of their console blocks, in order, in one shell a page.

The shell stands in a fresh folder that looks like a checkout (docs/ and .venv/ are there), and the two ports are free
ones instead of 8080 and 8081. What a page promises of the answers is asserted below the run.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.tools import need_tool

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LIMIT_S = 200.0


def commands_of(page: Path) -> list[str]:
    """The `$ ` lines of a page's console blocks."""
    blocks = re.findall(r"^```console\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def run_in_one_shell(commands: list[str], folder: Path, environ: dict[str, str]) -> list[str]:
    """Run the commands in one shell that ends at the first failure → what each printed, both streams."""
    lines = ["set -eo pipefail"]
    for number, command in enumerate(commands):
        lines += [f"echo '<<<{number}>>>'", command]
    log = folder / "output.log"
    with log.open("w") as stream:
        shell = subprocess.Popen(
            ["bash", "-c", "\n".join(lines)],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = shell.wait(LIMIT_S)
        finally:
            if shell.poll() is None or shell.returncode != 0:
                os.killpg(shell.pid, signal.SIGTERM)  # the server that the page started, too
            shell.wait(20)
    text = log.read_text(encoding="utf-8", errors="replace")
    serve_log = folder / "serve.log"
    said = serve_log.read_text(errors="replace")[-3000:] if serve_log.is_file() else ""
    assert status == 0, f"exit {status} after:\n{text[-4000:]}\nserve.log:\n{said}"
    return re.split(r"<<<\d+>>>\n", text)[1:]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like a checkout to the commands of a page."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


def test_only_the_readme_has_commands_to_run() -> None:
    """A page that gets some needs a test of its own, below."""
    assert [page.name for page in PAGES if commands_of(page)] == ["README.md"]


@pytest.mark.tool("curl")
@pytest.mark.timeout(LIMIT_S + 40)  # it trains models, registers three and serves them: 30 s on two free cores
def test_the_tour_of_the_readme_does_what_it_says(checkout: Path, free_port: Callable[[], int]) -> None:
    need_tool("curl")
    data, control = str(free_port()), str(free_port())
    environ = {name: text for name, text in os.environ.items() if not name.startswith("DRIFTGATE_")}
    environ |= {
        "DRIFTGATE_GATEWAY__PORT": data,
        "DRIFTGATE_CONTROL__PORT": control,
        "DRIFTGATE_GATEWAY__DRAIN_S": "0.2",
    }
    commands = [
        command.replace("127.0.0.1:8080", f"127.0.0.1:{data}").replace("127.0.0.1:8081", f"127.0.0.1:{control}")
        for command in commands_of(ROOT / "README.md")
    ]

    printed = run_in_one_shell(commands, checkout, environ)

    said = dict(zip(commands, printed, strict=True))
    first, second = [text for command, text in zip(commands, printed, strict=True) if " rollout status " in command]
    assert re.search(r"\b(soak|succeeded)\b", first), first
    assert re.search(r"\brolled_back\b", second), second
    assert "shadow_disagreement" in second
    traffic = [text for command, text in said.items() if "traffic.py" in command]
    assert "status 5" not in "".join(traffic)
    assert not re.search(r"v3 (champion|canary)", traffic[-1]), "the broken version answered somebody"
    assert "alarm" not in said["driftgate drift diabetes"], "the tour's traffic is drawn from the reference"
    assert 'driftgate_rollbacks_total{model="diabetes"' in "".join(printed)
