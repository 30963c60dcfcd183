"""Define a running search: its selection, its vector, its hits and its timings."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from search_server.types.queries import SearchSpec
from sentinel_core.calls import Deadline
from sentinel_store.collections import CollectionInfo, MatchLevels
from sentinel_store.items import Row
from sentinel_store.values import Consistency, FloatArray

ScoredId = tuple[str, float]  # an item's id and its score


@dataclass(slots=True)
class Selection:
    """Which rows of a collection a Milvus search may find, and how it finds them.

    Attributes:
        expression: The Milvus expression that rows must match; empty for all rows.
        deadline: When the answer must be there.
        index_params: Search parameters of the vector index, by Milvus's names.
        filter_expression: The expression of the filter alone, without the query's own items.
    """

    collection: CollectionInfo
    expression: str
    consistency: Consistency
    deadline: Deadline
    index_params: Mapping[str, int] = field(default_factory=dict)
    filter_expression: str = ""


@dataclass(slots=True)
class SearchTimings:
    """Seconds by stage; None if the stage did not run.

    Attributes:
        embed_cached: Whether the cache had every embedding that the query needs.
    """

    total: float = 0.0
    embed: float | None = None
    embed_queue: float | None = None
    embed_inference: float | None = None
    vector_search: float | None = None
    embed_cached: bool = False


class Match(enum.StrEnum):
    """How good a hit is, independent of the other hits."""

    WEAK = "weak"
    FAIR = "fair"
    STRONG = "strong"


class NoticeKind(enum.StrEnum):
    """What a notice is about."""

    TEXT_TRUNCATED = "text_truncated"
    LANGUAGE_UNKNOWN = "language_unknown"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something about a query that its hits do not show; the message is for people."""

    kind: NoticeKind
    message: str


@dataclass(slots=True)
class Search:
    """A search that is checked and has its vector.

    Attributes:
        selection: What it may find: rows that match the filter, except the query's own items.
        vector: float32 `[dimensions]`, of unit length.
        timings: Grows as the search runs.
        started: When it began, on `perf_counter`'s clock.
        notices: What the caller should know about the query.
        match_levels: What scores mean; None if nobody knows, or if the query is not one text.
    """

    spec: SearchSpec
    selection: Selection
    vector: FloatArray
    timings: SearchTimings
    started: float
    notices: tuple[Notice, ...] = ()
    match_levels: MatchLevels | None = None

    def match_of(self, row: Row, score: float) -> Match | None:
        """Return how well an item matches; None if nobody knows, as for items without an image."""
        levels = self.match_levels
        if levels is None or not row.image:
            return None
        if score < levels.fair:
            return Match.WEAK
        return Match.FAIR if score < levels.strong else Match.STRONG


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row that may become a hit, with what reranking compares.

    Attributes:
        score: Its cosine to the query.
        vector: float32 `[dimensions]`, of length 1; None where vectors are not compared.
        value: The value of the grouping field; None if the row lacks it.
    """

    id: str
    score: float
    vector: FloatArray | None = None
    value: str | int | None = None


@dataclass(slots=True)
class Hit:
    """One found item: its row, its rank (from 1) and its score.

    The score is the cosine to the query; of a hybrid search, the fused score.
    """

    row: Row
    rank: int
    score: float
    image_uri: str = ""
    thumbnail: bytes = b""
    match: Match | None = None
