"""Errors name the wrong field by its path in the request, down to the field itself, in one form.

`contents[1].image.data`, not `contents[1]`, whether a gateway or a worker finds the fault.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from sentinel.common.v1 import content_pb2
from sentinel.embedding.v1 import embedding_service_pb2 as embedding_pb
from sentinel.embedding.v1 import embedding_service_pb2_grpc
from sentinel.search.v1 import filter_pb2
from sentinel.search.v1 import item_service_pb2 as item_pb
from sentinel.search.v1 import search_service_pb2 as search_pb
from tests import photos, processes, secure
from tests.search_server.api.test_bad_input import GOOD, NAN, by_uri, compare, cropped, vector
from tests.search_server.conftest import Gateway, image, string

Content = content_pb2.Content
CAT = photos.photo("chelsea").read_bytes()
# What is wrong with a content, and where; the worker finds the second half.
BAD_CONTENTS = [
    (Content(), ""),
    (Content(text=" "), ".text"),
    (image(b""), ".image.data"),
    (by_uri("https://example.com/x.jpg"), ".image.uri"),
    (Content(text="cat " * 26_000), ".text"),
    (image(b"%PDF-1.7"), ".image.data"),
    (image(CAT[:5_000]), ".image.data"),
    (image(bytes(17_000_000)), ".image.data"),
]
BAD_CROP = (cropped(CAT, left=0.6, right=0.4, bottom=1), ".image.crop")


def paths_in(status: status_pb2.Status) -> list[str]:
    """The path in ErrorInfo's metadata and those in BadRequest; they must agree."""
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        if not detail.Unpack(info):
            detail.Unpack(bad)
    found = [violation.field for violation in bad.field_violations]
    assert found == [info.metadata["field"]], status
    return found


def path_of(error: grpc.RpcError) -> str:
    details = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    [path] = paths_in(status_pb2.Status.FromString(details))
    return path


def walk(request: Message, path: str) -> Any:
    """Return what is at `path`; fail if the request has no such field."""
    value: Any = request
    for name, key in re.findall(r"(\w+)(?:\[([^\]]*)\])?(?:\.|$)", path):
        assert name in value.DESCRIPTOR.fields_by_name, f"{path}: no {name}"
        value = getattr(value, name)
        if key:
            value = value[int(key)] if key.isdigit() else value[key]
    return value


def test_items_of_an_upsert_name_their_fields(gateway: Gateway) -> None:
    good = {"content": image(CAT)}
    bad: list[tuple[dict[str, Any], str]] = [
        *(({"content": content}, f".content{inside}") for content, inside in BAD_CONTENTS),
        ({"content": BAD_CROP[0]}, ".content.image.crop"),
        ({"id": "v", "vector": vector(NAN)}, ".vector"),
        ({"id": "v", "vector": vector(GOOD[:3])}, ".vector"),
        ({"vector": vector(GOOD)}, ".id"),
        ({"id": "x" * 300, **good}, ".id"),
        ({"fields": {"nope": string("x")}, **good}, ".fields[nope]"),
        ({"fields": {"year": string("x")}, **good}, ".fields[year]"),
        ({"fields": {"year": filter_pb2.FieldValue()}, **good}, ".fields[year]"),
        ({"fields": {"path": string("x" * 60_000)}, **good}, ".fields"),
    ]
    request = item_pb.UpsertItemsRequest(
        collection=gateway.create(), items=[item_pb.Item(**fields) for fields, _ in bad]
    )
    results = gateway.items.UpsertItems(request, timeout=60).results
    assert [paths_in(one.error) for one in results] == [
        [f"items[{place}]{inside}"] for place, (_, inside) in enumerate(bad)
    ]
    for (_, inside), result in zip(bad, results, strict=True):
        assert inside == ".id" or walk(request, paths_in(result.error)[0]) is not None


