"""An identity provider: the code flow of OpenID Connect with PKCE, on a port of this machine.

Whoever comes to it is asked whether to continue as its one user. It signs tokens as the `Issuer`
does whose keys the gateway knows.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.search_server.access.secured import ISSUER, Issuer

CLIENT_ID, CLIENT_SECRET = "sentinel-app", "the secret of the app"


@dataclass
class IdentityProvider:
    """A running provider.

    Attributes:
        claims: Of the next access token.
        tokens: Those that it gave.
    """

    issuer: Issuer
    url: str = ""
    claims: dict[str, Any] = field(default_factory=dict)
    tokens: list[str] = field(default_factory=list)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def metadata(self) -> dict[str, Any]:
        return {
            "issuer": ISSUER,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/jwks",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "code_challenge_methods_supported": ["S256"],
        }

    def asked(self, query: dict[str, str]) -> str:
        """Return the page that asks the user; its link leads back with a code."""
        assert query["client_id"] == CLIENT_ID
        code = uuid.uuid4().hex
        self.codes[code] = query
        back = urlencode({"code": code, "state": query["state"]})
        address = html.escape(f"{query['redirect_uri']}?{back}", quote=True)
        return f'<title>Provider</title><a href="{address}">Continue as Ann</a>'

    def exchanged(self, form: dict[str, str], authorization: str) -> dict[str, Any] | None:
        """Return the tokens for a code, once; None if it is not the app that asks."""
        given = base64.b64decode(authorization.removeprefix("Basic ")).decode()
        asked = self.codes.pop(form.get("code", ""), None)
        proof = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(proof).decode().rstrip("=")
        if asked is None or asked["code_challenge"] != challenge:
            return None
        if given not in (f"{CLIENT_ID}:{CLIENT_SECRET}", urlencode({CLIENT_ID: CLIENT_SECRET})):
            return None
        about = {"sub": "ann", "email": "ann@example.com"}
        access = self.issuer.token(**{**about, **self.claims})
        self.tokens.append(access)
        return {
            "access_token": access,
            "token_type": "Bearer",
            "expires_in": 300,
            "id_token": self.issuer.token(
                aud=CLIENT_ID, nonce=asked["nonce"], iat=datetime.now(UTC), scope=None, **about
            ),
        }


class _Handler(BaseHTTPRequestHandler):
    provider: IdentityProvider

    def do_GET(self) -> None:
        place = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(place.query).items()}
        if place.path == "/.well-known/openid-configuration":
            self._answer(json.dumps(self.provider.metadata()))
        elif place.path == "/jwks":
            self._answer(self.provider.issuer.jwks.read_text())
        elif place.path == "/authorize":
            self._answer(self.provider.asked(query), "text/html")
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        form = {
            name: values[0] for name, values in parse_qs(self.rfile.read(length).decode()).items()
        }
        tokens = self.provider.exchanged(form, self.headers.get("Authorization", ""))
        if tokens is None:
            self.send_error(400)
        else:
            self._answer(json.dumps(tokens))

    def _answer(self, text: str, kind: str = "application/json") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None: ...


@contextmanager
def running_provider(issuer: Issuer) -> Iterator[IdentityProvider]:
    """Run a provider on a free port."""
    provider = IdentityProvider(issuer)
    handler = type("Handler", (_Handler,), {"provider": provider})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    provider.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
