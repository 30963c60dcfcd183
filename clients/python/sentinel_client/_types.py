"""What goes into the client and comes out of it. All frozen; no protobuf message among them."""

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

# One dense embedding: float32 `[dimensions]`.
Vector: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ImageUri:
    """A picture that the gateway fetches itself, if its settings allow the place.

    Attributes:
        uri: https, http, s3 or file.
    """

    uri: str


# The encoded file's bytes, where the file is, or where the gateway finds it.
ImageSource: TypeAlias = bytes | str | Path | ImageUri


class FieldType(enum.Enum):
    """What the values of a declared field are."""

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
        type: What its values are.
        indexed: Whether Milvus keeps an index of it, for faster filters; not for string lists.
        full_text: Whether its words can be searched (`Hybrid`); strings only.
    """

    name: str
    type: FieldType
    indexed: bool = False
    full_text: bool = False


class Consistency(enum.Enum):
    """How fresh a read is; stricter is slower on a Milvus server."""

    # What the node that answers happens to know.
    EVENTUAL = "eventual"
    # At most some seconds behind.
    BOUNDED = "bounded"
    # Every write that went through the same gateway.
    SESSION = "session"
    # Every write acknowledged before the read began.
    STRONG = "strong"


class IndexType(enum.Enum):
    """How vectors are searched."""

    # Exact; cost grows with the rows.
    FLAT = "flat"
    # Milvus's own choice.
    AUTOINDEX = "autoindex"
    # Graph in memory; best recall for its speed.
    HNSW = "hnsw"
    # Clusters of whole vectors.
    IVF_FLAT = "ivf_flat"
    # Clusters of vectors in a byte per element.
    IVF_SQ8 = "ivf_sq8"
    # Graph on disk.
    DISKANN = "diskann"


@dataclass(frozen=True, slots=True)
class VectorIndex:
    """The index over a collection's vectors.

    Attributes:
        type: Kind of index; None lets the gateway choose, by `expected_item_count`.
        params: Build parameters by Milvus's names, for example `{"M": 16}`.
    """

    type: IndexType | None = None
    params: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """Which weights made a vector; vectors are comparable only under one fingerprint."""

    model: str = ""
    revision: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Collection:
    """A set of items in one embedding space.

    Attributes:
        name: Its name.
        model: The model whose vectors it holds.
        dimensions: Length of its vectors.
        item_count: Items stored.
        fields: The fields its items may carry.
        aliases: Other names for it.
        index: The index over its vectors.
        default_consistency: How fresh reads are that do not say; None: as the gateway is set.
        expected_item_count: How many items it was made for; 0: unknown.
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
    """The keyword arguments of making a collection."""

    # The workers' model to take, by name or fingerprint; None: the one there is.
    model: ModelVersion | None
    # The index over the vectors; None: chosen by `expected_item_count`.
    index: VectorIndex | None
    # How many items it will hold; 0: unknown.
    expected_item_count: int
    # How fresh reads are that do not say; None: they see what their gateway wrote.
    default_consistency: Consistency | None


@dataclass(frozen=True, slots=True)
class ReindexProgress:
    """How far `reindex` has come.

    Attributes:
        done_count: Items in the target that are as in the source.
        total_count: Items in the source.
        failed_count: Items that could not be embedded again.
        failures: The first of them with the reason, in the last report only.
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
    """One thing to store, or one that is stored: a picture, a text, or a bare vector.

    Attributes:
        id: Empty takes the hex SHA-256 of the image's or text's bytes.
        text: Text to embed and keep; not together with `image`.
        image: Image to embed and keep: bytes, a path that is read when it is sent, or an
            `ImageUri`, which the gateway fetches.
        vector: A vector of the collection's space instead of embedding; in `get_items` only
            when asked for.
        fields: Values of declared fields.
        image_uri: From the server: where the picture is in the gateway's object store.
        thumbnail: From the server, when asked for: WebP.
    """

    id: str = ""
    text: str | None = None
    image: ImageSource | None = field(default=None, repr=False)
    vector: Vector | None = field(default=None, repr=False, compare=False)
    fields: Mapping[str, FieldValue] = field(default_factory=dict)
    image_uri: str = ""
    thumbnail: bytes = field(default=b"", repr=False)


class Outcome(enum.Enum):
    """What became of one item of an upsert."""

    STORED = "stored"
    UNCHANGED = "unchanged"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ItemResult:
    """The outcome for one item; `error` is set if and only if it failed."""

    id: str
    outcome: Outcome
    error: SentinelError | None = None


@dataclass(frozen=True, slots=True)
class IngestAck:
    """A run of items of `ingest` that is decided; whatever did not fail survives any crash.

    Attributes:
        items: The items, the very objects that were given.
        stored_count: Of them, written.
        unchanged_count: Of them, there already.
        failures: Errors of those that failed, by their place in `items`.
    """

    items: tuple[Item, ...]
    stored_count: int = 0
    unchanged_count: int = 0
    failures: Mapping[int, SentinelError] = field(default_factory=dict)

    @property
    def failed_items(self) -> list[tuple[Item, SentinelError]]:
        """The items that failed, each with its error."""
        return [(self.items[place], error) for place, error in self.failures.items()]


@dataclass(frozen=True, slots=True)
class DownloadedImage:
    """A stored picture: the encoded file and its media type, such as `image/jpeg`."""

    data: bytes = field(repr=False)
    media_type: str


@dataclass(frozen=True, slots=True)
class FoundItems:
    """What `get_items` found, in the order of the ids, and what it did not find."""

    items: tuple[Item, ...]
    missing_ids: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


class HealthStatus(enum.Enum):
    """What grpc.health.v1 says of a service; the values are its wire numbers."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


@dataclass(frozen=True, slots=True)
class Health:
    """The gateway's health: the status of each service, "" standing for the whole process."""

    services: Mapping[str, HealthStatus]

    @property
    def serving(self) -> bool:
        """Whether everything serves."""
        return all(status is HealthStatus.SERVING for status in self.services.values())
