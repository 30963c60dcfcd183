"""The public types of searches: their options, hits and results. All are frozen."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import numpy.typing as npt

from sentinel_client._filters import FieldValue, Filter
from sentinel_client._names import suggest_for_fields
from sentinel_client._types import Consistency, ImageSource, ModelVersion, Vector


@suggest_for_fields
@dataclass(frozen=True, slots=True, kw_only=True)
class Hybrid:
    """Combine the vector search with a keyword search in the collection's full-text fields.

    Reciprocal rank fusion combines the two rankings: `score = sum of weight / (rrf_k + rank)`.

    Attributes:
        text: Keywords; empty: the query's own text.
        rrf_k: The constant of the fusion, 1 to 16,384; None: 60.
        vector_weight: Weight of the vector ranking, 0 to 1,000; None: 1.
        text_weight: Weight of the text ranking, 0 to 1,000; None: 1.
    """

    text: str = ""
    rrf_k: int | None = None
    vector_weight: float | None = None
    text_weight: float | None = None


@suggest_for_fields
@dataclass(frozen=True, slots=True, kw_only=True)
class Diversity:
    """Drop near-duplicates or make the hits more different; considers the nearest 1,000 at most.

    Attributes:
        duplicate_threshold: Two hits with at least this cosine similarity are duplicates; only
            the better one stays. Above 0, at most 1; None keeps all.
        mmr_lambda: Maximal marginal relevance: 1 is relevance only, 0 is difference only; None
            keeps the order of relevance.
    """

    duplicate_threshold: float | None = None
    mmr_lambda: float | None = None


@suggest_for_fields
@dataclass(frozen=True, slots=True)
class GroupBy:
    """Keep the best hits of each value of a field; considers the nearest 1,000 at most.

    Attributes:
        field: A declared field of strings, integers or booleans.
        size: Most hits per group, 1 to 100.
    """

    field: str
    size: int = 1


class SearchOptions(TypedDict, total=False):
    """The keyword arguments that all kinds of search share. All are optional.

        client.search("a dog", collection="photos", filter=F("year") >= 2020, min_score=0.2)

    Attributes:
        image: Search for an image instead of a query: the bytes of a file, a path, or an
            `ImageUri`. Default: None. Use `Q(image=..., crop=...)` for a part of an image.
        vector: Search for a vector instead of a query: as many numbers as the collection has
            dimensions, finite and not all zero. It need not have length 1. Default: None.
        item_id: Search for what is like a stored item, instead of a query: its id, 1 to 256 bytes
            of UTF-8. The item itself is not among the hits. Default: None.
        filter: Only items that match, for example `F("year") >= 2020`: at most 1,000 values, nested
            at most 32 deep. Default: None, all items.
        output_fields: Names of declared fields to return with each hit, at most 56. Default: empty,
            all fields.
        min_score: Minimum cosine similarity of a hit, -1 to 1. With `hybrid`, it applies to the
            vector ranking, and hits found by their words alone stay. Default: None, no minimum.
        include_thumbnails: Whether image hits carry their thumbnail, a WebP. Default: False.
        include_vectors: Whether hits carry their stored vector, float32 `[dimensions]`. Default:
            False.
        consistency: Which writes the search sees. Default: None, the collection's
            `default_consistency`.
        hybrid: Add a keyword search; not together with `diversity` or `group_by`. Default: None,
            vectors only.
        diversity: Drop near-duplicates, or make the hits more different. Considers the nearest
            1,000 items at most. Default: None, all hits stay, by score.
        group_by: Keep only the best hits of each value of a field. Considers the nearest 1,000
            items at most. Default: None, no groups.
        index_params: Search parameters of the index by their Milvus names: `ef`, 1 to 32,768, of
            HNSW and AUTOINDEX; `nprobe`, 1 to 65,536, of IVF; `search_list`, 1 to 65,535, of
            DISKANN. Higher values find more and take longer; those of other kinds of index are
            ignored. Default: empty, the gateway chooses.
    """

    image: ImageSource | None
    vector: npt.ArrayLike | None
    item_id: str | None
    filter: Filter | None
    output_fields: Sequence[str]
    min_score: float | None
    include_thumbnails: bool
    include_vectors: bool
    consistency: Consistency | None
    hybrid: Hybrid | None
    diversity: Diversity | None
    group_by: GroupBy | None
    index_params: Mapping[str, int]


class Match(enum.Enum):
    """How good a hit is, independent of the other hits."""

    # Queries about things that are not in the collection score as high.
    WEAK = "weak"
    # Probably related to the query.
    FAIR = "fair"
    # Few queries about absent things score as high.
    STRONG = "strong"


class NoticeKind(enum.Enum):
    """What a notice is about."""

    # The model read only the beginning of a text.
    TEXT_TRUNCATED = "text_truncated"
    # A text is probably in a language that the model does not know.
    LANGUAGE_UNKNOWN = "language_unknown"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something about a query that its hits do not show.

    Attributes:
        kind: What it is about.
        message: A sentence for people.
    """

    kind: NoticeKind
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One search result.

    Attributes:
        id: The item's id.
        rank: Position in the whole result, from 1.
        score: Cosine similarity to the query, -1 to 1; with `Hybrid`, the fused score. Higher
            is better.
        fields: The item's values of the requested fields.
        image_uri: Image items: URI of the image in the gateway's object store.
        text: Text items: the text.
        thumbnail: Image items, on request: WebP.
        vector: On request: the stored float32 vector `[dimensions]`.
        match: How good the match is, by the collection's `match_levels`; None if nobody knows. Only
            for queries that are one text, without `Hybrid`. If the best hit is weak, there is
            probably no good match.
    """

    id: str
    rank: int
    score: float
    fields: Mapping[str, FieldValue] = field(default_factory=dict)
    image_uri: str = ""
    text: str = ""
    thumbnail: bytes = field(default=b"", repr=False)
    vector: Vector | None = field(default=None, repr=False, compare=False)
    match: Match | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchTimings:
    """The duration of each stage of a search in seconds; None if the stage did not run.

    Attributes:
        total: From the arrival at the gateway to the last hit.
        embed: The call to the embedder, measured by the gateway.
        embed_queue: Waiting for the device, measured by the embedder.
        embed_inference: The forward pass, measured by the embedder.
        vector_search: The Milvus search, measured by the gateway.
        embed_cached: Whether the query's embedding came from the gateway's cache.
    """

    total: float = 0.0
    embed: float | None = None
    embed_queue: float | None = None
    embed_inference: float | None = None
    vector_search: float | None = None
    embed_cached: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """A complete result. Iterate over it, or index it, to get its hits.

    Attributes:
        notices: What the caller should know about the query.
    """

    hits: tuple[Hit, ...]
    timings: SearchTimings
    collection: str
    model: ModelVersion
    notices: tuple[Notice, ...] = ()

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, index: int) -> Hit:
        return self.hits[index]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPage:
    """One page of hits; `next_page_token` is empty on the last page.

    Attributes:
        notices: What the caller should know about the query.
    """

    hits: tuple[Hit, ...]
    next_page_token: str
    timings: SearchTimings
    notices: tuple[Notice, ...] = ()

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)
