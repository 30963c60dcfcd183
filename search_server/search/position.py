"""Where a caller stands in a ranking, and what of a ranking fetched anew comes after that.

A position is the score of the last delivered hit, and not its place: items that are inserted or
deleted between two pages shift places, but no other item's score. Milvus may order equal scores
another way each time, and may compute a score a little differently once it has moved a row (from
memory to a segment, from one matrix to another), so the ids delivered with about that score
belong to the position too.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

# How far two computations of one cosine in float32 may lie apart; seen: up to 2.4e-7.
JITTER = 1e-6
_HEAD = struct.Struct(">Id")
_DIGEST_BYTES = 8

Scored = tuple[str, float]  # an id and its score


@dataclass(frozen=True, slots=True)
class Position:
    """How far a caller has come in a ranking; by default, nowhere yet.

    Attributes:
        rank: Hits delivered so far.
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
        """Return what `pack` packed; the start for no bytes."""
        if not packed:
            return cls()
        rank, score = _HEAD.unpack_from(packed)
        starts = range(_HEAD.size, len(packed), _DIGEST_BYTES)
        return cls(rank, score, frozenset(packed[at : at + _DIGEST_BYTES] for at in starts))

    def remaining(self, ranking: Sequence[Scored]) -> list[Scored]:
        """Return what of `ranking`, best first, has not been delivered yet."""
        if not self.rank:
            return list(ranking)
        return [
            (item_id, score)
            for item_id, score in ranking
            if score <= self.score + JITTER and _digest(item_id) not in self.tied
        ]

    def advanced(self, delivered: Sequence[Scored]) -> Position:
        """Return the position after `delivered`, which is what came next; at least one."""
        score = delivered[-1][1]
        # Twice: an id that scored so may score one jitter less next time, which `remaining` takes.
        near = score + 2 * JITTER
        tied = {_digest(item_id) for item_id, its_score in delivered if its_score <= near}
        if self.rank and self.score <= near:
            tied |= self.tied
        return Position(self.rank + len(delivered), score, frozenset(tied))


START = Position()


def _digest(item_id: str) -> bytes:
    """Return a short name of an id: of 10,000 ids, two agree once in 10^11 rankings."""
    return hashlib.blake2b(item_id.encode(), digest_size=_DIGEST_BYTES).digest()
