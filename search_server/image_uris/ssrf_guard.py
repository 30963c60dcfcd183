"""Guard against requests to private networks (SSRF): check each address before connecting."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from aiohttp.abc import AbstractResolver, ResolveResult

from sentinel_core.errors import PermissionDenied

# Translates to the IPv4 address in its last 32 bits (RFC 6052).
_NAT64 = IPv6Network("64:ff9b::/96")


class AddressGuard(AbstractResolver):
    """A resolver that returns allowed addresses only, and fails if a name has others.

    aiohttp connects to exactly the addresses that this returns, so a name that resolves to
    another address a moment later gains nothing.
    """

    def __init__(self, inner: AbstractResolver, *, allow_private: bool) -> None:
        self._inner = inner
        self._allow_private = allow_private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of `host`; raise PermissionDenied if one is not allowed."""
        found = await self._inner.resolve(host, port, family)
        for result in found:
            self.check(result["host"], host)
        return found

    def check_literal(self, host: str) -> None:
        """Check a host that is an IP address, in any notation: aiohttp does not resolve those."""
        if ":" in host or host.replace(".", "").isdigit():
            self.check(host.partition("%")[0], host)

    def check(self, address: str, host: str) -> None:
        """Raise PermissionDenied unless `address` is allowed."""
        try:
            allowed = is_allowed(address, allow_private=self._allow_private)
        except ValueError:
            allowed = False
        if not allowed:
            raise PermissionDenied(
                "URI_FORBIDDEN", f"{host[:100]} leads to an address that is not public"
            )

    async def close(self) -> None:
        await self._inner.close()


def is_allowed(address: str, *, allow_private: bool) -> bool:
    """Return whether the gateway may connect to an IP address.

    Link-local addresses, where clouds serve credentials, and addresses of no single host are
    refused even where private ones are allowed. Raises ValueError for other text.
    """
    ip = _reached(ip_address(address))
    if ip.is_loopback:
        return allow_private
    if ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip.is_reserved:
        return False
    site_local = isinstance(ip, IPv6Address) and ip.is_site_local  # Python 3.11 calls it global
    return allow_private or (ip.is_global and not site_local)


def _reached(ip: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the IPv4 address that an IPv6 address embeds; otherwise the address itself."""
    if isinstance(ip, IPv4Address):
        return ip
    if ip in _NAT64:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or ip
