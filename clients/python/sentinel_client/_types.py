"""What goes into the client and comes out of it. All frozen; no protobuf message among them."""

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
# The encoded file's bytes, or where the file is.
ImageSource: TypeAlias = bytes | str | Path


class FieldType(enum.Enum):
    """What the values of a declared field are."""

    STRING = "string"
    INT64 = "int64"
    DOUBLE = "double"
    BOOL = "bool"
    STRING_LIST = "string_list"


@dataclass(frozen=True, slots=True)
class FieldSchema:
    """One declared field of a collection."""

    name: str
    type: FieldType


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """Which weights made a vector; vectors are comparable only under one fingerprint."""

    model: str = ""
    revision: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Collection:
    """A set of items in one embedding space."""

    name: str
    model: ModelVersion
    dimensions: int
    item_count: int
    fields: tuple[FieldSchema, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing to store, or one that is stored: a picture, a text, or a bare vector.

    Attributes:
        id: Empty takes the hex SHA-256 of the image's or text's bytes.
        text: Text to embed and keep; not together with `image`.
        image: Image to embed and keep: bytes, or a path that is read when it is sent.
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
class FoundItems:
    """What `get_items` found, in the order of the ids, and what it did not find."""

    items: tuple[Item, ...]
    missing_ids: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One found item.

    Attributes:
        id: The item's id.
        rank: Position in the whole result, from 1.
        score: Cosine similarity to the query, -1 to 1; higher is better.
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
    """

    total: float = 0.0
    embed: float | None = None
    embed_queue: float | None = None
    embed_inference: float | None = None
    vector_search: float | None = None


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


class SearchOptions(TypedDict, total=False):
    """The keyword arguments that all three kinds of search share.

    Exactly one of `text`, `image`, `vector` and `item_id` says what to look for.
    """

    # An image to find similar pictures (or fitting texts) for: bytes, or a path.
    image: ImageSource | None
    # A vector of the collection's space; need not be normalised.
    vector: npt.ArrayLike | None
    # "More like this": the id of a stored item, which is left out of the hits.
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
