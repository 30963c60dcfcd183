"""Page tokens: how far a caller has come, tied to the request it belongs to."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json

from search_server.types import PagePosition
from sentinel_core.errors import InvalidArgument

_DIGEST_BYTES = 12


def make_token(position: str, request: bytes) -> str:
    """Return an opaque token for `position` within the results of `request`."""
    return base64.urlsafe_b64encode(_digest(position, request) + position.encode()).decode()


def read_token(token: str, request: bytes) -> str:
    """Return the position in `token`; empty for the empty token.

    Raises:
        InvalidArgument: The token is damaged or was made for another request.
    """
    if not token:
        return ""
    try:
        raw = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
        position = raw[_DIGEST_BYTES:].decode()
    except (binascii.Error, UnicodeDecodeError, UnicodeEncodeError):
        raw, position = b"", ""
    if not position or raw[:_DIGEST_BYTES] != _digest(position, request):
        raise InvalidArgument(
            "PAGE_TOKEN_INVALID",
            "the page token is damaged or belongs to another request; start again without one",
            field="page_token",
        )
    return position


def _digest(position: str, request: bytes) -> bytes:
    return hashlib.sha256(position.encode() + b"\0" + request).digest()[:_DIGEST_BYTES]


def make_page_token(position: PagePosition, request: bytes) -> str:
    """Return the token of the page that begins after `position`."""
    return make_token(json.dumps([position.rank, position.score, *position.tied]), request)


def read_page_token(token: str, request: bytes) -> PagePosition:
    """Return the position in `token`; the beginning for the empty token."""
    text = read_token(token, request)
    if not text:
        return PagePosition()
    rank, score, *tied = json.loads(text)
    return PagePosition(rank, score, tuple(tied))


def page_size(asked: int, default: int, most: int) -> int:
    """Return the page size to use: 0 is the default, too many are the most there can be.

    Raises:
        InvalidArgument: It is negative.
    """
    if asked < 0:
        raise InvalidArgument(
            "PARAMETER_OUT_OF_RANGE", f"page_size is {asked}; use 0 to {most}", field="page_size"
        )
    return min(asked or default, most)
