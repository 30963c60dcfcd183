"""Describe collections: fields, model, index, and the state of a reindex; check their names."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from sentinel_core.errors import InvalidArgument
from sentinel_core.vectors import Element
from sentinel_store.values import Consistency, FieldType, ModelRef


class IndexKind(enum.StrEnum):
    """Kind of a vector index, by Milvus's name."""

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
        params: Build parameters by Milvus's names; milvus/indexes.py lists them.
    """

    kind: IndexKind = IndexKind.AUTOINDEX
    params: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VectorStorage:
    """How Milvus holds the vectors that it searches (docs/adr/0022).

    Attributes:
        element: Type of the elements in memory; not BINARY.
        rescore: INT8 only: whether Milvus keeps the float32 vectors, too, on disk. Then hits are
            ranked by them.
    """

    element: Element = Element.FLOAT32
    rescore: bool = False

    @property
    def column(self) -> Element:
        """Type of the elements in the rows."""
        return Element.FLOAT32 if self.rescore else self.element

    def __str__(self) -> str:
        return f"{self.element} with rescoring" if self.rescore else str(self.element)


class OriginState(enum.StrEnum):
    """How far a reindex has filled its target."""

    COPYING = "copying"
    VERIFIED = "verified"
    COMPLETE = "complete"


@dataclass(frozen=True, slots=True)
class Origin:
    """The source of the reindex that made a collection, by its own name, and how far it is."""

    source: str
    state: OriginState


@dataclass(frozen=True, slots=True)
class ReindexMark:
    """The reindex that reads a collection.

    Attributes:
        target: The collection that it fills, by its own name.
        runner: The run that works on it; a later run takes over.
        dual_write: Whether a write must also reach the target before it is acknowledged.
    """

    target: str
    runner: str
    dual_write: bool


@dataclass(frozen=True, slots=True)
class MatchLevels:
    """From which cosine on an image is a fair or a strong match of a text (docs/adr/0028).

    Attributes:
        strong: At least `fair`.
        item_count: Number of items when the levels were found; 0: they come from the model alone.
    """

    fair: float
    strong: float
    item_count: int


@dataclass(frozen=True, slots=True)
class MatchRun:
    """A search for match levels: who does it, and when it began, in seconds since 1970."""

    runner: str
    started: float


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """The description of a collection: its model and the fields of its items.

    Attributes:
        name: Its own name, even if it was found by an alias.
        id: Differs from that of any other collection, also of an earlier one with this name; empty
            for those of older versions.
        requested_name: The name or alias that it was found by.
        origin: The collection that it was made from; None: no other.
        reindex: The reindex that reads it; None: none.
        moved_to: The collection that its name means now; empty: itself.
        indexed: The fields that have a scalar index.
        full_text: The fields whose words can be searched.
        expected_item_count: The number that its index was chosen for; 0: unknown.
        consistency: Default consistency of searches.
        storage: How Milvus holds the vectors.
        shortened: Whether vectors have fewer elements than the model's own.
        match_levels: What background queries told about it; None: nothing yet.
        match_run: The last search for its match levels; None: none yet.
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
    id: str = ""
    requested_name: str = ""
    origin: Origin | None = None
    reindex: ReindexMark | None = None
    moved_to: str = ""
    storage: VectorStorage = field(default_factory=VectorStorage)
    shortened: bool = False
    match_levels: MatchLevels | None = None
    match_run: MatchRun | None = None

    @property
    def requested_dimensions(self) -> int | None:
        """What a worker is asked for; None: the model's own."""
        return self.dimensions if self.shortened else None


def keeps_vectors(source: CollectionInfo, target: CollectionInfo) -> bool:
    """Tell whether a reindex copies the vectors: they would be the same, made again.

    Not from a storage that has rounded them to another one.
    """
    same_space = (source.model.fingerprint, source.dimensions) == (
        target.model.fingerprint,
        target.dimensions,
    )
    return same_space and source.storage.column in (Element.FLOAT32, target.storage.column)


@dataclass(frozen=True, slots=True)
class NewFields:
    """Declared fields of a collection that is made, or that it gets beside others.

    Attributes:
        indexed: Those that get a scalar index.
        full_text: Those whose words can be searched.
    """

    types: dict[str, FieldType] = field(default_factory=dict)
    indexed: tuple[str, ...] = ()
    full_text: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NewCollection:
    """A request for a new collection.

    Attributes:
        model: Chooses among the workers' models; None takes the first.
        indexed: The fields that get a scalar index.
        full_text: The fields whose words can be searched.
        index: None chooses by size; empty `params` take our defaults.
        expected_item_count: How many items it will hold; 0: unknown.
        consistency: Default consistency of searches.
        dimensions: Length of its vectors; 0: the model's own.
        storage: How Milvus holds them.
    """

    name: str
    fields: dict[str, FieldType]
    model: ModelRef | None = None
    indexed: tuple[str, ...] = ()
    full_text: tuple[str, ...] = ()
    index: VectorIndex | None = None
    expected_item_count: int = 0
    consistency: Consistency = Consistency.SESSION
    dimensions: int = 0
    storage: VectorStorage = field(default_factory=VectorStorage)


_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAX_NAME_CHARS = 128
_MAX_FIELD_NAME_CHARS = 64
MAX_FIELDS = 56  # Milvus allows 64 columns; up to eight are our own


def check_declaration(name: str, fields: Mapping[str, FieldType]) -> None:
    """Raise InvalidArgument unless a collection can be created with this name and these fields."""
    check_collection_name(name, "collection.name")
    check_fields(fields, "collection.fields")


def check_fields(fields: Mapping[str, FieldType], path: str, *, others: int = 0) -> None:
    """Raise InvalidArgument unless fields can be declared; `path` is theirs in the request.

    `others` is the number of columns that the collection has already.
    """
    if others + columns_for(fields) > MAX_FIELDS:
        raise InvalidArgument(
            "PARAMETER_OUT_OF_RANGE",
            f"a collection declares at most {MAX_FIELDS} fields, and a {FieldType.GEO} field "
            "counts twice",
            field=path,
        )
    for index, field_name in enumerate(fields):
        _check_name(field_name, _MAX_FIELD_NAME_CHARS, f"{path}[{index}].name")


def columns_for(fields: Mapping[str, FieldType]) -> int:
    """Return how many columns we keep for these fields."""
    return len(fields) + sum(one is FieldType.GEO for one in fields.values())


def check_collection_name(name: str, field: str) -> None:
    """Raise InvalidArgument unless `name` can name a collection or an alias."""
    _check_name(name, _MAX_NAME_CHARS, field)


def _check_name(name: str, longest: int, field: str) -> None:
    """Raise InvalidArgument unless `name` is an identifier of at most `longest` characters."""
    if len(name) > longest or not _NAME.fullmatch(name):
        raise InvalidArgument(
            "NAME_INVALID",
            f"{name[:50]!r} is not a valid name; use a letter or underscore, then letters, digits "
            f"and underscores, at most {longest} characters",
            field=field,
        )
