"""Second names of collections, on each Milvus."""

from __future__ import annotations

import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import collection_service_pb2 as pb
from sentinel.search.v1 import item_service_pb2, search_service_pb2
from tests.search_server.conftest import Gateway, error_info, text


def caption(item_id: str, words: str) -> item_service_pb2.Item:
    return item_service_pb2.Item(id=item_id, content=content_pb2.Content(text=words))


def alias_name() -> str:
    return f"a_{uuid.uuid4().hex}"


def point(gateway: Gateway, alias: str, collection: str) -> None:
    request = pb.SetAliasRequest(alias=alias, collection=collection)
    gateway.collections.SetAlias(request, timeout=20)


def unpoint(gateway: Gateway, alias: str) -> None:
    gateway.collections.DeleteAlias(pb.DeleteAliasRequest(alias=alias), timeout=20)


def described(gateway: Gateway, name: str) -> pb.Collection:
    request = pb.GetCollectionRequest(name=name)
    return gateway.collections.GetCollection(request, timeout=20).collection


def drop(gateway: Gateway, name: str) -> None:
    gateway.collections.DeleteCollection(pb.DeleteCollectionRequest(name=name), timeout=20)


def test_every_call_takes_an_alias_for_the_collection(gateway: Gateway) -> None:
    name, alias = gateway.create(), alias_name()
    point(gateway, alias, name)
    gateway.upsert(alias, caption("cat", "a cat"), caption("dog", "a dog"))
    assert gateway.count(name) == gateway.count(alias) == 2
    assert described(gateway, alias).name == name
    params = search_service_pb2.SearchParams(collection=alias, query=text("a cat"))
    events = list(
        gateway.search.Search(search_service_pb2.SearchRequest(params=params), timeout=20)
    )
    assert events[0].header.collection == name
    page = gateway.search.SearchPage(
        search_service_pb2.SearchPageRequest(params=params, page_size=1), timeout=20
    )
    assert [hit.id for hit in page.hits] == ["cat"]
    assert [item.id for item in gateway.get(alias, "dog").items] == ["dog"]
    request = item_service_pb2.DeleteItemsRequest(collection=alias)
    request.ids.ids.append("cat")
    assert gateway.items.DeleteItems(request, timeout=20).deleted_count == 1
    assert gateway.count(name) == 1


def test_an_alias_that_is_pointed_elsewhere_means_the_other_at_once(gateway: Gateway) -> None:
    one, two, alias = gateway.create(), gateway.create(), alias_name()
    gateway.upsert(one, caption("one", "a cat"))
    gateway.upsert(two, caption("two", "a cat"))
    for name, item_id in ((one, "one"), (two, "two"), (two, "two"), (one, "one")):
        point(gateway, alias, name)
        assert [hit.id for hit in gateway.hits(alias, text("a cat"))] == [item_id]


def test_a_reader_of_pages_keeps_its_collection_when_the_alias_moves(gateway: Gateway) -> None:
    old, new, alias = gateway.create(), gateway.create(), alias_name()
    point(gateway, alias, old)
    gateway.upsert(old, *(caption(f"old{n}", f"a cat {n}") for n in range(4)))
    gateway.upsert(new, *(caption(f"new{n}", f"a cat {n}") for n in range(4)))
    listing = item_service_pb2.ListItemsRequest(collection=alias, page_size=2)
    params = search_service_pb2.SearchParams(collection=alias, query=text("a cat"))
    search = search_service_pb2.SearchPageRequest(params=params, page_size=2)
    listed = gateway.items.ListItems(listing, timeout=20)
    found = gateway.search.SearchPage(search, timeout=20)
    seen = [item.id for item in listed.items]
    hits = [hit.id for hit in found.hits]
    point(gateway, alias, new)
    listing.page_token, search.page_token = listed.next_page_token, found.next_page_token
    seen += [item.id for item in gateway.items.ListItems(listing, timeout=20).items]
    batch = search_service_pb2.BatchSearchRequest(searches=[search])
    [result] = gateway.search.BatchSearch(batch, timeout=20).results
    hits += [hit.id for hit in result.page.hits]
    assert seen == sorted(hits) == [f"old{n}" for n in range(4)]
    unpoint(gateway, alias)
    drop(gateway, old)
    with pytest.raises(grpc.RpcError) as caught:
        gateway.items.ListItems(listing, timeout=20)
    assert error_info(caught.value) == ("NOT_FOUND", "COLLECTION_NOT_FOUND")


