"""Choose and build indexes: the kind of vector index, its parameters and search parameters.

    kind        build parameters        search parameter
    FLAT        -                       -               exact; cost grows with the rows
    AUTOINDEX   -                       ef              Milvus's own choice, an HNSW
    HNSW        M, efConstruction       ef              graph in memory
    IVF_FLAT    nlist                   nprobe          clusters of whole vectors
    IVF_SQ8     nlist                   nprobe          clusters, one byte per element
    DISKANN     -                       search_list     graph on disk

Milvus's default search parameters find about nine of the ten nearest (0.91 of the top 20 with
HNSW, 0.93 with AUTOINDEX: 20,000 clustered vectors of 128 dimensions, server 2.3.5), so we set
them all. Ours find 0.98 or more (test_indexes.py). Only IVF_SQ8 cannot separate vectors that its
one byte per element rounds to the same values: it finds 0.976 to 0.985 of the top 20, however many
clusters are searched. A collection with rescoring has this index, searches it for twice as many and
ranks them by their float32 vectors (docs/adr/0022).
"""

from __future__ import annotations

from dataclasses import dataclass

from pymilvus import MilvusClient

from sentinel_core.errors import FailedPrecondition, InvalidArgument
from sentinel_core.vectors import Element
from sentinel_store.collections import CollectionInfo, IndexKind, VectorIndex, VectorStorage
from sentinel_store.milvus import errors
from sentinel_store.milvus.field_columns import column_of
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

_PLAIN = VectorStorage()

# On a server, by the expected number of items. Memory decides: ten million vectors of 768
# dimensions take 31 GB, which fits on one node beside a graph. A hundred million with one byte per
# element take 77 GB. Beyond that, only an index on disk is affordable.
_SERVER_KINDS = (
    (1_000_000, IndexKind.AUTOINDEX),
    (10_000_000, IndexKind.HNSW),
    (100_000_000, IndexKind.IVF_SQ8),
)

# Milvus Lite accepts any name of an index and claims to have built it; it supports these.
_LITE_KINDS = frozenset(IndexKind) - {IndexKind.DISKANN}

# Text vectors are far from the image vectors that they are compared with, and a graph finds their
# neighbours less well. Of the top 20 for queries of cosine 0.45 to their source, and for random
# queries: 0.992 and 0.73 with ef 128, 0.995 and 0.88 with 256, for half a millisecond more (31,796
# rows of 768 dimensions around 100 centres, server 2.3.5).
_LEAST_EF, _MOST_EF = 256, 32_768
_LEAST_SEARCH_LIST, _MOST_SEARCH_LIST = 100, 65_535
_LEAST_NPROBE = 16

# Scalar indexes by version: INVERTED from 2.4 on and on Lite, the others before.
_SCALAR_KINDS: dict[FieldType, tuple[str, ...]] = {
    FieldType.STRING: ("INVERTED", "Trie"),
    FieldType.INT64: ("INVERTED", "STL_SORT"),
    FieldType.DOUBLE: ("INVERTED", "STL_SORT"),
    FieldType.BOOL: ("INVERTED", "STL_SORT"),
    FieldType.TIMESTAMP: ("INVERTED", "STL_SORT"),
}


def choose_index(
    requested: VectorIndex | None,
    expected_item_count: int,
    *,
    is_lite: bool,
    storage: VectorStorage = _PLAIN,
) -> VectorIndex:
    """Return the index to build, with all of its parameters.

    Without a request it is chosen by the expected number of items; 0: unknown. On Milvus Lite that
    is FLAT, which is exact and there no slower than the others (docs/adr/0004).

    Raises:
        InvalidArgument: This kind does not have a parameter, or its value is out of range.
        FailedPrecondition: Milvus Lite does not have this kind.
    """
    if requested is None:
        kind = _only_kind(storage) or _by_size(expected_item_count, is_lite=is_lite)
        requested = VectorIndex(kind)
    elif storage.rescore and requested.kind is not IndexKind.IVF_SQ8:
        raise _unsupported(
            f"{storage} needs the index IVF_SQ8, not {requested.kind}", "collection.index.type"
        )
    if is_lite and requested.kind not in _LITE_KINDS:
        raise _unsupported(f"Milvus Lite has no {requested.kind} index", "collection.index.type")
    known = _BUILD[requested.kind]
    for name, value in requested.params.items():
        where = f"collection.index.params[{name[:50]}]"
        if name not in known:
            names = ", ".join(known) or "none"
            raise InvalidArgument(
                "PARAMETER_OUT_OF_RANGE",
                f"a {requested.kind} index has no parameter {name[:50]!r}; it has: {names}",
                field=where,
            )
        if not known[name].least <= value <= known[name].most:
            raise InvalidArgument(
                "PARAMETER_OUT_OF_RANGE",
                f"{name} is {value}; it must be {known[name].least} to {known[name].most}",
                field=where,
            )
    defaults = {name: parameter.default for name, parameter in known.items()}
    return VectorIndex(requested.kind, defaults | requested.params)


def _only_kind(storage: VectorStorage) -> IndexKind | None:
    """Return the kind that Milvus has for this storage, whatever the size; None: several."""
    if storage.element is not Element.INT8:
        return None
    return IndexKind.IVF_SQ8 if storage.rescore else IndexKind.HNSW


def _by_size(expected_item_count: int, *, is_lite: bool) -> IndexKind:
    if is_lite:
        return IndexKind.FLAT
    for most, kind in _SERVER_KINDS:
        if expected_item_count <= most:
            return kind
    return IndexKind.DISKANN


def build_indexes(client: MilvusClient, info: CollectionInfo, timeout: float) -> None:
    """Have Milvus build the indexes of a new collection.

    Raises:
        FailedPrecondition: This Milvus does not support one of them.
    """
    for name in info.indexed:
        if not any(
            _built(client, info.name, _scalar(client, name, kind), timeout)
            for kind in _SCALAR_KINDS[info.fields[name]]
        ):
            raise _unsupported(f"this Milvus has no index for field {name!r}", "collection.fields")
    # Last: if it exists, the others exist too.
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
    column = column_of(name)
    index = client.prepare_index_params()
    index.add_index(column, index_type=kind, index_name=column)
    return index


def _built(client: MilvusClient, name: str, index: object, timeout: float) -> bool:
    """Return whether Milvus accepted the index; an empty one needs no wait."""
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
            # An eighth of the clusters. More for deep results: in a small collection a cluster has
            # about 40 rows, and the nearest are spread over several times depth / 40 clusters.
            return {"nprobe": min(max(_LEAST_NPROBE, nlist // 8, depth // 5), nlist)}
        case IndexKind.DISKANN:
            return {"search_list": min(max(_LEAST_SEARCH_LIST, 2 * depth), _MOST_SEARCH_LIST)}
        case IndexKind.FLAT:
            return {}


def _unsupported(what: str, field: str) -> FailedPrecondition:
    return FailedPrecondition(
        "INDEX_UNSUPPORTED", f"{what}; choose another one, or none for our choice", field=field
    )
