"""Requests and answers of the page's own HTTP interface, which is for our script only."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import grpc
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from sentinel_app.preview_process import NOT_AN_IMAGE
from sentinel_client import SentinelError

T = TypeVar("T")
# Our script sends it. Another site's script cannot, without a permission that we never give.
PAGE_HEADER = "x-sentinel-page"
_MAX_JSON_BYTES = 256 * 1024
# A body ends when nothing came for so long, or when it is slower than this on the whole.
STALL_S = 30.0
MIN_BYTES_PER_S = 64 * 1024
_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
_ADVICE = {
    "UNREACHABLE": "No gateway answers. Start one with `sentinel up`, or give the page its "
    "address: `sentinel-app --gateway HOST:PORT`.",
    "NO_HEALTHY_WORKER": "No embedder worker answers the gateway. Start one, or wait until it has "
    "loaded its model.",
    "STORE_UNAVAILABLE": "The gateway cannot reach Milvus. No stored data is lost.",
    "OBJECT_STORE_UNAVAILABLE": "The gateway cannot read or write images. Check the free space and "
    "the permissions of its object store.",
    "MODEL_MISMATCH": "The workers run another model than this collection was made with. Start a "
    "worker with its model, or embed the collection again: `sentinel collections reindex`.",
    "CREDENTIALS_MISSING": "This gateway asks for a key. Start the page with "
    "SENTINEL_API_KEY_FILE, or with --streamlit: there, visitors sign in.",
    "DRAINING": "The gateway is restarting.",
    "TEXT_TOO_LONG": "The text is too long for the model. Shorten it.",
    "IMAGE_DECODE_FAILED": "The image is damaged or incomplete. Try to save it again.",
    "IMAGE_FORMAT_UNSUPPORTED": NOT_AN_IMAGE,
    "ORIGINAL_GONE": "The original file is no longer where it was.",
    "QUERY_CANCELS_OUT": "The terms of this search cancel each other out. Change a weight.",
    "HYBRID_UNSUPPORTED": "The Milvus of this gateway cannot search words.",
}


class Refused(Exception):
    """A request that the page's server does not serve.

    Attributes:
        status: HTTP status.
        reason: For our script.
    """

    def __init__(self, status: int, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


def problem(error: SentinelError | Refused) -> dict[str, Any]:
    """Return an error as our script gets it."""
    if isinstance(error, Refused):
        return {"reason": error.reason, "message": str(error)}
    found = {
        "reason": error.reason,
        "message": error.message,
        "advice": _ADVICE.get(error.reason, ""),
    }
    return {**found, "temporary": error.retryable or _STATUS.get(error.code, 500) >= 503}


async def error_response(request: Request, error: Exception) -> Response:
    """Answer with an error of the gateway or of the request."""
    if isinstance(error, Refused):
        return JSONResponse(problem(error), error.status)
    assert isinstance(error, SentinelError)
    return JSONResponse(problem(error), _STATUS.get(error.code, 500))


class OnlyThisPage:
    """ASGI middleware that lets the page's own script call /api, and no other web site."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/api/"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        # Browsers say where a request comes from. "none": a person has typed the address.
        site = headers.get("sec-fetch-site", "same-origin")
        is_write = scope["method"] not in ("GET", "HEAD")
        if site not in ("same-origin", "none") or (is_write and PAGE_HEADER not in headers):
            refusal = Refused(403, "Only the page itself may ask for this.", "FOREIGN")
            await JSONResponse(problem(refusal), 403)(scope, receive, send)
            return
        with suppress(ClientDisconnect):  # nobody waits for an answer any more
            await self._app(scope, receive, send)


async def json_body(request: Request) -> dict[str, Any]:
    """Return the JSON object of a request, or raise Refused."""
    data = await read_body(request, _MAX_JSON_BYTES)
    try:
        found = json.loads(data)
        # JSON can hold half a character; a message to the gateway cannot.
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise Refused(400, "This is no JSON.") from error
    if not isinstance(found, dict):
        raise Refused(400, "This is no JSON object.")
    return found


def body_length(request: Request) -> int:
    """Return the length that a request states, or raise Refused."""
    length = request.headers.get("content-length", "")
    if not length.isascii() or not length.isdigit() or len(length) > 15:
        raise Refused(411, "An upload states its length.")
    return int(length)


async def read_body(request: Request, most: int) -> bytes:
    """Return the body of a request, or raise Refused: it is too long, or comes too slowly."""
    length = body_length(request)
    if length > most:
        raise Refused(413, f"The limit is {most:,} bytes.", "TOO_LARGE")
    due = time.monotonic() + STALL_S + length / MIN_BYTES_PER_S
    parts: list[bytes] = []
    stream = request.stream()
    try:
        while True:
            async with asyncio.timeout(min(STALL_S, due - time.monotonic())):
                part = await anext(stream, None)
            if part is None:
                return b"".join(parts)
            parts.append(part)
    except TimeoutError as error:
        raise Refused(408, "The upload stalled.") from error


async def unless_left(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do some work; end it with ClientDisconnect when the browser waits no longer.

    The body of the request must have been read.
    """
    task = asyncio.create_task(work)
    left = asyncio.create_task(_left(request))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        left.cancel()
        task.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Slots:
    """Bounded work: some at once, some that wait, and no more."""

    def __init__(self, at_once: int, waiting: int) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._most = at_once + waiting
        self._inside = 0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a slot and hold it, or raise Refused if too many wait."""
        if self._inside >= self._most:
            raise Refused(503, "The page is busy. Try again in a moment.", "BUSY")
        self._inside += 1
        try:
            async with self._free:
                yield
        finally:
            self._inside -= 1
