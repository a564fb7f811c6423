"""Any server with OpenAI's chat completions, through the official client.

The client's own retries are off: attempts, limits and time are `wfr.backends.guarded`'s. Its
answers are read from the raw response, because a reply that is no chat completion has to be an
error here and not an object with holes.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from typing import Any

import aiohttp
import httpx2
import openai

from wfr.backends.base import (
    BackendConfigError,
    BackendError,
    Completion,
    OperatorRequest,
    RejectedError,
)
from wfr.backends.keys import read_key, redact
from wfr.backends.retry_after import retry_after
from wfr.executor_config import OpenAICompatibleConfig

_NO_KEY = "none"  # the client insists on one; servers without keys ignore it
_FILTERED = re.compile(
    r"content[_ ]?(filter|management|policy)|data[_ ]?inspection|safety|moderation", re.IGNORECASE
)
_TOO_LONG = re.compile(
    r"context[_ ]?(length|window)|maximum (context|model) length|too (long|large|many tokens)",
    re.IGNORECASE,
)
_QUOTA = re.compile(r"insufficient[_ ]?(quota|balance|credit)|billing", re.IGNORECASE)
_SHOWN = 400
# The client wraps most of aiohttp's errors, but not that of a reply which is no HTTP.
_NO_REPLY = (openai.OpenAIError, httpx2.HTTPError, aiohttp.ClientError, ValueError)
_REMEDIES = {
    401: "the key was refused; check api_key_env or api_key_file",
    402: "the account is out of credit",
    403: "the key may not do this; check the account's rights and region",
    404: "there is no such model or address; check model and base_url",
    405: "this address takes no chat completions; check base_url (up to and with /v1)",
}


class OpenAICompatible:
    """One model at one server; keep it in one event loop."""

    def __init__(self, name: str, config: OpenAICompatibleConfig) -> None:
        """Read the key now; raises BackendConfigError where there should be one and is none."""
        self.name = name
        self._config = config
        self._key = read_key(name, config)
        self._works = False
        self._client: openai.AsyncOpenAI | None = None

    @property
    def identity(self) -> Mapping[str, Any]:
        """What tells its replies from those of another backend, for the cache."""
        names = {"base_url", "model", "temperature", "top_p", "max_tokens", "extra_body"}
        return self._config.model_dump(include=names)

    def deterministic(self, request: OperatorRequest) -> bool:
        """True where the same request has the same reply, as far as a server keeps that promise."""
        return self._temperature(request) == 0

    async def complete(self, request: OperatorRequest) -> Completion:
        """Ask once.

        Raises:
            RejectedError: the server will not take this request, whoever asks.
            BackendError: no proper reply, this time.
            BackendConfigError: key, model or address are wrong.
        """
        try:
            response = await self._connected().post(
                "/chat/completions", cast_to=httpx2.Response, body=self._body(request)
            )
        except openai.APIStatusError as error:
            refusal = error
        except _NO_REPLY as error:
            raise self._failed(_why(error)) from None
        else:
            return self._read(response)
        # Out here, so that the client's error, in which a server may have put the key, is not what
        # a traceback goes on to tell.
        return self._refused(refusal)

    async def check(self) -> str | None:
        """Why the server cannot be used, or nothing; asks for its list of models, which is free."""
        try:
            await self._connected().get("/models", cast_to=httpx2.Response)
        except openai.APIStatusError as error:
            if error.status_code in (401, 402, 403):
                return f"HTTP {error.status_code}: {_REMEDIES[error.status_code]}"
        except _NO_REPLY as error:
            return redact(_why(error), self._key)[:_SHOWN]
        return None

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()

    def _connected(self) -> openai.AsyncOpenAI:
        # aiohttp's connector: the default one needs milliseconds per request at many connections.
        if self._client is None:
            config = self._config
            many = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
            self._client = openai.AsyncOpenAI(
                base_url=config.base_url,
                api_key=self._key.get_secret_value() if self._key else _NO_KEY,
                max_retries=0,
                timeout=config.timeout_s,
                # A redirect could carry the key elsewhere.
                http_client=openai.DefaultAioHttpClient(limits=many, follow_redirects=False),
            )
        return self._client

    def _body(self, request: OperatorRequest) -> dict[str, Any]:
        config = self._config
        return {
            "model": config.model,
            # Lone surrogates, which a policy may write, cannot be sent.
            "messages": [
                {"role": "user", "content": request.prompt.encode(errors="replace").decode()}
            ],
            "temperature": self._temperature(request),
            "top_p": config.top_p,
            config.max_tokens_field: min(request.max_tokens, config.max_tokens or sys.maxsize),
            **config.extra_body,
        }

    def _temperature(self, request: OperatorRequest) -> float:
        own = self._config.temperature
        return request.temperature if own is None else own

    def _read(self, response: httpx2.Response) -> Completion:
        try:
            reply = json.loads(response.content)
            choice, usage = reply["choices"][0], reply.get("usage") or {}
            message, finish = choice["message"], choice.get("finish_reason")
            content, refusal = message.get("content"), message.get("refusal")
            sent, got = (int(usage.get(k) or 0) for k in ("prompt_tokens", "completion_tokens"))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            seen = response.content[:10_000].decode(errors="replace")
            raise self._failed(f"the reply is no chat completion ({error!r}): {seen!r}") from None
        status = "ok"
        if refusal or finish == "content_filter":
            status, content = "refused", refusal or content or "The model refused to answer."
        elif finish == "length":
            status = "cut"
        if content is None and finish == "length":
            content = ""  # a model that thinks first has spent all its tokens on thoughts
        if not isinstance(content, str):
            raise self._failed(f"the reply's content is {content!r}, not a text")
        self._works = True
        cost, text = self._config.price.of(sent, got), redact(content, self._key)
        return Completion(text, sent, got, cost_usd=cost, status=status, backend=self.name)

    def _refused(self, error: openai.APIStatusError) -> Completion:
        """Sort a reply with an error status: raise, or say what the model's filter says."""
        code, said = error.status_code, redact(str(error.message), self._key)[:_SHOWN]
        text = f"HTTP {code}: {said}"
        pause = retry_after(error.response.headers.get("retry-after", ""))
        if code in (400, 413, 422):
            return self._rejected(text, f"{said} {error.code}")
        if code == 429 and not _QUOTA.search(f"{error.code} {said}"):
            raise BackendError(
                f"{self.name}: {text}",
                pause,
                busy=True,
            )
        # An address that has worked before and is gone now belongs to a server that is down.
        if code in _REMEDIES and not (code in (404, 405) and self._works):
            raise BackendConfigError(self._advice(text, _REMEDIES[code]))
        if code == 429:
            raise BackendConfigError(self._advice(text, _REMEDIES[402]))
        if 300 <= code < 400:
            raise BackendConfigError(self._advice(text, "it redirects; set base_url to the target"))
        raise BackendError(f"{self.name}: {text}", pause)

    def _rejected(self, text: str, said: str) -> Completion:
        if _FILTERED.search(said):
            return Completion(
                "The request was refused by a content filter.", status="refused", backend=self.name
            )
        if _TOO_LONG.search(said):
            return Completion(
                "The request is too long for the model.", status="too_long", backend=self.name
            )
        raise RejectedError(f"{self.name}: {text}")

    def _failed(self, what: str) -> BackendError:
        return BackendError(f"{self.name}: {redact(what, self._key)[:_SHOWN]}")

    def _advice(self, text: str, remedy: str) -> str:
        return (
            f"executor backend {self.name!r} (model {self._config.model!r} at "
            f"{self._config.base_url}) cannot be used: {text}. Remedy: {remedy}."
        )


def _why(error: BaseException) -> str:
    cause = error.__cause__ or error
    return f"no reply: {type(cause).__name__}: {cause}"
