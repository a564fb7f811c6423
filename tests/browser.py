"""A real Chromium, driven over its DevTools protocol: what a person would do, and what they see."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import aiohttp

_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # it runs as root in containers; what it shows is ours
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
_PATIENCE_S = 60.0


@contextlib.asynccontextmanager
async def browser(width=1000, height=900, *, dark=False):
    """One page in a browser of its own."""
    program = shutil.which("chromium")
    with tempfile.TemporaryDirectory() as profile:
        command = [program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        try:
            port = await asyncio.to_thread(_port, process)
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    pages = await answer.json()
                address = next(p for p in pages if p["type"] == "page")["webSocketDebuggerUrl"]
                async with session.ws_connect(address, max_msg_size=0) as socket:
                    page = Page(socket)
                    reading = asyncio.create_task(page.read())
                    await page.begin(width, height, dark=dark)
                    yield page
                    reading.cancel()
                    await asyncio.gather(reading, return_exceptions=True)
        finally:
            process.kill()
            process.communicate()


def _port(process):
    """The port is in the line that says where the browser listens."""
    for line in process.stderr:
        if "DevTools listening on ws://" in line:
            return int(line.rsplit(":", 1)[1].split("/")[0])
    raise AssertionError("Chromium has ended")


class Page:
    """A tab; `problems` are the errors of its scripts and what its policy has kept out."""

    def __init__(self, socket):
        self._socket = socket
        self._numbers = itertools.count(1)
        self._waiting = {}
        self._loaded = asyncio.Event()
        self.problems = []

    async def begin(self, width, height, *, dark):
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def goto(self, url):
        """Load a page."""
        self._loaded.clear()
        await self.call("Page.navigate", url=str(url))
        async with asyncio.timeout(_PATIENCE_S):
            await self._loaded.wait()

    async def eval(self, expression):
        """The value of an expression, awaited where it is a promise."""
        found = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    async def until(self, condition):
        """Wait until an expression is true."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while not await self.eval(f"Boolean({condition})"):
                    await self.eval("new Promise(requestAnimationFrame)")
        except TimeoutError:
            text = await self.eval("document.body.innerText")
            raise AssertionError(f"{condition} never came; the page says: {text}") from None

    async def type(self, text):
        """Write into what has the focus."""
        await self.call("Input.insertText", text=text)

    async def press(self, key, *, control=False, shift=False):
        """Press a key: `Enter`, `Tab`, `Escape`, `ArrowRight`, ..."""
        codes = {"Enter": 13, "Tab": 9, "Escape": 27, " ": 32, "ArrowLeft": 37, "ArrowRight": 39}
        how = {
            "key": key,
            "windowsVirtualKeyCode": codes.get(key, ord(key[0])),
            "modifiers": 2 * control + 8 * shift,
        }
        text = {"Enter": "\r", " ": " "}.get(key)
        down = {**how, "text": text} if text and not control else how
        await self.call("Input.dispatchKeyEvent", type="keyDown", **down)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **how)

    async def focused(self):
        """Id of what has the focus."""
        return await self.eval("document.activeElement.id")

    async def screenshot(self, path):
        """Write what is seen as a PNG."""
        shot = await self.call("Page.captureScreenshot", format="png")
        Path(path).write_bytes(base64.b64decode(shot["data"]))

    async def call(self, method, **params):
        """One command of the protocol."""
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        async with asyncio.timeout(_PATIENCE_S):
            return await answer

    async def read(self):
        """Give answers to whoever waits for them."""
        async for message in self._socket:
            data = json.loads(message.data)
            if "id" in data:
                waiting = self._waiting.pop(data["id"], None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(data.get("result", data.get("error")))
            elif data["method"] == "Page.loadEventFired":
                self._loaded.set()
            elif data["method"] == "Runtime.exceptionThrown":
                self.problems.append(data["params"]["exceptionDetails"]["text"])
            elif data["method"] == "Log.entryAdded" and data["params"]["entry"]["level"] == "error":
                self.problems.append(data["params"]["entry"]["text"])
