"""The configuration of a client: frozen dataclasses with usable defaults."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from sentinel_client._access import Tls
from sentinel_client._names import suggest_for_fields

ADDRESS_VARIABLE = "SENTINEL_ADDRESS"
# Of clients and commands that are given none.
DEFAULT_ADDRESS = "127.0.0.1:50050"
MIB = 1024 * 1024


@suggest_for_fields
@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When and how often to retry a failed call, always within the call's timeout.

    Only calls that the contract marks as safe to repeat are retried, and a stream of hits only
    before its first message. UNAVAILABLE is retried after a growing pause with jitter,
    RESOURCE_EXHAUSTED after the pause that the server asks for. Retries are at most a fifth of the
    client's calls in ten seconds, or ten; more would keep overloaded servers overloaded. Those of
    a server that cannot be reached or is shutting down do not count.

    Attributes:
        max_attempts: Most attempts, including the first; 1 turns retries off.
        initial_backoff: Seconds before the second attempt, without jitter.
        multiplier: Factor by which the pause grows after each attempt.
        max_backoff: Longest pause in seconds, without jitter; a server may ask for a longer one.
    """

    max_attempts: int = 5
    initial_backoff: float = 0.2
    multiplier: float = 2.0
    max_backoff: float = 5.0

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts must be at least 1, not {self.max_attempts}")


@suggest_for_fields
@dataclass(frozen=True, slots=True, kw_only=True)
class Hedging:
    """Send a read again that is slow to answer, and take the first answer; off by default.

    It makes the slowest reads faster, at the cost of some load. Only calls that change nothing are
    sent again, searches until their first hits, and not `embed_many`. With several addresses, the
    next gateway in turn gets the call; if many calls run at once, that may be the same one again.
    What is sent again counts as a retry (`RetryPolicy`): at most a fifth of all calls, or ten in
    ten seconds. It also counts for the caller's quotas.

    Attributes:
        after: Seconds without an answer, above 0. None: longer than 95 % of the client's last 200
            calls of the same method took; the first 20 are not sent again.
        max_attempts: Most gateways to ask, including the first: 2 to 5.
    """

    after: float | None = None
    max_attempts: int = 2

    def __post_init__(self) -> None:
        if self.after is not None and not self.after > 0:
            raise ValueError(f"after must be above 0 seconds, not {self.after}")
        if not 2 <= self.max_attempts <= 5:
            raise ValueError(f"max_attempts must be 2 to 5, not {self.max_attempts}")


@suggest_for_fields
@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Default timeouts in seconds, including retries. A call can override them.

    Attributes:
        search: `search`, `stream_search`; one page or batch of the other searches.
        upsert: One batch of `upsert`, `ingest`, `embed` or `embed_many`, or a `rank`, including the
            embedding of its images.
        read: `get_items`, one page of `list_items`, `download_image`, `get_collection`, one page of
            `list_collections`, `get_caller`, `get_model`.
        write: `delete_items`, `preview_deletion`; creating, changing or deleting a collection or an
            alias.
        health: `health`.
    """

    search: float = 30.0
    upsert: float = 120.0
    read: float = 30.0
    write: float = 60.0
    health: float = 5.0


@suggest_for_fields
@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """The configuration of a client, without its address.

    Attributes:
        timeouts: Default timeouts by kind of call.
        retry: When to retry failed calls.
        hedging: When to send slow reads to another gateway, too; None: never.
        max_message_bytes: Largest message in either direction. Most responses are smaller: the
            servers end them at 3.5 MiB, and the client reads on.
        upsert_max_items: Most items in one request of `upsert`, `embed` or `embed_many`; the server
            accepts 256. `ingest` uses it when the server gives no advice.
        upsert_max_bytes: Most bytes in one request of `upsert`, `embed` or `embed_many`, or one
            batch of `ingest` or `batch_search`; a larger item is sent alone.
        upsert_in_flight: Most requests of one `upsert`, `embed` or `embed_many` at a time.
        keepalive: Seconds without traffic before the connection is pinged. The servers accept a
            ping every 10 s; who pings more often loses the connection.
        keepalive_timeout: Seconds to wait for the answer to a ping.
        tls: Whom to trust and how to prove oneself; True: the CAs that gRPC knows; False: no TLS;
            None: what SENTINEL_TLS_CA and its like say, else no TLS.
        api_key: Sent with each call: a key, or a function that returns the present one, such as a
            token; None: that of SENTINEL_API_KEY or SENTINEL_API_KEY_FILE.
    """

    timeouts: Timeouts = field(default_factory=Timeouts)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    hedging: Hedging | None = None
    max_message_bytes: int = 64 * MIB
    upsert_max_items: int = 64
    upsert_max_bytes: int = 14 * MIB
    upsert_in_flight: int = 4
    keepalive: float = 30.0
    keepalive_timeout: float = 10.0
    tls: Tls | bool | None = None
    api_key: str | Callable[[], str] | None = field(default=None, repr=False)


def resolve_address(address: str | None) -> str:
    """Return `address`, else SENTINEL_ADDRESS, else port 50050 of this machine.

    Raises:
        ValueError: It is an HTTP URL; gRPC takes `host:port`.
    """
    resolved = address or os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS
    if resolved.startswith(("http://", "https://")):
        raise ValueError(f"the address is host:port, without a scheme, not {resolved!r}")
    return resolved
