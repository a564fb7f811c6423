"""A server with OpenAI's chat completions that answers after a while: a process of its own.

    python -m benchmarks.chat_server PORT

A reply takes 200 ms, give or take a fifth, and in one case of twenty up to a second. `/stats` says
how many requests there were and how long all of them together took, in seconds.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time

from aiohttp import web

_USAGE = {"prompt_tokens": 30, "completion_tokens": 9, "total_tokens": 39}
_MESSAGE = {"role": "assistant", "content": "<think>abc</think><answer>42</answer>"}
_REPLY = {
    "id": "x",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": _MESSAGE, "finish_reason": "stop"}],
    "usage": _USAGE,
}


class Server:
    """Counts what it answers."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._rng = random.Random(1)
        self._requests = self._in_flight = self._most = 0
        self._seconds = 0.0

    async def chat(self, request: web.Request) -> web.Response:
        """Answer after a while."""
        started = time.monotonic()
        self._requests += 1
        self._in_flight += 1
        self._most = max(self._most, self._in_flight)
        await request.read()
        # Without the spread all replies would come at once, wave after wave, as no model's do.
        tail = self._rng.random() < 0.05
        await asyncio.sleep(self._rng.uniform(0.2, 1.0) if tail else self._rng.uniform(0.16, 0.24))
        self._in_flight -= 1
        self._seconds += time.monotonic() - started
        return web.json_response(_REPLY)

    async def stats(self, request: web.Request) -> web.Response:
        """What was answered since the last time this was asked."""
        found = {"requests": self._requests, "seconds": self._seconds, "most": self._most}
        self._requests = self._most = 0
        self._seconds = 0.0
        return web.json_response(found)


def main(port: int) -> None:
    """Serve until killed."""
    server = Server()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", server.chat)
    app.router.add_get("/stats", server.stats)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None, backlog=4096)


if __name__ == "__main__":
    main(int(sys.argv[1]))
