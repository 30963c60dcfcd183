"""Which requests the page's server answers, and what browsers may do with its answers."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

# Each open page keeps its hits in memory: some 8 MB for a thousand with their thumbnails.
MAX_OPEN_PAGES = 100
# Streamlit builds its components from code and styles in messages. All else is our own.
STREAMLIT_POLICY = (
    "default-src 'self'; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; "
    "font-src 'self' data:; "
    "worker-src 'self' blob:; "
    "object-src 'none'; "
    "base-uri 'self'; "
    "form-action 'self'; "
    "frame-ancestors 'none'"
)
# Our own page has neither code nor styles in its HTML, and sets no text as HTML.
OWN_POLICY = (
    "default-src 'none'; "
    "script-src 'self'; "
    "style-src 'self'; "
    "img-src 'self' blob:; "
    "connect-src 'self'; "
    "manifest-src 'self'; "
    "base-uri 'none'; "
    "form-action 'none'; "
    "frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guard:
    """ASGI middleware: requests for this page, from this page, and headers on every answer.

    A web site can point its own name at this machine (DNS rebinding). So the page has known names:
    IP addresses, names without a dot, which no site can have, and `names`.
    """

    def __init__(self, app: ASGIApp, names: Collection[str] = (), policy: str = OWN_POLICY) -> None:
        self._app = app
        self._headers = {**_HEADERS, "Content-Security-Policy": policy}
        self._names = {_normal(name) for name in names}
        self._open_pages = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        problem = self._problem(Headers(scope=scope))
        if scope["type"] == "http":
            refusal = PlainTextResponse(problem, 403) if problem else self._app
            await refusal(scope, receive, _with_headers(send, self._headers))
            return
        if problem or self._open_pages >= MAX_OPEN_PAGES:
            await WebSocketClose(1008, problem or "too many pages are open")(scope, receive, send)
            return
        self._open_pages += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open_pages -= 1

    def _problem(self, headers: Headers) -> str:
        """Return why a request is refused; empty if it is not."""
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        host = hosts[0] if len(hosts) == 1 else ""
        name = _host_name(host)
        if not self._is_known(name):
            return (
                "This page is not known by that name. To serve it under a name, start it with "
                "`sentinel-app --allowed-host NAME`."
            )
        # Streamlit would accept further origins, and ask a host on the internet which they are.
        if any(_place(origin) != host.lower() for origin in origins):
            return (
                "Another web site has sent this request. If a proxy serves this page, let it pass "
                "on the Host header."
            )
        return ""

    def _is_known(self, name: str) -> bool:
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return bool(name) and "." not in name
        return True


def _place(origin: str) -> str:
    """Return name and port in an Origin header in lower case; empty if it is malformed."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _host_name(host: str) -> str:
    """Return the name in a Host header; empty if it is malformed."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises if it is no number
    except ValueError:
        return ""
    return _normal(parts.hostname or "") if parts.netloc == host and "@" not in host else ""


def _normal(name: str) -> str:
    return name.lower().removesuffix(".")


def _with_headers(send: Send, headers: Mapping[str, str]) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(headers)
        await send(message)

    return send_with_headers
