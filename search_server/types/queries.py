"""What is searched for: contents, terms, filters, and how the hits are chosen and ranked."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from sentinel_store.items import Content
from sentinel_store.values import Consistency, FieldValue, FloatArray

# The deepest hit a search can reach; Milvus answers at most 16,384 rows per call.
MAX_HITS = 10_000


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


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How Milvus is to search: how fresh, and with which parameters of its index."""

    consistency: Consistency = Consistency.SESSION
    index_params: Mapping[str, int] = field(default_factory=dict)
