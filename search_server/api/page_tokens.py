"""Make and read page tokens: where the next page of a request begins."""

from __future__ import annotations

import time
from collections.abc import Callable

from search_server.api.common_messages import out_of_range
from search_server.api.seals import Seals
from sentinel_core.calls import current_caller
from sentinel_core.errors import InvalidArgument

# The number changes with the form of positions.
_PURPOSE = b"page 4"


class PageTokens:
    """Makes and reads the tokens of all paged methods. Stateless."""

    def __init__(
        self, key: bytes, lifetime_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        """Sign with `key`, which all gateways behind one address share.

        Tokens can be read for `lifetime_s` seconds. `clock` returns seconds since 1970.
        """
        self._seals = Seals(key, _PURPOSE, clock)
        self._lifetime_s = lifetime_s

    def make(self, position: bytes, request: bytes) -> str:
        """Return an opaque token for `position` within the results of `request`.

        Args:
            position: What `read` returns; not secret, since tokens are not encrypted.
            request: The request that the token belongs to: the method, and every part of the
                message that chooses the results.
        """
        return self._seals.make(position, request)

    def read(self, token: str, request: bytes) -> bytes:
        """Return the position in `token`; empty for the empty token.

        Raises:
            InvalidArgument: The token is damaged, was made for another request, or is too old.
        """
        if not token:
            return b""
        opened = self._seals.open(token, request)
        if opened is None:
            raise _damaged()
        if opened.age_s > self._lifetime_s:
            raise InvalidArgument(
                "PAGE_TOKEN_EXPIRED",
                f"the page token is older than {self._lifetime_s:g} s; start again without one",
                field="page_token",
            )
        return opened.content

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


def _damaged() -> InvalidArgument:
    return InvalidArgument(
        "PAGE_TOKEN_INVALID",
        "the page token is damaged or belongs to another request; start again without one",
        field="page_token",
    )


def page_size(requested: int, default: int, most: int) -> int:
    """Return the page size to use: `default` for 0, `most` above it; refuse a negative one."""
    if requested < 0:
        raise out_of_range(f"it is {requested}; use 0 to {most}", "page_size")
    return min(requested or default, most)
