"""The bounds that the contract declares for other languages are the ones that the servers check."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import grpc
import protovalidate
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from sentinel.common.v1.content_pb2 import BoundingBox, Content, Image, Vector
from sentinel.embedding.v1 import embedding_service_pb2 as embedding
from sentinel.embedding.v1 import embedding_service_pb2_grpc
from sentinel.search.v1 import collection_service_pb2 as collections
from sentinel.search.v1 import (
    collection_service_pb2_grpc,
    item_service_pb2_grpc,
    search_service_pb2_grpc,
)
from sentinel.search.v1 import filter_pb2 as filters
from sentinel.search.v1 import item_service_pb2 as items
from sentinel.search.v1 import search_service_pb2 as search
from tests import photos, processes
from tests.contract.clone import run, sources, tool, unpacked

NAME = "bounds"
CAT = Content(text="a cat")
PHOTO = photos.photo("chelsea").read_bytes()
STRING = collections.FieldSchema.TYPE_STRING
EQUAL, EXISTS = filters.Comparison.OPERATOR_EQUAL, filters.Comparison.OPERATOR_EXISTS
IN = filters.Comparison.OPERATOR_IN


def searching(limit: int | None = None, chunk_size: int | None = None, **params: object) -> Message:
    of = search.SearchParams(collection=NAME, query=search.Query(content=CAT))
    of.MergeFrom(search.SearchParams(**params))  # type: ignore[arg-type]
    return search.SearchRequest(params=of, limit=limit, chunk_size=chunk_size)


def summing(*weights: float) -> Message:
    terms = [search.WeightedTerm(content=CAT, weight=weight) for weight in weights]
    return searching(query=search.Query(composite=search.CompositeQuery(terms=terms)))


def hybrid(**params: object) -> Message:
    return searching(hybrid=search.HybridParams(**params))  # type: ignore[arg-type]


def diverse(**params: float) -> Message:
    return searching(diversity=search.DiversityParams(**params))


def filtering(operator: filters.Comparison.Operator.ValueType, *values: object) -> Message:
    comparison = filters.Comparison(field="path", operator=operator)
    for value in values:
        comparison.values.add(
            **{"string_value" if isinstance(value, str) else "double_value": value}  # type: ignore[arg-type]
        )
    return searching(filter=filters.Filter(comparison=comparison))


def all_of(count: int) -> Message:
    one = filters.Filter(comparison=filters.Comparison(field="path", operator=EXISTS))
    return searching(filter=filters.Filter(all_of=filters.Filters(filters=[one] * count)))


def within(south: float, west: float, north: float, east: float) -> Message:
    bounds = filters.GeoBounds(south=south, west=west, north=north, east=east)
    return searching(filter=filters.Filter(geo=filters.GeoComparison(field="place", bounds=bounds)))


def near(latitude: float, longitude: float, meters: float) -> Message:
    center = filters.GeoPoint(latitude=latitude, longitude=longitude)
    circle = filters.GeoCircle(center=center, radius_meters=meters)
    return searching(filter=filters.Filter(geo=filters.GeoComparison(field="place", circle=circle)))


def around_nothing() -> Message:
    circle = filters.GeoCircle(radius_meters=1)
    return searching(filter=filters.Filter(geo=filters.GeoComparison(field="place", circle=circle)))


def cropped(left: float, top: float, right: float, bottom: float) -> Message:
    box = BoundingBox(left=left, top=top, right=right, bottom=bottom)
    return embedding.EmbedRequest(contents=[Content(image=Image(data=PHOTO, crop=box))])


def batch(count: int) -> Message:
    return search.BatchSearchRequest(searches=[search.SearchPageRequest()] * count)


def nearest(dimensions: int) -> Message:
    vector = Vector(data=b"", dimensions=dimensions)
    return searching(query=search.Query(vector=vector))


def upserting(*ids: str) -> Message:
    return items.UpsertItemsRequest(
        collection=NAME, items=[items.Item(id=id_, content=CAT) for id_ in ids]
    )


def ingesting(count: int) -> Message:
    batch = items.IngestBatch(sequence=1, items=[items.Item(content=CAT)] * count)
    return items.IngestItemsRequest(batch=batch)


def deleting(count: int) -> Message:
    return items.DeleteItemsRequest(collection=NAME, ids=items.ItemIds(ids=["none"] * count))


def creating(
    name: str = "", fields: list[str] | None = None, **options: object
) -> collections.CreateCollectionRequest:
    schemas = [collections.FieldSchema(name=field, type=STRING) for field in fields or []]
    collection = collections.Collection(name=name or NAME, fields=schemas, **options)  # type: ignore[arg-type]
    return collections.CreateCollectionRequest(collection=collection)


def embed_thumbnail(side: int) -> Message:
    options = embedding.EmbedOptions(thumbnail_side=side)
    return embedding.EmbedRequest(contents=[Content(image=Image(data=PHOTO))], options=options)


def ranking(top_k: int) -> Message:
    return embedding.RankRequest(query=CAT, candidates=[CAT], top_k=top_k)


START = items.IngestItemsRequest(start=items.IngestStart(collection=NAME))
NO_TYPE = collections.CreateCollectionRequest(
    collection=collections.Collection(name=NAME, fields=[collections.FieldSchema(name="a")])
)
# Requests at a bound, and requests beyond it.
INSIDE = [
    *(searching(limit=1), searching(limit=10_000), searching(chunk_size=1_000)),
    *(searching(min_score=-1), searching(min_score=1)),
    *(summing(-100, 99), summing(*[1] * 16), diverse(duplicate_threshold=1), diverse(mmr_lambda=0)),
    *(searching(group=search.GroupParams(field="path", size=size)) for size in (0, 100)),
    *(filtering(EQUAL, "a"), filtering(IN, *["a"] * 1_000), all_of(1)),
    *(within(-90, -180, 90, 180), within(0, 180, 0, -180)),
    *(near(-90, -180, 20_100_000), near(90, 180, 1e-9)),
    *(cropped(0, 0, 1, 1), cropped(0.5, 0.5, 0.6, 0.6)),
    *(upserting("i" * 256), deleting(1), deleting(1_000), ingesting(1)),
    items.GetItemsRequest(collection=NAME, ids=["none"] * 1_000),
    items.ListItemsRequest(collection=NAME, page_size=0),
    collections.ListCollectionsRequest(page_size=0),
    creating("_" + "a" * 127, fields=["_" + "a" * 63], expected_item_count=0),
    *(embed_thumbnail(0), embed_thumbnail(16), embed_thumbnail(1_024)),
    ranking(0),
]
OUTSIDE = [
    *(searching(limit=0), searching(limit=10_001)),
    *(searching(chunk_size=0), searching(chunk_size=1_001)),
    *(searching(min_score=-1.01), searching(min_score=1.01), searching(min_score=math.nan)),
    *(summing(), summing(*[1] * 17), summing(0, 1), summing(-101, 1), summing(101)),
    *(hybrid(text="a" * 60_001), hybrid(text="a", rrf_k=16_385)),
    *(hybrid(text="a", vector_weight=-1), hybrid(text="a", text_weight=1_001)),
    *(diverse(duplicate_threshold=0), diverse(duplicate_threshold=1.01)),
    *(diverse(mmr_lambda=-0.01), diverse(mmr_lambda=1.01)),
    searching(group=search.GroupParams(field="path", size=101)),
    *(filtering(filters.Comparison.OPERATOR_UNSPECIFIED, "a"), filtering(EQUAL, math.inf)),
    *(filtering(IN, *["a"] * 1_001), all_of(0)),
    *(within(-90.1, 0, 0, 0), within(0, -180.1, 0, 0), within(0, 0, 90.1, 0)),
    *(within(0, 0, 0, 180.1), within(math.nan, 0, 1, 1)),
    *(near(90.1, 0, 1), near(0, -180.1, 1), near(math.nan, 0, 1)),
    *(near(0, 0, 0), near(0, 0, 20_100_001), near(0, 0, math.nan), around_nothing()),
    *(cropped(-0.1, 0, 1, 1), cropped(0, 1.1, 1, 1), cropped(0, 0, 0, 1), cropped(0, 0, 1, 0)),
    *(cropped(0.5, 0, 0.4, 1), cropped(math.nan, 0, 1, 1), cropped(0, 0, 1.1, 1)),
    nearest(0),
    search.SearchPageRequest(params=search.SearchParams(collection=NAME), page_size=-1),
    *(
        search.BatchSearchRequest(searches=[search.SearchPageRequest()] * count)
        for count in (0, 65)
    ),
    *(upserting(), upserting("i" * 257), ingesting(0), deleting(0), deleting(1_001)),
    *(items.GetItemsRequest(collection=NAME, ids=["none"] * count) for count in (0, 1_001)),
    items.ListItemsRequest(collection=NAME, page_size=-1),
    collections.ListCollectionsRequest(page_size=-1),
    *(creating("1a"), creating("a" * 129), creating("a-b"), creating(fields=["a" * 65])),
    *(creating(fields=[f"f{number}" for number in range(57)]), creating(expected_item_count=-1)),
    *(NO_TYPE, collections.SetAliasRequest(alias="a b", collection=NAME)),
    *(embed_thumbnail(15), embed_thumbnail(1_025), embedding.EmbedRequest()),
    *(
        embedding.RankRequest(query=CAT),
        embedding.RankRequest(query=CAT, candidates=[CAT], top_k=-1),
    ),
]


class Contract:
    """The annotated contract, which our stubs leave out, and protovalidate's word on a message."""

    def __init__(self, descriptors: Path) -> None:
        self._pool = descriptor_pool.DescriptorPool()
        files = descriptor_pb2.FileDescriptorSet.FromString(descriptors.read_bytes())
        for file in files.file:
            self._pool.Add(file)
        self._ours = [file for file in files.file if file.name.startswith("sentinel/")]

    def violated(self, message: Message) -> set[str]:
        """Return the full names of the fields, and of the messages, whose rules are violated."""
        annotated = self._pool.FindMessageTypeByName(message.DESCRIPTOR.full_name)
        other = message_factory.GetMessageClass(annotated).FromString(message.SerializeToString())
        try:
            protovalidate.validate(other)
        except protovalidate.ValidationError as error:
            paths = ([e.field_name for e in v.proto.field.elements] for v in error.violations)
            return {name_at(annotated, path) for path in paths}
        return set()

    def annotated(self) -> set[str]:
        """Return the full names of all fields with rules."""
        return {
            f"{file.package}.{message.name}.{field.name}"
            for file in self._ours
            for message in file.message_type
            for field in message.field
            if field.options.ByteSize()
        }


