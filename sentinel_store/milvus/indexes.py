"""The index over the vectors: which one, its parameters, and how thoroughly it is searched.

    kind        build parameters        search parameter
    FLAT        -                       -               exact; cost grows with the rows
    AUTOINDEX   -                       ef              Milvus's own choice, an HNSW
    HNSW        M, efConstruction       ef              graph in memory
    IVF_FLAT    nlist                   nprobe          clusters of whole vectors
    IVF_SQ8     nlist                   nprobe          clusters, one byte per element
    DISKANN     -                       search_list     graph on disk

Left to themselves, Milvus's search defaults find about nine of the ten nearest (0.91 of the top
20 with HNSW, 0.93 with AUTOINDEX: 20,000 clustered vectors of 128 dimensions, server 2.3.5), so
none is left to itself. With those chosen here it is 0.98 or more (test_indexes.py),
except that IVF_SQ8 cannot tell apart what its byte per element rounds to the same: 0.976 to 0.985
of the top 20 there, however many clusters are searched.
"""

from __future__ import annotations

from dataclasses import dataclass

from pymilvus import MilvusClient

from sentinel_core.errors import FailedPrecondition, InvalidArgument
from sentinel_store.collections import CollectionInfo, IndexKind, VectorIndex
from sentinel_store.milvus import errors, schema
from sentinel_store.values import FieldType


@dataclass(frozen=True, slots=True)
class _Parameter:
    default: int
    least: int
    most: int


_BUILD: dict[IndexKind, dict[str, _Parameter]] = {
    IndexKind.FLAT: {},
    IndexKind.AUTOINDEX: {},
    IndexKind.HNSW: {
        "M": _Parameter(16, 2, 2_048),
        "efConstruction": _Parameter(200, 1, 32_768),
    },
    IndexKind.IVF_FLAT: {"nlist": _Parameter(1_024, 1, 65_536)},
    IndexKind.IVF_SQ8: {"nlist": _Parameter(1_024, 1, 65_536)},
    IndexKind.DISKANN: {},
}

# On a server, by the items expected. What decides is memory for whole vectors: at 768 dimensions
# ten million take 31 GB, which one node still holds beside a graph; a hundred million in a byte
# per element 77 GB; beyond, only what stays on disk is affordable.
_SERVER_KINDS = (
    (1_000_000, IndexKind.AUTOINDEX),
    (10_000_000, IndexKind.HNSW),
    (100_000_000, IndexKind.IVF_SQ8),
)

# Milvus Lite takes any name for an index and says it has built it; these it has code for.
_LITE_KINDS = frozenset(IndexKind) - {IndexKind.DISKANN}

# Text queries lie off the pictures that they are compared with, and a graph finds its way to their
# neighbours less well. Of the top 20 for queries of cosine 0.45 to their source, and for random
# ones: 0.992 and 0.73 with 128, 0.995 and 0.88 with 256, for half a millisecond more (31,796 rows
# of 768 dimensions around 100 centres, server 2.3.5).
_LEAST_EF, _MOST_EF = 256, 32_768
_LEAST_SEARCH_LIST, _MOST_SEARCH_LIST = 100, 65_535
_LEAST_NPROBE = 16

# Scalar indexes by the versions that know them: INVERTED from 2.4 on and Lite, the others before.
_SCALAR_KINDS: dict[FieldType, tuple[str, ...]] = {
    FieldType.STRING: ("INVERTED", "Trie"),
    FieldType.INT64: ("INVERTED", "STL_SORT"),
    FieldType.DOUBLE: ("INVERTED", "STL_SORT"),
    FieldType.BOOL: ("INVERTED", "STL_SORT"),
}


