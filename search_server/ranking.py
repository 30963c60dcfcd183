"""Pure functions over ranked hits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from search_server.types import Hit, PagePosition, Row


def rank(found: Sequence[tuple[Row, float]], offset: int = 0) -> list[Hit]:
    """Return hits numbered from `offset` + 1, in the order found.

    Equal scores are left as Milvus ordered them: another order within one page would lose and
    double hits at the border to the next.
    """
    return [Hit(row, offset + place, score) for place, (row, score) in enumerate(found, 1)]


def at_least(hits: Sequence[Hit], min_score: float | None) -> list[Hit]:
    """Return the leading hits that score `min_score` or more; all of them for None."""
    if min_score is None:
        return list(hits)
    return list(takewhile(lambda hit: hit.score >= min_score, hits))


def after(hits: Sequence[Hit], position: PagePosition) -> list[Hit]:
    """Return the hits that were not delivered up to `position`, renumbered to follow it."""
    delivered = set(position.tied)
    new = [hit for hit in hits if hit.row.id not in delivered]
    for place, hit in enumerate(new, position.rank + 1):
        hit.rank = place
    return new


def position_after(page: Sequence[Hit], position: PagePosition) -> PagePosition:
    """Return the position after a page that began at `position`."""
    score = page[-1].score
    tied = [hit.row.id for hit in page if hit.score == score]
    if position.rank and position.score == score:
        tied = [*position.tied, *tied]
    return PagePosition(position.rank + len(page), score, tuple(tied))
