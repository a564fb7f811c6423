"""The service over HTTP: workflows, OpenAI's API, health, metrics, and the page."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.exceptions import HTTPException

from cluster.serving import events, openai_api
from cluster.serving.api_keys import ApiKeys
from cluster.serving.errors import ServingError
from cluster.serving.guard import Application, Guard
from cluster.serving.requests import Rating, WorkflowRequest, WorkflowView
from cluster.serving.service import Playing, Service, failure

_PAGE = Path(__file__).with_name("page")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
VERSION_HEADER = "X-Policy-Version"
_PING_S = 15.0
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"description": why}
    for status, why in {
        400: "The request makes no sense; `error.message` says why.",
        401: "The API key is missing, unknown or expired.",
        402: "The budget of the API key is spent.",
        404: "There is no such workflow, or it is another key's.",
        408: "The body did not arrive in time.",
        409: "The workflow was cancelled, or cannot be rated.",
        413: "The body is too large.",
        429: "Too many requests; see Retry-After.",
        500: "A fault of the service.",
        502: "An operator's backend failed.",
        503: "The service starts or ends, or cannot reach what it needs.",
    }.items()
}


def build(service: Service, keys: ApiKeys | None) -> Application:
    """The whole application as ASGI."""
    config = service.config.serving
    api = FastAPI(
        title="WFR director",
        version="1",
        description="A director that solves tasks by building workflows of operators.",
        docs_url=None,  # the page of docs would load assets from elsewhere
        redoc_url=None,
    )
    _workflows(api, service)
    _openai(api, service)
    _operation(api, service)
    _page(api)
    _errors(api)
    if config.cors_origins:
        api.add_middleware(
            CORSMiddleware,
            allow_origins=list(config.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=[VERSION_HEADER, "Retry-After"],
        )
    return Guard(
        api,
        config,
        keys,
        take=service.take,
        log=service.log,
        count=service.metrics.count,
        version=lambda: service.directors.release.stable,
    )


def _workflows(api: FastAPI, service: Service) -> None:
    background: set[asyncio.Task[None]] = set()

    @api.post(
        "/v1/workflows",
        response_model=WorkflowView,
        responses={
            **_REFUSALS,
            200: {
                "description": "The workflow as it ended; with `stream`, events as it grows.",
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
            },
            202: {"description": "With `background`: it has begun.", "model": WorkflowView},
        },
    )
    async def create(body: WorkflowRequest, request: Request) -> Response:
        """Play a workflow for a task.

        With `stream` the answer is a stream of server-sent events: `workflow`, then `token`,
        `turn`, `observation` and `graph` for every turn, then `result` or `error`.
        """
        service.check(body)
        key = request.state.key
        _log_prompt(service, request, body.question)
        playing = contextlib.AsyncExitStack()
        played = await playing.enter_async_context(service.playing(body, key))
        view = played.view
        request.state.log |= {"workflow": view.id, "version": view.policy_version}
        headers = {VERSION_HEADER: str(view.policy_version)}
        if body.stream:
            return _Streaming(_told(played), playing, headers=headers)
        if body.background:
            task = asyncio.create_task(_until_end(playing, played))
            background.add(task)
            task.add_done_callback(background.discard)
            return Response(
                view.model_dump_json(), 202, headers=headers, media_type="application/json"
            )
        async with playing:
            await _while_connected(request, played.wait())
            refusal = failure(view)
            if refusal is not None:
                raise refusal
            if service.config.serving.log_prompts:
                request.state.log["answer"] = view.answer
            return Response(view.model_dump_json(), headers=headers, media_type="application/json")

    @api.get("/v1/workflows/{name}", response_model=WorkflowView, responses=_REFUSALS)
    async def get(name: str, request: Request) -> Response:
        """A workflow that is under way or has ended lately."""
        return _json(await service.get(name, request.state.key))

    @api.delete("/v1/workflows/{name}", response_model=WorkflowView, responses=_REFUSALS)
    async def cancel(name: str, request: Request) -> Response:
        """Cancel a workflow; one that has ended stays as it is."""
        return _json(await service.cancel(name, request.state.key))

    @api.post("/v1/workflows/{name}/rating", status_code=204, responses=_REFUSALS)
    async def rate(name: str, body: Rating, request: Request) -> Response:
        """Say how good an answer was; what is rated is kept for training, where that is on."""
        await service.rate(name, request.state.key, body)
        return Response(status_code=204)


def _openai(api: FastAPI, service: Service) -> None:
    name = service.config.serving.name

    @api.get("/v1/models")
    async def models() -> Response:
        """The raw director, and the one that plays whole workflows."""
        version = service.directors.release.stable
        rows = [
            {"id": each, "object": "model", "created": 0, "owned_by": "wfr", "version": version}
            for each in (name, f"{name}{openai_api.SUFFIX}")
        ]
        response = JSONResponse({"object": "list", "data": rows})
        response.headers[VERSION_HEADER] = str(version)
        return response

    async def complete(request: Request, *, chat: bool) -> Response:
        body = await openai_api.read(request)
        if body.get("model") == f"{name}{openai_api.SUFFIX}":
            wanted = openai_api.workflow_request(body, chat=chat)
            service.check(wanted)
            _log_prompt(service, request, wanted.question)
            playing = contextlib.AsyncExitStack()
            played = await playing.enter_async_context(service.playing(wanted, request.state.key))
            headers = {VERSION_HEADER: str(played.view.policy_version)}
            request.state.log |= {
                "workflow": played.view.id,
                "version": played.view.policy_version,
            }
            if wanted.stream:
                chunks = openai_api.chunks(played, chat=chat, usage=openai_api.wants_usage(body))
                return _Streaming(chunks, playing, headers=headers)
            async with playing:
                await _while_connected(request, played.wait())
                refusal = failure(played.view)
                if refusal is not None:
                    raise refusal
                return JSONResponse(openai_api.whole(played.view, chat=chat), headers=headers)
        holding = contextlib.AsyncExitStack()
        await holding.enter_async_context(service.places["completion"].hold())
        director = await holding.enter_async_context(service.directors.hold(stable=True))
        request.state.log["version"] = director.version
        headers = {VERSION_HEADER: str(director.version)}
        raw = await request.body()
        return openai_api.Forwarded(director.application, raw, holding, headers)

    @api.post("/v1/chat/completions", responses=_REFUSALS, openapi_extra=openai_api.CHAT)
    async def chat(request: Request) -> Response:
        """OpenAI's chat completions: of the director as it is, or of a whole workflow."""
        return await complete(request, chat=True)

    @api.post("/v1/completions", responses=_REFUSALS, openapi_extra=openai_api.TEXT)
    async def text(request: Request) -> Response:
        """OpenAI's completions, of the same two."""
        return await complete(request, chat=False)


