"""Which HTTP proxy gRPC uses for an address; none within this machine.

gRPC takes the proxy from the environment, and sends it even calls to 127.0.0.1. A proxy cannot
reach those, and a call would wait for it until its deadline.
"""

from __future__ import annotations

import ipaddress
import os
import re
from urllib.parse import urlsplit

# In gRPC's order of preference; it knows them in lower case only.
_PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
_BYPASS_VARIABLES = ("no_grpc_proxy", "no_proxy")
# `dns:///host:port` and its like; `dns://authority/host:port` names a DNS server.
_SCHEME = re.compile(r"(?:dns|passthrough|ipv4|ipv6):(?://[^/]*/)?", re.IGNORECASE)
_HOST_AND_PORT = re.compile(r"\[(?P<bracketed>[^\]]*)\](?::\w+)?|(?P<host>[^:]*)(?::\w+)?")


def is_on_loopback(address: str) -> bool:
    """Return whether a gRPC target is on this machine, such as localhost or a Unix socket."""
    if address.startswith("unix"):
        return True
    host = host_of(address)
    ip = _ip(host)
    return is_loopback(host) or (ip is not None and ip.is_unspecified)


def is_loopback(host: str) -> bool:
    """Return whether a host is reached from this machine only."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    ip = _ip(host)
    return ip is not None and ip.is_loopback


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def stays_on_machine(address: str) -> bool:
    """Return whether all of a gRPC target is surely on this machine, whoever answers names."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    scheme = _SCHEME.match(address)
    if scheme is not None and re.search(r"//[^/]+/", scheme[0]):  # asks another DNS server
        return False
    parts = _SCHEME.sub("", address, count=1).split(",")
    return all(is_on_loopback(part) and not part.startswith("unix") for part in parts)


def proxy_of(address: str) -> str:
    """Return `http_proxy=http://host:port`, which gRPC uses for a target, or ""."""
    if is_on_loopback(address):
        return ""
    variable = next((name for name in _PROXY_VARIABLES if os.environ.get(name)), "")
    if not variable or _is_bypassed(host_of(address)):
        return ""
    proxy = urlsplit(os.environ[variable])
    place = proxy.netloc.rpartition("@")[2]  # without a password
    return f"{variable}={proxy.scheme}://{place}"


def host_of(address: str) -> str:
    """Return the host of a gRPC target in lower case."""
    first = _SCHEME.sub("", address, count=1).split(",")[0]
    match = _HOST_AND_PORT.fullmatch(first)
    if match is None:  # an IPv6 address without brackets
        return first.lower()
    return (match["bracketed"] or match["host"] or "").lower()


def _is_bypassed(host: str) -> bool:
    listed = next((os.environ[name] for name in _BYPASS_VARIABLES if name in os.environ), "")
    entries = [one.strip().lower() for one in listed.split(",") if one.strip()]
    return any(host.endswith(one.removeprefix(".")) or _contains(one, host) for one in entries)


def _contains(network: str, host: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
