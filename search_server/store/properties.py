"""What a collection is, as its Milvus properties hold it, shared by all gateways.

    sentinel.collection   what it was made as; never changes
    sentinel.origin       what it was made of, if of another collection
    sentinel.reindex      what is being made of it, if anything; empty: nothing

Milvus 2.3 cannot remove a property, only change it; hence "empty".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

from search_server.store.connection import MilvusConnection
from search_server.types.collections import (
    CollectionInfo,
    IndexKind,
    Origin,
    OriginState,
    ReindexMark,
    VectorIndex,
)
from search_server.types.values import Consistency, FieldType, ModelRef
from sentinel_core.deadlines import Deadline

COLLECTION = "sentinel.collection"
_ORIGIN = "sentinel.origin"
_REINDEX = "sentinel.reindex"


class Properties:
    """Changes what may change of a collection. Use from one event loop."""

    def __init__(self, milvus: MilvusConnection) -> None:
        self._milvus = milvus

    async def set_origin(self, collection: str, origin: Origin, deadline: Deadline) -> None:
        """Note what a collection was made of and how far it is."""
        await self._set(collection, _ORIGIN, _dumped(origin), deadline)

    async def set_reindex(
        self, collection: str, mark: ReindexMark | None, deadline: Deadline
    ) -> None:
        """Note what is being made of a collection; None: nothing any more."""
        await self._set(collection, _REINDEX, _dumped(mark), deadline)

    async def _set(self, collection: str, key: str, value: str, deadline: Deadline) -> None:
        await self._milvus.run(
            lambda client, timeout: client.alter_collection_properties(
                collection, {key: value}, timeout=timeout
            ),
            deadline,
        )


def of_info(info: CollectionInfo) -> dict[str, str]:
    """Return the properties of a collection that is `info`."""
    collection = json.dumps(
        {
            "model": info.model.model,
            "revision": info.model.revision,
            "fingerprint": info.model.fingerprint,
            "dimensions": info.dimensions,
            "fields": {name: str(field_type) for name, field_type in info.fields.items()},
            "indexed": info.indexed,
            "index": str(info.index.kind),
            "index_params": info.index.params,
            "expected_item_count": info.expected_item_count,
            "consistency": str(info.consistency),
            "full_text": info.full_text,
        }
    )
    return {
        COLLECTION: collection,
        _ORIGIN: _dumped(info.origin),
        _REINDEX: _dumped(info.reindex),
    }


def to_info(name: str, asked: str, properties: Mapping[str, str]) -> CollectionInfo:
    """Return what the collection `name`, found as `asked`, is by its properties."""
    data = json.loads(properties[COLLECTION])
    origin, reindex = properties.get(_ORIGIN), properties.get(_REINDEX)
    return CollectionInfo(
        name=name,
        model=ModelRef(data["model"], data["revision"], data["fingerprint"]),
        dimensions=data["dimensions"],
        fields={key: FieldType(value) for key, value in data["fields"].items()},
        # Collections of before these could be chosen do not say.
        indexed=tuple(data.get("indexed", ())),
        index=VectorIndex(
            IndexKind(data.get("index", IndexKind.AUTOINDEX)), data.get("index_params", {})
        ),
        expected_item_count=data.get("expected_item_count", 0),
        consistency=Consistency(data.get("consistency", Consistency.SESSION)),
        full_text=tuple(data.get("full_text", ())),
        asked=asked,
        origin=_origin(json.loads(origin)) if origin else None,
        reindex=ReindexMark(**json.loads(reindex)) if reindex else None,
    )


def _origin(data: dict[str, str]) -> Origin:
    return Origin(data["source"], OriginState(data["state"]))


def _dumped(value: Origin | ReindexMark | None) -> str:
    return json.dumps(asdict(value)) if value is not None else ""
