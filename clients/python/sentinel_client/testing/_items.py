"""ItemService of the fake."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import grpc

from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import item_service_pb2 as pb
from sentinel.search.v1 import item_service_pb2_grpc as pb_grpc
from sentinel_client._errors import InvalidArgument, NotFound, SentinelError
from sentinel_client._types import Vector
from sentinel_client.testing import _checks, _filters, _originals, _responses
from sentinel_client.testing._collections import check_confirmation, confirmation_of
from sentinel_client.testing._model import MAX_IMAGE_BYTES, Embedded, HashingModel, unit
from sentinel_client.testing._status import to_status
from sentinel_client.testing._store import FakeCollection, Store, StoredItem, identity

_MAX_ITEMS = 256
_MAX_TEXT_BYTES = 60_000
_DEFAULT_PAGE = 100
_ID_BYTES = 3  # tag and length
_CHUNK_BYTES = 1024 * 1024
_ADVICE = pb.IngestAdvice(suggested_batch_size=32, suggested_batches_in_flight=2)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A checked item that has no vector yet; `vector` is the caller's."""

    item: StoredItem
    content: content_pb2.Content | None
    vector: Vector | None
    path: str


class ItemService(pb_grpc.ItemServiceServicer):
    """Stores, reads and deletes items."""

    def __init__(self, store: Store, model: HashingModel) -> None:
        self._store = store
        self._model = model

    def UpsertItems(
        self, request: pb.UpsertItemsRequest, context: grpc.ServicerContext
    ) -> pb.UpsertItemsResponse:
        _checks.check_count(len(request.items), _MAX_ITEMS, "items")
        with self._store.lock:
            collection = self._store.find(request.collection)
            return pb.UpsertItemsResponse(results=self._upsert(collection, request.items))

    def IngestItems(
        self, request_iterator: Iterator[pb.IngestItemsRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.IngestItemsResponse]:
        start = next(request_iterator, None)
        if start is None or start.WhichOneof("message") != "start":
            raise _out_of_order("a stream begins with `start`")
        with self._store.lock:
            self._store.find(start.start.collection, "start.collection")
        yield pb.IngestItemsResponse(advice=_ADVICE)
        summary, last = pb.IngestSummary(), -1
        for message in request_iterator:
            batch = message.batch
            if message.WhichOneof("message") != "batch":
                raise _out_of_order("after `start` a stream has batches only")
            if batch.sequence <= last:
                raise _out_of_order(f"batch {batch.sequence} came after batch {last}")
            last = batch.sequence
            _checks.check_count(len(batch.items), _MAX_ITEMS, "batch.items")
            with self._store.lock:
                collection = self._store.find(start.start.collection, "start.collection")
                results = self._upsert(collection, batch.items)
                ack = _ack(batch.sequence, results, collection)
            summary.stored_count += ack.stored_count
            summary.unchanged_count += ack.unchanged_count
            summary.failed_count += len(ack.failures)
            yield pb.IngestItemsResponse(ack=ack)
        yield pb.IngestItemsResponse(summary=summary)

    def _upsert(self, collection: FakeCollection, items: Sequence[pb.Item]) -> list[pb.ItemResult]:
        """Store a batch. Of items with one id, the last is stored, and all have its outcome."""
        results: dict[int, pb.ItemResult] = {}
        new: dict[str, _Prepared] = {}
        ids: dict[int, str] = {}
        for at, item in enumerate(items):
            try:
                prepared = _prepared(collection, item, f"items[{at}]")
            except SentinelError as error:
                results[at] = _failed(item.id, error)
            else:
                new[prepared.item.id], ids[at] = prepared, prepared.item.id
        outcomes = {item_id: self._store_one(collection, one) for item_id, one in new.items()}
        results |= {at: outcomes[item_id] for at, item_id in ids.items()}
        return [results[at] for at in range(len(items))]

    def _store_one(self, collection: FakeCollection, prepared: _Prepared) -> pb.ItemResult:
        item, content, truncated = prepared.item, prepared.content, False
        before = collection.items.get(item.id)
        if before is not None and before.image and before.image_digest == item.image_digest:
            item = replace(item, image=before.image, reference="")  # a copy stays
        if before is not None and (before.digest, before.reference) == (
            item.digest,
            item.reference,
        ):
            if before.fields == item.fields:
                return pb.ItemResult(id=item.id, outcome=pb.ItemResult.OUTCOME_UNCHANGED)
            collection.items[item.id] = replace(before, fields=item.fields)
            return pb.ItemResult(id=item.id, outcome=pb.ItemResult.OUTCOME_STORED)
        # The image of a given vector is looked at, too.
        if content is not None and (item.image_digest or prepared.vector is None):
            try:
                answer = self._embedded(content, item.image_digest, f"{prepared.path}.content")
            except SentinelError as error:
                return _failed(item.id, error)
            embedded = unit(answer.vector[: collection.description.dimensions])
            truncated = answer.truncated
            item = replace(item, vector=embedded)
        if prepared.vector is not None:
            item = replace(item, vector=prepared.vector)
        collection.items[item.id] = item
        stored = pb.ItemResult.OUTCOME_STORED
        return pb.ItemResult(id=item.id, outcome=stored, truncated=truncated)

    def _embedded(self, content: content_pb2.Content, digest: str, path: str) -> Embedded:
        """Embed a content; an image by reference has this digest."""
        uri = content.image.uri
        if not uri:
            return self._model.embed(content, path)
        data = _originals.read(uri, digest, f"{path}.image.uri")
        try:
            image = content_pb2.Content(image=content_pb2.Image(data=data))
            return self._model.embed(image, path)
        except SentinelError as error:
            error.field = f"{path}.image.uri"
            raise

    def GetItems(
        self, request: pb.GetItemsRequest, context: grpc.ServicerContext
    ) -> pb.GetItemsResponse:
        _checks.check_count(len(request.ids), _checks.MAX_IDS, "ids")
        _checks.check_ids(request.ids, "ids")
        _checks.check_output_fields(request.output_fields, "output_fields")
        room = _responses.max_bytes(context)
        room -= sum(_ID_BYTES + len(one.encode()) for one in request.ids)
        with self._store.lock:
            collection = self._store.find(request.collection)
            _filters.check_declared(request.output_fields, collection.declared, "output_fields")
            ids = list(dict.fromkeys(request.ids))
            found = [collection.items[one] for one in ids if one in collection.items]
            items = _responses.fitting((_shown(one, request) for one in found), room)
            return pb.GetItemsResponse(
                items=items,
                missing_ids=[one for one in ids if one not in collection.items],
                unread_ids=[one.id for one in found[len(items) :]],
            )

    def ListItems(
        self, request: pb.ListItemsRequest, context: grpc.ServicerContext
    ) -> pb.ListItemsResponse:
        size = _checks.page_size(request.page_size, _DEFAULT_PAGE)
        if request.HasField("filter"):
            _filters.check_filter(request.filter, "filter")
        _checks.check_output_fields(request.output_fields, "output_fields")
        bound = identity(request, "page_token", "page_size")
        name, last = self._store.position(request.page_token, bound) or ("", None)
        with self._store.lock:
            collection = self._store.find(name or request.collection)
            items = _selected(collection, request)
            _filters.check_declared(request.output_fields, collection.declared, "output_fields")
            place = _filters.place_in(request.order, collection.declared)
            places = [(place(one.id, one.fields), one) for one in items]
            places.sort(key=lambda pair: pair[0])
            following = [one for where, one in places if last is None or where > tuple(last)]
            page = _responses.fitting(
                (_shown(one, request) for one in following[:size]),
                _responses.room_for_rows(context),
            )
            response = pb.ListItemsResponse(items=page)
            if len(following) > len(page):
                shown = following[len(page) - 1]
                position = [collection.name, place(shown.id, shown.fields)]
                response.next_page_token = self._store.seal(position, bound)
        return response

    def DownloadImage(
        self, request: pb.DownloadImageRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.DownloadImageResponse]:
        _checks.check_id_length(request.id, "id")
        with self._store.lock:
            found = self._store.find(request.collection).items.get(request.id)
        if found is None:
            raise NotFound(
                "ITEM_NOT_FOUND", f"no item {request.id[:200]!r}", metadata={"id": request.id}
            )
        if not found.image_digest:
            raise NotFound("IMAGE_NOT_FOUND", "the item has no image, only text or a vector")
        image = found.image or _originals.read(found.reference, found.image_digest, "")
        for start in range(0, len(image), _CHUNK_BYTES):
            part = pb.DownloadImageResponse(data=image[start : start + _CHUNK_BYTES])
            if not start:
                part.total_bytes = len(image)
                part.media_type = _checks.media_type(image, None)
            yield part

    def DeleteItems(
        self, request: pb.DeleteItemsRequest, context: grpc.ServicerContext
    ) -> pb.DeleteItemsResponse:
        match request.WhichOneof("selector"):
            case "ids":
                _checks.check_count(len(request.ids.ids), _checks.MAX_IDS, "ids")
                _checks.check_ids(request.ids.ids, "ids.ids")
            case "filter":
                _filters.check_filter(request.filter, "filter")
            case _:
                raise InvalidArgument(
                    "BATCH_EMPTY", "say what to delete: ids or a filter", field="selector"
                )
        with self._store.lock:
            collection = self._store.find(request.collection)
            selected = _selected(collection, request)
            response = pb.DeleteItemsResponse(deleted_count=len(selected))
            if request.dry_run:
                response.confirmation_token = confirmation_of(
                    self._store, request, collection, len(selected)
                )
                return response
            check_confirmation(self._store, request, collection, len(selected))
            for stored in selected:
                del collection.items[stored.id]
        return response


def _prepared(collection: FakeCollection, item: pb.Item, path: str) -> _Prepared:
    """Check an item; raise the error of one that cannot be stored, whatever the model."""
    content = item.content if item.HasField("content") else None
    vector = None
    if content is not None:
        if content.image.HasField("crop"):
            raise InvalidArgument(
                "CROP_INVALID",
                "images are stored as a whole; send the part as an image, or crop in queries",
                field=f"{path}.content.image.crop",
            )
        if content.image.text:
            raise InvalidArgument(
                "MODALITY_UNSUPPORTED",
                "an item is one text or one image; keep the text in a field, or send it as an item "
                "of its own",
                field=f"{path}.content.image.text",
                metadata={"modality": "image_with_text"},
            )
        if item.by_reference:
            _originals.check(item, path)
        else:
            _checks.check_content(content, f"{path}.content")
    if item.HasField("vector"):
        vector = _checks.vector_from(item.vector, f"{path}.vector")
    values = _filters.values_from(item.fields, f"{path}.fields")
    if content is None and vector is None:
        raise InvalidArgument(
            "CONTENT_MISSING", "an item needs a text, an image or a vector", field=path
        )
    fields = _filters.stored_fields(values, collection.declared, f"{path}.fields")
    if vector is not None:
        dimensions = collection.description.dimensions
        vector = _checks.unit_vector(vector, dimensions, f"{path}.vector")
    text, image = (content.text, content.image.data) if content is not None else ("", b"")
    _check_size(text, image, path)
    data = image or text.encode()
    digest = hashlib.sha256(data).hexdigest()
    reference = content.image.uri if content is not None and item.by_reference else ""
    if reference:
        digest, data = item.digest, item.digest.encode()
    image_digest = digest if image or reference else ""
    item_id = item.id or (digest if content is not None else "")
    _checks.check_new_id(item_id, f"{path}.id")
    if vector is not None and not (content is not None and item.vector_from_model):
        digest = hashlib.sha256(data + vector.tobytes()).hexdigest()
    stored = StoredItem(item_id, digest, fields, text, image, image_digest, reference)
    return _Prepared(stored, content, vector, path)


def _failed(item_id: str, error: SentinelError) -> pb.ItemResult:
    failed = pb.ItemResult.OUTCOME_FAILED
    return pb.ItemResult(id=item_id, outcome=failed, error=to_status(error))


def _selected(
    collection: FakeCollection, request: pb.ListItemsRequest | pb.DeleteItemsRequest
) -> list[StoredItem]:
    if request.HasField("filter"):
        matches = _filters.predicate(request.filter, collection.declared, "filter")
        return [one for one in collection.items.values() if matches(one.fields)]
    if isinstance(request, pb.DeleteItemsRequest):
        ids = dict.fromkeys(request.ids.ids)
        return [collection.items[one] for one in ids if one in collection.items]
    return list(collection.items.values())


def _shown(stored: StoredItem, request: pb.GetItemsRequest | pb.ListItemsRequest) -> pb.Item:
    message = pb.Item(digest=stored.digest, by_reference=bool(stored.reference))
    stored.fill(
        message,
        request.output_fields,
        vectors=request.include_vectors,
        thumbnails=request.include_thumbnails,
    )
    if stored.text:
        message.content.text = stored.text
    return message


def _check_size(text: str, image: bytes, path: str) -> None:
    for size, most, reason, field in (
        (len(text.encode()), _MAX_TEXT_BYTES, "TEXT_TOO_LONG", "content.text"),
        (len(image), MAX_IMAGE_BYTES, "IMAGE_TOO_LARGE", "content.image.data"),
    ):
        if size > most:
            raise InvalidArgument(
                reason,
                f"it has {size} bytes, the limit is {most}",
                field=f"{path}.{field}",
                metadata={"limit": str(most)},
            )


def _ack(
    sequence: int, results: Sequence[pb.ItemResult], collection: FakeCollection
) -> pb.IngestAck:
    ack = pb.IngestAck(sequence=sequence)
    for place, result in enumerate(results):
        if result.outcome == pb.ItemResult.OUTCOME_FAILED:
            ack.failures.append(result)
            ack.failure_places.append(place)
            ack.digests.append("")
            continue
        ack.digests.append(collection.items[result.id].digest)
        if result.outcome == pb.ItemResult.OUTCOME_STORED:
            ack.stored_count += 1
            ack.truncated_count += result.truncated
        else:
            ack.unchanged_count += 1
    return ack


def _out_of_order(message: str) -> InvalidArgument:
    return InvalidArgument("STREAM_INVALID", message, field="message")
