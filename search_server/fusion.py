"""Reciprocal rank fusion: one ranking out of several, by place alone."""

from __future__ import annotations

from collections.abc import Sequence


def fuse(rankings: Sequence[tuple[Sequence[str], float]], constant: int) -> list[tuple[str, float]]:
    """Return every id with its fused score, best first, of equals by id.

    score = sum of weight / (constant + rank) over the rankings that have the id, ranks from 1
    (Cormack, Clarke and Büttcher, SIGIR 2009; the weights are ours).

    Args:
        rankings: Ids best first, each at most once, with the ranking's weight, at least 0.
        constant: At least 1; the greater, the less the first places count.
    """
    scores: dict[str, float] = {}
    for ids, weight in rankings:
        for rank, item_id in enumerate(ids, 1):
            scores[item_id] = scores.get(item_id, 0.0) + weight / (constant + rank)
    return sorted(scores.items(), key=lambda scored: (-scored[1], scored[0]))
