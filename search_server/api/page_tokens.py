"""Sign and read page tokens: where the next page begins. Only a gateway can make a token.

    token = base64url( HMAC-SHA256 (32 bytes) | issue time (8 bytes, ms since 1970) | position )

The HMAC also covers the request, which is not in the token: a token continues only the request
that it was made for. Gateways of one version that share the key read each other's tokens.

Not itsdangerous: its timestamps are whole seconds and must not be in the future (replicas' clocks
differ), and its signatures may be spelled in several ways. Overriding that takes as much code.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
import time
from collections.abc import Callable

from search_server.api.common_messages import out_of_range
from sentinel_core.calls import current_caller
from sentinel_core.errors import InvalidArgument

_TAG_BYTES = hashlib.sha256().digest_size
_TIME = struct.Struct(">Q")
# Changes with the form of positions, so that a gateway of another version refuses the token.
_FORM = b"3"
# The longest is of a ranking with 10,000 equal scores (search/paging.py), about 107,000.
_MAX_TOKEN_CHARS = 256 * 1024


class PageTokens:
    """Makes and reads the tokens of all paged methods. Stateless."""

    def __init__(
        self, key: bytes, lifetime_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        """Sign with `key`, which all gateways behind one address share.

        Tokens can be read for `lifetime_s` seconds. `clock` returns seconds since 1970.
        """
        self._key = key
        self._lifetime_s = lifetime_s
        self._clock = clock

    def make(self, position: bytes, request: bytes) -> str:
        """Return an opaque token for `position` within the results of `request`.

        Args:
            position: What `read` returns; not secret, since tokens are not encrypted.
            request: The request that the token belongs to: the method, and every part of the
                message that chooses the results.
        """
        body = _TIME.pack(int(self._clock() * 1000)) + position
        return base64.urlsafe_b64encode(self._tag(body, request) + body).decode()

    def read(self, token: str, request: bytes) -> bytes:
        """Return the position in `token`; empty for the empty token.

        Raises:
            InvalidArgument: The token is damaged, was made for another request, or is too old.
        """
        if not token:
            return b""
        raw = _decoded(token)
        tag, body = raw[:_TAG_BYTES], raw[_TAG_BYTES:]
        if len(body) < _TIME.size or not hmac.compare_digest(tag, self._tag(body, request)):
            raise _damaged()
        (issued_ms,) = _TIME.unpack_from(body)
        if self._clock() - issued_ms / 1000 > self._lifetime_s:
            raise InvalidArgument(
                "PAGE_TOKEN_EXPIRED",
                f"the page token is older than {self._lifetime_s:g} s; start again without one",
                field="page_token",
            )
        return body[_TIME.size :]

    def make_in_collection(self, collection: str, position: bytes, request: bytes) -> str:
        """Return a token that continues in this very collection, also after an alias moved."""
        return self.make(collection.encode() + b"\0" + position, request)

    def read_in_collection(self, token: str, request: bytes) -> tuple[str, bytes]:
        """Return the collection and the position; both empty for the empty token."""
        collection, _, position = self.read(token, request).partition(b"\0")
        name = collection.decode()
        if name and not current_caller().owns(name):  # somebody knows the key
            raise _damaged()
        return name, position

    def _tag(self, body: bytes, request: bytes) -> bytes:
        # A tenant has no "/". The digest has a fixed length. So nothing else joins to the same.
        tenant = current_caller().tenant.encode() + b"/"
        signed = _FORM + tenant + hashlib.sha256(request).digest() + body
        return hmac.digest(self._key, signed, "sha256")


def _damaged() -> InvalidArgument:
    return InvalidArgument(
        "PAGE_TOKEN_INVALID",
        "the page token is damaged or belongs to another request; start again without one",
        field="page_token",
    )


def _decoded(token: str) -> bytes:
    """Return the bytes of `token`; none unless it is spelled exactly as `make` spells it."""
    if len(token) > _MAX_TOKEN_CHARS:
        return b""
    try:
        raw = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        return b""
    # The last character has unused bits, which base64 would ignore.
    return raw if base64.urlsafe_b64encode(raw).decode() == token else b""


def page_size(requested: int, default: int, most: int) -> int:
    """Return the page size to use: `default` for 0, `most` above it; refuse a negative one."""
    if requested < 0:
        raise out_of_range(f"it is {requested}; use 0 to {most}", "page_size")
    return min(requested or default, most)
