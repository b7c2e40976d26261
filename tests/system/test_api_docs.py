"""The documentation pages in a real browser: what they send is answered, and they ask nobody else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.support.browser import Page, browsing
from tests.support.models import columns, linear
from tests.support.server import Server, cli, serving

pytestmark = [pytest.mark.slow, pytest.mark.tool("chromium-headless-shell")]


def open_and_send(page: Page, operation: str) -> tuple[str, str]:
    """Open one operation of the page, press Execute, and give the status and body of the answer that it shows."""
    block = f"document.getElementById({operation!r})"
    page.wait_for(f"!!{block}")
    page.run(f"{block}.querySelector('.opblock-summary-control').click()")
    page.wait_for(f"!!{block}.querySelector('button.execute')")
    page.run(f"{block}.querySelector('button.execute').click()")
    shown = f"{block}.querySelector('.live-responses-table .response')"
    page.wait_for(f"!!{shown}")
    status = page.run(f"{shown}.querySelector('.response-col_status').innerText")
    body = page.run(
        f"{shown}.querySelector('.response-col_description .highlight-code, .response-col_description pre').innerText"
    )
    return status.split()[0], body


def only_from(page: Page, server_url: str) -> bool:
    """Whether the page asked this server alone."""
    return bool(page.requests) and all(
        url.startswith((server_url + "/", "data:", "about:", "blob:")) for url in page.requests
    )


def registered(tmp_path: Path) -> Path:
    """A state folder with two models."""
    home = tmp_path / "home"
    reference = tmp_path / "reference.csv"
    reference.write_text("a,b,c\n" + "\n".join(f"{row}.5,{row * 10},{row * 1000.25}" for row in range(60)) + "\n")
    linear(tmp_path / "churn.onnx")
    columns(tmp_path / "visits.onnx")
    words = ("--columns", "a,b,c", "--reference", str(reference))
    cli(home, "register", "churn", str(tmp_path / "churn.onnx"), "--alias", "champion", *words)
    cli(home, "register", "visits", str(tmp_path / "visits.onnx"), "--alias", "champion")
    return home


def test_the_examples_are_sent_from_the_page_and_answered_and_nobody_else_is_asked(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    with serving(registered(tmp_path), free_port) as server, browsing(tmp_path / "profile") as page:
        page.go(f"{server.data_url}/docs")
        for operation, answer in (
            ("operations-model_churn-post_v2_models_churn_infer", '"model_name": "churn"'),
            ("operations-model_churn-post_v1_models_churn_predict", '"predictions"'),
            ("operations-model_visits-post_v2_models_visits_infer", '"model_name": "visits"'),
            ("operations-Health-get_readyz", '"ready": true'),
        ):
            status, body = open_and_send(page, operation)
            assert (status, answer in body) == ("200", True), (operation, status, body)
        assert page.complaints == []
        assert only_from(page, server.data_url)
        assert_typical(server)


def assert_typical(server: Server) -> None:
    """The example is made of the reference's medians."""
    document = httpx.get(f"{server.data_url}/openapi.json").json()
    request = document["paths"]["/v2/models/churn/infer"]["post"]["requestBody"]
    tensor = request["content"]["application/json"]["example"]["inputs"][0]
    assert tensor["data"] == [29.5, 290.0, 29000.0]


def test_the_control_ports_page_sends_calls(tmp_path: Path, free_port: Callable[[], int]) -> None:
    with serving(registered(tmp_path), free_port) as server, browsing(tmp_path / "profile") as page:
        page.go(f"{server.control_url}/docs")
        assert open_and_send(page, "operations-models-models")[0] == "200"
        assert page.complaints == []
        assert only_from(page, server.control_url)
