"""Every bad input has its code, its reason and a message; none of them disturbs what is stored."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import grpc
import numpy as np
import pytest
from PIL import Image

from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import (
    collection_service_pb2,
    filter_pb2,
    item_service_pb2,
    search_service_pb2,
)
from tests import photos
from tests.search_server.conftest import (
    Gateway,
    error_info,
    image,
    photo_item,
    reason_of,
    string,
    text,
)
from tests.search_server.items.ingesting import Stream

Item = item_service_pb2.Item
Result = item_service_pb2.ItemResult
Query = search_service_pb2.Query
Term = search_service_pb2.WeightedTerm


def png_of_200_megapixels() -> bytes:
    """A 20,000 by 10,000 picture in some 25 kB: nothing may try to decode it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 20_000, 10_000, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(10_000 * (1 + 20_000 // 8)))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def vector(values: list[float], dimensions: int | None = None) -> content_pb2.Vector:
    data = np.array(values, dtype="<f4").tobytes()
    return content_pb2.Vector(data=data, dimensions=dimensions or len(values))


def by_uri(uri: str) -> content_pb2.Content:
    return content_pb2.Content(image=content_pb2.Image(uri=uri))


def cropped(data: bytes, **box: float) -> content_pb2.Content:
    crop = content_pb2.BoundingBox(**box)
    return content_pb2.Content(image=content_pb2.Image(data=data, crop=crop))


def composite(*terms: Term) -> Query:
    return Query(composite=search_service_pb2.CompositeQuery(terms=terms))


def compare(field: str, *values: filter_pb2.FieldValue, operator: int = 1) -> filter_pb2.Filter:
    return filter_pb2.Filter(
        comparison=filter_pb2.Comparison(field=field, operator=operator, values=values)  # type: ignore[arg-type]
    )


def nested(depth: int) -> filter_pb2.Filter:
    made = compare("path", string("x"))
    for _ in range(depth):
        made = filter_pb2.Filter(all_of=filter_pb2.Filters(filters=[made]))
    return made


def search(gateway: Gateway, collection: str, query: Query, **options: object) -> None:
    limit = options.pop("limit", 5)
    chunk_size = options.pop("chunk_size", 32)
    params = search_service_pb2.SearchParams(collection=collection, query=query, **options)  # type: ignore[arg-type]
    request = search_service_pb2.SearchRequest(params=params, limit=limit, chunk_size=chunk_size)  # type: ignore[arg-type]
    list(gateway.search.Search(request, timeout=20))


def page(gateway: Gateway, collection: str, page_size: int) -> None:
    params = search_service_pb2.SearchParams(collection=collection, query=text("a cat"))
    gateway.search.SearchPage(
        search_service_pb2.SearchPageRequest(params=params, page_size=page_size), timeout=20
    )


def listing_token(gateway: Gateway) -> str:
    gateway.create()
    gateway.create()
    request = collection_service_pb2.ListCollectionsRequest(page_size=1)
    return gateway.collections.ListCollections(request, timeout=20).next_page_token


def turn(gateway: Gateway, collection: str, change: Callable[[str], str], words: str) -> None:
    """Ask for a page, then for the one after it with a token that was tampered with."""
    params = search_service_pb2.SearchParams(collection=collection, query=text("a cat"))
    request = search_service_pb2.SearchPageRequest(params=params, page_size=3)
    token = gateway.search.SearchPage(request, timeout=20).next_page_token
    assert token
    request.page_token = change(token)
    request.params.query.content.text = words
    gateway.search.SearchPage(request, timeout=20)


def delete(gateway: Gateway, collection: str, **selector: object) -> None:
    request = item_service_pb2.DeleteItemsRequest(collection=collection, **selector)  # type: ignore[arg-type]
    gateway.items.DeleteItems(request, timeout=20)


def create(gateway: Gateway, name: str, *fields: tuple[str, int], model: str = "") -> None:
    schemas = [
        collection_service_pb2.FieldSchema(name=field, type=field_type)  # type: ignore[arg-type]
        for field, field_type in fields
    ]
    collection = collection_service_pb2.Collection(name=name, fields=schemas)
    collection.model_version.model = model
    gateway.collections.CreateCollection(
        collection_service_pb2.CreateCollectionRequest(collection=collection), timeout=20
    )


def ingest(
    gateway: Gateway, collection: str | None, *messages: item_service_pb2.IngestItemsRequest
) -> None:
    with Stream(gateway, collection) as stream:
        for message in messages:
            stream.send_message(message)
        stream.rest()


def batch(sequence: int, *items: Item) -> item_service_pb2.IngestItemsRequest:
    made = item_service_pb2.IngestBatch(sequence=sequence, items=items)
    return item_service_pb2.IngestItemsRequest(batch=made)


def list_items(gateway: Gateway, collection: str, **options: object) -> str:
    request = item_service_pb2.ListItemsRequest(collection=collection, **options)  # type: ignore[arg-type]
    return gateway.items.ListItems(request, timeout=20).next_page_token


def download(gateway: Gateway, collection: str, item_id: str) -> None:
    request = item_service_pb2.DownloadImageRequest(collection=collection, id=item_id)
    list(gateway.items.DownloadImage(request, timeout=20))


def download_a_text(gateway: Gateway, collection: str) -> None:
    other = gateway.create()
    gateway.upsert(other, Item(id="words", content=content_pb2.Content(text="a caption")))
    download(gateway, other, "words")


def make(gateway: Gateway, name: str = "unused", **collection: object) -> None:
    wanted = collection_service_pb2.Collection(name=name, **collection)  # type: ignore[arg-type]
    gateway.collections.CreateCollection(
        collection_service_pb2.CreateCollectionRequest(collection=wanted), timeout=20
    )


def set_alias(gateway: Gateway, alias: str, collection: str) -> None:
    request = collection_service_pb2.SetAliasRequest(alias=alias, collection=collection)
    gateway.collections.SetAlias(request, timeout=20)


def delete_alias(gateway: Gateway, alias: str) -> None:
    request = collection_service_pb2.DeleteAliasRequest(alias=alias)
    gateway.collections.DeleteAlias(request, timeout=20)


def indexed_by(kind: int = 0, **params: int) -> collection_service_pb2.VectorIndex:
    return collection_service_pb2.VectorIndex(type=kind, params=params)  # type: ignore[arg-type]


CAT = photos.photo("chelsea").read_bytes()
GOOD = [0.1] * 384
NAN = [float("nan"), *GOOD[1:]]
STRING = collection_service_pb2.FieldSchema.TYPE_STRING
HNSW = collection_service_pb2.VectorIndex.TYPE_HNSW
INT64 = collection_service_pb2.FieldSchema.TYPE_INT64


def diversity(**values: float) -> dict[str, object]:
    return {"diversity": search_service_pb2.DiversityParams(**values)}  # type: ignore[arg-type]


def hybrid(**values: object) -> dict[str, object]:
    return {"hybrid": search_service_pb2.HybridParams(**{"text": "cat", **values})}  # type: ignore[arg-type]


def group(field: str, size: int = 0) -> dict[str, object]:
    return {"group": search_service_pb2.GroupParams(field=field, size=size)}


BAD_RANKINGS: list[tuple[str, Query, dict[str, object], str]] = [
    *(
        (name, text("a cat"), params, "PARAMETER_OUT_OF_RANGE")
        for name, params in {
            "a duplicate threshold of 0": diversity(duplicate_threshold=0),
            "a duplicate threshold above 1": diversity(duplicate_threshold=1.01),
            "a duplicate threshold of NaN": diversity(duplicate_threshold=float("nan")),
            "lambda below 0": diversity(mmr_lambda=-0.1),
            "lambda above 1": diversity(mmr_lambda=1.1),
            "lambda NaN": diversity(mmr_lambda=float("nan")),
            "groups of 101": group("path", 101),
            "k beyond 16,384": hybrid(rrf_k=16_385),
            "a vector weight below 0": hybrid(vector_weight=-1),
            "a text weight above 1,000": hybrid(text_weight=1_001),
            "a text weight of NaN": hybrid(text_weight=float("nan")),
            "no weight at all": hybrid(vector_weight=0, text_weight=0),
            "text and diversity": hybrid() | diversity(mmr_lambda=0.5),
            "text and groups": hybrid() | group("path"),
        }.items()
    ),
    ("groups of an undeclared field", text("a cat"), group("nope"), "FIELD_UNKNOWN"),
    ("groups of no field", text("a cat"), group(""), "FIELD_UNKNOWN"),
    ("groups of a double", text("a cat"), group("ratio"), "FIELD_TYPE"),
    ("groups of a list", text("a cat"), group("tags"), "FIELD_TYPE"),
    ("blank words", text("a cat"), hybrid(text=" \n"), "TEXT_EMPTY"),
    ("no words for a picture", Query(content=image(CAT)), hybrid(text=""), "TEXT_EMPTY"),
    ("no words for an item", Query(item_id="x"), hybrid(text=""), "TEXT_EMPTY"),
    ("70 kB of words", text("a cat"), hybrid(text="x" * 70_000), "TEXT_TOO_LONG"),
]

Call = Callable[[Gateway, str], object]
CALLS: dict[str, tuple[Call, str, str]] = {
    "no query": (lambda g, c: search(g, c, Query()), "INVALID_ARGUMENT", "QUERY_MISSING"),
    "a query without content": (
        lambda g, c: search(g, c, Query(content=content_pb2.Content())),
        "INVALID_ARGUMENT",
        "CONTENT_MISSING",
    ),
    "empty text": (lambda g, c: search(g, c, text("")), "INVALID_ARGUMENT", "TEXT_EMPTY"),
    "blank text": (lambda g, c: search(g, c, text(" \n\t")), "INVALID_ARGUMENT", "TEXT_EMPTY"),
    "text over the worker's limit": (
        lambda g, c: search(g, c, text("cat " * 100_000)),
        "INVALID_ARGUMENT",
        "TEXT_TOO_LONG",
    ),
    "an image without bytes": (
        lambda g, c: search(g, c, Query(content=image(b""))),
        "INVALID_ARGUMENT",
        "IMAGE_EMPTY",
    ),
    "an image of 50 MB": (
        lambda g, c: search(g, c, Query(content=image(CAT + bytes(50_331_649)))),
        "INVALID_ARGUMENT",
        "IMAGE_TOO_LARGE",
    ),
    "an image of 200 megapixels": (
        lambda g, c: search(g, c, Query(content=image(png_of_200_megapixels()))),
        "INVALID_ARGUMENT",
        "IMAGE_TOO_MANY_PIXELS",
    ),
    "a truncated JPEG": (
        lambda g, c: search(
            g, c, Query(content=image(photos.photo("rocket").read_bytes()[:9_000]))
        ),
        "INVALID_ARGUMENT",
        "IMAGE_DECODE_FAILED",
    ),
    "a PDF named .jpg": (
        lambda g, c: search(g, c, Query(content=image(b"%PDF-1.7\n1 0 obj"))),
        "INVALID_ARGUMENT",
        "IMAGE_FORMAT_UNSUPPORTED",
    ),
    "a vector of other dimensions": (
        lambda g, c: search(g, c, Query(vector=vector(GOOD[:7]))),
        "INVALID_ARGUMENT",
        "VECTOR_DIMENSIONS",
    ),
    "a vector whose bytes are too few": (
        lambda g, c: search(g, c, Query(vector=vector(GOOD, dimensions=385))),
        "INVALID_ARGUMENT",
        "VECTOR_INVALID",
    ),
    "a NaN vector": (
        lambda g, c: search(g, c, Query(vector=vector(NAN))),
        "INVALID_ARGUMENT",
        "VECTOR_INVALID",
    ),
    "a zero vector": (
        lambda g, c: search(g, c, Query(vector=vector([0.0] * 384))),
        "INVALID_ARGUMENT",
        "VECTOR_INVALID",
    ),
    "an image by a URI that no list allows": (
        lambda g, c: search(g, c, Query(content=by_uri("https://example.com/cat.jpg"))),
        "PERMISSION_DENIED",
        "URI_FORBIDDEN",
    ),
    "an image by the URI of a file": (
        lambda g, c: search(g, c, Query(content=by_uri("file:///etc/passwd"))),
        "PERMISSION_DENIED",
        "URI_FORBIDDEN",
    ),
    "an image by an empty URI": (
        lambda g, c: search(g, c, Query(content=by_uri(""))),
        "INVALID_ARGUMENT",
        "IMAGE_EMPTY",
    ),
    "a crop box the wrong way round": (
        lambda g, c: search(g, c, Query(content=cropped(CAT, left=0.6, right=0.4, bottom=1))),
        "INVALID_ARGUMENT",
        "CROP_INVALID",
    ),
    "a crop box of NaN": (
        lambda g, c: search(g, c, Query(content=cropped(CAT, right=float("nan"), bottom=1))),
        "INVALID_ARGUMENT",
        "CROP_INVALID",
    ),
    "a composite without terms": (
        lambda g, c: search(g, c, composite()),
        "INVALID_ARGUMENT",
        "QUERY_MISSING",
    ),
    "a composite of 17 terms": (
        lambda g, c: search(g, c, composite(*[Term(item_id="x")] * 17)),
        "INVALID_ARGUMENT",
        "PARAMETER_OUT_OF_RANGE",
    ),
    "a composite with an infinite weight": (
        lambda g, c: search(g, c, composite(Term(item_id="x", weight=float("inf")))),
        "INVALID_ARGUMENT",
        "PARAMETER_OUT_OF_RANGE",
    ),
    "a composite that sums to zero": (
        lambda g, c: search(
            g, c, composite(Term(vector=vector(GOOD)), Term(vector=vector(GOOD), weight=-1))
        ),
        "INVALID_ARGUMENT",
        "QUERY_CANCELS_OUT",
    ),
    "an unknown item": (
        lambda g, c: search(g, c, Query(item_id="nope")),
        "NOT_FOUND",
        "ITEM_NOT_FOUND",
    ),
    "an unknown item with a very long id": (
        lambda g, c: search(g, c, Query(item_id="名" * 20_000)),
        "INVALID_ARGUMENT",
        "NAME_INVALID",
    ),
    "a very long collection name": (
        lambda g, c: search(g, "名" * 20_000, text("a cat")),
        "INVALID_ARGUMENT",
        "NAME_INVALID",
    ),
    "a collection name with a slash": (
        lambda g, c: search(g, "../x", text("a cat")),
        "INVALID_ARGUMENT",
        "NAME_INVALID",
    ),
    "a very long field name": (
        lambda g, c: search(g, c, text("a cat"), output_fields=["名" * 20_000]),
        "INVALID_ARGUMENT",
        "FIELD_UNKNOWN",
    ),
    "an unknown collection": (
        lambda g, c: search(g, "nope", text("a cat")),
        "NOT_FOUND",
        "COLLECTION_NOT_FOUND",
    ),
    "no collection": (
        lambda g, c: search(g, "", text("a cat")),
        "INVALID_ARGUMENT",
        "NAME_INVALID",
    ),
    "limit 0": (
        lambda g, c: search(g, c, text("a cat"), limit=0),
        "INVALID_ARGUMENT",
        "PARAMETER_OUT_OF_RANGE",
    ),
    "a negative limit": (
        lambda g, c: search(g, c, text("a cat"), limit=-1),
        "INVALID_ARGUMENT",
        "PARAMETER_OUT_OF_RANGE",
    ),
    "a huge limit": (
        lambda g, c: search(g, c, text("a cat"), limit=2**31 - 1),
        "INVALID_ARGUMENT",
        "PARAMETER_OUT_OF_RANGE",
    ),
    "a chunk size of 0": (
        lambda g, c: search(g, c, text("a cat"), chunk_size=0),
        "INVALID_ARGUMENT",
        "PARAMETER_OUT_OF_RANGE",
    ),
    "a negative page size": (
        lambda g, c: page(g, c, -1),
        "INVALID_ARGUMENT",
        "PARAMETER_OUT_OF_RANGE",
    ),
    "a page token of another query": (
        lambda g, c: turn(g, c, str, "a dog"),
        "INVALID_ARGUMENT",
        "PAGE_TOKEN_INVALID",
    ),
    "a page token with a flipped bit": (
        lambda g, c: turn(g, c, lambda token: chr(ord(token[0]) ^ 1) + token[1:], "a cat"),
        "INVALID_ARGUMENT",
        "PAGE_TOKEN_INVALID",
    ),
    "half a page token": (
        lambda g, c: turn(g, c, lambda token: token[: len(token) // 2], "a cat"),
        "INVALID_ARGUMENT",
        "PAGE_TOKEN_INVALID",
    ),
    "a page token of nobody": (
        lambda g, c: turn(g, c, lambda _: "nonsense é", "a cat"),
        "INVALID_ARGUMENT",
        "PAGE_TOKEN_INVALID",
    ),
    "a page token of a listing": (
        lambda g, c: turn(g, c, lambda _: listing_token(g), "a cat"),
        "INVALID_ARGUMENT",
        "PAGE_TOKEN_INVALID",
    ),
    "an unknown consistency": (
        lambda g, c: search(g, c, text("a cat"), consistency=9),
        "INVALID_ARGUMENT",
        "PARAMETER_OUT_OF_RANGE",
    ),
    "a collection of an unknown consistency": (
        lambda g, c: g.create("unused", default_consistency=9),
        "INVALID_ARGUMENT",
        "PARAMETER_OUT_OF_RANGE",
    ),
    "an unknown index parameter": (
        lambda g, c: search(g, c, text("a cat"), index_params={"nope": 1}),
        "INVALID_ARGUMENT",
        "PARAMETER_OUT_OF_RANGE",
    ),
    "an ef of 0": (
        lambda g, c: search(g, c, text("a cat"), index_params={"ef": 0}),
        "INVALID_ARGUMENT",
        "PARAMETER_OUT_OF_RANGE",
    ),
    "a huge nprobe": (
        lambda g, c: search(g, c, text("a cat"), index_params={"nprobe": 2**62}),
        "INVALID_ARGUMENT",
        "PARAMETER_OUT_OF_RANGE",
    ),
    "a negative search_list": (
        lambda g, c: search(g, c, text("a cat"), index_params={"search_list": -1}),
        "INVALID_ARGUMENT",
        "PARAMETER_OUT_OF_RANGE",
    ),
    "a min_score over 1": (
        lambda g, c: search(g, c, text("a cat"), min_score=1.5),
        "INVALID_ARGUMENT",
        "PARAMETER_OUT_OF_RANGE",
    ),
    "a min_score of NaN": (
        lambda g, c: search(g, c, text("a cat"), min_score=float("nan")),
        "INVALID_ARGUMENT",
        "PARAMETER_OUT_OF_RANGE",
    ),
    "an unknown output field": (
        lambda g, c: search(g, c, text("a cat"), output_fields=["nope"]),
        "INVALID_ARGUMENT",
        "FIELD_UNKNOWN",
    ),
    "an unknown field in a filter": (
        lambda g, c: search(g, c, text("a cat"), filter=compare("nope", string("x"))),
        "INVALID_ARGUMENT",
        "FIELD_UNKNOWN",
    ),
    "a value of another type in a filter": (
        lambda g, c: search(g, c, text("a cat"), filter=compare("year", string("x"))),
        "INVALID_ARGUMENT",
        "FIELD_TYPE",
    ),
    "an infinite value in a filter": (
        lambda g, c: search(
            g,
            c,
            text("a cat"),
            filter=compare("ratio", filter_pb2.FieldValue(double_value=float("inf"))),
        ),
        "INVALID_ARGUMENT",
        "FIELD_TYPE",
    ),
    "a comparison without an operator": (
        lambda g, c: search(g, c, text("a cat"), filter=compare("path", string("x"), operator=0)),
        "INVALID_ARGUMENT",
        "FILTER_INVALID",
    ),
    "an empty filter": (
        lambda g, c: search(g, c, text("a cat"), filter=filter_pb2.Filter()),
        "INVALID_ARGUMENT",
        "FILTER_INVALID",
    ),
    "an empty group in a filter": (
        lambda g, c: search(
            g, c, text("a cat"), filter=filter_pb2.Filter(any_of=filter_pb2.Filters())
        ),
        "INVALID_ARGUMENT",
        "FILTER_INVALID",
    ),
    "a filter 40 deep": (
        lambda g, c: search(g, c, text("a cat"), filter=nested(40)),
        "INVALID_ARGUMENT",
        "FILTER_INVALID",
    ),
    **{
        f"a ranking with {name}": (
            lambda g, c, query=query, params=params: search(g, c, query, **params),
            "INVALID_ARGUMENT",
            reason,
        )
        for name, query, params, reason in BAD_RANKINGS
    },
    "words of a field that is no string": (
        lambda g, c: make(
            g, fields=[collection_service_pb2.FieldSchema(name="a", type=INT64, full_text=True)]
        ),
        "INVALID_ARGUMENT",
        "FIELD_TYPE",
    ),
    "zero items": (Gateway.upsert, "INVALID_ARGUMENT", "BATCH_EMPTY"),
    "too many items": (
        lambda g, c: g.upsert(c, *[Item(id="x")] * 257),
        "INVALID_ARGUMENT",
        "BATCH_TOO_LARGE",
    ),
    "items for an unknown collection": (
        lambda g, c: g.upsert("nope", photo_item("chelsea")),
        "NOT_FOUND",
        "COLLECTION_NOT_FOUND",
    ),
    "a stream that is empty": (
        lambda g, c: ingest(g, None),
        "INVALID_ARGUMENT",
        "STREAM_INVALID",
    ),
    "a stream that begins with a batch": (
        lambda g, c: ingest(g, None, batch(1, photo_item("chelsea"))),
        "INVALID_ARGUMENT",
        "STREAM_INVALID",
    ),
    "a stream that starts twice": (
        lambda g, c: ingest(
            g,
            c,
            item_service_pb2.IngestItemsRequest(start=item_service_pb2.IngestStart(collection=c)),
        ),
        "INVALID_ARGUMENT",
        "STREAM_INVALID",
    ),
    "a stream with an empty message": (
        lambda g, c: ingest(g, c, item_service_pb2.IngestItemsRequest()),
        "INVALID_ARGUMENT",
        "STREAM_INVALID",
    ),
    "a stream whose sequence numbers fall": (
        lambda g, c: ingest(g, c, batch(2, Item(id="x")), batch(1, Item(id="x"))),
        "INVALID_ARGUMENT",
        "STREAM_INVALID",
    ),
    "a stream with an empty batch": (
        lambda g, c: ingest(g, c, batch(1)),
        "INVALID_ARGUMENT",
        "BATCH_EMPTY",
    ),
    "a stream with too large a batch": (
        lambda g, c: ingest(g, c, batch(1, *[Item(id="x")] * 257)),
        "INVALID_ARGUMENT",
        "BATCH_TOO_LARGE",
    ),
    "a stream into an unknown collection": (
        lambda g, c: ingest(g, "nope", batch(1, photo_item("chelsea"))),
        "NOT_FOUND",
        "COLLECTION_NOT_FOUND",
    ),
    "no ids to get": (Gateway.get, "INVALID_ARGUMENT", "BATCH_EMPTY"),
    "too many ids to get": (
        lambda g, c: g.get(c, *map(str, range(1001))),
        "INVALID_ARGUMENT",
        "BATCH_TOO_LARGE",
    ),
    "listing a negative page size": (
        lambda g, c: list_items(g, c, page_size=-1),
        "INVALID_ARGUMENT",
        "PARAMETER_OUT_OF_RANGE",
    ),
    "listing an unknown collection": (
        lambda g, c: list_items(g, "nope"),
        "NOT_FOUND",
        "COLLECTION_NOT_FOUND",
    ),
    "listing an unknown output field": (
        lambda g, c: list_items(g, c, output_fields=["nope"]),
        "INVALID_ARGUMENT",
        "FIELD_UNKNOWN",
    ),
    "listing by a filter on an unknown field": (
        lambda g, c: list_items(g, c, filter=compare("nope", string("x"))),
        "INVALID_ARGUMENT",
        "FIELD_UNKNOWN",
    ),
    "listing with the page token of another filter": (
        lambda g, c: list_items(
            g, c, page_token=list_items(g, c, page_size=1), filter=compare("path", string("x"))
        ),
        "INVALID_ARGUMENT",
        "PAGE_TOKEN_INVALID",
    ),
    "listing with a damaged page token": (
        lambda g, c: list_items(g, c, page_token=list_items(g, c, page_size=1).swapcase()),
        "INVALID_ARGUMENT",
        "PAGE_TOKEN_INVALID",
    ),
    "the picture of an unknown item": (
        lambda g, c: download(g, c, "nope"),
        "NOT_FOUND",
        "ITEM_NOT_FOUND",
    ),
    "the picture of an item without an id": (
        lambda g, c: download(g, c, ""),
        "NOT_FOUND",
        "ITEM_NOT_FOUND",
    ),
    "the picture of an item in an unknown collection": (
        lambda g, c: download(g, "nope", "x"),
        "NOT_FOUND",
        "COLLECTION_NOT_FOUND",
    ),
    "the picture of a text": (download_a_text, "NOT_FOUND", "IMAGE_NOT_FOUND"),
    "deleting without a selector": (
        delete,
        "INVALID_ARGUMENT",
        "BATCH_EMPTY",
    ),
    "deleting by an empty filter": (
        lambda g, c: delete(g, c, filter=filter_pb2.Filter()),
        "INVALID_ARGUMENT",
        "FILTER_INVALID",
    ),
    "a collection that exists": (
        create,
        "ALREADY_EXISTS",
        "COLLECTION_EXISTS",
    ),
    "a collection name with a blank": (
        lambda g, c: create(g, "no good"),
        "INVALID_ARGUMENT",
        "NAME_INVALID",
    ),
    "a field name with a quote": (
        lambda g, c: create(g, "unused", ('a"b', STRING)),
        "INVALID_ARGUMENT",
        "NAME_INVALID",
    ),
    "a field without a type": (
        lambda g, c: create(g, "unused", ("a", 0)),
        "INVALID_ARGUMENT",
        "PARAMETER_OUT_OF_RANGE",
    ),
    "a field declared twice": (
        lambda g, c: create(g, "unused", ("a", STRING), ("a", STRING)),
        "INVALID_ARGUMENT",
        "PARAMETER_OUT_OF_RANGE",
    ),
    "too many fields": (
        lambda g, c: create(g, "unused", *((f"f{n}", STRING) for n in range(57))),
        "INVALID_ARGUMENT",
        "PARAMETER_OUT_OF_RANGE",
    ),
    "an index over a list of strings": (
        lambda g, c: make(
            g,
            fields=[
                collection_service_pb2.FieldSchema(
                    name="tags",
                    type=collection_service_pb2.FieldSchema.TYPE_STRING_LIST,
                    indexed=True,
                )
            ],
        ),
        "INVALID_ARGUMENT",
        "FIELD_TYPE",
    ),
    "a metric of another number": (
        lambda g, c: make(g, metric=7),
        "INVALID_ARGUMENT",
        "PARAMETER_OUT_OF_RANGE",
    ),
    "a negative expected_item_count": (
        lambda g, c: make(g, expected_item_count=-1),
        "INVALID_ARGUMENT",
        "PARAMETER_OUT_OF_RANGE",
    ),
    "an index of another number": (
        lambda g, c: make(g, index=indexed_by(99)),
        "INVALID_ARGUMENT",
        "PARAMETER_OUT_OF_RANGE",
    ),
    "parameters of no index": (
        lambda g, c: make(g, index=indexed_by(M=16)),
        "INVALID_ARGUMENT",
        "PARAMETER_OUT_OF_RANGE",
    ),
    "a parameter of another index": (
        lambda g, c: make(g, index=indexed_by(HNSW, nlist=16)),
        "INVALID_ARGUMENT",
        "PARAMETER_OUT_OF_RANGE",
    ),
    "a parameter of the index out of range": (
        lambda g, c: make(g, index=indexed_by(HNSW, M=1)),
        "INVALID_ARGUMENT",
        "PARAMETER_OUT_OF_RANGE",
    ),
    "a parameter of the index with a very long name": (
        lambda g, c: make(g, index=indexed_by(HNSW, **{"名" * 20_000: 1})),
        "INVALID_ARGUMENT",
        "PARAMETER_OUT_OF_RANGE",
    ),
    "an alias with a blank": (
        lambda g, c: set_alias(g, "no good", c),
        "INVALID_ARGUMENT",
        "NAME_INVALID",
    ),
    "an alias of no collection": (
        lambda g, c: set_alias(g, "fine", "nope"),
        "NOT_FOUND",
        "COLLECTION_NOT_FOUND",
    ),
    "an alias that is a collection": (
        lambda g, c: set_alias(g, c, c),
        "ALREADY_EXISTS",
        "COLLECTION_EXISTS",
    ),
    "deleting an alias without a name": (
        lambda g, c: delete_alias(g, ""),
        "INVALID_ARGUMENT",
        "NAME_INVALID",
    ),
    "a model that nobody serves": (
        lambda g, c: create(g, "unused", model="jina-clip-v9"),
        "FAILED_PRECONDITION",
        "MODEL_MISMATCH",
    ),
}

ITEMS: dict[str, tuple[Item, str]] = {
    "nothing": (Item(), "CONTENT_MISSING"),
    "empty text": (Item(content=content_pb2.Content(text="")), "TEXT_EMPTY"),
    "too long a text": (Item(content=content_pb2.Content(text="x" * 60_001)), "TEXT_TOO_LONG"),
    "no bytes": (Item(content=image(b"")), "IMAGE_EMPTY"),
    "20 MB": (Item(content=image(CAT + bytes(50_331_649))), "IMAGE_TOO_LARGE"),
    "200 megapixels": (Item(content=image(png_of_200_megapixels())), "IMAGE_TOO_MANY_PIXELS"),
    "truncated": (
        Item(content=image(photos.photo("rocket").read_bytes()[:9_000])),
        "IMAGE_DECODE_FAILED",
    ),
    "a PDF": (Item(content=image(b"%PDF-1.7\n1 0 obj")), "IMAGE_FORMAT_UNSUPPORTED"),
    "an image by a URI that no list allows": (
        Item(content=by_uri("https://example.com/cat.jpg")),
        "URI_FORBIDDEN",
    ),
    "an image by no URI": (Item(content=by_uri("cat.jpg")), "URI_FORBIDDEN"),
    "a part of a picture": (Item(content=cropped(CAT, right=0.5, bottom=1)), "CROP_INVALID"),
    "other dimensions": (Item(id="v", vector=vector(GOOD[:7])), "VECTOR_DIMENSIONS"),
    "NaN": (Item(id="v", vector=vector(NAN)), "VECTOR_INVALID"),
    "a bare vector without an id": (Item(vector=vector(GOOD)), "NAME_INVALID"),
    "too long an id": (Item(id="x" * 257, vector=vector(GOOD)), "NAME_INVALID"),
    "a control character in the id": (Item(id="a\nb", vector=vector(GOOD)), "NAME_INVALID"),
    "an undeclared field": (
        Item(id="v", vector=vector(GOOD), fields={"nope": string("x")}),
        "FIELD_UNKNOWN",
    ),
    "a field of another type": (
        Item(id="v", vector=vector(GOOD), fields={"year": string("x")}),
        "FIELD_TYPE",
    ),
    "a field without a value": (
        Item(id="v", vector=vector(GOOD), fields={"year": filter_pb2.FieldValue()}),
        "FIELD_TYPE",
    ),
    "fields of 70 kB": (
        Item(id="v", vector=vector(GOOD), fields={"path": string("x" * 70_000)}),
        "PARAMETER_OUT_OF_RANGE",
    ),
}


def odd_images() -> dict[str, bytes]:
    """Unusual but whole pictures, made from a photo."""
    with Image.open(photos.photo("chelsea")) as opened:
        cat = opened.convert("RGB").resize((120, 80))
    palette = cat.quantize(32)
    palette.info["transparency"] = 0
    sixteen_bit = Image.fromarray(np.asarray(cat.convert("L")).astype(np.uint16) * 257)
    made = {
        "an animated GIF": (
            "GIF",
            cat.quantize(32),
            {"save_all": True, "append_images": [palette]},
        ),
        "a CMYK JPEG": ("JPEG", cat.convert("CMYK"), {}),
        "a 16-bit PNG": ("PNG", sixteen_bit, {}),
        "a palette PNG with transparency": ("PNG", palette, {"transparency": 0}),
    }
    encoded = {}
    for name, (kind, picture, options) in made.items():
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        encoded[name] = buffer.getvalue()
    return encoded


@pytest.mark.parametrize("name", CALLS)
def test_a_bad_call_is_refused(gateway: Gateway, album: str, name: str) -> None:
    call, code, reason = CALLS[name]
    with pytest.raises(grpc.RpcError) as caught:
        call(gateway, album)
    assert error_info(caught.value) == (code, reason)
    assert len(caught.value.details()) > 10


def test_bad_items_fail_alone(gateway: Gateway) -> None:
    """All of them in one batch, each between two good neighbours."""
    collection = gateway.create()
    good = [
        Item(id=f"good{n}", vector=vector(np.eye(384)[n].tolist())) for n in range(len(ITEMS) + 1)
    ]
    batch = [good[0]]
    for neighbour, (bad, _) in zip(good[1:], ITEMS.values(), strict=True):
        batch += [bad, neighbour]
    results = gateway.upsert(collection, *batch)
    assert {result.outcome for result in results[::2]} == {Result.OUTCOME_STORED}
    reasons = [reason_of(result.error) for result in results[1::2]]
    assert dict(zip(ITEMS, reasons, strict=True)) == {
        name: reason for name, (_, reason) in ITEMS.items()
    }
    assert gateway.count(collection) == len(good)


@pytest.mark.parametrize("name", odd_images())
def test_an_odd_image_is_taken_for_what_it_shows(gateway: Gateway, album: str, name: str) -> None:
    hits = gateway.hits(album, Query(content=image(odd_images()[name])))
    assert hits[0].fields["path"].string_value == "chelsea.png"


def test_after_all_that_every_photo_is_still_there(gateway: Gateway, album: str) -> None:
    assert gateway.count(album) == len(photos.all_photos())
