"""Pure functions that choose among ranked candidates: no copies, more variety, few of a kind.

They take candidates best first and return places (indices into them) in the order of the result.
n is the number of candidates, at most some thousand; d the length of a vector; every vector has
length 1, so that a dot product is a cosine.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from search_server.types.values import FloatArray

# float32 takes the cosine of equal vectors a little below 1; twice what 4,096 elements can lose.
_ROUNDING = 1e-6


def distinct(vectors: FloatArray, threshold: float) -> list[int]:
    """Return the places of the candidates that are no copies of a better one.

    A candidate is kept if its cosine to every one kept before it is below `threshold`. So the
    kept ones of a longer list begin with those of a shorter one.

    Args:
        vectors: float32 `[n, d]`, best first.
        threshold: Above 0, at most 1.

    Returns:
        Ascending places. O(kept * n * d).
    """
    bound = threshold - _ROUNDING
    is_copy = np.zeros(len(vectors), dtype=bool)
    kept: list[int] = []
    for place in range(len(vectors)):
        if is_copy[place]:
            continue
        kept.append(place)
        is_copy[place + 1 :] |= vectors[place + 1 :] @ vectors[place] >= bound
    return kept


def diverse(
    relevance: FloatArray, vectors: FloatArray, relevance_share: float, most: int
) -> list[int]:
    """Return the places of the candidates in the order of maximal marginal relevance.

    The first is the first candidate; each following one has the greatest
    `share * relevance - (1 - share) * cosine to the nearest one chosen before`, of equals the
    first (Carbonell and Goldstein, SIGIR 1998).

    Args:
        relevance: float32 `[n]`, descending: cosines to the query.
        vectors: float32 `[n, d]`.
        relevance_share: lambda, 0 to 1.
        most: Stop when this many are chosen; it does not change which come first.

    Returns:
        min(most, n) places. O(most * n * d): each chosen one is compared with all others once.
    """
    count = min(most, len(vectors))
    if count == 0:
        return []
    wanted = np.float32(relevance_share) * relevance
    novelty_share = np.float32(1.0 - relevance_share)
    nearest = np.full(len(vectors), -np.inf, dtype=np.float32)
    chosen = [0]
    is_chosen = np.zeros(len(vectors), dtype=bool)
    is_chosen[0] = True
    while len(chosen) < count:
        np.maximum(nearest, vectors @ vectors[chosen[-1]], out=nearest)
        gain = np.where(is_chosen, -np.inf, wanted - novelty_share * nearest)
        best = int(np.argmax(gain))  # of equals the first
        chosen.append(best)
        is_chosen[best] = True
    return chosen


def grouped(values: Sequence[Hashable | None], size: int) -> list[int]:
    """Return the places of the best `size` candidates of each value, group after group.

    Args:
        values: `[n]`, the candidates' values, best first; None is a group of its own each time.
        size: Most of each group, at least 1.

    Returns:
        Places; groups in the order of their best candidates, candidates of a group in theirs. With
        `size` 1, those of a longer list begin with those of a shorter one.
    """
    groups: dict[Hashable, list[int]] = {}
    for place, value in enumerate(values):
        # A tuple keeps what has no value apart from everything that has one.
        group = groups.setdefault((value,) if value is not None else place, [])
        if len(group) < size:
            group.append(place)
    return [place for group in groups.values() for place in group]
