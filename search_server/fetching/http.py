"""Reads images over http and https. The only file that makes requests to servers of others."""

from __future__ import annotations

import aiohttp
from aiohttp.abc import AbstractResolver

from search_server.fetching.addresses import AddressGuard
from search_server.fetching.answers import empty, forbidden, not_found, too_large, unavailable
from search_server.fetching.places import Places, Target, http_target, read_url

_CHUNK_BYTES = 64 * 1024
_REDIRECTS = (301, 302, 303, 307, 308)
_REFUSED = (401, 403, 407, 451)
_LATER = (408, 425, 429)


class HttpReader:
    """Use from one event loop, and make it there. Waits without end: callers set a timeout."""

    def __init__(
        self,
        places: Places,
        *,
        allow_private: bool,
        max_redirects: int,
        resolver: AbstractResolver | None = None,
    ) -> None:
        """Open nothing yet.

        Args:
            places: Where it may go, checked again at each redirect.
            allow_private: Whether it may connect to addresses that are not public.
            max_redirects: Most redirects of one request.
            resolver: Resolves host names; the system's when None.
        """
        self._places = places
        self._max_redirects = max_redirects
        self._guard = AddressGuard(
            resolver or aiohttp.ThreadedResolver(), allow_private=allow_private
        )
        self._session = aiohttp.ClientSession(
            # No cache of names: each new connection is made to addresses that were just checked.
            connector=aiohttp.TCPConnector(resolver=self._guard, use_dns_cache=False, limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            # Pictures are compressed as they are; anything else here would be a bomb.
            auto_decompress=False,
            headers={"Accept-Encoding": "identity", "User-Agent": "sentinel-gateway"},
            cookie_jar=aiohttp.DummyCookieJar(),
            # Neither a proxy nor credentials from the environment.
            trust_env=False,
        )

    async def read(self, target: Target, max_bytes: int) -> bytes:
        """Return the body at `target`, which the caller found in a place of the list.

        Raises:
            SentinelError: URI_FORBIDDEN, URI_NOT_FOUND, URI_UNAVAILABLE, IMAGE_TOO_LARGE or
                IMAGE_EMPTY.
        """
        for _ in range(self._max_redirects + 1):
            assert target.url is not None
            self._guard.check_literal(target.url.raw_host or "")
            try:
                async with self._session.get(target.url, allow_redirects=False) as response:
                    if response.status not in _REDIRECTS:
                        return await _body(response, target, max_bytes)
                    following = response.headers.get("Location", "")
            except (aiohttp.ClientError, OSError) as error:
                raise unavailable(target, type(error).__name__) from error
            target = self._redirected(target, following)
        raise forbidden(target, f"follows more than {self._max_redirects} redirects")

    def _redirected(self, target: Target, location: str) -> Target:
        assert target.url is not None
        try:
            following = http_target(target.url.join(read_url(location)))
        except ValueError as error:
            raise unavailable(target, "a redirect to no URL") from error
        self._places.find(following)
        return following

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()


async def _body(response: aiohttp.ClientResponse, target: Target, max_bytes: int) -> bytes:
    status = response.status
    if status in _REFUSED:
        raise forbidden(target, f"answers the gateway with {status}")
    if status in _LATER or status >= 500:
        raise unavailable(target, f"HTTP {status}")
    if status != 200:
        raise not_found(target, f"HTTP {status}")
    if (response.content_length or 0) > max_bytes:
        raise too_large(target, max_bytes)
    data = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        data += chunk
        if len(data) > max_bytes:
            raise too_large(target, max_bytes)
    if not data:
        raise empty(target)
    return bytes(data)
