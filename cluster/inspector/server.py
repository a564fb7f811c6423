"""The inspector's web server: for this machine and this user, and nothing a model wrote can act.

It listens on the loopback interface, answers only where its own name was asked for (so that no web
page can reach it under another), and only to who has the key of the address that was printed. Its
pages may load scripts and styles from itself and nothing from elsewhere.
"""

from __future__ import annotations

import hmac
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from cluster.inspector.queries import MOST_ROWS, ORDERS, Filter, FilterError, Order
from cluster.inspector.run import GoneError, InspectedRun
from cluster.run_directory import strict

HOST = "127.0.0.1"
_STATIC = Path(__file__).parent / "static"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_Next = Callable[[Request], Awaitable[Response]]


def application(run: InspectedRun, key: str = "") -> Starlette:
    """The web application; without a key, whoever reaches it is answered."""

    async def guard(request: Request, call_next: _Next) -> Response:
        response = await _guarded(request, call_next, key)
        response.headers.update(HEADERS)
        return response

    return Starlette(
        routes=[
            Route("/", _front),
            Mount("/static", StaticFiles(directory=_STATIC)),
            Route("/api/run", _answer(lambda _: run.about())),
            Route("/api/trajectories", _answer(lambda q: _page(run, q))),
            Route("/api/group", _answer(lambda q: run.group(_text(q, "group")))),
            Route("/api/task", _answer(lambda q: run.task(_text(q, "task")))),
            Route("/api/trajectory", _answer(lambda q: run.trajectory(*_key(q)))),
            Route("/api/tokens", _answer(lambda q: run.tokens(*_key(q), _whole(q, "turn", 0)))),
            Route("/api/compare", _answer(lambda q: run.compare(_key(q, "a_"), _key(q, "b_")))),
            Route("/api/export", _answer(lambda q: run.export(*_key(q)), file=True)),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"]),
            Middleware(BaseHTTPMiddleware, dispatch=guard),
        ],
        lifespan=_following(run),
    )


def serve(run: InspectedRun, port: int, ready: Callable[[str], None]) -> None:
    """Serve until interrupted; `ready` is told the address once it can be opened.

    Raises:
        OSError: the port is taken.
    """
    listener = socket.create_server((HOST, port))
    key = secrets.token_urlsafe(16)
    address = f"http://{HOST}:{listener.getsockname()[1]}/?key={key}"
    config = uvicorn.Config(application(run, key), log_level="warning", access_log=False)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready(address)

    Server(config).run(sockets=[listener])


def _following(run: InspectedRun) -> Callable[[Starlette], Any]:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        run.start()
        yield
        run.close()

    return lifespan


async def _guarded(request: Request, call_next: _Next, key: str) -> Response:
    cookie = f"wfr-inspector-{request.url.port or 80}"
    given = request.query_params.get("key")
    if key and given is not None and hmac.compare_digest(given.encode(), key.encode()):
        response: Response = RedirectResponse("/", 303)
        response.set_cookie(cookie, key, httponly=True, samesite="lax")
        return response
    held = request.cookies.get(cookie, "")
    if key and not hmac.compare_digest(held.encode(), key.encode()):
        return PlainTextResponse("open the address that `wfr inspect` printed", 403)
    return await call_next(request)


async def _front(_: Request) -> Response:
    return Response((_STATIC / "index.html").read_bytes(), media_type="text/html")


def _answer(ask: Callable[[Mapping[str, str]], Any], *, file: bool = False) -> Any:
    """An endpoint that runs in a thread: a query may take longer than a moment."""

    def endpoint(request: Request) -> Response:
        try:
            found = strict(ask(request.query_params))
        except FilterError as error:
            return JSONResponse({"error": str(error)}, 400)
        except GoneError as error:
            return JSONResponse({"error": str(error)}, 404)
        headers = {"Content-Disposition": 'attachment; filename="trajectory.json"'} if file else {}
        return JSONResponse(found, headers=headers)

    return endpoint


def _page(run: InspectedRun, query: Mapping[str, str]) -> Any:
    order = query.get("order") or "newest"
    if order not in ORDERS:
        raise FilterError(f"order={order[:40]!r} is none of {', '.join(ORDERS)}")
    start, count = _whole(query, "start", 0), _whole(query, "count", 50)
    return run.page(Filter.of(query), cast(Order, order), start, min(count, MOST_ROWS))


def _key(query: Mapping[str, str], prefix: str = "") -> tuple[str, int]:
    return _text(query, f"{prefix}group"), _whole(query, f"{prefix}sibling", 0)


def _text(query: Mapping[str, str], name: str) -> str:
    if name not in query:
        raise FilterError(f"{name} is missing")
    return query[name]


def _whole(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name) or str(default)
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise FilterError(f"{name}={text[:40]!r} is not a whole number")
    return int(text)
