"""Check the parameters of a search as the gateway does, first alone, then with the collection."""

from __future__ import annotations

from collections.abc import Sequence

from sentinel.search.v1 import search_service_pb2 as pb
from sentinel_client._errors import FailedPrecondition, InvalidArgument
from sentinel_client._types import FieldType
from sentinel_client.testing import _checks, _filters
from sentinel_client.testing._store import FakeCollection

_MAX_TERMS = 16
_MAX_WEIGHT = 100.0
_MAX_RRF_K = 16_384
_MAX_RANKING_WEIGHT = 1_000
_MAX_GROUP_SIZE = 100
_MAX_TEXT_BYTES = 60_000
_MAX_INDEX_PARAMS = {"ef": 32_768, "nprobe": 65_536, "search_list": 65_535}
_GROUPABLE = (FieldType.STRING, FieldType.INT64, FieldType.BOOL)


def terms_of(query: pb.Query) -> Sequence[pb.Query | pb.WeightedTerm]:
    """Return the terms of a composite query, or the only one of a plain query."""
    return query.composite.terms if query.HasField("composite") else [query]


def item_ids(query: pb.Query) -> list[str]:
    """Return the ids of stored items that a query names; they are not among its hits."""
    return [term.item_id for term in terms_of(query) if term.WhichOneof("kind") == "item_id"]


def check_params(params: pb.SearchParams) -> None:
    """Check what needs no collection."""
    _checks.optional(params, "min_score", -1.0, (-1, 1), "params.")
    _checks.check_no_tenant(params.collection, "params.collection")
    _check_query(params.query)
    if params.HasField("filter"):
        _filters.check_filter(params.filter, "params.filter")
    _checks.check_output_fields(params.output_fields, "params.output_fields")
    if params.consistency not in pb.Consistency.values():
        raise _checks.out_of_range("there is none such", "params.consistency")
    if params.HasField("hybrid"):
        _check_hybrid(params)
    _check_diversity(params.diversity)
    if params.HasField("group"):
        _checks.check_range(params.group.size or 1, 1, _MAX_GROUP_SIZE, "params.group.size")


def _check_query(query: pb.Query) -> None:
    path = "params.query"
    if not query.HasField("composite"):
        _check_term(query, path)
        return
    path = f"{path}.composite.terms"
    terms = query.composite.terms
    if not terms:
        raise InvalidArgument(
            "QUERY_MISSING", "a composite query needs at least one term", field=path
        )
    if len(terms) > _MAX_TERMS:
        raise InvalidArgument(
            "PARAMETER_OUT_OF_RANGE",
            f"a composite query has at most {_MAX_TERMS} terms, not {len(terms)}",
            field=path,
            metadata={"limit": str(_MAX_TERMS)},
        )
    for index, term in enumerate(terms):
        where = f"{path}[{index}]"
        weight = _checks.optional(term, "weight", 1.0, (-_MAX_WEIGHT, _MAX_WEIGHT), f"{where}.")
        if weight == 0:
            raise _checks.out_of_range("it must not be 0", f"{where}.weight")
        _check_term(term, where)


def _check_term(term: pb.Query | pb.WeightedTerm, path: str) -> None:
    match term.WhichOneof("kind"):
        case "content":
            _checks.check_content(term.content, f"{path}.content")
        case "vector":
            _checks.vector_from(term.vector, f"{path}.vector")
        case "item_id":
            _checks.check_id_length(term.item_id, f"{path}.item_id")
        case _:
            raise InvalidArgument(
                "QUERY_MISSING", "set one of content, vector and item_id", field=path
            )


def _check_hybrid(params: pb.SearchParams) -> None:
    for other in ("diversity", "group"):
        if params.HasField(other):
            raise _checks.out_of_range(
                f"hybrid and {other} cannot be combined; leave one of them out", "params.hybrid"
            )
    hybrid, parent = params.hybrid, "params.hybrid."
    _checks.check_range(hybrid.rrf_k or 60, 1, _MAX_RRF_K, f"{parent}rrf_k")
    allowed = (0, _MAX_RANKING_WEIGHT)
    weights = [
        _checks.optional(hybrid, name, 1.0, allowed, parent)
        for name in ("vector_weight", "text_weight")
    ]
    if weights == [0, 0]:
        raise _checks.out_of_range(
            "both weights are 0; give one ranking some weight", "params.hybrid"
        )


def _check_diversity(diversity: pb.DiversityParams) -> None:
    parent = "params.diversity."
    if _checks.optional(diversity, "duplicate_threshold", 1.0, (0, 1), parent) == 0:
        raise _checks.out_of_range("it must be above 0", f"{parent}duplicate_threshold")
    _checks.optional(diversity, "mmr_lambda", 1.0, (0, 1), parent)


def check_against(params: pb.SearchParams, collection: FakeCollection) -> None:
    """Check what depends on the collection, filters and output fields aside."""
    for name, value in params.index_params.items():
        if name not in _MAX_INDEX_PARAMS:
            raise InvalidArgument(
                "PARAMETER_OUT_OF_RANGE",
                f"no index has a search parameter {name[:50]!r}; use one of "
                f"{', '.join(_MAX_INDEX_PARAMS)}",
                field="params.index_params",
            )
        _checks.check_range(value, 1, _MAX_INDEX_PARAMS[name], f"params.index_params[{name}]")
    if params.HasField("group"):
        name, where = params.group.field, "params.group.field"
        field_type = _filters.type_of(name, collection.declared, where)
        if field_type not in _GROUPABLE:
            raise InvalidArgument(
                "FIELD_TYPE",
                f"field {name!r} is a {field_type.value}, by which hits are not grouped",
                field=where,
                metadata={"name": name},
            )
    if params.HasField("hybrid"):
        hybrid_text(params)
        if not collection.full_text:
            raise FailedPrecondition(
                "FULL_TEXT_MISSING",
                f"collection {collection.name} has no field that is full_text; declare one in a "
                "new collection, or leave hybrid out",
                metadata={"collection": collection.name},
            )


def hybrid_text(params: pb.SearchParams) -> str:
    """Return the words that a hybrid search looks for, checked."""
    text = params.hybrid.text or params.query.content.text
    field = "params.hybrid.text"
    if not text.strip():
        raise InvalidArgument(
            "TEXT_EMPTY",
            "a hybrid search needs words: set hybrid.text, or make the query a text",
            field=field,
        )
    if len(text.encode()) > _MAX_TEXT_BYTES:
        raise InvalidArgument(
            "TEXT_TOO_LONG",
            f"the text has more than {_MAX_TEXT_BYTES} bytes",
            field=field,
            metadata={"limit": str(_MAX_TEXT_BYTES)},
        )
    return text
