"""Use case: collections, and the model each one is tied to."""

from __future__ import annotations

import re
import time

from search_server.embedders.pool import EmbedderPool
from search_server.store.milvus import MilvusStore
from search_server.types import CollectionInfo, FieldType, ModelRef
from sentinel_core.deadlines import Deadline
from sentinel_core.errors import InvalidArgument, NotFound

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAX_NAME_CHARS = 128
_MAX_FIELD_NAME_CHARS = 64
_MAX_FIELDS = 56  # Milvus allows 64 columns; rows.py has six of its own

# How long another gateway's drop or re-creation of a collection may go unnoticed here. A search
# that meets the new one with the old one's model fails; it never mixes spaces unless both models
# have equal dimensions, hence seconds and not minutes.
_CACHE_S = 2.0


class Collections:
    """Creates, describes and deletes collections."""

    def __init__(self, store: MilvusStore, pool: EmbedderPool) -> None:
        self._store = store
        self._pool = pool
        self._cache: dict[str, tuple[float, CollectionInfo]] = {}

    async def create(
        self,
        name: str,
        fields: dict[str, FieldType],
        wanted_model: ModelRef | None,
        deadline: Deadline,
    ) -> CollectionInfo:
        """Make an empty collection in the space of the workers' model.

        Raises:
            InvalidArgument: A name that is not allowed, or too many fields.
            AlreadyExists: There is one of this name.
            Unavailable: No worker is up to say what the model is.
            FailedPrecondition: No worker serves `wanted_model`.
        """
        check_name(name, _MAX_NAME_CHARS, "collection.name")
        if len(fields) > _MAX_FIELDS:
            raise InvalidArgument(
                "PARAMETER_OUT_OF_RANGE",
                f"a collection declares at most {_MAX_FIELDS} fields",
                field="collection.fields",
            )
        for index, field_name in enumerate(fields):
            check_name(field_name, _MAX_FIELD_NAME_CHARS, f"collection.fields[{index}].name")
        model, dimensions = self._pool.model(wanted_model)
        info = CollectionInfo(name, model, dimensions, fields)
        await self._store.create_collection(info, deadline)
        return info

    async def get(self, name: str, deadline: Deadline) -> CollectionInfo:
        """Return what a collection is.

        Raises:
            NotFound: There is none of this name.
            FailedPrecondition: The Milvus collection of this name is not Sentinel's.
        """
        known = self._cache.get(name)
        if known is not None and time.monotonic() - known[0] < _CACHE_S:
            return known[1]
        self._cache.pop(name, None)
        check_name(name, _MAX_NAME_CHARS, "collection")
        info = await self._store.describe_collection(name, deadline)
        if info is None:
            raise NotFound(
                "COLLECTION_NOT_FOUND",
                f"no collection {name!r}",
                collection=name,
            )
        self._cache[name] = (time.monotonic(), info)
        return info

    async def count(self, info: CollectionInfo, deadline: Deadline) -> int:
        """Return how many items a collection holds."""
        return await self._store.count(info, "", deadline)

    async def list_after(
        self, last_name: str, page_size: int, deadline: Deadline
    ) -> tuple[list[CollectionInfo], bool]:
        """Return Sentinel's collections that sort after `last_name`, and whether more follow."""
        page: list[CollectionInfo] = []
        for name in await self._store.list_collections(deadline):
            if name <= last_name:
                continue
            info = await self._store.describe_collection(name, deadline, foreign_ok=True)
            if info is None:
                continue
            if len(page) == page_size:
                return page, True
            page.append(info)
        return page, False

    async def delete(self, name: str, deadline: Deadline) -> None:
        """Drop a collection and its items. Image bytes stay: other collections may use them.

        Raises:
            NotFound: There is none of this name.
            FailedPrecondition: It is not Sentinel's to drop.
        """
        info = await self.get(name, deadline)
        self._cache.pop(name, None)
        await self._store.drop_collection(info.name, deadline)


def check_name(name: str, longest: int, field: str) -> None:
    """Raise InvalidArgument unless `name` is an identifier of at most `longest` characters."""
    if not _NAME.fullmatch(name) or len(name) > longest:
        raise InvalidArgument(
            "NAME_INVALID",
            f"{name[:50]!r}: a letter or underscore, then letters, digits and underscores, at "
            f"most {longest} characters",
            field=field,
        )
