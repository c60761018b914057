"""Headless Chromium, driven through the DevTools protocol over a pipe."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

# Chromium reads commands from descriptor 3 and answers on descriptor 4.
START = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(text), fcntl.F_DUPFD, 10) for text in sys.argv[1:3]]
for number, end in enumerate(ends, start=3):
    os.dup2(end, number)
os.execvp(sys.argv[3], sys.argv[3:])
"""
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--remote-debugging-pipe",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # nothing leaves this machine, whatever is asked
)
TIMEOUT_S = 60.0


class Chromium:
    """One browser with one tab; remembers what its page logs and asks for."""

    def __init__(self, profile: Path) -> None:
        executable = shutil.which("chromium")
        assert executable, "no chromium on PATH; make test-browser installs it"
        read_commands, self._commands = os.pipe()
        self._answers, write_answers = os.pipe()
        start = [sys.executable, "-c", START, str(read_commands), str(write_answers)]
        self._process = subprocess.Popen(
            [*start, executable, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(read_commands, write_answers),
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(read_commands)
        os.close(write_answers)
        self._numbers = itertools.count(1)
        self._buffer = b""
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)  # its own session: nobody else is hit
        self._process.wait()
        os.close(self._commands)
        os.close(self._answers)

    def open(self, page: Path) -> None:
        """Load a page and wait until it has run."""
        self.events.clear()
        self.call("Page.navigate", url=page.as_uri())
        deadline = time.monotonic() + TIMEOUT_S
        while not self._seen("Page.loadEventFired"):
            assert time.monotonic() < deadline, "the page did not load"
            self._receive()
        self.run("new Promise((done) => setTimeout(done, 200))")  # time to misbehave

    def resize(self, width: int, height: int) -> None:
        """Give the page a window of this size."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def run(self, script: str) -> Any:
        """Evaluate an expression in the page."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def point_at(self, x: float, y: float) -> None:
        """Move the mouse."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    @property
    def complaints(self) -> list[str]:
        """Errors and warnings on the console, uncaught exceptions, refused loads."""
        said = [event["params"] for event in self._seen("Runtime.consoleAPICalled")]
        found = [call["args"] for call in said if call["type"] in ("error", "warning", "assert")]
        thrown = self._seen("Runtime.exceptionThrown")
        found += [event["params"]["exceptionDetails"] for event in thrown]
        found += [event["params"]["entry"] for event in self._seen("Log.entryAdded")]
        return list(map(str, found))

    @property
    def requests(self) -> list[str]:
        """Addresses asked for, other than files and data inside the page."""
        asked = [
            event["params"]["request"]["url"] for event in self._seen("Network.requestWillBeSent")
        ]
        return [url for url in asked if not url.startswith(("file:", "data:"))]

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
        raise TimeoutError(method)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._answers, 1 << 16)
            assert part, "chromium ended"
            self._buffer += part
        line, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        if "method" in message:
            self.events.append(message)
        return message

    def _seen(self, method: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["method"] == method]
