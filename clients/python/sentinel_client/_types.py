"""The public types: items, collections, searches, health. All are frozen."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

from sentinel_client._errors import SentinelError
from sentinel_client._filters import FieldValue, Filter

# One dense embedding: float32 `[dimensions]`.
Vector: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ImageUri:
    """An image that the gateway fetches itself, if its settings allow the URI.

    Attributes:
        uri: A URI of https, http, s3 or file.
    """

    uri: str


# The bytes of the encoded file, the path of the file, or a URI for the gateway.
ImageSource: TypeAlias = bytes | str | Path | ImageUri


class FieldType(enum.Enum):
    """The type of a declared field."""

    STRING = "string"
    INT64 = "int64"
    DOUBLE = "double"
    BOOL = "bool"
    STRING_LIST = "string_list"


@dataclass(frozen=True, slots=True)
class FieldSchema:
    """One declared field of a collection.

    Attributes:
        name: A letter or underscore, then letters, digits and underscores.
        type: The type of its values.
        indexed: Whether Milvus indexes it for faster filters; not for string lists.
        full_text: Whether keyword search covers it (`Hybrid`); strings only.
    """

    name: str
    type: FieldType
    indexed: bool = False
    full_text: bool = False


class Consistency(enum.Enum):
    """Which writes a read sees; stricter levels are slower on a Milvus server."""

    # What the answering node has received so far.
    EVENTUAL = "eventual"
    # All writes but those of the last seconds.
    BOUNDED = "bounded"
    # All writes through the same gateway.
    SESSION = "session"
    # All writes that were acknowledged before the read began.
    STRONG = "strong"


class IndexType(enum.Enum):
    """The kind of vector index."""

    # Exact search; the cost grows with the number of rows.
    FLAT = "flat"
    # Milvus chooses.
    AUTOINDEX = "autoindex"
    # Graph in memory; the best recall for its speed.
    HNSW = "hnsw"
    # Clusters of whole vectors.
    IVF_FLAT = "ivf_flat"
    # Clusters of vectors with one byte per element.
    IVF_SQ8 = "ivf_sq8"
    # Graph on disk.
    DISKANN = "diskann"


@dataclass(frozen=True, slots=True)
class VectorIndex:
    """The index over a collection's vectors.

    Attributes:
        type: Kind of index; None: the gateway chooses by `expected_item_count`.
        params: Build parameters by their Milvus names, for example `{"M": 16}`.
    """

    type: IndexType | None = None
    params: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """The weights of a model; only vectors with the same fingerprint are comparable."""

    model: str = ""
    revision: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Collection:
    """A set of items in one embedding space.

    Attributes:
        name: Its name.
        model: The model of its vectors.
        dimensions: Length of its vectors.
        item_count: Number of stored items.
        fields: The fields that its items may have.
        aliases: Other names for it.
        index: The index of its vectors.
        default_consistency: Consistency of reads that do not name one; None: the gateway's setting.
        expected_item_count: How many items it was created for; 0: unknown.
    """

    name: str
    model: ModelVersion
    dimensions: int
    item_count: int
    fields: tuple[FieldSchema, ...] = ()
    aliases: tuple[str, ...] = ()
    index: VectorIndex = field(default_factory=VectorIndex)
    default_consistency: Consistency | None = None
    expected_item_count: int = 0


class CollectionOptions(TypedDict, total=False):
    """The keyword arguments of creating a collection."""

    # One of the workers' models, by name or fingerprint; None: the only one.
    model: ModelVersion | None
    # The index of the vectors; None: chosen by `expected_item_count`.
    index: VectorIndex | None
    # How many items it will hold; 0: unknown.
    expected_item_count: int
    # Consistency of reads that do not name one; None: they see the writes of their gateway.
    default_consistency: Consistency | None


@dataclass(frozen=True, slots=True)
class DeletionPreview:
    """What a deletion would delete.

    Attributes:
        count: Number of items.
        confirmation_token: For the same deletion by the same caller, within five minutes; empty
            from a gateway of an older version.
    """

    count: int
    confirmation_token: str


@dataclass(frozen=True, slots=True)
class ReindexProgress:
    """The progress of `reindex`.

    Attributes:
        done_count: Items of the source that are up to date in the target.
        total_count: Items in the source.
        failed_count: Items that could not be embedded.
        failures: Error message by item id for the first failed items, in the last report only.
        alias_swapped: Whether the alias points at the target.
        done: Whether this is the last report.
    """

    done_count: int
    total_count: int
    failed_count: int = 0
    failures: Mapping[str, str] = field(default_factory=dict)
    alias_swapped: bool = False
    done: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """An item to store, or a stored item: an image, a text, or only a vector.

    Attributes:
        id: Empty: the hex SHA-256 of the bytes of the image or text.
        text: Text to embed and store; not together with `image`.
        image: Image to embed and store: bytes, a path that is read when it is sent, or an
            `ImageUri` that the gateway fetches.
        vector: A vector of the collection's space to store instead of embedding; in `get_items`
            on request.
        fields: Values of declared fields.
        image_uri: From the server: URI of the image in the gateway's object store.
        thumbnail: From the server, on request: WebP.
        digest: From the server: hex SHA-256 of the image or text; with a caller's vector, a hash
            of both.
    """

    id: str = ""
    text: str | None = None
    image: ImageSource | None = field(default=None, repr=False)
    vector: Vector | None = field(default=None, repr=False, compare=False)
    fields: Mapping[str, FieldValue] = field(default_factory=dict)
    image_uri: str = ""
    thumbnail: bytes = field(default=b"", repr=False)
    digest: str = field(default="", repr=False)


class Outcome(enum.Enum):
    """The result of storing one item."""

    STORED = "stored"
    UNCHANGED = "unchanged"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ItemResult:
    """The result for one item; `error` is set if and only if it failed."""

    id: str
    outcome: Outcome
    error: SentinelError | None = None


@dataclass(frozen=True, slots=True)
class IngestAck:
    """The results for a batch of `ingest`; items that did not fail survive any crash.

    Attributes:
        items: The items: the same objects that were passed in.
        stored_count: How many were written.
        unchanged_count: How many were stored before.
        failures: Errors of the failed items, by index in `items`.
        digests: `Item.digest` of each item, in order; empty for a failed one.
    """

    items: tuple[Item, ...]
    stored_count: int = 0
    unchanged_count: int = 0
    failures: Mapping[int, SentinelError] = field(default_factory=dict)
    digests: tuple[str, ...] = field(default=(), repr=False)

    @property
    def failed_items(self) -> list[tuple[Item, SentinelError]]:
        """The failed items, each with its error."""
        return [(self.items[index], error) for index, error in self.failures.items()]


@dataclass(frozen=True, slots=True)
class DownloadedImage:
    """A stored image: the encoded file and its media type, such as `image/jpeg`."""

    data: bytes = field(repr=False)
    media_type: str


@dataclass(frozen=True, slots=True)
class FoundItems:
    """The items that `get_items` found, in the order of the ids, and the ids it did not find."""

    items: tuple[Item, ...]
    missing_ids: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


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
    """The keyword arguments that all kinds of search share."""

    # Instead of the query: an image.
    image: ImageSource | None
    # Instead of the query: a vector of the collection's space; need not be normalised.
    vector: npt.ArrayLike | None
    # Instead of the query: the id of a stored item. The item itself is not among the hits.
    item_id: str | None
    # Only items that match, for example `F("year") >= 2020`.
    filter: Filter | None
    # Fields to return with each hit; empty: all.
    output_fields: Sequence[str]
    # Minimum score of a hit, -1 to 1.
    min_score: float | None
    # Whether to return the thumbnails of images.
    include_thumbnails: bool
    # Whether to return the stored vectors.
    include_vectors: bool
    # Consistency of the read; None: the collection's default.
    consistency: Consistency | None
    # Add a keyword search; not together with `diversity` or `group_by`.
    hybrid: Hybrid | None
    # Drop near-duplicates, or make the hits more different.
    diversity: Diversity | None
    # Keep only the best hits of each value of a field.
    group_by: GroupBy | None
    # Search parameters of the index, by their Milvus names, for example `{"ef": 128}`.
    index_params: Mapping[str, int]


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
    """A complete result. Iterate over it, or index it, to get its hits."""

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
    """One page of hits; `next_page_token` is empty on the last page."""

    hits: tuple[Hit, ...]
    next_page_token: str
    timings: SearchTimings

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)


class HealthStatus(enum.Enum):
    """A status of grpc.health.v1; the values are its wire numbers."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


@dataclass(frozen=True, slots=True)
class Health:
    """The gateway's health: the status of each service; "" is the whole process."""

    services: Mapping[str, HealthStatus]

    @property
    def serving(self) -> bool:
        """Whether all services are serving."""
        return all(status is HealthStatus.SERVING for status in self.services.values())
