"""Web search at Serper, or any server with its interface, as an executor backend.

So it has what every backend has: limits over all workers, attempts, a breaker, prices, budgets, the
cache of replies, and identical searches in flight made once.

    POST base_url  {"q": query, "num": n}  with X-API-KEY
    -> {"organic": [{"title", "snippet", "link"}, ...], "answerBox": {...}, "knowledgeGraph": {...}}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import aiohttp

from wfr.backends.base import (
    BackendConfigError,
    BackendError,
    Completion,
    OperatorRequest,
    RejectedError,
)
from wfr.backends.keys import read_key, redact
from wfr.backends.retry_after import retry_after
from wfr.executor_config import SerperConfig

_SHOWN = 300
_KINDS = frozenset({"organic", "answerBox", "knowledgeGraph"})
_REMEDIES = {
    401: "the key was refused; check api_key_env or api_key_file",
    402: "the account is out of credit",
    403: "the key was refused, or may not search; check api_key_env or api_key_file",
    404: "there is no such address; check base_url",
    405: "this address takes no searches; check base_url (it ends in /search)",
}


class Serper:
    """A web search; keep it in one event loop."""

    def __init__(self, name: str, config: SerperConfig) -> None:
        """Read the key now; raises BackendConfigError where there should be one and is none."""
        self.name = name
        self._config = config
        self._key = read_key(name, config)
        self._works = False
        self._session: aiohttp.ClientSession | None = None

    @property
    def identity(self) -> Mapping[str, Any]:
        """What tells its replies from those of another search, for the cache."""
        return self._config.model_dump(include={"base_url", "extra_body"})

    def deterministic(self, request: OperatorRequest) -> bool:
        """True: what was found once is found again, for as long as the cache keeps it."""
        return True

    async def complete(self, request: OperatorRequest) -> Completion:
        """Search once; the text is a JSON list of `{"title", "text"}`.

        Raises:
            RejectedError: the server will not take this query, whoever asks.
            BackendError: no proper reply, this time.
            BackendConfigError: key or address are wrong.
        """
        body = {
            "q": request.inputs["query"][0].encode(errors="replace").decode(),
            "num": int(request.inputs["top_k"][0]),
            **self._config.extra_body,
        }
        try:
            async with self._connected().post(
                self._config.base_url, json=body, allow_redirects=False
            ) as response:
                content = await response.read()
                code, headers = response.status, dict(response.headers)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise self._failed(f"no reply: {type(error).__name__}: {error}") from None
        said = content[:10_000].decode(errors="replace")
        if code != 200:
            raise self._refused(code, headers, said)
        return self._read(content, said)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            key = {"X-API-KEY": self._key.get_secret_value()} if self._key else {}
            self._session = aiohttp.ClientSession(
                headers=key,
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=self._config.timeout_s),
            )
        return self._session

    def _read(self, content: bytes, said: str) -> Completion:
        try:
            found = list(_hits(json.loads(content)))
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise self._failed(f"the reply holds no search results ({error!r}): {said!r}") from None
        self._works = True
        text = redact(json.dumps(found, ensure_ascii=False), self._key)
        return Completion(text, cost_usd=self._config.usd_per_search, backend=self.name)

    def _refused(self, code: int, headers: Mapping[str, str], said: str) -> Exception:
        """What a reply with an error status means."""
        text = f"HTTP {code}: {redact(said, self._key)[:_SHOWN]}"
        after = next((v for k, v in headers.items() if k.lower() == "retry-after"), "")
        if code == 429:
            return BackendError(f"{self.name}: {text}", retry_after(after), busy=True)
        if "credit" in said.lower() and code == 400:
            return self._unusable(text, _REMEDIES[402])
        if code in (400, 413, 422):
            return RejectedError(f"{self.name}: {text}")
        # An address that has worked before and is gone now belongs to a server that is down.
        if code in _REMEDIES and not (code in (404, 405) and self._works):
            return self._unusable(text, _REMEDIES[code])
        if 300 <= code < 400:
            return self._unusable(text, "it redirects; set base_url to the target")
        return BackendError(f"{self.name}: {text}", retry_after(after))

    def _failed(self, what: str) -> BackendError:
        return BackendError(f"{self.name}: {redact(what, self._key)[:_SHOWN]}")

    def _unusable(self, text: str, remedy: str) -> BackendConfigError:
        return BackendConfigError(
            f"executor backend {self.name!r} (search at {self._config.base_url}) cannot be used: "
            f"{text}. Remedy: {remedy}."
        )


def _hits(reply: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """What a reply found: a direct answer first, then what is known of a thing, then pages."""
    if not _KINDS & reply.keys():
        raise ValueError(f"none of {', '.join(sorted(_KINDS))}")
    box = reply.get("answerBox") or {}
    if answer := box.get("answer") or box.get("snippet"):
        yield {"title": str(box.get("title") or "Answer"), "text": str(answer)}
    graph = reply.get("knowledgeGraph") or {}
    if about := graph.get("description") or graph.get("type"):
        yield {"title": str(graph.get("title") or ""), "text": str(about)}
    for page in reply.get("organic") or ():
        yield {"title": str(page.get("title") or ""), "text": str(page.get("snippet") or "")}
