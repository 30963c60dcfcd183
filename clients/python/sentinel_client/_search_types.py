"""What goes into a search and comes out of it. All frozen; no protobuf message among them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import numpy.typing as npt

from sentinel_client._filters import FieldValue, Filter
from sentinel_client._types import Consistency, ImageSource, ModelVersion, Vector


@dataclass(frozen=True, slots=True, kw_only=True)
class Hybrid:
    """Blend the vectors with a search for words in the collection's full-text fields.

    The two rankings are fused by reciprocal rank: `score = sum of weight / (rrf_k + rank)`.

    Attributes:
        text: Words to look for; empty: the query's own text.
        rrf_k: The constant of the fusion, 1 to 16,384; None takes 60.
        vector_weight: Weight of the vector ranking, 0 to 1,000; None takes 1.
        text_weight: Weight of the text ranking, 0 to 1,000; None takes 1.
    """

    text: str = ""
    rrf_k: int | None = None
    vector_weight: float | None = None
    text_weight: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Diversity:
    """Keep near-duplicates from filling the first page; works on the nearest 1,000 at most.

    Attributes:
        duplicate_threshold: Cosine from which on two hits count as one picture, of which the
            better one stays, above 0 to 1; None drops none.
        mmr_lambda: Maximal marginal relevance: 1 is relevance only, 0 is difference only; None
            keeps the order of relevance.
    """

    duplicate_threshold: float | None = None
    mmr_lambda: float | None = None


@dataclass(frozen=True, slots=True)
class GroupBy:
    """Keep the best hits of each value of a field; works on the nearest 1,000 at most.

    Attributes:
        field: A declared field of strings, integers or truth values.
        size: Most hits per group, 1 to 100.
    """

    field: str
    size: int = 1


class SearchOptions(TypedDict, total=False):
    """The keyword arguments that all kinds of search share."""

    # Instead of the query: an image to find similar pictures (or fitting texts) for.
    image: ImageSource | None
    # Instead of the query: a vector of the collection's space; need not be normalised.
    vector: npt.ArrayLike | None
    # Instead of the query: the id of a stored item to find more like, without itself.
    item_id: str | None
    # Only items that match, for example `F("year") >= 2020`.
    filter: Filter | None
    # Fields to return with each hit; empty: all.
    output_fields: Sequence[str]
    # Least score of a hit, -1 to 1.
    min_score: float | None
    # Whether hits carry the thumbnail of their image.
    include_thumbnails: bool
    # Whether hits carry their stored vector.
    include_vectors: bool
    # How fresh the answer is; None: the collection's default.
    consistency: Consistency | None
    # Search for words as well; not together with `diversity` or `group_by`.
    hybrid: Hybrid | None
    # Drop near-duplicates, or spread the hits.
    diversity: Diversity | None
    # Only the best hits of each value of a field.
    group_by: GroupBy | None
    # Parameters of the index's search by Milvus's names, for example `{"ef": 128}`.
    index_params: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One found item.

    Attributes:
        id: The item's id.
        rank: Position in the whole result, from 1.
        score: Cosine similarity to the query, -1 to 1; with `Hybrid`, the fused score. Higher
            is better.
        fields: The asked-for fields that the item has.
        image_uri: Image items: where the picture is in the gateway's object store.
        text: Text items: the text.
        thumbnail: Image items, when asked for: WebP.
        vector: When asked for: the stored float32 vector `[dimensions]`.
    """

    id: str
    rank: int
    score: float
    fields: Mapping[str, FieldValue] = field(default_factory=dict)
    image_uri: str = ""
    text: str = ""
    thumbnail: bytes = field(default=b"", repr=False)
    vector: Vector | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchTimings:
    """Where a search's time went, in seconds; None where a stage did not happen.

    Attributes:
        total: From the gateway's receipt to the last hit.
        embed: The call to the embedder, as the gateway saw it.
        embed_queue: Waiting for the device, as the embedder reported it.
        embed_inference: The forward pass, as the embedder reported it.
        vector_search: The Milvus search, as the gateway saw it.
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
    """A complete result; iterate over it or index it for its hits."""

    hits: tuple[Hit, ...]
    timings: SearchTimings
    collection: str
    model: ModelVersion

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, index: int) -> Hit:
        return self.hits[index]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPage:
    """One page of hits; `next_page_token` is empty on the last."""

    hits: tuple[Hit, ...]
    next_page_token: str
    timings: SearchTimings

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)
