"""A headless Chromium, driven by its DevTools protocol over two pipes: real keys, a real pointer, no package."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATIENCE = 60.0  # seconds for one answer: the machine may be busy
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-background-networking --no-first-run "
    "--disable-component-update --disable-sync --remote-debugging-pipe"
).split()


def find_chromium() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One tab. Commands are answered in order; events are passed over."""

    def __init__(self, out: int, back: int) -> None:
        self._out, self._back, self._buffer, self._number = out, back, b"", 0
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method: str, **parameters: Any) -> Any:
        """A command's result. Raises RuntimeError for a refused one, TimeoutError without an answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, address: str, width: int = 1400, height: int = 900) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=address)
        self.wait(f"location.href.startsWith({json.dumps(address)}) && document.readyState === 'complete'")

    def value(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Until the expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.value(expression):
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {expression}\n{self.value('document.body?.innerText')}")
            time.sleep(0.05)

    def press(self, key: str, modifiers: int = 0) -> None:
        """modifiers: 1 Alt, 2 Control, 4 Meta, 8 Shift, added. Enter and single letters have their text, as typed."""
        text = "\r" if key == "Enter" else key if len(key) == 1 and not modifiers & 7 else ""
        codes = {"windowsVirtualKeyCode": 13} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, modifiers=modifiers, text=text, **codes)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, modifiers=modifiers, **codes)

    def type(self, text: str) -> None:
        """Letter by letter, into what has the focus."""
        for letter in text:
            self.press(letter)

    def click(self, selector: str) -> None:
        """The middle of an element."""
        x, y = self.value(
            f"(() => {{ const at = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            " return [at.left + at.width / 2, at.top + at.height / 2]; })()"
        )
        self.drag((x, y), (x, y))

    @contextmanager
    def slow_network(self, latency: float) -> Iterator[None]:
        """latency: milliseconds that every request takes longer."""
        self.call("Network.enable")
        conditions = {"offline": False, "downloadThroughput": -1, "uploadThroughput": -1}
        self.call("Network.emulateNetworkConditions", latency=latency, **conditions)
        try:
            yield
        finally:
            self.call("Network.emulateNetworkConditions", latency=0, **conditions)

    def drag(self, start: tuple[float, float], end: tuple[float, float], modifiers: int = 0) -> None:
        """With the left button, in CSS pixels of the window; start == end is a click. modifiers: as press has them."""
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
        for kind, (x, y) in (("Pressed", start), ("Moved", middle), ("Moved", end), ("Released", end)):
            place = {"x": x, "y": y, "modifiers": modifiers}
            self.call("Input.dispatchMouseEvent", type=f"mouse{kind}", button="left", buttons=1, clickCount=1, **place)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._back], [], [], PATIENCE)[0]:
                raise TimeoutError("Chromium does not answer")
            if not (piece := os.read(self._back, 1 << 16)):
                raise TimeoutError("Chromium has ended")
            self._buffer += piece
        text, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(text)


@contextmanager
def chromium_page(program: str, profile: Path) -> Iterator[Page]:
    """profile: an empty folder for what the browser keeps."""
    theirs_in, out = os.pipe()
    back, theirs_out = os.pipe()
    # Chromium reads commands from descriptor 3 and answers on 4; a shell puts them there.
    plug = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
    command = ["bash", "-c", plug, "bash", program, *OPTIONS, f"--user-data-dir={profile}"]
    browser = subprocess.Popen(
        command, pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Page(out, back)
    finally:
        os.close(out)
        browser.terminate()
        browser.wait(timeout=30)
        os.close(back)