def name_at(descriptor: Descriptor, path: list[str]) -> str:
    name = descriptor.full_name
    for step in path:
        field: FieldDescriptor = descriptor.fields_by_name[step]
        name, descriptor = field.full_name, field.message_type
    return name


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> Contract:
    folder = tmp_path_factory.mktemp("protos")
    clone, out = unpacked(folder), folder / "annotated.binpb"
    command = ["-I", "protos", "--include_imports", f"--descriptor_set_out={out}"]
    built = run(tool("protoc"), *command, *sources(clone), cwd=clone)
    assert built.returncode == 0, built.stderr
    return Contract(out)


class Servers:
    """A gateway and its worker."""

    def __init__(self, gateway: grpc.Channel, worker: grpc.Channel) -> None:
        searches = search_service_pb2_grpc.SearchServiceStub(gateway)
        stored = item_service_pb2_grpc.ItemServiceStub(gateway)
        self._collections = collection_service_pb2_grpc.CollectionServiceStub(gateway)
        worked = embedding_service_pb2_grpc.EmbeddingServiceStub(worker)
        self._calls = {
            search.SearchRequest: lambda request, timeout: list(searches.Search(request, timeout)),
            search.SearchPageRequest: searches.SearchPage,
            search.BatchSearchRequest: searches.BatchSearch,
            items.UpsertItemsRequest: stored.UpsertItems,
            items.IngestItemsRequest: lambda request, timeout: list(
                stored.IngestItems(iter([START, request]), timeout)
            ),
            items.GetItemsRequest: stored.GetItems,
            items.ListItemsRequest: stored.ListItems,
            items.DeleteItemsRequest: stored.DeleteItems,
            collections.CreateCollectionRequest: self._collections.CreateCollection,
            collections.ListCollectionsRequest: self._collections.ListCollections,
            collections.SetAliasRequest: self._collections.SetAlias,
            embedding.EmbedRequest: worked.Embed,
            embedding.RankRequest: worked.Rank,
        }

    def prepare(self) -> None:
        request = creating(fields=["path"])
        request.collection.fields.add(name="place", type=collections.FieldSchema.TYPE_GEO)
        self._collections.CreateCollection(request, timeout=20)

    def refuse(self, request: Message) -> bool:
        """Tell whether a call, or its first item, fails with INVALID_ARGUMENT."""
        invalid = grpc.StatusCode.INVALID_ARGUMENT
        try:
            response = self._calls[type(request)](request, 20)
        except grpc.RpcError as error:
            assert error.code() == invalid, error
            return True
        results = getattr(response, "results", [])
        codes = {result.error.code for result in results if result.HasField("error")}
        assert codes <= {invalid.value[0]}, response
        return bool(codes)


@pytest.fixture(scope="module")
def servers(
    default_worker: processes.Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("gateway")
    flags = processes.gateway_flags(folder, str(folder / "milvus.db"), default_worker.address)
    with (
        processes.running(folder, "search_server", *flags) as gateway,
        grpc.insecure_channel(gateway.address) as to_gateway,
        grpc.insecure_channel(default_worker.address) as to_worker,
    ):
        servers = Servers(to_gateway, to_worker)
        servers.prepare()
        yield servers


def test_what_is_within_the_bounds_is_accepted(contract: Contract, servers: Servers) -> None:
    for request in INSIDE:
        assert not contract.violated(request), request
        assert not servers.refuse(request), request


def test_what_is_beyond_a_bound_is_refused(contract: Contract, servers: Servers) -> None:
    for request in OUTSIDE:
        assert contract.violated(request), request
        assert servers.refuse(request), request


def test_every_bound_was_tried(contract: Contract) -> None:
    tried = {name for request in OUTSIDE for name in contract.violated(request)}
    assert contract.annotated() <= tried, contract.annotated() - tried
