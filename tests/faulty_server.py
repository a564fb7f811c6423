"""A local server with OpenAI's chat completions that misbehaves as it is told.

The prompt says what happens: `fault NAME TIMES` makes the first TIMES requests with this prompt
fail in the way NAME; then, and without any fault, it answers. It counts what it saw.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter

from aiohttp import web

USAGE = {"prompt_tokens": 20, "completion_tokens": 7, "total_tokens": 27}


def reply(content="<think>t</think><answer>yes</answer>", finish="stop", **message):
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content, **message},
        "finish_reason": finish,
    }
    head = {"id": "x", "object": "chat.completion", "created": 1, "model": "m"}
    return {**head, "choices": [choice], "usage": USAGE}


def error(message, code=None):
    return {"error": {"message": message, "type": "error", "code": code}}


class FaultyServer:
    """`async with FaultyServer() as server:` answers at `server.url`."""

    def __init__(self):
        self.requests: list[dict] = []
        self.headers: list[dict] = []
        self.answered = 0
        self.faults: Counter[str] = Counter()
        self.in_flight = self.most_in_flight = 0
        self.down = self.echo = False
        self._seen: Counter[str] = Counter()
        self._end = asyncio.Event()

    async def __aenter__(self):
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_):
        self._end.set()
        await self._runner.cleanup()

    async def _models(self, request):
        return web.json_response({"data": []})

    async def _chat(self, request):
        body = await request.json()
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._respond(request, body["messages"][-1]["content"])
        finally:
            self.in_flight -= 1

    async def _respond(self, request, prompt):
        words = prompt.split()
        if self.down:
            return self._fail("down", web.json_response(error("down"), status=503))
        if self.echo:
            self.faults["echo"] += 1
            return await (self._echo_error if self.faults["echo"] % 3 == 1 else self._echo)(request)
        if "fault" in words:
            at = words.index("fault")
            name, times = words[at + 1], int(words[at + 2])
            self._seen[prompt] += 1
            if self._seen[prompt] <= times:
                self.faults[name] += 1
                return await getattr(self, f"_{name}")(request)
        await asyncio.sleep(0.002)
        self.answered += 1
        return web.json_response(reply())

    def _fail(self, name, response):
        self.faults[name] += 1
        return response

    async def _busy(self, request):
        return web.json_response(error("slow down"), status=429, headers={"Retry-After": "0.05"})

    async def _busy_silent(self, request):
        return web.json_response(error("slow down"), status=429)

    async def _error500(self, request):
        return web.Response(status=500, text="<html>Internal Server Error</html>")

    async def _overloaded(self, request):
        return web.json_response(error("overloaded"), status=529, headers={"Retry-After": "0.05"})

    async def _truncated(self, request):
        text = json.dumps(reply())
        return web.Response(text=text[: len(text) // 2], content_type="application/json")

    async def _short(self, request):
        """A body shorter than its Content-Length."""
        response = web.StreamResponse(headers={"Content-Length": "5000"})
        await response.prepare(request)
        await response.write(b'{"id": "x", "choices": [')
        request.transport.close()
        return response

    async def _drip(self, request):
        """A byte now and then, for ever."""
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while not self._end.is_set():
                await response.write(b" ")
                await asyncio.sleep(0.01)
        return response

    async def _hang(self, request):
        await self._end.wait()
        return web.Response(status=500)

    async def _closed(self, request):
        request.transport.close()
        return web.Response()

    async def _garbage(self, request):
        """No HTTP at all."""
        request.transport.write(b"\x00\x01 nonsense\r\n\r\n")
        request.transport.close()
        return web.Response()

    async def _schema(self, request):
        return web.json_response({"result": "yes", "choices": "none"})

    async def _empty_choices(self, request):
        return web.json_response({**reply(), "choices": []})

    async def _list(self, request):
        return web.json_response([1, 2])

    async def _null(self, request):
        return web.json_response(reply(content=None))

    async def _number(self, request):
        return web.json_response(reply(content=5))

    async def _binary(self, request):
        return web.Response(body=bytes(range(256)), content_type="application/json")

    async def _redirect(self, request):
        return web.Response(status=307, headers={"Location": "http://127.0.0.1:9/v1"})

    async def _refusal(self, request):
        return web.json_response(reply(content=None, refusal="I cannot help with that."))

    async def _filtered(self, request):
        return web.json_response(error("blocked by content filter", "content_filter"), status=400)

    async def _too_long(self, request):
        message = "This model's maximum context length is 10 tokens"
        return web.json_response(error(message, "context_length_exceeded"), status=400)

    async def _rejected(self, request):
        return web.json_response(error("cannot parse that"), status=400)

    async def _cut(self, request):
        return web.json_response(reply(content="<think>on and on", finish="length"))

    async def _unauthorized(self, request):
        key = request.headers.get("Authorization", "")
        return web.json_response(error(f"Incorrect API key provided: {key}"), status=401)

    async def _no_model(self, request):
        return web.json_response(error("The model `m` does not exist"), status=404)

    async def _no_credit(self, request):
        message = "You exceeded your current quota"
        return web.json_response(error(message, "insufficient_quota"), status=429)

    async def _echo(self, request):
        """The key, where a text should be."""
        key = request.headers.get("Authorization", "")
        return web.json_response(reply(content=f"<answer>{key}</answer>"))

    async def _echo_error(self, request):
        key = request.headers.get("Authorization", "")
        return web.json_response(error(f"bad header {key}"), status=500)
