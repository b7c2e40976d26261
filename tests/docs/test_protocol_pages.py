"""Runs the Python of the pages on MessagePack, Arrow and the client, block after block, against a real server."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry import onnx
from tests.support import models
from tests.support.server import Server, cli, serving

PAGES = Path(__file__).resolve().parents[2] / "docs" / "protocols"
ROWS = np.array([[34, 12, 0.5], [51, 3, 1.25]], np.float32)


def run(page: str, server: Server) -> dict[str, Any]:
    """The names that a page's blocks leave behind."""
    text = (PAGES / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert blocks
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks):
        code = block.replace("http://127.0.0.1:8080", server.data_url)
        code = code.replace("http://127.0.0.1:8081", server.control_url)
        exec(compile(code, f"{page}, block {number + 1}", "exec"), names)
    return names


def test_the_pages_do_what_they_say(
    tmp_path: Path, free_port: Callable[[], int], capsys: pytest.CaptureFixture[str]
) -> None:
    model = models.linear(tmp_path / "churn.onnx")
    want = onnx.run(onnx.open_session(model), {"x": ROWS})[0]
    reference = np.random.default_rng(1).normal([40, 8, 1], [10, 4, 0.5], (400, 3))
    lines = ["age,visits,spend", *(",".join(f"{value:.3f}" for value in row) for row in reference)]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    home = tmp_path / "home"
    cli(home, "register", "churn", str(model), "--reference", str(tmp_path / "rows.csv"), "--alias", "champion")
    with serving(home, free_port) as server:
        formats = run("msgpack-arrow.md", server)
        client = run("client.md", server)

    assert formats["scores"].tobytes() == want.tobytes()
    assert np.array(formats["outputs"]["y"].to_pylist(), np.float32).tobytes() == want.tobytes()

    assert client["scores"].to_numpy(np.float32).tobytes() == want.tobytes()
    assert list(client["scores"].columns) == ["y[0]", "y[1]"]
    assert np.concatenate([answer["y"] for answer in client["answers"]]) == pytest.approx(want, rel=1e-6)
    assert (client["answer"].request_id, client["answer"].role) == ("order-4711", "direct")
    assert sum(client["fate"].values()) == 1
    assert set(client["fate"]) == {"joined", "waiting", "ambiguous", "expired"}
    assert "model_not_found" in capsys.readouterr().out
    for name in ("client", "patient", "never"):
        client[name].close()