def chosen(asked: VectorIndex | None, expected_item_count: int, *, is_lite: bool) -> VectorIndex:
    """Return the index to build, with all of its parameters.

    Args:
        asked: What the caller wants; None for a choice by size.
        expected_item_count: Items it will hold; 0: unknown.
        is_lite: Whether Milvus is the embedded one, where FLAT is exact and no slower than the
            others (docs/adr/0004).

    Raises:
        InvalidArgument: A parameter that this kind does not have, or out of its range.
        FailedPrecondition: Milvus Lite does not have this kind.
    """
    if asked is None:
        asked = VectorIndex(_by_size(expected_item_count, is_lite=is_lite))
    if is_lite and asked.kind not in _LITE_KINDS:
        raise _unsupported(f"Milvus Lite has no {asked.kind} index", "collection.index.type")
    known = _BUILD[asked.kind]
    for name, value in asked.params.items():
        where = f"collection.index.params[{name[:50]}]"
        if name not in known:
            there = ", ".join(known) or "none"
            raise InvalidArgument(
                "PARAMETER_OUT_OF_RANGE",
                f"a {asked.kind} index has no parameter {name[:50]!r}; it has: {there}",
                field=where,
            )
        if not known[name].least <= value <= known[name].most:
            raise InvalidArgument(
                "PARAMETER_OUT_OF_RANGE",
                f"{name} is {value}; it must be {known[name].least} to {known[name].most}",
                field=where,
            )
    defaults = {name: parameter.default for name, parameter in known.items()}
    return VectorIndex(asked.kind, defaults | asked.params)


def _by_size(expected_item_count: int, *, is_lite: bool) -> IndexKind:
    if is_lite:
        return IndexKind.FLAT
    for most, kind in _SERVER_KINDS:
        if expected_item_count <= most:
            return kind
    return IndexKind.DISKANN


def build(client: MilvusClient, info: CollectionInfo, timeout: float) -> None:
    """Tell Milvus which indexes a new collection is to have.

    Raises:
        FailedPrecondition: This Milvus does not have one of them.
    """
    for name in info.indexed:
        if not any(
            _built(client, info.name, _scalar(client, name, kind), timeout)
            for kind in _SCALAR_KINDS[info.fields[name]]
        ):
            raise _unsupported(f"this Milvus has no index for field {name!r}", "collection.fields")
    # Last: where it is, the others are, too.
    index = client.prepare_index_params()
    index.add_index(
        "vector",
        index_type=str(info.index.kind),
        metric_type="COSINE",
        params=info.index.params,
    )
    if not _built(client, info.name, index, timeout):
        raise _unsupported(f"this Milvus has no {info.index.kind} index", "collection.index.type")


def _scalar(client: MilvusClient, name: str, kind: str) -> object:
    column = schema.column_of(name)
    index = client.prepare_index_params()
    index.add_index(column, index_type=kind, index_name=column)
    return index


def _built(client: MilvusClient, name: str, index: object, timeout: float) -> bool:
    """Return whether Milvus took the index; there is nothing in it to wait for."""
    try:
        client.create_index(name, index, timeout=timeout, sync=False)
    except errors.FOREIGN as error:
        if errors.is_refusal(error):
            return False
        raise
    return True


def search_params(index: VectorIndex, depth: int) -> dict[str, int]:
    """Return the search parameters that find at least 0.98 of the nearest `depth` rows."""
    match index.kind:
        case IndexKind.HNSW | IndexKind.AUTOINDEX:
            return {"ef": min(max(_LEAST_EF, 2 * depth), _MOST_EF)}
        case IndexKind.IVF_FLAT | IndexKind.IVF_SQ8:
            nlist = index.params["nlist"]
            # An eighth of the clusters. For deep results more, since in a small collection a
            # cluster has some 40 rows and the nearest are spread over several times depth / 40.
            return {"nprobe": min(max(_LEAST_NPROBE, nlist // 8, depth // 5), nlist)}
        case IndexKind.DISKANN:
            return {"search_list": min(max(_LEAST_SEARCH_LIST, 2 * depth), _MOST_SEARCH_LIST)}
        case IndexKind.FLAT:
            return {}


def _unsupported(what: str, field: str) -> FailedPrecondition:
    return FailedPrecondition(
        "INDEX_UNSUPPORTED", f"{what}; choose another one, or leave the choice to us", field=field
    )