def _operation(api: FastAPI, service: Service) -> None:
    @api.get("/health/live", response_class=PlainTextResponse)
    async def live() -> str:
        """Whether the process answers at all."""
        return "alive\n"

    @api.get("/health/ready", response_class=PlainTextResponse, responses={503: _REFUSALS[503]})
    async def ready() -> str:
        """Whether engines answer and the service is not about to end."""
        try:
            await service.directors.check_health()
        except Exception as error:
            raise ServingError(503, "engine_dead", str(error)) from error
        if service.places["workflow"].draining:
            raise ServingError(503, "shutting_down", "the service is shutting down")
        return "ready\n"

    @api.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Numbers of all replicas for Prometheus."""
        return Response(await service.prometheus(), media_type="text/plain; version=0.0.4")


def _page(api: FastAPI) -> None:
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"}

    @api.get("/", include_in_schema=False)
    async def index() -> Response:
        return FileResponse(_PAGE / "index.html", headers=headers)

    for name, kind in {"page.js": "text/javascript", "page.css": "text/css"}.items():

        def asset(name: str = name, kind: str = kind) -> Response:
            return FileResponse(_PAGE / name, media_type=kind, headers=headers)

        api.add_api_route(f"/{name}", lambda asset=asset: asset(), include_in_schema=False)


def _errors(api: FastAPI) -> None:
    @api.exception_handler(ServingError)
    async def refused(request: Request, error: ServingError) -> Response:
        return JSONResponse(error.body(), error.status, headers=error.headers())

    @api.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
        refusal = ServingError(400, "invalid_request", f"{where}: {first['msg']}")
        return JSONResponse(refusal.body(), 400)

    @api.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        refusal = ServingError(error.status_code, "http_error", str(error.detail))
        return JSONResponse(refusal.body(), error.status_code, headers=error.headers)


class _Streaming(StreamingResponse):
    """Server-sent events; what is behind them is closed when they end or the client has left."""

    def __init__(
        self,
        content: AsyncIterator[bytes],
        behind: contextlib.AsyncExitStack,
        *,
        headers: dict[str, str],
    ) -> None:
        """Send `content`."""
        quiet = {**headers, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(content, headers=quiet, media_type="text/event-stream")
        self._behind = behind

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async with self._behind:
            await super().__call__(scope, receive, send)


async def _told(played: Playing) -> AsyncIterator[bytes]:
    """The events of a workflow, and a comment whenever there was none for a while."""
    view = played.view
    first = {"id", "policy_version", "environment", "question", "model", "created"}
    yield events.encode("workflow", view.model_dump(include=first))
    following = played.events()
    while True:
        coming = asyncio.ensure_future(anext(following, None))
        try:
            while not (await asyncio.wait({coming}, timeout=_PING_S))[0]:
                yield events.PING
        finally:
            if not coming.done():
                coming.cancel()
        event = coming.result()
        if event is None:
            break
        yield events.encode(*event)  # type: ignore[arg-type]
    refusal = failure(view)
    if refusal is None:
        yield events.encode("result", view.model_dump())
    else:
        yield events.encode("error", {**refusal.body()["error"], "id": view.id})


async def _until_end(behind: contextlib.AsyncExitStack, played: Playing) -> None:
    async with behind:
        await played.wait()


async def _while_connected(request: Request, waiting: Any) -> None:
    """Wait, but no longer than the client does; raises ServingError (499) where it has left."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    ended, left = asyncio.ensure_future(waiting), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({ended, left}, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            raise ServingError(499, "client_left", "the client has left")
    finally:
        for task in (ended, left):
            task.cancel()
        await asyncio.gather(ended, left, return_exceptions=True)


def _log_prompt(service: Service, request: Request, question: str) -> None:
    if service.config.serving.log_prompts:
        request.state.log["question"] = question


def _json(view: dict[str, Any]) -> Response:
    headers = {VERSION_HEADER: str(view["policy_version"])}
    return Response(
        json.dumps(view, ensure_ascii=False), headers=headers, media_type="application/json"
    )
