"""What a caller searches for: query, filter, and how hits are chosen and ranked."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from sentinel_store.items import Content, Kind
from sentinel_store.values import Consistency, FieldValue, FloatArray, GeoPoint

# No hit scores less: the least cosine, and less than any fused score.
LEAST_SCORE = -1.0
# The deepest hit a search can reach; Milvus returns at most 16,384 rows per call.
MAX_HITS = 10_000


@dataclass(slots=True)
class Term:
    """One part of a query: exactly one of a content, a vector and an item id; and its weight.

    Attributes:
        vector: float32 `[dimensions]`, of any length except zero.
    """

    content: Content | None = None
    vector: FloatArray | None = None
    item_id: str | None = None
    weight: float = 1.0


@dataclass(slots=True)
class Query:
    """What to search for: the terms of a composite query, or the only term of a plain one."""

    terms: tuple[Term, ...]
    is_composite: bool = False

    @property
    def is_text(self) -> bool:
        """Whether it is one text, and nothing else."""
        content = self.terms[0].content
        return not self.is_composite and content is not None and content.kind is Kind.TEXT

    @property
    def item_ids(self) -> list[str]:
        """The items that the query names, each once; a search does not return them."""
        ids = (term.item_id for term in self.terms)
        return list(dict.fromkeys(item_id for item_id in ids if item_id is not None))


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
    LIST_CONTAINS = "list contains"
    CONTAINS = "contains"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One declared field against values."""

    field: str
    operator: Operator
    values: tuple[FieldValue, ...] = ()


@dataclass(frozen=True, slots=True)
class GeoBounds:
    """The area between two latitudes and two longitudes, in degrees.

    With `east` less than `west` it crosses the 180th meridian.
    """

    south: float
    west: float
    north: float
    east: float


@dataclass(frozen=True, slots=True)
class GeoCircle:
    """The area at most `radius_m` meters from a place."""

    center: GeoPoint
    radius_m: float


@dataclass(frozen=True, slots=True)
class GeoComparison:
    """Whether the place in a declared field lies in an area."""

    field: str
    area: GeoBounds | GeoCircle


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


Filter = Comparison | GeoComparison | Group


@dataclass(frozen=True, slots=True)
class Hybrid:
    """How the vector ranking and a full-text ranking are fused.

    Attributes:
        text: Words to find in the full-text fields; empty: the query's own text.
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
    """How a search avoids hits that are nearly the same.

    Attributes:
        duplicate_threshold: Hits with at least this cosine are duplicates; None drops none.
        mmr_lambda: Weight of relevance against novelty, 0 to 1; None keeps the order.
    """

    duplicate_threshold: float | None
    mmr_lambda: float | None


@dataclass(frozen=True, slots=True)
class Grouping:
    """At most `size` hits for each value of `field`."""

    field: str
    size: int


@dataclass(slots=True)
class SearchSpec:
    """Everything about a search except how its hits are delivered.

    Attributes:
        own_name: Whether `collection` is the collection itself, also if its name has moved.
        consistency: None takes the collection's.
        index_params: Search parameters of the vector index, by Milvus's names.
    """

    collection: str
    query: Query
    own_name: bool = False
    filter: Filter | None = None
    output_fields: tuple[str, ...] = ()
    include_vectors: bool = False
    include_thumbnails: bool = False
    min_score: float = LEAST_SCORE
    consistency: Consistency | None = None
    index_params: Mapping[str, int] = field(default_factory=dict)
    hybrid: Hybrid | None = None
    diversity: Diversity | None = None
    grouping: Grouping | None = None

    @property
    def is_reranked(self) -> bool:
        """Whether the order of the hits is not simply Milvus's."""
        return bool(self.hybrid or self.diversity or self.grouping)
