"""Keep connections within this machine away from HTTP proxies."""

from __future__ import annotations

import os

_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy", "HTTPS_PROXY", "HTTP_PROXY")
_GRPC_BYPASS = "no_grpc_proxy"
_LOOPBACK = ("localhost", "127.0.0.1", "127.0.0.0/8", "::1")


def bypass_proxies_on_loopback() -> None:
    """Add this machine to `no_proxy`; call it before anything connects.

    gRPC, pymilvus and HTTP clients read these variables. They send even calls to 127.0.0.1 to a
    proxy, which cannot reach our workers there. gRPC reads `no_grpc_proxy` instead if it is set.
    """
    if not any(os.environ.get(name) for name in _PROXIES):
        return
    # Lower case wins where both exist, and gRPC knows no other.
    _extend("no_proxy", os.environ.get("no_proxy") or os.environ.get("NO_PROXY", ""))
    if _GRPC_BYPASS in os.environ:
        _extend(_GRPC_BYPASS, os.environ[_GRPC_BYPASS])


def _extend(variable: str, value: str) -> None:
    entries = [one.strip() for one in value.split(",") if one.strip()]
    missing = [one for one in _LOOPBACK if one not in entries]
    os.environ[variable] = ",".join([*entries, *missing])
