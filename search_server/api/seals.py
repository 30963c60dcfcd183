"""Seal what callers keep for us and send back. Only a gateway can make a seal.

    token = base64url( HMAC-SHA256 (32 bytes) | time of sealing (8 bytes, ms since 1970) | content )

The HMAC also covers the caller's tenant and the request, which are not in the token. Gateways of
one version that share the key open each other's tokens. Contents are not encrypted.

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
from dataclasses import dataclass

from sentinel_core.calls import current_caller

_TAG_BYTES = hashlib.sha256().digest_size
_TIME = struct.Struct(">Q")
# The longest is a page token in a ranking with 10,000 equal scores (search/paging.py), about
# 107,000.
_MAX_TOKEN_CHARS = 256 * 1024


@dataclass(frozen=True, slots=True)
class Opened:
    """What was in a token, and how many seconds ago it was sealed."""

    content: bytes
    age_s: float


class Seals:
    """Makes and opens the tokens of one purpose. Stateless."""

    def __init__(self, key: bytes, purpose: bytes, clock: Callable[[], float] = time.time) -> None:
        """Sign with a key derived from `key`, which all gateways behind one address share.

        Tokens of another `purpose` are not opened. It names the form of contents, too, so that
        a gateway of another version refuses them. `clock` returns seconds since 1970.
        """
        self._key = hmac.digest(key, purpose, "sha256")
        self._clock = clock

    def make(self, content: bytes, request: bytes) -> str:
        """Return a token with `content` for a later call of the same tenant.

        Args:
            content: What `open` returns; not secret.
            request: All that the later call must have in common with this one.
        """
        body = _TIME.pack(int(self._clock() * 1000)) + content
        return base64.urlsafe_b64encode(self._tag(body, request) + body).decode()

    def open(self, token: str, request: bytes) -> Opened | None:
        """Return what is in `token`; None if it is damaged or was made for another request."""
        raw = _decoded(token)
        tag, body = raw[:_TAG_BYTES], raw[_TAG_BYTES:]
        if len(body) < _TIME.size or not hmac.compare_digest(tag, self._tag(body, request)):
            return None
        (sealed_ms,) = _TIME.unpack_from(body)
        return Opened(body[_TIME.size :], self._clock() - sealed_ms / 1000)

    def _tag(self, body: bytes, request: bytes) -> bytes:
        # A tenant has no "/". The digest has a fixed length. So nothing else joins to the same.
        tenant = current_caller().tenant.encode() + b"/"
        return hmac.digest(self._key, tenant + hashlib.sha256(request).digest() + body, "sha256")


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
