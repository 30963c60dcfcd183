"""What a collection is, what a caller wants one to be, and where it stands between two models."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from sentinel_core.errors import InvalidArgument
from sentinel_store.values import Consistency, FieldType, ModelRef


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


_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


_MAX_NAME_CHARS = 128


_MAX_FIELD_NAME_CHARS = 64


_MAX_FIELDS = 56  # Milvus allows 64 columns; rows.py has six of its own


def check_declaration(name: str, fields: Mapping[str, FieldType]) -> None:
    """Raise InvalidArgument unless a collection can be made with this name and these fields."""
    check_collection_name(name, "collection.name")
    if len(fields) > _MAX_FIELDS:
        raise InvalidArgument(
            "PARAMETER_OUT_OF_RANGE",
            f"a collection declares at most {_MAX_FIELDS} fields",
            field="collection.fields",
        )
    for index, field_name in enumerate(fields):
        check_name(field_name, _MAX_FIELD_NAME_CHARS, f"collection.fields[{index}].name")


def check_collection_name(name: str, field: str) -> None:
    """Raise InvalidArgument unless `name` can name a collection or an alias."""
    check_name(name, _MAX_NAME_CHARS, field)


def check_name(name: str, longest: int, field: str) -> None:
    """Raise InvalidArgument unless `name` is an identifier of at most `longest` characters."""
    if not _NAME.fullmatch(name) or len(name) > longest:
        raise InvalidArgument(
            "NAME_INVALID",
            f"{name[:50]!r}: a letter or underscore, then letters, digits and underscores, at "
            f"most {longest} characters",
            field=field,
        )
