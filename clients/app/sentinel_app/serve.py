"""Serve the photo page: build the application and run it until the process ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

from sentinel_app import adding, api, pictures
from sentinel_app.bounded_folder import cache_folder
from sentinel_app.guard import Guard
from sentinel_app.library import Library
from sentinel_app.web import OnlyThisPage, Refused, error_response
from sentinel_client import AsyncSentinelClient, ClientConfig, RetryPolicy, SentinelError, Timeouts

_STATIC = Path(__file__).with_name("static")
# A person is waiting: show what is wrong early.
_CONFIG = ClientConfig(
    timeouts=Timeouts(search=15.0, read=8.0, health=3.0), retry=RetryPolicy(max_attempts=3)
)
# Connections, those that wait for pictures included. Browsers open up to six.
_MAX_CONNECTIONS = 400
_HEADER_SECONDS = 15.0


def application(library: Library, names: Sequence[str] = ()) -> Starlette:
    """Return the page's application; `names` are those under which browsers may open it."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with library:
            yield

    app = Starlette(
        routes=[
            Route("/", _index),
            Route("/health", _health),
            Mount("/api", routes=[*api.ROUTES, *pictures.ROUTES, *adding.ROUTES]),
            Mount("/static", _Static(directory=_STATIC)),
        ],
        middleware=[Middleware(Guard, names=names), Middleware(OnlyThisPage)],
        exception_handlers={SentinelError: error_response, Refused: error_response},
        lifespan=lifespan,
    )
    app.state.library = library
    return app


def serve(host: str, port: int, names: Sequence[str], *, read_only: bool) -> None:
    """Serve the page until the process ends; `names` are those of the page."""
    asyncio.run(_serve(host, port, [*names, host], read_only=read_only))


async def _serve(host: str, port: int, names: Sequence[str], *, read_only: bool) -> None:
    try:
        client = AsyncSentinelClient(config=_CONFIG)
    except ValueError as error:  # a key would travel for all to read
        raise click.ClickException(str(error)) from error
    async with client:
        library = Library(client, cache_folder(), read_only=read_only)
        config = uvicorn.Config(
            application(library, names),
            host=host,
            port=port,
            http=_PatientProtocol,
            ws="none",
            log_level="warning",
            server_header=False,
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_graceful_shutdown=5,
        )
        shown = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        click.echo(f"Open http://{shown}:{port} (gateway: {client.address}). Ctrl-C ends the page.")
        await uvicorn.Server(config).serve()


class _PatientProtocol(H11Protocol):
    """HTTP, for clients that send a request soon after they have connected or got an answer."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect_request()

    def on_response_complete(self) -> None:
        answered = self.cycle
        super().on_response_complete()
        if self.cycle is answered:  # otherwise it has the next request already
            self._expect_request()

    def _expect_request(self) -> None:
        self.loop.call_later(_HEADER_SECONDS, self._close_if_silent, self.cycle)

    def _close_if_silent(self, last: Any) -> None:
        if self.cycle is last and not self.transport.is_closing():
            self.transport.close()


class _Static(StaticFiles):
    """Files that browsers ask for again, since an update of Sentinel can change them."""

    def file_response(self, full_path: Any, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(full_path, *args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        # Whatever the table of media types of this machine says: modules need this one.
        if path.endswith(".js"):
            response.headers["Content-Type"] = "text/javascript; charset=utf-8"
        return response


async def _index(request: Request) -> Response:
    body = await asyncio.to_thread((_STATIC / "index.html").read_bytes)
    headers = {"Cache-Control": "no-cache"}
    return Response(body, media_type="text/html", headers=headers)


async def _health(request: Request) -> Response:
    return PlainTextResponse("ok")
