"""Plain values the gateway's layers hand to each other. Knows no grpc, no protobuf, no pymilvus."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
FieldValue = str | int | float | bool | list[str]
Fields = dict[str, FieldValue]

# The deepest hit a search can reach; Milvus answers at most 16,384 rows per call.
MAX_HITS = 10_000


class FieldType(enum.StrEnum):
    """Type of a declared field."""

    STRING = "string"
    INT64 = "int64"
    DOUBLE = "double"
    BOOL = "bool"
    STRING_LIST = "string_list"


@dataclass(frozen=True, slots=True)
class ModelRef:
    """The model that made a set of vectors; equal fingerprints are comparable."""

    model: str
    revision: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """What a collection is: its space and the fields its items may carry."""

    name: str
    model: ModelRef
    dimensions: int
    fields: dict[str, FieldType]


class Kind(enum.StrEnum):
    """What a content is."""

    IMAGE = "image"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Content:
    """A text or one encoded image, to be embedded."""

    kind: Kind
    data: bytes

    @property
    def text(self) -> str:
        return self.data.decode()


@dataclass(frozen=True, slots=True)
class Query:
    """What to look for; exactly one of the three is set.

    Attributes:
        vector: float32 `[dimensions]`, any length but zero.
    """

    content: Content | None = None
    vector: FloatArray | None = None
    item_id: str | None = None


class Operator(enum.StrEnum):
    """How a field is compared."""

    EQUAL = "=="
    NOT_EQUAL = "!="
    LESS = "<"
    LESS_OR_EQUAL = "<="
    GREATER = ">"
    GREATER_OR_EQUAL = ">="
    IN = "in"
    NOT_IN = "not in"
    PREFIX = "prefix"
    EXISTS = "exists"
    LIST_CONTAINS = "contains"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One declared field against values."""

    field: str
    operator: Operator
    values: tuple[FieldValue, ...] = ()


class Junction(enum.StrEnum):
    """How a group's filters are combined."""

    ALL = "all_of"
    ANY = "any_of"
    NONE = "none_of"


@dataclass(frozen=True, slots=True)
class Group:
    """Several filters combined."""

    junction: Junction
    filters: tuple[Filter, ...]


Filter = Comparison | Group


@dataclass(frozen=True, slots=True)
class SearchSpec:
    """Everything about a search but how its hits are delivered."""

    collection: str
    query: Query
    filter: Filter | None = None
    output_fields: tuple[str, ...] = ()
    include_vectors: bool = False
    include_thumbnails: bool = False
    min_score: float | None = None


@dataclass(slots=True)
class Row:
    """One stored item, as it lies in Milvus.

    Attributes:
        digest: Hex SHA-256 of the content and of the vector that came with it, if one did;
            equal digests have equal vectors.
        image: Image items: hex SHA-256 of the image bytes, their name in the object store.
        text: Text items: the text.
        vector: float32 `[dimensions]`; None where it was not asked for.
    """

    id: str
    digest: str
    image: str
    text: str
    fields: Fields
    vector: FloatArray | None = None


@dataclass(slots=True)
class Hit:
    """One found item: its row, its place in the ranking (from 1) and its cosine."""

    row: Row
    rank: int
    score: float
    image_uri: str = ""
    thumbnail: bytes = b""


@dataclass(frozen=True, slots=True)
class PagePosition:
    """How far a caller has come in a ranking.

    Milvus may order equal scores another way each time, so the place alone is not enough.

    Attributes:
        rank: Hits delivered so far.
        score: Score of the last one.
        tied: Ids of the delivered hits with that score.
    """

    rank: int = 0
    score: float = 0.0
    tied: tuple[str, ...] = ()


@dataclass(slots=True)
class SearchTimings:
    """Seconds by stage; None where the stage did not happen."""

    total: float = 0.0
    embed: float | None = None
    embed_queue: float | None = None
    embed_inference: float | None = None
    vector_search: float | None = None


@dataclass(slots=True)
class Item:
    """One item to store, as the caller sent it."""

    id: str
    content: Content | None = None
    vector: FloatArray | None = None
    fields: Fields = field(default_factory=dict)


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
