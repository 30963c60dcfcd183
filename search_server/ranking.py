"""Pure functions over ranked hits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from search_server.types.items import Hit, Row


def rank(found: Sequence[tuple[Row, float]], offset: int = 0) -> list[Hit]:
    """Return hits numbered from `offset` + 1, in the order found."""
    return [Hit(row, offset + place, score) for place, (row, score) in enumerate(found, 1)]


def at_least(hits: Sequence[Hit], min_score: float | None) -> list[Hit]:
    """Return the leading hits that score `min_score` or more; all of them for None."""
    if min_score is None:
        return list(hits)
    return list(takewhile(lambda hit: hit.score >= min_score, hits))
