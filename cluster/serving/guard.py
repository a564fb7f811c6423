"""What every request passes first: size and pace of its body, its API key, its line in the log."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from cluster.serving.api_keys import ApiKey, ApiKeys
from cluster.serving.errors import ServingError
from wfr.serving_config import ServingConfig

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_PROTECTED = "/v1/"
VERSION_HEADER = b"x-policy-version"
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)


class Guard:
    """ASGI middleware around `application`.

    The key's name is left in `scope["state"]["key"]`, and what the handlers want to have logged in
    `scope["state"]["log"]`. Prompts are no part of it unless the handlers put them there.
    """

    def __init__(
        self,
        application: Application,
        config: ServingConfig,
        keys: ApiKeys | None,
        take: Callable[[ApiKey], Awaitable[None]],
        log: Callable[[str], None],
        count: Callable[[str, int, float], None],
        version: Callable[[], int],
    ) -> None:
        """`take` counts a request of a key; `log` gets a line, `count` route, status, seconds.

        `version` is in force: replies that no other one has made say so.
        """
        self._application = application
        self._config = config
        self._keys = keys
        self._take = take
        self._log = log
        self._count = count
        self._version = version

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        began, status = time.perf_counter(), 0
        state = scope.setdefault("state", {})
        given = dict(scope["headers"]).get(b"x-request-id")  # Ray's proxy gives one, and sends it
        name = given.decode("latin-1") if given else uuid.uuid4().hex
        state |= {"key": "", "log": {}, "id": name}
        own = _HEADERS if given else (*_HEADERS, (b"x-request-id", name.encode()))

        async def sending(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), *own]
                if all(name.lower() != VERSION_HEADER for name, _ in headers):
                    headers.append((VERSION_HEADER, b"%d" % self._version()))
                message["headers"] = headers
            await send(message)

        try:
            await self._admit(scope, state)
            again = replayed(await self._body(receive), receive)
            await self._application(scope, again, sending)
        except ServingError as error:
            if not status:
                await refuse(error, sending)
        finally:
            seconds = time.perf_counter() - began
            self._count(scope["path"], status, seconds)
            self._log(_line(scope, state, status or 499, seconds))

    async def _admit(self, scope: Scope, state: MutableMapping[str, Any]) -> None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        if int(_digits(headers.get(b"content-length"))) > self._config.max_body_kib * 1024:
            raise self._too_large()
        if self._keys is None or not scope["path"].startswith(_PROTECTED):
            return
        if scope["method"] == "OPTIONS":  # a preflight carries no key
            return
        given = headers.get(b"authorization")
        key = self._keys.check(given.decode("latin-1") if given else None)
        state["key"] = key.name
        await self._take(key)

    async def _body(self, receive: Receive) -> bytes:
        """The whole body: at most so many bytes, within so many seconds."""
        body, seconds = bytearray(), self._config.read_timeout_s
        try:
            async with asyncio.timeout(seconds):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise ServingError(499, "client_left", "the client has left")
                    body += message.get("body", b"")
                    if len(body) > self._config.max_body_kib * 1024:
                        raise self._too_large()
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise ServingError(
                408, "slow_body", f"the body did not arrive within {seconds:g} s"
            ) from None

    def _too_large(self) -> ServingError:
        most = self._config.max_body_kib
        return ServingError(413, "body_too_large", f"the body is larger than {most} KiB")


def replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that was read before, and then what comes after it."""
    left: list[MutableMapping[str, Any]] = [{"type": "http.request", "body": body}]

    async def again() -> MutableMapping[str, Any]:
        return left.pop() if left else await receive()

    return again


async def refuse(error: ServingError, send: Send) -> None:
    """Send a refusal as a response of its own."""
    body = json.dumps(error.body()).encode()
    headers = {
        **error.headers(),
        "content-type": "application/json",
        "content-length": str(len(body)),
    }
    start = {
        "type": "http.response.start",
        "status": error.status,
        "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
    }
    await send(start)
    await send({"type": "http.response.body", "body": body})


def _digits(value: bytes | None) -> bytes:
    return value if value is not None and value.isdigit() else b"0"


def _line(scope: Scope, state: Mapping[str, Any], status: int, seconds: float) -> str:
    """One line of the access log: JSON."""
    return json.dumps(
        {
            "time": round(time.time(), 3),
            "id": state["id"],
            "key": state["key"],
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "seconds": round(seconds, 4),
            **state["log"],
        },
        ensure_ascii=False,
    )
