"""CollectionService of the fake, and who the caller is. It behaves like Milvus Lite."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc

from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import access_service_pb2 as access_pb
from sentinel.search.v1 import access_service_pb2_grpc as access_pb_grpc
from sentinel.search.v1 import collection_service_pb2 as pb
from sentinel.search.v1 import collection_service_pb2_grpc as pb_grpc
from sentinel.search.v1 import item_service_pb2 as item_pb
from sentinel.search.v1 import search_service_pb2 as search_pb
from sentinel_client._errors import AlreadyExists, FailedPrecondition, InvalidArgument
from sentinel_client.testing import _checks, _responses
from sentinel_client.testing._filters import FIELD_TYPES
from sentinel_client.testing._model import HashingModel
from sentinel_client.testing._store import FakeCollection, Store, identity

_DEFAULT_PAGE = 100
_MAX_FIELDS = 56
_UNINDEXED = (pb.FieldSchema.TYPE_STRING_LIST, pb.FieldSchema.TYPE_GEO)
_MAX_FIELD_NAME_CHARS = 64
# As many items may come to those that a preview has counted.
_SMALL_ITEMS = 1_000
_INDEX = pb.VectorIndex
# Build parameters of each kind of index: default, least, most.
_PARAMS: dict[Any, dict[str, tuple[int, int, int]]] = {
    _INDEX.TYPE_FLAT: {},
    _INDEX.TYPE_AUTOINDEX: {},
    _INDEX.TYPE_HNSW: {"M": (16, 2, 2_048), "efConstruction": (200, 1, 32_768)},
    _INDEX.TYPE_IVF_FLAT: {"nlist": (1_024, 1, 65_536)},
    _INDEX.TYPE_IVF_SQ8: {"nlist": (1_024, 1, 65_536)},
}


class CollectionService(pb_grpc.CollectionServiceServicer):
    """Creates, describes, names and deletes collections."""

    def __init__(self, store: Store, model: HashingModel) -> None:
        self._store = store
        self._model = model

    def CreateCollection(
        self, request: pb.CreateCollectionRequest, context: grpc.ServicerContext
    ) -> pb.CreateCollectionResponse:
        description = pb.Collection()
        description.CopyFrom(request.collection)
        _check_values(description)
        _checks.check_no_tenant(description.name, "collection.name")
        _check_fields(description)
        index = _chosen_index(description.index)
        _checks.check_name(description.name, "collection.name")
        for at, schema in enumerate(description.fields):
            where = f"collection.fields[{at}].name"
            _checks.check_name(schema.name, where, _MAX_FIELD_NAME_CHARS)
        self._check_model(description)
        description.dimensions = self._model.check_dimensions(
            description.dimensions or None, "collection.dimensions"
        )
        description.storage.CopyFrom(_chosen_storage(description.storage))
        with self._store.lock:
            if description.name in {*self._store.collections, *self._store.aliases}:
                raise AlreadyExists(
                    "COLLECTION_EXISTS",
                    f"there is a collection or an alias {description.name!r}; use another name",
                    metadata={"collection": description.name},
                )
            description.model_version.CopyFrom(self._model.version)
            description.index.CopyFrom(index)
            description.metric = pb.Collection.METRIC_COSINE
            description.default_consistency = (
                description.default_consistency or search_pb.CONSISTENCY_SESSION
            )
            collection = FakeCollection(description)
            self._store.collections[description.name] = collection
            return pb.CreateCollectionResponse(collection=self._described(collection))

    def _check_model(self, description: pb.Collection) -> None:
        wanted, ours = description.model_version, self._model.version
        fits = wanted.fingerprint in ("", ours.fingerprint) and wanted.model in ("", ours.model)
        if not fits:
            raise FailedPrecondition(
                "MODEL_MISMATCH",
                f"the fake serves {ours.model!r} only; leave the model out",
                metadata={
                    "expected": wanted.fingerprint or wanted.model,
                    "actual": ours.fingerprint,
                },
            )

    def _described(self, collection: FakeCollection) -> pb.Collection:
        message = pb.Collection()
        message.CopyFrom(collection.description)
        message.item_count = len(collection.items)
        message.aliases[:] = self._store.aliases_of(collection.name)
        return message

    def GetCollection(
        self, request: pb.GetCollectionRequest, context: grpc.ServicerContext
    ) -> pb.GetCollectionResponse:
        with self._store.lock:
            found = self._store.find(request.name, "name")
            return pb.GetCollectionResponse(collection=self._described(found))

    def ListCollections(
        self, request: pb.ListCollectionsRequest, context: grpc.ServicerContext
    ) -> pb.ListCollectionsResponse:
        size = _checks.page_size(request.page_size, _DEFAULT_PAGE)
        bound = b"ListCollections"
        after = self._store.position(request.page_token, bound) or ""
        with self._store.lock:
            names = sorted(name for name in self._store.collections if name > after)
            found = _responses.fitting(
                (self._described(self._store.collections[name]) for name in names[:size]),
                _responses.room_for_rows(context),
            )
        token = self._store.seal(found[-1].name, bound) if len(names) > len(found) else ""
        return pb.ListCollectionsResponse(collections=found, next_page_token=token)

    def PreviewDeletion(
        self, request: pb.PreviewDeletionRequest, context: grpc.ServicerContext
    ) -> pb.PreviewDeletionResponse:
        with self._store.lock:
            found = self._deletable(request.name)
            deletion = pb.DeleteCollectionRequest(name=request.name)
            token = confirmation_of(self._store, deletion, found, len(found.items))
            return pb.PreviewDeletionResponse(item_count=len(found.items), confirmation_token=token)

    def DeleteCollection(
        self, request: pb.DeleteCollectionRequest, context: grpc.ServicerContext
    ) -> pb.DeleteCollectionResponse:
        with self._store.lock:
            found = self._deletable(request.name)
            check_confirmation(self._store, request, found, len(found.items))
            del self._store.collections[found.name]
        return pb.DeleteCollectionResponse()

    def _deletable(self, name: str) -> FakeCollection:
        found = self._store.find_by_own_name(name, "name")
        if aliases := self._store.aliases_of(name):
            raise FailedPrecondition(
                "COLLECTION_ALIASED",
                f"{', '.join(aliases)} point at {name!r}; point them elsewhere or delete them "
                "first",
                field="name",
                metadata={"collection": name},
            )
        return found

    def SetAlias(
        self, request: pb.SetAliasRequest, context: grpc.ServicerContext
    ) -> pb.SetAliasResponse:
        _checks.check_no_tenant(request.alias, "alias")
        _checks.check_name(request.alias, "alias")
        with self._store.lock:
            found = self._store.find_by_own_name(request.collection, "collection")
            if request.alias in self._store.collections:
                raise AlreadyExists(
                    "COLLECTION_EXISTS",
                    f"there is a collection {request.alias!r}; an alias needs a name of its own",
                    field="alias",
                    metadata={"collection": request.alias},
                )
            self._store.aliases[request.alias] = found.name
        return pb.SetAliasResponse()

    def DeleteAlias(
        self, request: pb.DeleteAliasRequest, context: grpc.ServicerContext
    ) -> pb.DeleteAliasResponse:
        _checks.check_no_tenant(request.alias, "alias")
        _checks.check_name(request.alias, "alias")
        with self._store.lock:
            self._store.aliases.pop(request.alias, None)
        return pb.DeleteAliasResponse()

    def ReindexCollection(
        self, request: pb.ReindexCollectionRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ReindexCollectionResponse]:
        raise _checks.unsupported("has one model, so there is nothing to reindex with")


class AccessService(access_pb_grpc.AccessServiceServicer):
    """Describes the caller: everybody may do everything."""

    def GetCaller(
        self, request: access_pb.GetCallerRequest, context: grpc.ServicerContext
    ) -> access_pb.GetCallerResponse:
        scopes = access_pb.Grant.Scope.keys()[1:]
        grants = [access_pb.Grant(scope=scope, is_prefix=True) for scope in scopes]
        return access_pb.GetCallerResponse(grants=grants)


def confirmation_of(
    store: Store,
    deletion: pb.DeleteCollectionRequest | item_pb.DeleteItemsRequest,
    collection: FakeCollection,
    count: int,
) -> str:
    """Return the token that confirms a deletion of `count` items."""
    return store.seal([collection.id, count], _bound(deletion))


def check_confirmation(
    store: Store,
    deletion: pb.DeleteCollectionRequest | item_pb.DeleteItemsRequest,
    collection: FakeCollection,
    count: int,
) -> None:
    """Check the token of a deletion of `count` items, if it has one; none is needed."""
    if not deletion.confirmation_token:
        return
    content = store.unseal(deletion.confirmation_token, _bound(deletion))
    if content is None:
        raise InvalidArgument(
            "CONFIRMATION_INVALID",
            "the confirmation token is damaged, or is for another deletion; preview this one",
            field="confirmation_token",
        )
    if content[0] != collection.id or count > content[1] + _SMALL_ITEMS:
        raise FailedPrecondition(
            "CONFIRMATION_OUTDATED",
            "the collection is another one, or has many more items than the preview found; make a "
            "new preview",
            field="confirmation_token",
        )


def _bound(deletion: pb.DeleteCollectionRequest | item_pb.DeleteItemsRequest) -> bytes:
    ignored = ["confirmation_token"]
    if isinstance(deletion, item_pb.DeleteItemsRequest):
        ignored.append("dry_run")
    return identity(deletion, *ignored)


def _check_values(new: pb.Collection) -> None:
    if new.metric not in (pb.Collection.METRIC_UNSPECIFIED, pb.Collection.METRIC_COSINE):
        raise _checks.out_of_range(f"there is no metric {new.metric}", "collection.metric")
    if new.expected_item_count < 0:
        raise _checks.out_of_range("use 0 where it is unknown", "collection.expected_item_count")
    if new.default_consistency not in search_pb.Consistency.values():
        raise _checks.out_of_range("there is none such", "collection.default_consistency")


def _check_fields(new: pb.Collection) -> None:
    places = sum(schema.type == pb.FieldSchema.TYPE_GEO for schema in new.fields)
    if len(new.fields) + places > _MAX_FIELDS:
        raise _checks.out_of_range(f"at most {_MAX_FIELDS} fields", "collection.fields")
    seen: set[str] = set()
    for at, schema in enumerate(new.fields):
        where, name = f"collection.fields[{at}]", schema.name
        if schema.type not in FIELD_TYPES:
            raise _checks.out_of_range(f"field {name!r} needs a type", where)
        if name in seen:
            raise _checks.out_of_range(f"field {name!r} is declared twice", where)
        seen.add(name)
        for wrong, flag in (
            (schema.indexed and schema.type in _UNINDEXED, "indexed"),
            (schema.full_text and schema.type != pb.FieldSchema.TYPE_STRING, "full_text"),
        ):
            if wrong:
                raise InvalidArgument(
                    "FIELD_TYPE",
                    f"field {name!r} cannot be {flag}: its type is another one",
                    field=f"{where}.{flag}",
                    metadata={"name": name},
                )


def _chosen_storage(wanted: pb.VectorStorage) -> pb.VectorStorage:
    where, element = "collection.storage", wanted.element_type
    known = set(content_pb2.ElementType.values()) - {content_pb2.ELEMENT_TYPE_BINARY}
    if element not in known:
        raise _checks.out_of_range(
            f"vectors are not stored as element type {element}", f"{where}.element_type"
        )
    if wanted.rescore and element != content_pb2.ELEMENT_TYPE_INT8:
        raise _checks.out_of_range("only int8 is rescored", f"{where}.rescore")
    if element not in (content_pb2.ELEMENT_TYPE_UNSPECIFIED, content_pb2.ELEMENT_TYPE_FLOAT32):
        raise FailedPrecondition(
            "STORAGE_UNSUPPORTED",
            "the fake holds float32 vectors only, as Milvus Lite does; leave the storage out",
        )
    return pb.VectorStorage(element_type=content_pb2.ELEMENT_TYPE_FLOAT32)


def _chosen_index(wanted: pb.VectorIndex) -> pb.VectorIndex:
    """Return the index with all its parameters; without a kind, what Milvus Lite gets."""
    where = "collection.index"
    if wanted.type == _INDEX.TYPE_UNSPECIFIED:
        if wanted.params:
            raise _checks.out_of_range(
                "parameters need a type of index; set one", f"{where}.params"
            )
        return pb.VectorIndex(type=_INDEX.TYPE_FLAT)
    if wanted.type not in _INDEX.Type.values():
        raise _checks.out_of_range(f"there is no type {wanted.type}", f"{where}.type")
    if wanted.type == _INDEX.TYPE_DISKANN:
        raise FailedPrecondition(
            "INDEX_UNSUPPORTED",
            "the fake has no DISKANN, as Milvus Lite has none; choose another one, or none",
            field=f"{where}.type",
        )
    known = _PARAMS[wanted.type]
    for name, value in wanted.params.items():
        path = f"{where}.params[{name[:50]}]"
        if name not in known:
            raise InvalidArgument(
                "PARAMETER_OUT_OF_RANGE",
                f"the index has no parameter {name[:50]!r}; it has: {', '.join(known) or 'none'}",
                field=path,
            )
        _, least, most = known[name]
        _checks.check_range(value, least, most, path)
    params = {name: default for name, (default, _, _) in known.items()} | dict(wanted.params)
    return pb.VectorIndex(type=wanted.type, params=params)
