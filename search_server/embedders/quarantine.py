"""Keep contents that end workers from ending more of them.

A content that was at a worker when it was lost is suspect. It is then tried alone, so that at most
one more worker ends because of it, and so that the blame is certain:

* It is embedded: it is innocent, like all but one of the contents that were lost together.
* The process ends again: the content is rejected for a while, without asking a worker.
* The worker hangs, or the network does: no proof. After three such trials the content is rejected.

Suspects are tried one at a time, each kind by itself: a text does not wait behind an image that
takes long to decode.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from prometheus_client import Counter

from sentinel_core.calls import Deadline
from sentinel_core.errors import DeadlineExceeded, InvalidArgument
from sentinel_core.metrics import ServerMetrics
from sentinel_store.items import Content, Kind

logger = logging.getLogger(__name__)

# How long a suspicion and a rejection last after the last loss, and how many are remembered.
_REMEMBER_S = 600.0
_MAX_REMEMBERED = 10_000
_MAX_UNPROVEN_LOSSES = 3
# Hashing more than this in the event loop would delay other calls.
_MAX_INLINE_BYTES = 256 * 1024


@dataclass(slots=True)
class _Suspicion:
    until: float
    unproven: int = 0
    rejected: bool = False


class Quarantine:
    """Remembers suspect and rejected contents. Use inside one event loop.

    Attributes:
        holds_any: Whether it remembers any content; if not, no content need be looked up.
    """

    def __init__(self, metrics: ServerMetrics, clock: Callable[[], float] = time.monotonic) -> None:
        self.holds_any = False
        self._clock = clock
        self._known: OrderedDict[bytes, _Suspicion] = OrderedDict()  # the latest loss last
        self._turns = {kind: asyncio.Lock() for kind in Kind}
        self._verdicts = Counter(
            f"sentinel_{metrics.process}_suspect_contents_total",
            "Contents that were at a worker when it was lost and were then tried alone: cleared, "
            "unproven (lost again, the process did not end), or rejected.",
            ["verdict"],
            registry=metrics.registry,
        )

    async def keys(self, contents: Sequence[Content], fingerprint: str) -> list[bytes]:
        """Return the key of each content: a digest of its bytes and of the model."""
        if sum(len(content.data) for content in contents) > _MAX_INLINE_BYTES:
            return await asyncio.to_thread(_keys, contents, fingerprint)
        return _keys(contents, fingerprint)

    def is_suspect(self, key: bytes) -> bool:
        """Tell whether a content must be tried alone, or is rejected."""
        suspicion = self._known.get(key)
        if suspicion is not None and suspicion.until <= self._clock():
            del self._known[key]
            self.holds_any = bool(self._known)
            return False
        return suspicion is not None

    def rejection(self, key: bytes) -> InvalidArgument | None:
        """Return the error of a content that is rejected."""
        suspicion = self._known.get(key)
        if suspicion is None or not suspicion.rejected:
            return None
        minutes = max(1, round((suspicion.until - self._clock()) / 60))
        return InvalidArgument(
            "CONTENT_POISONOUS",
            "two embedder workers ended while they embedded this content, so it is refused for the "
            f"next {minutes} min; send it in another format, or report it with the workers' logs",
        )

    def suspect(self, keys: Iterable[bytes]) -> None:
        """Remember contents that were at a worker when it was lost."""
        until = self._clock() + _REMEMBER_S
        for key in keys:
            suspicion = self._known.setdefault(key, _Suspicion(until))
            suspicion.until = until
            self._known.move_to_end(key)
        while len(self._known) > _MAX_REMEMBERED:
            self._known.popitem(last=False)
        self.holds_any = True

    def clear(self, key: bytes) -> None:
        """Forget a content that was embedded alone."""
        self._verdicts.labels("cleared").inc()
        self._known.pop(key, None)
        self._forget_old()

    def lose(self, key: bytes, *, ended: bool) -> InvalidArgument | None:
        """Note that a worker was lost with this content alone; return its error if it is rejected.

        It is if the process has `ended`, and nothing else can be to blame.
        """
        self.suspect([key])
        suspicion = self._known[key]
        suspicion.unproven += not ended
        if not ended and suspicion.unproven < _MAX_UNPROVEN_LOSSES:
            self._verdicts.labels("unproven").inc()
            return None
        suspicion.rejected = True
        self._verdicts.labels("rejected").inc()
        logger.error("content ends workers, rejected", extra={"content": key.hex()})
        return self.rejection(key)

    @asynccontextmanager
    async def turn(self, kind: Kind, deadline: Deadline) -> AsyncIterator[None]:
        """Wait until no other suspect of this kind is tried; it is one until the block ends.

        Raises:
            DeadlineExceeded: Time ran out before that.
        """
        lock = self._turns[kind]
        try:
            async with asyncio.timeout(deadline.for_next_hop("embed")):
                await lock.acquire()
        except TimeoutError:
            raise DeadlineExceeded(
                "OUT_OF_TIME",
                "a worker was lost, and its contents were not tried again in time; retry",
                stage="embed",
            ) from None
        try:
            yield
        finally:
            lock.release()

    def _forget_old(self) -> None:
        now = self._clock()
        while self._known and next(iter(self._known.values())).until <= now:
            self._known.popitem(last=False)
        self.holds_any = bool(self._known)


def _keys(contents: Sequence[Content], fingerprint: str) -> list[bytes]:
    keys = []
    for content in contents:
        digest = hashlib.sha256(f"{fingerprint}/{content.kind}/".encode())
        digest.update(content.data)
        keys.append(digest.digest())
    return keys
