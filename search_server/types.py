"""Plain values the gateway's layers hand to each other. Knows no grpc, no protobuf, no pymilvus."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter

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


class IndexKind(enum.StrEnum):
    """Kind of an index over vectors, by Milvus's name."""

    FLAT = "FLAT"
    AUTOINDEX = "AUTOINDEX"
    HNSW = "HNSW"
    IVF_FLAT = "IVF_FLAT"
    IVF_SQ8 = "IVF_SQ8"
    DISKANN = "DISKANN"


@dataclass(frozen=True, slots=True)
class VectorIndex:
    """The index over a collection's vectors.

    Attributes:
        params: Build parameters by Milvus's names; which there are, indexes.py knows.
    """

    kind: IndexKind = IndexKind.AUTOINDEX
    params: dict[str, int] = field(default_factory=dict)


class Consistency(enum.StrEnum):
    """How fresh a read is, from the fastest to the strictest."""

    EVENTUAL = "eventual"
    BOUNDED = "bounded"
    SESSION = "session"
    STRONG = "strong"


class OriginState(enum.StrEnum):
    """How far a collection is that is made of another one (reindex.py)."""

    COPYING = "copying"
    VERIFIED = "verified"
    COMPLETE = "complete"


@dataclass(frozen=True, slots=True)
class Origin:
    """The collection that another one was made of, by its own name."""

    source: str
    state: OriginState


@dataclass(frozen=True, slots=True)
class ReindexMark:
    """What a collection is being embedded again into.

    Attributes:
        target: The other collection, by its own name.
        runner: The call that is at it; a later one takes over.
        mirrored: Whether every write has to reach the target, too, before it is acknowledged.
    """

    target: str
    runner: str
    mirrored: bool


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """What a collection is: its space and the fields its items may carry.

    Attributes:
        name: Its own name, whatever alias it was found by.
        asked: The name it was found by.
        origin: What it was made of; None: of nothing.
        reindex: What is being made of it; None: nothing.
        indexed: Those of the fields that Milvus keeps a scalar index of.
        full_text: Those of the fields whose words can be searched.
        expected_item_count: What the index was chosen for; 0 where nobody said.
        consistency: How fresh searches are that do not say.
    """

    name: str
    model: ModelRef
    dimensions: int
    fields: dict[str, FieldType]
    indexed: tuple[str, ...] = ()
    full_text: tuple[str, ...] = ()
    index: VectorIndex = field(default_factory=VectorIndex)
    expected_item_count: int = 0
    consistency: Consistency = Consistency.SESSION
    asked: str = ""
    origin: Origin | None = None
    reindex: ReindexMark | None = None


@dataclass(frozen=True, slots=True)
class NewCollection:
    """What a caller wants a new collection to be.

    Attributes:
        model: Chooses among the workers' models; None takes theirs.
        indexed: Those of the fields to keep a scalar index of.
        full_text: Those of the fields whose words are to be searched.
        index: None leaves the choice to us; empty `params` take our defaults.
        expected_item_count: How many items it will hold; 0: unknown.
        consistency: How fresh searches are that do not say.
    """

    name: str
    fields: dict[str, FieldType]
    model: ModelRef | None = None
    indexed: tuple[str, ...] = ()
    full_text: tuple[str, ...] = ()
    index: VectorIndex | None = None
    expected_item_count: int = 0
    consistency: Consistency = Consistency.SESSION


class Kind(enum.StrEnum):
    """What a content is."""

    IMAGE = "image"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Crop:
    """A part of a picture; edges in fractions of its size, unchecked: the worker checks them."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class Content:
    """A text or one encoded image, to be embedded.

    Attributes:
        data: UTF-8, or the encoded file; empty while the image at `uri` is not fetched.
        crop: The part of the picture to embed; None is all of it.
        uri: Where the image came or has to come from; empty when its bytes came along.
    """

    kind: Kind
    data: bytes
    crop: Crop | None = None
    uri: str = ""

    @property
    def text(self) -> str:
        return self.data.decode()


@dataclass(frozen=True, slots=True)
class Term:
    """One part of a composite query: one of content, vector and item id, and its weight."""

    content: Content | None = None
    vector: FloatArray | None = None
    item_id: str | None = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Query:
    """What to look for; exactly one of the four is set.

    Attributes:
        vector: float32 `[dimensions]`, any length but zero.
        terms: Parts of a composite query.
    """

    content: Content | None = None
    vector: FloatArray | None = None
    item_id: str | None = None
    terms: tuple[Term, ...] = ()

    @property
    def item_ids(self) -> list[str]:
        """The items it names, which are left out of its hits; each once."""
        named = [self.item_id, *(term.item_id for term in self.terms)]
        return list(dict.fromkeys(item_id for item_id in named if item_id is not None))


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
class Hybrid:
    """How the vector ranking is blended with a full-text ranking (fusion.py).

    Attributes:
        text: What to look for in the full-text fields; empty: the query's own text.
        rrf_k: The constant of reciprocal rank fusion, at least 1.
        vector_weight: At least 0; 0 leaves the vector ranking out.
        text_weight: At least 0; 0 leaves the text ranking out. Not both are 0.
    """

    text: str
    rrf_k: int
    vector_weight: float
    text_weight: float


@dataclass(frozen=True, slots=True)
class Diversity:
    """What keeps near-duplicates from filling the first page (diversity.py).

    Attributes:
        duplicate_threshold: Least cosine of two hits that count as one; None drops none.
        mmr_lambda: Share of relevance against novelty, 0 to 1; None keeps the order.
    """

    duplicate_threshold: float | None
    mmr_lambda: float | None


@dataclass(frozen=True, slots=True)
class Grouping:
    """At most `size` hits for each value of `field`."""

    field: str
    size: int


@dataclass(frozen=True, slots=True)
class SearchSpec:
    """Everything about a search but how its hits are delivered.

    Attributes:
        consistency: None: the collection's.
        index_params: Parameters of the index's search, by Milvus's names.
    """

    collection: str
    query: Query
    filter: Filter | None = None
    output_fields: tuple[str, ...] = ()
    include_vectors: bool = False
    include_thumbnails: bool = False
    min_score: float | None = None
    consistency: Consistency | None = None
    index_params: Mapping[str, int] = field(default_factory=dict)
    hybrid: Hybrid | None = None
    diversity: Diversity | None = None
    grouping: Grouping | None = None


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


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How Milvus is to search: how fresh, and with which parameters of its index."""

    consistency: Consistency = Consistency.SESSION
    index_params: Mapping[str, int] = field(default_factory=dict)


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
class Item:
    """One item to store, as the caller sent it."""

    id: str
    content: Content | None = None
    vector: FloatArray | None = None
    fields: Fields = field(default_factory=dict)


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
