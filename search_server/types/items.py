"""What is stored and found: items on their way in, rows as they lie in Milvus, hits."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from time import perf_counter

from search_server.types.queries import ReadOptions, SearchSpec
from sentinel_store.collections import CollectionInfo
from sentinel_store.items import Row
from sentinel_store.values import FloatArray


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row that may become a hit, with what is compared to choose.

    Attributes:
        score: Its cosine to the query.
        vector: float32 `[dimensions]`, of length 1; None where vectors are not compared.
        value: What is grouped by; None if the row lacks the field.
    """

    id: str
    score: float
    vector: FloatArray | None = None
    value: str | int | None = None


@dataclass(slots=True)
class Hit:
    """One found item: its row, its place in the ranking (from 1) and its score.

    The score is the cosine to the query; of a hybrid search, the fused score.
    """

    row: Row
    rank: int
    score: float
    image_uri: str = ""
    thumbnail: bytes = b""


@dataclass(slots=True)
class SearchTimings:
    """Seconds by stage; None where the stage did not happen.

    Attributes:
        embed_cached: Whether all that the query would have had embedded was in the cache.
    """

    total: float = 0.0
    embed: float | None = None
    embed_queue: float | None = None
    embed_inference: float | None = None
    vector_search: float | None = None
    embed_cached: bool = False


@dataclass(slots=True)
class Search:
    """One search under way: what is searched, with which vector, and the time it has taken.

    Attributes:
        vector: float32 `[dimensions]`, of unit length.
        expression: The Milvus expression of what may be found: of the filter, and without the
            query's own items; empty for all.
        filter: That of the filter alone.
    """

    spec: SearchSpec
    collection: CollectionInfo
    vector: FloatArray
    expression: str
    filter: str = ""
    timings: SearchTimings = field(default_factory=SearchTimings)
    started: float = field(default_factory=perf_counter)

    @property
    def options(self) -> ReadOptions:
        """How Milvus is to search."""
        return ReadOptions(
            self.spec.consistency or self.collection.consistency, self.spec.index_params
        )


@dataclass(slots=True)
class UnreadableItem:
    """An item whose message makes no sense, and why."""

    id: str
    error: Exception


class Outcome(enum.StrEnum):
    """What became of one item of an upsert."""

    STORED = "stored"
    UNCHANGED = "unchanged"
    FAILED = "failed"


@dataclass(slots=True)
class ItemOutcome:
    """The result for one item; `error` only with FAILED."""

    id: str
    outcome: Outcome
    error: Exception | None = None


@dataclass(slots=True)
class StoredItem:
    """One item read back."""

    row: Row
    image_uri: str = ""
    thumbnail: bytes = b""
