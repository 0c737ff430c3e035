"""A headless Chromium of one's own, spoken to over a pipe: no port, no network, no driver."""

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
    "--remote-debugging-pipe",
)  # fmt: skip


class Browser:
    """One page in a fresh profile; use it in a `with`.

    Raises:
        SystemExit: if no browser is installed.
    """

    def __init__(self) -> None:
        found = next((path for name in NAMES if (path := shutil.which(name))), None)
        if found is None:
            raise SystemExit(f"no browser is installed; any of {', '.join(NAMES)} will do")
        self._path, self._last, self._session = found, 0, ""

    def __enter__(self) -> "Browser":
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        # The browser reads from its descriptor 3 and writes to 4; both ends are kept clear of these.
        ours, theirs = zip(*(self._pipe(i) for i in range(2)), strict=True)

        def wire() -> None:
            os.dup2(theirs[0], 3)
            os.dup2(theirs[1], 4)

        command = [self._path, *FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"]
        self._process = subprocess.Popen(
            command, preexec_fn=wire, pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for end in theirs:
            os.close(end)
        self._write, self._read = os.fdopen(ours[0], "wb"), os.fdopen(ours[1], "rb")
        self._waiting = b""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        return self

    @staticmethod
    def _pipe(direction: int) -> tuple[int, int]:
        """Make a pipe whose ends lie above 9: ours, and the browser's."""
        ends = os.pipe()
        high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
        for end in ends:
            os.close(end)
        read, write = high
        return (write, read) if direction == 0 else (read, write)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write.close()
        self._read.close()
        self._process.terminate()
        self._process.wait(20)
        self._profile.cleanup()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol.

        Raises:
            RuntimeError: if it fails, or the browser is gone.
        """
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        self._write.flush()
        while (said := self._next()).get("id") != self._last:
            pass
        if "error" in said:
            raise RuntimeError(f"{method}: {said['error']['message']}")
        return said["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._waiting:
            read = os.read(self._read.fileno(), 1 << 16)
            if not read:
                raise RuntimeError("the browser has gone")
            self._waiting += read
        message, _, self._waiting = self._waiting.partition(b"\0")
        return json.loads(message)

    def open(self, page: Path, *, width: int, height: int, scheme: str = "light", observe: str = "") -> None:
        """Open a page and wait until it has loaded.

        Args:
            page: a file.
            width: of the window [CSS pixels].
            height: of it.
            scheme: `light` or `dark`, as the reader's system asks for.
            observe: a script that runs before any of the page's; its content policy does not bind it.
        """
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        if observe:
            self.call("Page.addScriptToEvaluateOnNewDocument", source=observe)
        self.call("Page.navigate", url=page.resolve().as_uri())
        while self._next().get("method") != "Page.loadEventFired":
            pass

    def run(self, script: str) -> Any:
        """Run an expression in the page, wait for its promise, and give its value.

        Raises:
            RuntimeError: with the page's own words, if it throws.
        """
        done = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in done:
            raise RuntimeError(done["exceptionDetails"]["exception"]["description"])
        return done["result"].get("value")
