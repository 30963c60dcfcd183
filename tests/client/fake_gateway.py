"""A gateway without search and store: a real gRPC server with scripted answers.

It runs on threads, so that the client under test has the only event loop of the process. Errors
come from `sentinel_core.status`, as in the real gateway.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from google.protobuf.json_format import MessageToDict
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from sentinel.common.v1 import content_pb2
from sentinel.embedding.v1 import embedding_service_pb2 as embedding_pb
from sentinel.embedding.v1 import embedding_service_pb2_grpc
from sentinel.search.v1 import collection_service_pb2 as collection_pb
from sentinel.search.v1 import (
    collection_service_pb2_grpc,
    filter_pb2,
    item_service_pb2_grpc,
    search_service_pb2_grpc,
)
from sentinel.search.v1 import item_service_pb2 as item_pb
from sentinel.search.v1 import search_service_pb2 as search_pb
from sentinel_client._rpcs import SERVICES
from sentinel_core.errors import (
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    SentinelError,
)
from sentinel_core.status import to_status
from tests import secure

MODEL = content_pb2.ModelVersion(model="fake-clip", revision="7", fingerprint="f00d")


@dataclass
class IngestScript:
    """What goes wrong in a stream of IngestItems; each happens once.

    Attributes:
        break_after: Fail the stream after this many acknowledgements.
        drain_after: Advise to drain after this many.
        silent_after: Acknowledge no more after this many, and go on reading.
        stall_after: After this many, end the stream as one that has sent nothing for too long.
    """

    break_after: int | None = None
    drain_after: int | None = None
    silent_after: int | None = None
    stall_after: int | None = None


class FakeGateway:
    """State and scripts; `address` is where it listens.

    Attributes:
        hits: What every search finds.
        notices: What every streamed search tells about its query.
        failures: Per method, errors to fail the next calls with, None meaning "answer".
        calls: Per method, the requests and metadata that came.
    """

    def __init__(self) -> None:
        self.hits: list[search_pb.Hit] = []
        self.notices: list[search_pb.Notice] = []
        self.failures: dict[str, deque[Any]] = defaultdict(deque)
        # What it says to items by reference.
        self.reference_error: SentinelError = PermissionDenied("URI_FORBIDDEN", "send the bytes")
        self.calls: dict[str, list[Any]] = defaultdict(list)
        self.metadata: list[dict[str, Any]] = []
        self.collections: dict[str, collection_pb.Collection] = {}
        self.items: dict[str, item_pb.Item] = {}
        self.stalled = threading.Event()  # set: calls answer; see `stall`
        self.stalled.set()
        self.break_stream_after: int | None = None
        self.entered = threading.Event()
        self.cancelled = threading.Event()
        self.in_flight = self.most_in_flight = 0
        self.advice = item_pb.IngestAdvice(suggested_batch_size=32, suggested_batches_in_flight=3)
        self.ingest = IngestScript()
        self.drained_with: list[int] = []
        self.images: dict[str, bytes] = {}
        self.aliases: dict[str, str] = {}
        self.model = MODEL
        self.reindex_reports: list[collection_pb.ReindexCollectionResponse] = []
        self._lock = threading.Lock()
        self._health = health.HealthServicer()
        self._server = grpc.server(
            ThreadPoolExecutor(16),
            options=[("grpc.max_receive_message_length", 64 << 20)],
            interceptors=secure.interceptors(),
        )
        search_service_pb2_grpc.add_SearchServiceServicer_to_server(_Search(self), self._server)
        item_service_pb2_grpc.add_ItemServiceServicer_to_server(_Items(self), self._server)
        collection_service_pb2_grpc.add_CollectionServiceServicer_to_server(
            _Collections(self), self._server
        )
        embedding_service_pb2_grpc.add_EmbeddingServiceServicer_to_server(
            _Embedding(self), self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self.set_serving(True)
        self.address = f"127.0.0.1:{secure.listen(self._server, '127.0.0.1:0')}"
        self._server.start()

    def close(self) -> None:
        self.stalled.set()
        self._server.stop(0).wait()

    def set_serving(self, serving: bool, *services: str) -> None:
        status = health_pb2.HealthCheckResponse.ServingStatus
        for name in services or ("", *SERVICES):
            self._health.set(name, status.SERVING if serving else status.NOT_SERVING)

    def stall(self) -> None:
        """Answer no further call until `close`."""
        self.stalled.clear()

    def add_collection(self, name: str, /, **fields: int) -> None:
        self.collections[name] = collection_pb.Collection(
            name=name,
            model_version=MODEL,
            dimensions=4,
            item_count=len(self.items),
            fields=[collection_pb.FieldSchema(name=n, type=t) for n, t in fields.items()],
        )

    def enter(self, method: str, request: Any, context: grpc.ServicerContext) -> None:
        """Note the call; fail it if the script says so."""
        with self._lock:
            self.calls[method].append(request)
            self.metadata.append(dict(context.invocation_metadata()))
            failure = self.failures[method].popleft() if self.failures[method] else None
        if not self.stalled.is_set():
            context.add_callback(self.cancelled.set)
            self.entered.set()
            self.stalled.wait(20)
        if failure is not None:
            fail(context, failure)

    def upsert_one(self, item: item_pb.Item) -> item_pb.ItemResult:
        image = item.content.image
        data = image.data or image.uri.encode() or item.content.text.encode()
        item_id = item.id or hashlib.sha256(data).hexdigest()
        failed = item_pb.ItemResult.OUTCOME_FAILED
        scripted = self.failures["item"].popleft() if self.failures["item"] else None
        if item.by_reference:
            scripted = self.reference_error
        if scripted is None and data.startswith(b"BAD"):
            scripted = InvalidArgument("IMAGE_DECODE_FAILED", "truncated or damaged image")
        if scripted is not None:
            return item_pb.ItemResult(id=item_id, outcome=failed, error=to_status(scripted))
        sha256 = hashlib.sha256(data).hexdigest()
        stored = item_pb.Item(
            id=item_id, fields=item.fields, image_uri=f"file:///obj/{sha256}", digest=sha256
        )
        self.images[item_id] = item.content.image.data
        if item.content.text:
            stored.content.text = item.content.text
        if item.HasField("vector"):
            stored.vector.CopyFrom(item.vector)
        same = self.items.get(item_id) == stored
        self.items[item_id] = stored
        return item_pb.ItemResult(
            id=item_id,
            outcome=item_pb.ItemResult.OUTCOME_UNCHANGED
            if same
            else item_pb.ItemResult.OUTCOME_STORED,
        )

    def collection(self, name: str) -> collection_pb.Collection:
        if name not in self.collections:
            raise NotFound("COLLECTION_NOT_FOUND", f"no collection {name!r}", collection=name)
        self.collections[name].item_count = len(self.items)
        return self.collections[name]


def fail(context: grpc.ServicerContext, error: Any) -> None:
    if isinstance(error, grpc.StatusCode):  # as gRPC itself or a proxy fails: no details
        context.abort(error, "something between us")
    status = to_status(error)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(error.code, status.message)


def hit(rank: int, score: float, path: str = "", **more: Any) -> search_pb.Hit:
    fields = {"path": filter_pb2.FieldValue(string_value=path)} if path else {}
    return search_pb.Hit(
        id=more.pop("id", hashlib.sha256(str(rank).encode()).hexdigest()),
        rank=rank,
        score=score,
        fields=fields,
        **more,
    )


def summary(count: int) -> search_pb.SearchSummary:
    result = search_pb.SearchSummary(hit_count=count)
    for name, millis in (
        ("total", 18),
        ("embed", 12),
        ("embed_queue", 1),
        ("embed_inference", 9),
        ("vector_search", 3),
    ):
        getattr(result, name).FromMilliseconds(millis)
    return result


class _Search(search_service_pb2_grpc.SearchServiceServicer):
    def __init__(self, gateway: FakeGateway) -> None:
        self.gateway = gateway

    def Search(self, request: Any, context: Any) -> Any:
        gateway = self.gateway
        gateway.enter("Search", request, context)
        hits = gateway.hits[: request.limit]
        messages = [
            search_pb.SearchResponse(chunk=search_pb.HitChunk(hits=hits[start : start + 2]))
            for start in range(0, len(hits), 2)
        ] or [search_pb.SearchResponse()]
        header = search_pb.SearchHeader(
            collection=request.params.collection, model_version=gateway.model
        )
        messages[0].header.CopyFrom(header)
        if gateway.break_stream_after != -1:
            messages[-1].summary.CopyFrom(summary(len(hits)))
            messages[-1].summary.notices.extend(gateway.notices)
        for number, message in enumerate(messages):
            if 2 * number == gateway.break_stream_after:
                fail(context, grpc.StatusCode.UNAVAILABLE)
            yield message

    def SearchPage(self, request: Any, context: Any) -> Any:
        self.gateway.enter("SearchPage", request, context)
        start = int(request.page_token or 0)
        end = start + request.page_size
        return search_pb.SearchPageResponse(
            hits=self.gateway.hits[start:end],
            next_page_token=str(end) if end < len(self.gateway.hits) else "",
            summary=summary(1),
        )

    def BatchSearch(self, request: Any, context: Any) -> Any:
        self.gateway.enter("BatchSearch", request, context)
        results = []
        for search in request.searches:
            if search.params.query.content.text == "BAD":
                error = to_status(InvalidArgument("TEXT_TOO_LONG", "cut it"))
                results.append(search_pb.BatchSearchResult(error=error))
            else:
                hits = self.gateway.hits[: search.page_size]
                page = search_pb.SearchPageResponse(hits=hits, summary=summary(len(hits)))
                results.append(search_pb.BatchSearchResult(page=page))
        return search_pb.BatchSearchResponse(results=results)


class _Items(item_service_pb2_grpc.ItemServiceServicer):
    def __init__(self, gateway: FakeGateway) -> None:
        self.gateway = gateway

    def UpsertItems(self, request: Any, context: Any) -> Any:
        gateway = self.gateway
        with gateway._lock:
            gateway.in_flight += 1
            gateway.most_in_flight = max(gateway.most_in_flight, gateway.in_flight)
        time.sleep(0.005)
        try:
            gateway.enter("UpsertItems", request, context)
            with gateway._lock:
                return item_pb.UpsertItemsResponse(
                    results=[gateway.upsert_one(item) for item in request.items]
                )
        finally:
            with gateway._lock:
                gateway.in_flight -= 1

    def IngestItems(self, messages: Any, context: Any) -> Any:
        gateway, script = self.gateway, self.gateway.ingest
        start = next(messages)
        gateway.enter("IngestItems", start, context)
        yield item_pb.IngestItemsResponse(advice=gateway.advice)
        summary = item_pb.IngestSummary()
        for number, message in enumerate(messages):
            if script.break_after == number:
                script.break_after = None
                fail(context, grpc.StatusCode.UNAVAILABLE)
            if script.silent_after is not None and number >= script.silent_after:
                continue
            with gateway._lock:
                gateway.calls["IngestBatch"].append(message.batch)
                results = [gateway.upsert_one(item) for item in message.batch.items]
            ack = item_pb.IngestAck(sequence=message.batch.sequence)
            for place, result in enumerate(results):
                failed = result.outcome == item_pb.ItemResult.OUTCOME_FAILED
                ack.digests.append("" if failed else gateway.items[result.id].digest)
                if failed:
                    ack.failures.append(result)
                    ack.failure_places.append(place)
                elif result.outcome == item_pb.ItemResult.OUTCOME_STORED:
                    ack.stored_count += 1
                else:
                    ack.unchanged_count += 1
            yield item_pb.IngestItemsResponse(ack=ack)
            if script.drain_after == number + 1:
                script.drain_after = None
                gateway.drained_with.append(message.batch.sequence)
                advice = item_pb.IngestAdvice(suggested_batches_in_flight=1, draining=True)
                yield item_pb.IngestItemsResponse(advice=advice)
            if script.stall_after == number + 1:
                script.stall_after = None
                fail(context, DeadlineExceeded("STREAM_STALLED", "open a new stream"))
        yield item_pb.IngestItemsResponse(summary=summary)

    def ListItems(self, request: Any, context: Any) -> Any:
        self.gateway.enter("ListItems", request, context)
        ids = sorted(self.gateway.items)
        start = int(request.page_token or 0)
        end = start + request.page_size
        return item_pb.ListItemsResponse(
            items=[self.gateway.items[one] for one in ids[start:end]],
            next_page_token=str(end) if end < len(ids) else "",
        )

    def DownloadImage(self, request: Any, context: Any) -> Any:
        self.gateway.enter("DownloadImage", request, context)
        data = self.gateway.images.get(request.id, b"")
        if not data:
            fail(context, NotFound("IMAGE_NOT_FOUND", "it has no picture"))
        first = item_pb.DownloadImageResponse(media_type="image/jpeg", total_bytes=len(data))
        for start in range(0, len(data), 2):
            first.data = data[start : start + 2]
            yield first
            if self.gateway.break_stream_after == start:
                return
            first = item_pb.DownloadImageResponse()

    def GetItems(self, request: Any, context: Any) -> Any:
        self.gateway.enter("GetItems", request, context)
        items = self.gateway.items
        return item_pb.GetItemsResponse(
            items=[items[one] for one in request.ids if one in items],
            missing_ids=[one for one in request.ids if one not in items],
        )

    def DeleteItems(self, request: Any, context: Any) -> Any:
        self.gateway.enter("DeleteItems", request, context)
        there = [one for one in request.ids.ids if one in self.gateway.items]
        if request.HasField("filter"):  # which matches everything
            there = list(self.gateway.items)
        if request.dry_run:
            token = f"{len(there)} of {request.collection}"
            return item_pb.DeleteItemsResponse(deleted_count=len(there), confirmation_token=token)
        for one in there:
            del self.gateway.items[one]
        return item_pb.DeleteItemsResponse(deleted_count=len(there))


class _Collections(collection_service_pb2_grpc.CollectionServiceServicer):
    def __init__(self, gateway: FakeGateway) -> None:
        self.gateway = gateway

    def CreateCollection(self, request: Any, context: Any) -> Any:
        self.gateway.enter("CreateCollection", request, context)
        made = request.collection
        made.dimensions = made.dimensions or 4
        made.model_version.CopyFrom(MODEL)
        self.gateway.collections[made.name] = made
        return collection_pb.CreateCollectionResponse(collection=made)

    def GetCollection(self, request: Any, context: Any) -> Any:
        self.gateway.enter("GetCollection", request, context)
        try:
            found = self.gateway.collection(request.name)
        except SentinelError as error:
            fail(context, error)
        return collection_pb.GetCollectionResponse(collection=found)

    def ListCollections(self, request: Any, context: Any) -> Any:
        self.gateway.enter("ListCollections", request, context)
        names = sorted(self.gateway.collections)
        start = int(request.page_token or 0)  # pages of two
        return collection_pb.ListCollectionsResponse(
            collections=[self.gateway.collections[name] for name in names[start : start + 2]],
            next_page_token=str(start + 2) if start + 2 < len(names) else "",
        )

    def PreviewDeletion(self, request: Any, context: Any) -> Any:
        self.gateway.enter("PreviewDeletion", request, context)
        try:
            found = self.gateway.collection(request.name)
        except SentinelError as error:
            fail(context, error)
        return collection_pb.PreviewDeletionResponse(
            item_count=found.item_count, confirmation_token=f"all of {request.name}"
        )

    def DeleteCollection(self, request: Any, context: Any) -> Any:
        self.gateway.enter("DeleteCollection", request, context)
        try:
            self.gateway.collection(request.name)
        except SentinelError as error:
            fail(context, error)
        del self.gateway.collections[request.name]
        return collection_pb.DeleteCollectionResponse()

    def SetAlias(self, request: Any, context: Any) -> Any:
        self.gateway.enter("SetAlias", request, context)
        self.gateway.aliases[request.alias] = request.collection
        return collection_pb.SetAliasResponse()

    def DeleteAlias(self, request: Any, context: Any) -> Any:
        self.gateway.enter("DeleteAlias", request, context)
        self.gateway.aliases.pop(request.alias, None)
        return collection_pb.DeleteAliasResponse()

    def ReindexCollection(self, request: Any, context: Any) -> Any:
        self.gateway.enter("ReindexCollection", request, context)
        for number, report in enumerate(self.gateway.reindex_reports):
            if self.gateway.break_stream_after == number:
                self.gateway.break_stream_after = None
                fail(context, grpc.StatusCode.UNAVAILABLE)
            yield report


class _Embedding(embedding_service_pb2_grpc.EmbeddingServiceServicer):
    """A text's vector is its number; a text that begins with BAD is bad."""

    def __init__(self, gateway: FakeGateway) -> None:
        self.gateway = gateway

    def Embed(self, request: Any, context: Any) -> Any:
        gateway = self.gateway
        with gateway._lock:
            gateway.in_flight += 1
            gateway.most_in_flight = max(gateway.most_in_flight, gateway.in_flight)
        try:
            gateway.enter("Embed", request, context)
            response = embedding_pb.EmbedResponse(model_version=gateway.model)
            for place, content in enumerate(request.contents):
                result = response.results.add()
                if content.text.startswith("BAD"):
                    error = InvalidArgument(
                        "TEXT_TOO_LONG", "cut it", field=f"contents[{place}].text"
                    )
                    result.error.CopyFrom(to_status(error))
                    continue
                number = float(content.text or len(content.image.data))
                result.vector.data = np.array([number, 0.5], "<f4").tobytes()
                result.vector.dimensions = 2
            return response
        finally:
            with gateway._lock:
                gateway.in_flight -= 1

    def Rank(self, request: Any, context: Any) -> Any:
        self.gateway.enter("Rank", request, context)
        response = embedding_pb.RankResponse(model_version=self.gateway.model)
        errors = []
        for place, content in enumerate(request.candidates):
            if content.text.startswith("BAD"):
                error = InvalidArgument(
                    "TEXT_TOO_LONG", "cut it", field=f"candidates[{place}].text"
                )
                errors.append((place, to_status(error)))
            else:
                response.candidates.add(index=place, cosine=1 - place / 10, probability=0.5)
        for place, status in errors:
            response.candidates.add(index=place, error=status)
        return response


def as_dict(message: Any) -> dict[str, Any]:
    return dict(MessageToDict(message, preserving_proto_field_name=True))
