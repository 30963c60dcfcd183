"""How a client behaves: frozen dataclasses, every field with a default that is fit for use."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import grpc

ADDRESS_VARIABLE = "SENTINEL_ADDRESS"
DEFAULT_ADDRESS = "127.0.0.1:50050"
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When and how often a failed call is repeated, always inside the call's timeout.

    Only calls that the contract marks as safe to repeat are; a stream of hits only before its
    first message. UNAVAILABLE is repeated after a jittered, growing pause, RESOURCE_EXHAUSTED
    after the pause the server asks for.

    Attributes:
        max_attempts: Most attempts, the first included; 1 turns retries off.
        initial_backoff: Seconds before the second attempt, before jitter.
        multiplier: What the pause grows by from attempt to attempt.
        max_backoff: Longest pause in seconds, before jitter; a server may ask for a longer one.
    """

    max_attempts: int = 5
    initial_backoff: float = 0.2
    multiplier: float = 2.0
    max_backoff: float = 5.0

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts must be at least 1, not {self.max_attempts}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds that a call may take in all, retries included, unless the call says otherwise.

    Attributes:
        search: `search`, `stream_search`, one page or batch of the others.
        upsert: One batch of `upsert` or `ingest`; images are embedded meanwhile.
        read: `get_items`, one page of `list_items`, `download_image`, `get_collection`, one page of
            `list_collections`.
        write: `delete_items`, and what makes, changes or deletes a collection or an alias.
        health: `health`.
    """

    search: float = 30.0
    upsert: float = 120.0
    read: float = 30.0
    write: float = 60.0
    health: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """Everything about a client but its address.

    Attributes:
        timeouts: Default timeouts by kind of call.
        retry: When failed calls are repeated.
        max_message_bytes: Largest message in either direction.
        upsert_max_items: Most items in one request of `upsert`; the server takes 256. `ingest`
            begins with it and then follows the server's advice.
        upsert_max_bytes: Where a request of `upsert`, a batch of `ingest` or of `batch_search` is
            cut; a larger single item goes alone.
        upsert_in_flight: Requests that one `upsert` keeps in flight.
        keepalive: Seconds without traffic before the connection is pinged. The servers take
            pings every 20 s at most.
        keepalive_timeout: Seconds that a ping may stay unanswered.
        credentials: TLS credentials; None speaks plain text.
    """

    timeouts: Timeouts = field(default_factory=Timeouts)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    max_message_bytes: int = 64 * MIB
    upsert_max_items: int = 64
    upsert_max_bytes: int = 14 * MIB
    upsert_in_flight: int = 4
    keepalive: float = 30.0
    keepalive_timeout: float = 10.0
    credentials: grpc.ChannelCredentials | None = field(default=None, repr=False)


def resolve_address(address: str | None) -> str:
    """Return `address`, else SENTINEL_ADDRESS, else this machine's port 50050.

    Raises:
        ValueError: It is a URL of HTTP; gRPC takes `host:port`.
    """
    resolved = address or os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS
    if resolved.startswith(("http://", "https://")):
        raise ValueError(f"the address is host:port, without a scheme, not {resolved!r}")
    return resolved
