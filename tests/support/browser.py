"""A real headless browser, driven over a pipe by Chromium's own protocol: no driver, no port, no further package.

For tests of pages with scripts. One browser, one page; every complaint of the console and every request is kept, so a
test can say that nothing went wrong and nobody else was asked.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.tools import find_tool, need_tool

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


class Page:
    """The page of a browser that was started with a pipe."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._out, self._in = to_browser, from_browser
        self._read = b""
        self._number = 0
        self._session: str | None = None
        self.complaints: list[str] = []  # errors of scripts and of the console, refusals of the security policy
        self.requests: list[str] = []
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.command(f"{domain}.enable")
        self.command("Emulation.setDeviceMetricsOverride", width=1280, height=1600, deviceScaleFactor=1, mobile=False)

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol and its result; events that come before it are kept."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        until_s = time.monotonic() + 30
        while True:
            answer = self._receive(until_s)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self._keep(answer)

    def _receive(self, until_s: float) -> dict[str, Any]:
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._in], [], [], max(0.0, until_s - time.monotonic()))
            part = os.read(self._in, 1 << 20) if ready else b""
            if not part:
                raise AssertionError("the browser does not answer")
            self._read += part
        message, _, self._read = self._read.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer

    def _keep(self, event: dict[str, Any]) -> None:
        given = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                details = given["exceptionDetails"]
                self.complaints.append(details.get("exception", {}).get("description", details["text"]))
            case "Runtime.consoleAPICalled" if given["type"] in ("error", "assert"):
                self.complaints.append(" ".join(str(item.get("value", item)) for item in given["args"]))
            case "Log.entryAdded" if given["entry"]["level"] == "error":
                self.complaints.append(f"{given['entry']['text']} {given['entry'].get('url', '')}")
            case "Network.requestWillBeSent":
                self.requests.append(given["request"]["url"])

    def go(self, url: str) -> None:
        """Load a page."""
        self.command("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        result = self.command("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise AssertionError(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait_for(self, script: str, seconds: float = 20.0) -> Any:
        """The first true value of an expression; fails the test after that many seconds."""
        until_s = time.monotonic() + seconds
        while not (value := self.run(script)):
            if time.monotonic() > until_s:
                raise AssertionError(f"never true: {script}; {self.complaints}")
            time.sleep(0.05)
        return value

    def screenshot(self, path: Path) -> None:
        """What the page looks like, as PNG."""
        path.write_bytes(base64.b64decode(self.command("Page.captureScreenshot", format="png")["data"]))


# It talks on the descriptors 3 and 4.
_LAUNCH = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)


def _high(descriptor: int) -> int:
    copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10)
    os.close(descriptor)
    return copy


@contextlib.contextmanager
def browsing(profile: Path) -> Iterator[Page]:
    """A page of a browser that is gone afterwards. Skips (or fails, where tools are required) without a browser."""
    program = next((found for name in NAMES if (found := find_tool(name))), None) or need_tool(NAMES[0])
    their_in, write_end = os.pipe()
    our_in, their_out = os.pipe()
    their_in, their_out = _high(their_in), _high(their_out)  # 3 and 4 may be these
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
               f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", _LAUNCH, str(their_in), str(their_out), str(program), *options],
        pass_fds=(their_in, their_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(their_in)
    os.close(their_out)
    try:
        yield Page(write_end, our_in)
    finally:
        process.kill()
        process.wait(10)
        os.close(write_end)
        os.close(our_in)