def test_no_search_fails_or_finds_nothing_while_an_alias_moves(gateway: Gateway) -> None:
    names, alias = [gateway.create() for _ in range(2)], alias_name()
    for name in names:
        gateway.upsert(name, caption(name, "a cat"))
    point(gateway, alias, names[0])
    enough = threading.Event()

    def search(_: int) -> list[list[str]]:
        found = []
        while not enough.is_set():
            found.append([hit.id for hit in gateway.hits(alias, text("a cat"))])
        return found

    with ThreadPoolExecutor(3) as callers:
        searching = [callers.submit(search, number) for number in range(3)]
        moves, begun = 0, time.monotonic()
        try:
            while moves < 11 or time.monotonic() < begun + 2:
                moves += 1
                point(gateway, alias, names[moves % 2])
        finally:
            enough.set()
        answers = [answer for future in searching for answer in future.result()]
    assert {len(answer) for answer in answers} == {1}
    assert {answer[0] for answer in answers} == set(names)


def test_a_collection_tells_its_aliases(gateway: Gateway) -> None:
    name, aliases = gateway.create(), sorted(alias_name() for _ in range(2))
    for alias in reversed(aliases):
        point(gateway, alias, name)
    assert list(described(gateway, name).aliases) == aliases
    listed = gateway.collections.ListCollections(
        pb.ListCollectionsRequest(page_size=1000), timeout=20
    )
    found = {collection.name: list(collection.aliases) for collection in listed.collections}
    assert found[name] == aliases
    assert not set(aliases) & set(found)  # they are no collections of their own
    unpoint(gateway, aliases[0])
    assert list(described(gateway, name).aliases) == aliases[1:]


def test_a_removed_alias_means_nothing_and_the_collection_stays(gateway: Gateway) -> None:
    name, alias = gateway.create(), alias_name()
    point(gateway, alias, name)
    for _ in range(2):  # one that is gone already is no error
        unpoint(gateway, alias)
    with pytest.raises(grpc.RpcError) as caught:
        gateway.hits(alias, text("a cat"))
    assert error_info(caught.value) == ("NOT_FOUND", "COLLECTION_NOT_FOUND")
    unpoint(gateway, name)  # nor does a collection's own name go
    assert gateway.count(name) == 0


def test_an_aliased_collection_is_deleted_only_without_its_aliases(gateway: Gateway) -> None:
    name, alias = gateway.create(), alias_name()
    gateway.upsert(name, caption("cat", "a cat"))
    point(gateway, alias, name)
    for refused in (name, alias):
        with pytest.raises(grpc.RpcError) as caught:
            drop(gateway, refused)
        assert error_info(caught.value) == ("FAILED_PRECONDITION", "COLLECTION_ALIASED")
    assert gateway.count(alias) == 1
    unpoint(gateway, alias)
    drop(gateway, name)
    with pytest.raises(grpc.RpcError) as caught:
        gateway.count(name)
    assert error_info(caught.value) == ("NOT_FOUND", "COLLECTION_NOT_FOUND")


def test_names_of_collections_and_aliases_do_not_collide(gateway: Gateway) -> None:
    one, two, alias = gateway.create(), gateway.create(), alias_name()
    point(gateway, alias, one)
    for call in (lambda: gateway.create(alias), lambda: point(gateway, two, one)):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert error_info(caught.value) == ("ALREADY_EXISTS", "COLLECTION_EXISTS")
    with pytest.raises(grpc.RpcError) as caught:
        point(gateway, alias_name(), alias)  # to a collection, not to an alias
    assert error_info(caught.value) == ("FAILED_PRECONDITION", "COLLECTION_ALIASED")
    assert described(gateway, alias).name == one
    assert gateway.count(two) == 0
