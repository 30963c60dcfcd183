"""Cut a ranking into pages and messages: where a page begins, and how many hits fit.

A position is the score of the last delivered hit, not its rank: items that are inserted or deleted
between two pages shift ranks, but no other item's score. Milvus may order equal scores differently
each time. It may also compute a score a little differently once it has moved a row (from memory to
a segment, from one matrix to another). So a position also has the ids delivered with about that
score.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass

from search_server.types.message_sizes import message_bytes
from search_server.types.searches import Hit, ScoredId

# The greatest difference between two computations of one cosine in float32; seen: up to 2.4e-7.
JITTER = 1e-6
_HEAD = struct.Struct(">Id")
_DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True)
class Position:
    """Where a page of a ranking begins; by default at its start.

    Attributes:
        rank: Number of hits delivered so far.
        score: Score of the last one.
        tied: Digests of the ids delivered with about that score.
    """

    rank: int = 0
    score: float = 0.0
    tied: frozenset[bytes] = frozenset()

    def pack(self) -> bytes:
        """Return the position as bytes: 12, and 8 for each tied id."""
        return _HEAD.pack(self.rank, self.score) + b"".join(sorted(self.tied))

    @classmethod
    def unpack(cls, packed: bytes) -> Position:
        """Return the position that `pack` packed; the start for no bytes."""
        if not packed:
            return cls()
        rank, score = _HEAD.unpack_from(packed)
        starts = range(_HEAD.size, len(packed), _DIGEST_BYTES)
        return cls(rank, score, frozenset(packed[at : at + _DIGEST_BYTES] for at in starts))

    def remaining(self, ranking: Sequence[ScoredId]) -> list[ScoredId]:
        """Return the part of `ranking`, best first, that is not delivered yet."""
        if not self.rank:
            return list(ranking)
        return [
            (item_id, score)
            for item_id, score in ranking
            if score <= self.score + JITTER and _digest(item_id) not in self.tied
        ]

    def advanced(self, delivered: Sequence[ScoredId]) -> Position:
        """Return the position after `delivered`, the next hits; at least one."""
        score = delivered[-1][1]
        # Twice: next time an id may score one jitter less, and `remaining` allows for one more.
        near = score + 2 * JITTER
        tied = {_digest(item_id) for item_id, its_score in delivered if its_score <= near}
        if self.rank and self.score <= near:
            tied |= self.tied
        return Position(self.rank + len(delivered), score, frozenset(tied))


START = Position()


def _digest(item_id: str) -> bytes:
    """Return a short digest of an id: among 10,000 ids, two agree once in 10^11 rankings."""
    return hashlib.blake2b(item_id.encode(), digest_size=_DIGEST_BYTES).digest()


class Chunks:
    """Cuts hits into chunks of `most`, or fewer if those have more bytes.

    Attributes:
        rest: The hits that make no whole chunk yet.
    """

    def __init__(self, most: int, max_bytes: int) -> None:
        self._most = most
        self._max_bytes = max_bytes
        self._bytes = 0
        self.rest: list[Hit] = []

    def add(self, hits: Iterable[Hit]) -> Iterator[list[Hit]]:
        """Yield the whole chunks that there are with these hits."""
        for hit in hits:
            size = message_bytes(hit)
            if self.rest and self._bytes + size > self._max_bytes:
                yield self._taken()
            self.rest.append(hit)
            self._bytes += size
            if len(self.rest) == self._most:
                yield self._taken()

    def _taken(self) -> list[Hit]:
        taken, self.rest, self._bytes = self.rest, [], 0
        return taken


async def first_page(
    blocks: AsyncIterator[Sequence[Hit]], most: int, max_bytes: int
) -> tuple[list[Hit], bool]:
    """Return the first `most` hits of `blocks`, or fewer if those have more bytes.

    Also return whether there are more.
    """
    page: list[Hit] = []
    total = 0
    async for block in blocks:
        for hit in block:
            total += message_bytes(hit)
            if len(page) == most or (page and total > max_bytes):
                return page, True
            page.append(hit)
    return page, False
