"""The public types of items, collections and health. All are frozen."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

from sentinel_client._errors import SentinelError
from sentinel_client._filters import FieldValue
from sentinel_client._names import suggest_for_fields

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
    # A `datetime` with a time zone.
    TIMESTAMP = "timestamp"
    # A `GeoPoint`.
    GEO = "geo"


@suggest_for_fields
@dataclass(frozen=True, slots=True)
class FieldSchema:
    """One declared field of a collection.

    Attributes:
        name: A letter or underscore, then letters, digits and underscores.
        type: The type of its values.
        indexed: Whether Milvus indexes it for faster filters; not for string lists and places.
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


class Role(enum.Enum):
    """What a content is for: only asymmetric models embed the two differently."""

    # Something to search with.
    QUERY = "query"
    # Something to be found.
    DOCUMENT = "document"


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


class ElementType(enum.Enum):
    """Type of one element of a vector."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    # A byte; a vector is scaled so that its largest element is 127.
    INT8 = "int8"


@suggest_for_fields
@dataclass(frozen=True, slots=True)
class VectorStorage:
    """How Milvus holds a collection's vectors. Callers send and get float32 all the same.

    Attributes:
        element_type: Type of the elements in Milvus's memory. Milvus Lite has FLOAT32 only.
        rescore: INT8 only: keep the float32 vectors, too, on disk, and rank the hits by them.
    """

    element_type: ElementType = ElementType.FLOAT32
    rescore: bool = False


@suggest_for_fields
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
class MatchLevels:
    """From which score on a hit of a text query is a fair or a strong match (`Hit.match`).

    Attributes:
        fair: The least cosine of a fair match.
        strong: The least cosine of a strong match; at least `fair`.
        item_count: Number of items when the levels were found; 0: they come from the model alone.
    """

    fair: float
    strong: float
    item_count: int = 0


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
        storage: How Milvus holds its vectors.
        match_levels: What scores mean in this collection; None while nobody knows.
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
    storage: VectorStorage = field(default_factory=VectorStorage)
    match_levels: MatchLevels | None = None


class CollectionOptions(TypedDict, total=False):
    """The keyword arguments of creating a collection. All are optional.

    Attributes:
        model: One of the workers' models, by name or fingerprint. Default: None, the only one.
        index: The index of the vectors. Default: None, chosen by `expected_item_count`.
        expected_item_count: How many items it will hold, 0 or more. Default: 0, unknown.
        default_consistency: Consistency of reads that do not name one. Default: None, they see the
            writes of their gateway.
        dimensions: Length of the vectors, one of `EmbeddingModel.supported_dimensions`. Default: 0,
            the model's own.
        storage: How Milvus holds the vectors. Default: None, as float32.
    """

    model: ModelVersion | None
    index: VectorIndex | None
    expected_item_count: int
    default_consistency: Consistency | None
    dimensions: int
    storage: VectorStorage | None


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


@suggest_for_fields
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
        image_uri: From the server: URI of the image in the gateway's object store; with
            `by_reference`, of the original file.
        thumbnail: From the server, on request: WebP.
        digest: From the server: hex SHA-256 of the image or text; with a caller's vector, a hash
            of both. To the server, with `by_reference` only: that of the file; empty: it is
            computed from the file at the path `image`.
        by_reference: Leave the image where it is: the gateway stores its thumbnail and its
            location, no copy, and reads the file when it needs it. `image` is a path on the
            machine of the gateway, whose settings must allow it, or an `ImageUri` of scheme `file`
            with a `digest`. From the server: whether it is stored so.
    """

    id: str = ""
    text: str | None = None
    image: ImageSource | None = field(default=None, repr=False)
    vector: Vector | None = field(default=None, repr=False, compare=False)
    fields: Mapping[str, FieldValue] = field(default_factory=dict)
    image_uri: str = ""
    thumbnail: bytes = field(default=b"", repr=False)
    digest: str = field(default="", repr=False)
    by_reference: bool = False


class Outcome(enum.Enum):
    """The result of storing one item."""

    STORED = "stored"
    UNCHANGED = "unchanged"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ItemResult:
    """The result for one item.

    Attributes:
        error: Set if and only if it failed.
        truncated: Whether it is a text, stored now, of which the model read only the beginning.
    """

    id: str
    outcome: Outcome
    error: SentinelError | None = None
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class IngestAck:
    """The results for a batch of `ingest`; items that did not fail survive any crash.

    Attributes:
        items: The items: the same objects that were passed in.
        stored_count: How many were written.
        unchanged_count: How many were stored before.
        failures: Errors of the failed items, by index in `items`.
        digests: `Item.digest` of each item, in order; empty for a failed one.
        truncated_count: Of how many stored texts the model read only the beginning.
    """

    items: tuple[Item, ...]
    stored_count: int = 0
    unchanged_count: int = 0
    failures: Mapping[int, SentinelError] = field(default_factory=dict)
    digests: tuple[str, ...] = field(default=(), repr=False)
    truncated_count: int = 0

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


@dataclass(frozen=True, slots=True)
class ItemPage:
    """One page of stored items; `next_page_token` is empty on the last page."""

    items: tuple[Item, ...]
    next_page_token: str = ""

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


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
