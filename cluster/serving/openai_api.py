"""OpenAI's API: the raw director answers through vLLM's own, a whole workflow through this.

A workflow's answer is the message's `content`; what the director wrote on the way to it comes as
`reasoning_content`, the name that several servers have agreed on.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping, MutableMapping
from typing import Any

from fastapi import Request, Response
from pydantic import ValidationError

from cluster.serving.errors import ServingError
from cluster.serving.guard import Application, Receive, Scope, Send, replayed
from cluster.serving.requests import Budgets, WorkflowRequest, WorkflowView
from cluster.serving.service import Playing, failure

SUFFIX = ":workflow"


def _schema(example: Mapping[str, Any], required: list[str]) -> dict[str, Any]:
    body = {
        "type": "object",
        "required": required,
        "properties": {"model": {"type": "string"}},
        "additionalProperties": True,
    }
    content = {"application/json": {"schema": body, "example": example}}
    return {"requestBody": {"required": True, "content": content}}


CHAT = _schema(
    {
        "model": f"director{SUFFIX}",
        "messages": [{"role": "user", "content": "What is the capital of Germany?"}],
    },
    ["model", "messages"],
)
TEXT = _schema(
    {"model": "director", "prompt": "What is the capital of", "max_tokens": 16},
    ["model", "prompt"],
)


async def read(request: Request) -> dict[str, Any]:
    """The body as a mapping; raises ServingError (400) where it is none."""
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise ServingError(400, "invalid_json", f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise ServingError(400, "invalid_request", "the body is not an object")
    return body


def workflow_request(body: Mapping[str, Any], *, chat: bool) -> WorkflowRequest:
    """A chat's last user message, or a prompt, as a task; raises ServingError (400)."""
    question = _last_question(body.get("messages")) if chat else body.get("prompt")
    if not isinstance(question, str) or not question.strip():
        what = "messages: no user message with text" if chat else "prompt: not a text"
        raise ServingError(400, "invalid_request", what)
    if body.get("n") not in (None, 1):
        raise ServingError(400, "invalid_request", "n: a workflow is played once per request")
    tokens = body.get("max_completion_tokens") or body.get("max_tokens")
    try:
        return WorkflowRequest(
            question=question,
            seed=body.get("seed"),
            temperature=body.get("temperature"),
            stream=bool(body.get("stream")),
            budgets=Budgets(tokens=tokens),
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ServingError(400, "invalid_request", f"{where}: {first['msg']}") from None


def wants_usage(body: Mapping[str, Any]) -> bool:
    """Whether the last chunk is to tell the count of tokens."""
    options = body.get("stream_options")
    return isinstance(options, dict) and bool(options.get("include_usage"))


def whole(view: WorkflowView, *, chat: bool) -> dict[str, Any]:
    """The answer in one piece."""
    reasoning = "".join(turn.text for turn in view.turns)
    message = {"role": "assistant", "content": view.answer, "reasoning_content": reasoning}
    text = {"message": message} if chat else {"text": view.answer}
    choice = {"index": 0, "finish_reason": _reason(view), "logprobs": None, **text}
    kind = "chat.completion" if chat else "text_completion"
    return {**_head(view, kind), "choices": [choice], "usage": _usage(view)}


async def chunks(played: Playing, *, chat: bool, usage: bool) -> AsyncIterator[bytes]:
    """The answer as OpenAI streams it."""
    view = played.view
    kind = "chat.completion.chunk" if chat else "text_completion"

    def chunk(delta: Mapping[str, Any], reason: str | None = None) -> bytes:
        text = {"delta": delta} if chat else {"text": delta.get("content", "")}
        choice = {"index": 0, "finish_reason": reason, "logprobs": None, **text}
        return _data({**_head(view, kind), "choices": [choice]})

    if chat:
        yield chunk({"role": "assistant", "content": ""})
    async for name, data in played.events():
        if chat and name == "token":
            yield chunk({"reasoning_content": data["text"]})
    refusal = failure(view)
    if refusal is not None:
        yield _data(refusal.body())
        return
    yield chunk({"content": view.answer})
    yield chunk({}, _reason(view))
    if usage:
        yield _data({**_head(view, kind), "choices": [], "usage": _usage(view)})
    yield b"data: [DONE]\n\n"


class Forwarded(Response):
    """What vLLM's own application answers to the request, streamed or not."""

    def __init__(
        self,
        application: Application,
        body: bytes,
        behind: contextlib.AsyncExitStack,
        headers: Mapping[str, str],
    ) -> None:
        """`behind` is closed when the answer is complete, or the client has left."""
        super().__init__()
        self._application = application
        self._body = body
        self._behind = behind
        self._own = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer; its path and headers are those of the request."""

        async def sending(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *self._own]
            await send(message)

        # Its own state and application: those of the service mean nothing to it.
        inner = {k: v for k, v in scope.items() if k not in _OURS}
        async with self._behind:
            again = replayed(self._body, receive)
            await self._application({**inner, "state": {}}, again, sending)


_OURS = frozenset({"app", "router", "endpoint", "route", "path_params", "fastapi_astack", "state"})


def _last_question(messages: object) -> str | None:
    """Text of the last user message, of all its parts."""
    if not isinstance(messages, list):
        return None
    asked = [m for m in messages if isinstance(m, dict) and m.get("role") == "user"]
    if not asked:
        return None
    content = asked[-1].get("content")
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "\n".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else None


def _head(view: WorkflowView, kind: str) -> dict[str, Any]:
    return {"id": view.id, "object": kind, "created": view.created, "model": view.model}


def _usage(view: WorkflowView) -> dict[str, int]:
    prompt, completion = view.tokens.prompt, view.tokens.completion
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def _reason(view: WorkflowView) -> str:
    return "length" if view.stop_reason.startswith("out_of_") else "stop"


def _data(data: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
