"""Calls that fail, by what is wrong: with the reason, for the fake and for a gateway."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from operator import or_
from typing import Any

import numpy as np

from sentinel.common.v1 import content_pb2
from sentinel.embedding.v1 import embedding_service_pb2 as embedding_pb
from sentinel.search.v1 import collection_service_pb2 as collection_pb
from sentinel.search.v1 import filter_pb2
from sentinel.search.v1 import item_service_pb2 as item_pb
from sentinel.search.v1 import search_service_pb2 as search_pb
from sentinel_client import (
    Box,
    Diversity,
    ElementType,
    F,
    FieldSchema,
    FieldType,
    GroupBy,
    Hybrid,
    ImageUri,
    IndexType,
    Item,
    ModelVersion,
    Q,
    SentinelClient,
    VectorIndex,
    VectorStorage,
    _rpcs,
)
from tests import photos
from tests.search_server.fake_pair import START, Call, Pair, search

# Calls that fail


def options(**given: Any) -> Call:
    return search(limit=3, **given)


def created(*fields: FieldSchema, name: str = "never_created", **more: Any) -> Call:
    return lambda client, pair: client.create_collection(name, fields, **more)


def listed(**more: Any) -> Call:
    return lambda client, pair: client.list_items(collection=pair.collection, **more)


BAD: dict[str, tuple[str, Call]] = {
    "no such collection": (
        "COLLECTION_NOT_FOUND",
        lambda client, pair: client.search("x", collection="nobody"),
    ),
    "no such collection to read": (
        "COLLECTION_NOT_FOUND",
        lambda client, pair: client.get_items(["x"], collection="nobody"),
    ),
    "no such collection to describe": (
        "COLLECTION_NOT_FOUND",
        lambda client, pair: client.get_collection("nobody"),
    ),
    "no such collection to fill": (
        "COLLECTION_NOT_FOUND",
        lambda client, pair: client.ingest([Item(text="x")], collection="nobody"),
    ),
    "no such collection to delete": (
        "COLLECTION_NOT_FOUND",
        lambda client, pair: client.delete_collection("nobody"),
    ),
    "bad name": ("NAME_INVALID", lambda client, pair: client.get_collection("no body")),
    "name of a tenant": (
        "NAME_INVALID",
        lambda client, pair: client.search("x", collection="tenant_x__c"),
    ),
    "unknown field in a filter": ("FIELD_UNKNOWN", options(filter=F("yaer") > 1)),
    "a number for a time": ("FIELD_TYPE", options(filter=F("taken_at") > 2020)),
    "a time for a number": ("FIELD_TYPE", options(filter=F("year") > START)),
    "a place compared": ("FIELD_TYPE", options(filter=F("place") == 1)),
    "a text within numbers": ("FIELD_TYPE", options(filter=F("year").contains("2"))),
    "an area of a text": ("FIELD_TYPE", options(filter=F("title").near(0, 0, 5))),
    "an area of nothing": ("FIELD_UNKNOWN", options(filter=F("there").within(0, 0, 1, 1))),
    "bounds upside down": ("FILTER_INVALID", options(filter=F("place").within(2, 0, 1, 1))),
    "bounds beyond the pole": ("FILTER_INVALID", options(filter=F("place").within(0, 0, 91, 1))),
    "no radius": ("FILTER_INVALID", options(filter=F("place").near(0, 0, 0))),
    "a huge radius": ("FILTER_INVALID", options(filter=F("place").near(0, 0, 20_100_001))),
    "a center nowhere": ("FILTER_INVALID", options(filter=F("place").near(0, math.nan, 5))),
    "many circles": (
        "FILTER_INVALID",
        options(filter=reduce(or_, (F("place").near(0, one, 5) for one in range(21)))),
    ),
    "order by a text": ("FIELD_TYPE", listed(order_by="title")),
    "order by a place": ("FIELD_TYPE", listed(order_by="place")),
    "order by nothing": ("FIELD_UNKNOWN", listed(order_by="yaer")),
    "an indexed place": ("FIELD_TYPE", created(FieldSchema("p", FieldType.GEO, indexed=True))),
    "many places": (
        "PARAMETER_OUT_OF_RANGE",
        created(*(FieldSchema(f"f{one}", FieldType.GEO) for one in range(29))),
    ),
    "unknown field to return": ("FIELD_UNKNOWN", options(output_fields=["yaer"])),
    "many fields to return": ("PARAMETER_OUT_OF_RANGE", options(output_fields=["year"] * 57)),
    "many fields to list": (
        "PARAMETER_OUT_OF_RANGE",
        lambda client, pair: client.list_items(
            collection=pair.collection, output_fields=["year"] * 57
        ),
    ),
    "many fields to get": (
        "PARAMETER_OUT_OF_RANGE",
        lambda client, pair: client.get_items(
            ["x"], collection=pair.collection, output_fields=["year"] * 57
        ),
    ),
    "unknown field of a list's filter": (
        "FIELD_UNKNOWN",
        lambda client, pair: client.list_items(collection=pair.collection, filter=F("yaer") > 1),
    ),
    "wrong type in a deletion": (
        "FIELD_TYPE",
        lambda client, pair: client.delete_items(
            collection=pair.collection, filter=F("year") == "2003"
        ),
    ),
    "unknown field of a group": ("FIELD_UNKNOWN", options(group_by=GroupBy("yaer"))),
    "unknown field to list": (
        "FIELD_UNKNOWN",
        lambda client, pair: client.list_items(collection=pair.collection, output_fields=["x"]),
    ),
    "unknown field to get": (
        "FIELD_UNKNOWN",
        lambda client, pair: client.get_items(
            ["x"], collection=pair.collection, output_fields=["x"]
        ),
    ),
    "wrong type": ("FIELD_TYPE", options(filter=F("year") == "2003")),
    "wrong type in a list": ("FIELD_TYPE", options(filter=F("year").isin([1, "2"]))),
    "wrong operator": ("FIELD_TYPE", options(filter=F("tags") == "x")),
    "wrong operator of a flag": ("FIELD_TYPE", options(filter=F("public") > True)),
    "not a number": ("FIELD_TYPE", options(filter=F("ratio") == math.inf)),
    "group of lists": ("FIELD_TYPE", options(group_by=GroupBy("tags"))),
    "group of fractions": ("FIELD_TYPE", options(group_by=GroupBy("ratio"))),
    "large filter": ("FILTER_INVALID", options(filter=F("year").isin(range(1001)))),
    "large group": ("PARAMETER_OUT_OF_RANGE", options(group_by=GroupBy("year", size=101))),
    "limit": ("PARAMETER_OUT_OF_RANGE", search(limit=10_001)),
    "no limit": ("PARAMETER_OUT_OF_RANGE", search(limit=0)),
    "page size": (
        "PARAMETER_OUT_OF_RANGE",
        lambda client, pair: client.search_page("x", collection=pair.collection, page_size=-1),
    ),
    "min_score": ("PARAMETER_OUT_OF_RANGE", options(min_score=1.5)),
    "threshold": (
        "PARAMETER_OUT_OF_RANGE",
        options(diversity=Diversity(duplicate_threshold=0.0)),
    ),
    "lambda": ("PARAMETER_OUT_OF_RANGE", options(diversity=Diversity(mmr_lambda=-0.5))),
    "two orders": (
        "PARAMETER_OUT_OF_RANGE",
        options(hybrid=Hybrid(text="x"), group_by=GroupBy("year")),
    ),
    "rrf_k": ("PARAMETER_OUT_OF_RANGE", options(hybrid=Hybrid(text="x", rrf_k=20_000))),
    "no weights": (
        "PARAMETER_OUT_OF_RANGE",
        options(hybrid=Hybrid(text="x", vector_weight=0, text_weight=0)),
    ),
    "no words": ("TEXT_EMPTY", options(hybrid=Hybrid())),
    "index_params": ("PARAMETER_OUT_OF_RANGE", options(index_params={"fe": 3})),
    "index_params out of range": ("PARAMETER_OUT_OF_RANGE", options(index_params={"ef": 0})),
    "blank query": ("TEXT_EMPTY", options(query=" ")),
    "no such item": ("ITEM_NOT_FOUND", options(item_id="nobody")),
    "long id": ("NAME_INVALID", options(item_id="x" * 257)),
    "empty image": ("IMAGE_EMPTY", options(image=b"")),
    "no image": ("IMAGE_FORMAT_UNSUPPORTED", options(image=b"no image")),
    "image elsewhere": ("URI_FORBIDDEN", options(image=ImageUri("https://example.org/x.jpg"))),
    "short vector": ("VECTOR_DIMENSIONS", options(vector=[1.0, 2.0])),
    "zero vector": (
        "VECTOR_INVALID",
        lambda client, pair: client.search(
            vector=np.zeros(pair.dimensions), collection=pair.collection
        ),
    ),
    "infinite vector": (
        "VECTOR_INVALID",
        lambda client, pair: client.search(
            vector=np.full(pair.dimensions, np.inf), collection=pair.collection
        ),
    ),
    "nothing left": (
        "QUERY_CANCELS_OUT",
        options(query=Q(item_id="item 01") - Q(item_id="item 01")),
    ),
    "weight": ("PARAMETER_OUT_OF_RANGE", options(query=Q("x") + 101 * Q("y"))),
    "no weight": ("PARAMETER_OUT_OF_RANGE", options(query=Q("x") + 0 * Q("y"))),
    "many terms": (
        "PARAMETER_OUT_OF_RANGE",
        lambda client, pair: client.search(
            sum((Q("x") for _ in range(16)), start=Q("x")), collection=pair.collection
        ),
    ),
    "one bad term": ("ITEM_NOT_FOUND", options(query=Q("x") + Q(item_id="nobody"))),
    "an image with a text": (
        "MODALITY_UNSUPPORTED",
        options(query=Q("a cup", image=photos.photo("coffee"))),
    ),
    "an image with a blank text": (
        "TEXT_EMPTY",
        options(query=Q(" ", image=photos.photo("coffee"))),
    ),
    "crop": (
        "CROP_INVALID",
        options(query=Q(image=photos.photo("chelsea"), crop=Box(left=0.5, right=0.5))),
    ),
    "page token": (
        "PAGE_TOKEN_INVALID",
        lambda client, pair: client.search_page(
            "x", collection=pair.collection, page_token="nonsense"
        ),
    ),
    "page token of another search": (
        "PAGE_TOKEN_INVALID",
        lambda client, pair: client.search_page(
            vector=pair.vector(2),
            collection=pair.collection,
            page_token=client.search_page(
                vector=pair.vector(1), collection=pair.collection, page_size=3
            ).next_page_token,
        ),
    ),
    "confirmation": (
        "CONFIRMATION_INVALID",
        lambda client, pair: client.delete_items(
            collection=pair.collection, filter=F("year") > 1, confirmation_token="nonsense"
        ),
    ),
    "confirmation of another deletion": (
        "CONFIRMATION_INVALID",
        lambda client, pair: client.delete_collection(
            pair.collection,
            confirmation_token=client.preview_deletion(
                pair.collection, filter=F("year") > 1
            ).confirmation_token,
        ),
    ),
    "no image to download": (
        "IMAGE_NOT_FOUND",
        lambda client, pair: client.download_image("text", collection=pair.collection),
    ),
    "no item to download": (
        "ITEM_NOT_FOUND",
        lambda client, pair: client.download_image("nobody", collection=pair.collection),
    ),
    "existing collection": (
        "COLLECTION_EXISTS",
        lambda client, pair: client.create_collection(pair.collection),
    ),
    "bad collection name": ("NAME_INVALID", created(name="bad name")),
    "bad field name": ("NAME_INVALID", created(FieldSchema("bad name", FieldType.BOOL))),
    "field twice": (
        "PARAMETER_OUT_OF_RANGE",
        created(*[FieldSchema("x", FieldType.BOOL)] * 2),
    ),
    "many fields": (
        "PARAMETER_OUT_OF_RANGE",
        created(*(FieldSchema(f"f{number}", FieldType.BOOL) for number in range(57))),
    ),
    "indexed list": (
        "FIELD_TYPE",
        created(FieldSchema("x", FieldType.STRING_LIST, indexed=True)),
    ),
    "words of numbers": ("FIELD_TYPE", created(FieldSchema("x", FieldType.INT64, full_text=True))),
    "expected count": ("PARAMETER_OUT_OF_RANGE", created(expected_item_count=-1)),
    "index parameter": (
        "PARAMETER_OUT_OF_RANGE",
        created(index=VectorIndex(IndexType.HNSW, {"nlist": 3})),
    ),
    "index parameter out of range": (
        "PARAMETER_OUT_OF_RANGE",
        created(index=VectorIndex(IndexType.HNSW, {"M": 1})),
    ),
    "parameters of no index": (
        "PARAMETER_OUT_OF_RANGE",
        created(index=VectorIndex(params={"M": 16})),
    ),
    "index that Milvus Lite lacks": (
        "INDEX_UNSUPPORTED",
        created(index=VectorIndex(IndexType.DISKANN)),
    ),
    "dimensions that the model lacks": ("DIMENSIONS_UNSUPPORTED", created(dimensions=100)),
    "storage that Milvus Lite lacks": (
        "STORAGE_UNSUPPORTED",
        created(storage=VectorStorage(ElementType.FLOAT16)),
    ),
    "rescoring of float16": (
        "PARAMETER_OUT_OF_RANGE",
        created(storage=VectorStorage(ElementType.FLOAT16, rescore=True)),
    ),
    "another model": ("MODEL_MISMATCH", created(model=ModelVersion(model="nobody"))),
    "alias of a collection": (
        "COLLECTION_EXISTS",
        lambda client, pair: client.set_alias(pair.collection, pair.collection),
    ),
    "bad alias": (
        "NAME_INVALID",
        lambda client, pair: client.set_alias("bad name", pair.collection),
    ),
    "model to embed": ("MODEL_NOT_FOUND", lambda client, _: client.embed("x", model="nobody")),
    "model to describe": ("MODEL_NOT_FOUND", lambda client, _: client.get_model("nobody")),
    "model to rank": ("MODEL_NOT_FOUND", lambda client, _: client.rank("x", ["y"], model="nobody")),
    "dimensions": ("DIMENSIONS_UNSUPPORTED", lambda client, _: client.embed("x", dimensions=3)),
    "blank content": ("TEXT_EMPTY", lambda client, _: client.embed(["x", " "])),
    "no content": ("IMAGE_FORMAT_UNSUPPORTED", lambda client, _: client.embed(Q(image=b"x" * 20))),
    "side": (
        "PARAMETER_OUT_OF_RANGE",
        lambda client, _: client.embed("x", thumbnail_side=5),
    ),
    "top_k": ("PARAMETER_OUT_OF_RANGE", lambda client, _: client.rank("x", ["y"], top_k=-1)),
    "no candidates": ("BATCH_EMPTY", lambda client, _: client.rank("x", [])),
    "many candidates": ("BATCH_TOO_LARGE", lambda client, _: client.rank("x", ["y"] * 256)),
    "blank query to rank": ("TEXT_EMPTY", lambda client, _: client.rank(" ", ["y"])),
    "long text": ("TEXT_TOO_LONG", lambda client, _: client.embed("x" * 100_001)),
    "text that is not cut": (
        "TEXT_TOO_LONG",
        lambda client, _: client.embed("word " * 1_000, truncate=False),
    ),
}


# Requests that the client does not send


def sent(rpc: Any, **fields: Any) -> Call:
    """Return the call of a request with these fields; `collection` is filled in if it has one."""

    def call(client: SentinelClient, pair: Pair) -> Any:
        given = {name: one(pair) if callable(one) else one for name, one in fields.items()}
        if "collection" in rpc.request.DESCRIPTOR.fields_by_name:
            given = {"collection": pair.collection} | given
        connection = client._client._connection
        return client._run(connection.unary(rpc, rpc.request(**given), 20))

    return call


def params(**fields: Any) -> Callable[[Pair], Any]:
    """Return the parameters of a search, by default one for a text."""
    query = fields.pop("query", search_pb.Query(content=content_pb2.Content(text="x")))
    return lambda pair: search_pb.SearchParams(collection=pair.collection, query=query, **fields)


def paged(**fields: Any) -> Call:
    return sent(_rpcs.SEARCH_PAGE, params=params(**fields))


def created_as(**fields: Any) -> Call:
    made = collection_pb.Collection(**({"name": "never_created"} | fields))
    return sent(_rpcs.CREATE_COLLECTION, collection=made)


COMPARISON = filter_pb2.Comparison(field="year", operator="OPERATOR_EQUAL")
NO_CENTER = filter_pb2.GeoComparison(field="place", circle=filter_pb2.GeoCircle(radius_meters=5))
NO_OPERATOR = filter_pb2.Comparison(field="year", values=[filter_pb2.FieldValue(int_value=1)])
TEXT = content_pb2.Content(text="x")
RAW: dict[str, tuple[str, Call]] = {
    "no items": ("BATCH_EMPTY", sent(_rpcs.UPSERT_ITEMS)),
    "many items": ("BATCH_TOO_LARGE", sent(_rpcs.UPSERT_ITEMS, items=[item_pb.Item()] * 257)),
    "no ids": ("BATCH_EMPTY", sent(_rpcs.GET_ITEMS)),
    "many ids": ("BATCH_TOO_LARGE", sent(_rpcs.GET_ITEMS, ids=["x"] * 1001)),
    "long id": ("NAME_INVALID", sent(_rpcs.GET_ITEMS, ids=["x", "y" * 257])),
    "nothing to delete": ("BATCH_EMPTY", sent(_rpcs.DELETE_ITEMS)),
    "no ids to delete": ("BATCH_EMPTY", sent(_rpcs.DELETE_ITEMS, ids=item_pb.ItemIds())),
    "no searches": ("BATCH_EMPTY", sent(_rpcs.BATCH_SEARCH)),
    "many searches": (
        "BATCH_TOO_LARGE",
        sent(_rpcs.BATCH_SEARCH, searches=[search_pb.SearchPageRequest()] * 65),
    ),
    "no query": ("QUERY_MISSING", paged(query=search_pb.Query())),
    "no terms": (
        "QUERY_MISSING",
        paged(query=search_pb.Query(composite=search_pb.CompositeQuery())),
    ),
    "empty term": (
        "QUERY_MISSING",
        paged(
            query=search_pb.Query(
                composite=search_pb.CompositeQuery(terms=[search_pb.WeightedTerm()])
            )
        ),
    ),
    "no content": (
        "CONTENT_MISSING",
        paged(query=search_pb.Query(content=content_pb2.Content())),
    ),
    "element type": (
        "VECTOR_INVALID",
        paged(query=search_pb.Query(vector=content_pb2.Vector(element_type="ELEMENT_TYPE_INT8"))),
    ),
    "length of a vector": (
        "VECTOR_INVALID",
        paged(query=search_pb.Query(vector=content_pb2.Vector(data=b"123", dimensions=1))),
    ),
    "empty filter": ("FILTER_INVALID", paged(filter=filter_pb2.Filter())),
    "empty group": ("FILTER_INVALID", paged(filter=filter_pb2.Filter(all_of=filter_pb2.Filters()))),
    "no operator": ("FILTER_INVALID", paged(filter=filter_pb2.Filter(comparison=NO_OPERATOR))),
    "no center": ("FILTER_INVALID", paged(filter=filter_pb2.Filter(geo=NO_CENTER))),
    "no value": ("FILTER_INVALID", paged(filter=filter_pb2.Filter(comparison=COMPARISON))),
    "consistency": ("PARAMETER_OUT_OF_RANGE", paged(consistency=9)),
    "page token of collections": (
        "PAGE_TOKEN_INVALID",
        sent(_rpcs.LIST_COLLECTIONS, page_token="x"),
    ),
    "page size of collections": (
        "PARAMETER_OUT_OF_RANGE",
        sent(_rpcs.LIST_COLLECTIONS, page_size=-1),
    ),
    "page token of items": ("PAGE_TOKEN_INVALID", sent(_rpcs.LIST_ITEMS, page_token="x")),
    "metric": ("PARAMETER_OUT_OF_RANGE", created_as(metric=9)),
    "index type": (
        "PARAMETER_OUT_OF_RANGE",
        created_as(index=collection_pb.VectorIndex(type=99)),
    ),
    "no type": (
        "PARAMETER_OUT_OF_RANGE",
        created_as(fields=[collection_pb.FieldSchema(name="x")]),
    ),
    "default consistency": ("PARAMETER_OUT_OF_RANGE", created_as(default_consistency=9)),
    "tenant": ("NAME_INVALID", created_as(name="tenant_x__c")),
    "nothing to embed": ("BATCH_EMPTY", sent(_rpcs.EMBED)),
    "much to embed": ("BATCH_TOO_LARGE", sent(_rpcs.EMBED, contents=[TEXT] * 257)),
    "priority": (
        "PARAMETER_OUT_OF_RANGE",
        sent(_rpcs.EMBED, contents=[TEXT], options=embedding_pb.EmbedOptions(priority=9)),
    ),
    "role": (
        "PARAMETER_OUT_OF_RANGE",
        sent(_rpcs.EMBED, contents=[TEXT], options=embedding_pb.EmbedOptions(role=9)),
    ),
    "role of a query": (
        "PARAMETER_OUT_OF_RANGE",
        sent(_rpcs.RANK, query=TEXT, candidates=[TEXT], query_role=9),
    ),
    "role of candidates": (
        "PARAMETER_OUT_OF_RANGE",
        sent(_rpcs.RANK, query=TEXT, candidates=[TEXT], candidates_role=9),
    ),
}
