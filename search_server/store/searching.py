"""How Milvus is told to search: consistency levels, parameters of the index, deep rankings.

A graph or cluster index finds the nearest few well and the nearest thousands not always. Measured
on server 2.3.5 (30,000 rows of 384 dimensions): the nearest 2,000 by HNSW with its own `ef` were
95 % complete, with twice as much 99.6 %; a segment that still grows returned 4,446 rows when
asked for 10,000, whatever the parameters. A search by range (`radius`) looks at every row: it
found them all, at a cost that grows with the rows, and has gaps of its own elsewhere (811 of 1,000
rows under a filter). So a deep ranking takes both, where rows are few or some are missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search_server.store import indexes
from search_server.types.collections import VectorIndex
from search_server.types.values import Consistency
from sentinel_core.errors import InvalidArgument

_LEVELS = {
    Consistency.EVENTUAL: "Eventually",
    Consistency.BOUNDED: "Bounded",
    Consistency.SESSION: "Session",
    Consistency.STRONG: "Strong",
}

# What may be asked for, whatever the index: names and the least and greatest values that Milvus
# knows for them. An index takes what it has a use for and ignores the rest.
_MOST = {"ef": 32_768, "nprobe": 65_536, "search_list": 65_535}
# Milvus refuses these below the number of hits.
_AT_LEAST_LIMIT = ("ef", "search_list")

# A search by range with this radius has every row within; no cosine is less.
EVERYTHING = -1.01
# Up to how many rows a deep ranking looks at all of them; some 1.5 us each, on two busy cores.
MOST_ROWS_BY_RANGE = 100_000


def level(consistency: Consistency) -> str:
    """Return Milvus's name of a consistency."""
    return _LEVELS[consistency]


def check_index_params(params: Mapping[str, int]) -> None:
    """Raise InvalidArgument if one is unknown or out of its range."""
    for name, value in params.items():
        if name not in _MOST:
            raise InvalidArgument(
                "PARAMETER_OUT_OF_RANGE",
                f"no index has a search parameter {name[:50]!r}; there are {', '.join(_MOST)}",
                field="params.index_params",
            )
        if not 1 <= value <= _MOST[name]:
            raise InvalidArgument(
                "PARAMETER_OUT_OF_RANGE",
                f"{name} is {value}; it must be 1 to {_MOST[name]}",
                field=f"params.index_params[{name}]",
            )


def by_cosine(params: Mapping[str, float]) -> dict[str, Any]:
    """Return what Milvus takes as a search's parameters, from those of its index."""
    return {"metric_type": "COSINE", "params": params}


def index_params(
    index: VectorIndex, asked: Mapping[str, int], limit: int, radius: float | None = None
) -> dict[str, float]:
    """Return the parameters of Milvus's index for a search for `limit` hits.

    Args:
        index: The collection's.
        asked: What a caller chose, checked; the index's own choice where it chose nothing.
        limit: Most hits.
        radius: Only hits of a greater cosine, found by a search by range; None for all, found as
            the index finds nearest neighbours.
    """
    params: dict[str, float] = dict(indexes.search_params(index, limit))
    for name, value in asked.items():
        params[name] = max(value, limit) if name in _AT_LEAST_LIMIT else value
    if radius is not None:
        params["radius"] = radius
    return params


def merged(
    nearest: Sequence[tuple[str, float]], in_range: Sequence[tuple[str, float]], limit: int
) -> list[tuple[str, float]]:
    """Return the best `limit` of two rankings of one collection, each id once."""
    scores = dict(in_range) | dict(nearest)
    return sorted(scores.items(), key=lambda one: -one[1])[:limit]
