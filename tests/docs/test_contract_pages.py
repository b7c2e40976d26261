"""Runs the curl calls of the pages on V1, MLflow and containers: each must print what the page says."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import models
from tests.support.server import Server, cli, serving
from tests.support.tools import need_tool

PAGES = Path(__file__).resolve().parents[2] / "docs" / "protocols"
CALLS = re.compile(r"^```bash\n(.*?)^```\n\n```json\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def documents(text: str) -> list[Any]:
    """The JSON values of a text, one after the other."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        value, at = decoder.raw_decode(text, at)
        found.append(value)
    return found


def same(said: Any, got: Any) -> bool:
    """Whether an answer is the one that a page says; … stands for any text."""
    if said == "…":
        return isinstance(got, str)
    if isinstance(said, dict) and isinstance(got, dict):
        return said.keys() == got.keys() and all(same(value, got[name]) for name, value in said.items())
    if isinstance(said, list) and isinstance(got, list):
        return len(said) == len(got) and all(map(same, said, got))
    return bool(said == got)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with the pages' model."""
    folder = tmp_path_factory.mktemp("pages")
    reference = np.random.default_rng(1).normal([40, 8, 1], [10, 4, 0.5], (400, 3))
    lines = ["age,visits,spend", *(",".join(f"{value:.3f}" for value in row) for row in reference)]
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    model = models.linear(folder / "churn.onnx")
    cli(
        folder / "home", "register", "churn", str(model), "--reference", str(folder / "rows.csv"), "--alias", "champion"
    )
    return folder / "home"


@pytest.fixture
def server(state: Path, free_port: Callable[[], int]) -> Iterator[Server]:
    with serving(state, free_port, gateway__predict_route="/v1/endpoints/5/deployedModels/9:predict") as running:
        yield running


@pytest.mark.tool("curl")
def test_every_call_of_the_pages_prints_what_they_say(server: Server) -> None:
    need_tool("curl")
    environ = {name: text for name, text in os.environ.items() if "proxy" not in name.lower()}
    for page, calls in (("v1.md", 5), ("mlflow.md", 4), ("containers.md", 3)):
        found = CALLS.findall((PAGES / page).read_text(encoding="utf-8"))
        assert len(found) == calls, page
        for call, said in found:
            command = call.replace("http://127.0.0.1:8080", server.data_url)
            done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30, env=environ)
            assert done.returncode == 0, (call, done.stderr)
            assert same(documents(said), documents(done.stdout)), (page, call, done.stdout)