def queries() -> Iterator[tuple[search_pb.Query, str]]:
    for content, inside in [*BAD_CONTENTS, BAD_CROP]:
        yield search_pb.Query(content=content), f"content{inside}"
        term = search_pb.WeightedTerm(content=content)
        composite = search_pb.CompositeQuery(terms=[search_pb.WeightedTerm(item_id="x"), term])
        yield search_pb.Query(composite=composite), f"composite.terms[1].content{inside}"
    yield search_pb.Query(vector=vector(NAN)), "vector"


def test_searches_name_the_part_of_the_query(gateway: Gateway, album: str) -> None:
    wrong = list(queries())
    searches = [
        search_pb.SearchPageRequest(params=search_pb.SearchParams(collection=album, query=query))
        for query, _ in wrong
    ]
    for search in searches:  # its item is another fault, which is found later
        if search.params.query.composite.terms:
            search.params.query.composite.terms[0].vector.CopyFrom(vector(GOOD))
    request = search_pb.BatchSearchRequest(searches=searches)
    results = gateway.search.BatchSearch(request, timeout=60).results
    expected = [f"params.query.{inside}" for _, inside in wrong]
    assert [paths_in(one.error) for one in results] == [
        [f"searches[{place}].{path}"] for place, path in enumerate(expected)
    ]
    for search, path in zip(searches[:4], expected, strict=False):
        with pytest.raises(grpc.RpcError) as caught:
            gateway.search.SearchPage(search, timeout=60)
        assert path_of(caught.value) == path


@pytest.mark.parametrize(
    ("filter_", "output_fields", "path"),
    [
        (filter_pb2.Filter(), (), "filter"),
        (compare("nope", string("x")), (), "filter"),
        (compare("year", string("x")), (), "filter"),
        (compare("year", filter_pb2.FieldValue()), (), "filter"),
        (None, ("nope",), "output_fields"),
    ],
)
def test_filters_and_output_fields_are_named_where_they_are(
    gateway: Gateway, album: str, filter_: Any, output_fields: Any, path: str
) -> None:
    query = search_pb.Query(vector=vector(GOOD))
    params = search_pb.SearchParams(
        collection=album, query=query, filter=filter_, output_fields=output_fields
    )
    calls: list[tuple[Any, Any, str]] = [
        (gateway.search.SearchPage, search_pb.SearchPageRequest(params=params), f"params.{path}"),
        (
            gateway.items.ListItems,
            item_pb.ListItemsRequest(collection=album, filter=filter_, output_fields=output_fields),
            path,
        ),
    ]
    for call, request, expected in calls:
        with pytest.raises(grpc.RpcError) as caught:
            call(request, timeout=20)
        assert path_of(caught.value) == expected


@pytest.mark.parametrize("server", ["gateway", "worker"])
def test_embedding_names_the_part_of_the_content(
    server: str, gateway: Gateway, worker: processes.Server
) -> None:
    address = gateway.address if server == "gateway" else worker.address
    wrong = [*BAD_CONTENTS, BAD_CROP]
    contents = [Content(text="a good one"), *(content for content, _ in wrong)]
    with secure.channel(address) as channel:
        stub = embedding_service_pb2_grpc.EmbeddingServiceStub(channel)
        embedded = stub.Embed(embedding_pb.EmbedRequest(contents=contents), timeout=60)
        ranked = stub.Rank(
            embedding_pb.RankRequest(query=contents[0], candidates=contents), timeout=60
        )
        assert [paths_in(one.error) for one in embedded.results if one.HasField("error")] == [
            [f"contents[{place}]{inside}"] for place, (_, inside) in enumerate(wrong, 1)
        ]
        assert [paths_in(one.error) for one in ranked.candidates if one.HasField("error")] == [
            [f"candidates[{place}]{inside}"] for place, (_, inside) in enumerate(wrong, 1)
        ]
        for content, inside in (wrong[1], wrong[5]):
            with pytest.raises(grpc.RpcError) as caught:
                stub.Rank(
                    embedding_pb.RankRequest(query=content, candidates=contents[:1]), timeout=60
                )
            assert path_of(caught.value) == f"query{inside}"
