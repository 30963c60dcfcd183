"""A collection changes its model under its own name, which then means another collection."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from itertools import islice

import grpc
import pytest

from search_server.maintenance.orphans import OrphanCollector
from sentinel.search.v1 import collection_service_pb2 as pb
from sentinel.search.v1 import search_service_pb2
from sentinel_store.images.image_store import ImageStore
from sentinel_store.milvus.store import MilvusStore
from tests.search_server.collections.test_reindex import (
    Place,
    Traffic,
    caption,
    contents,
    create_old,
    described,
    drop,
    hold,  # noqa: F401 - fixtures
    last,
    place,  # noqa: F401
    refusal,
    reindex,
    searched,
    set_alias,
    shared,  # noqa: F401
    workers,  # noqa: F401
)
from tests.search_server.conftest import Gateway, connect, text


def names(gateway: Gateway) -> dict[str, list[str]]:
    """Every listed collection with its other names."""
    request = pb.ListCollectionsRequest(page_size=1000)
    listed = gateway.collections.ListCollections(request, timeout=20).collections
    return {one.name: list(one.aliases) for one in listed}


def test_the_own_name_of_a_collection_moves_and_moves_again(shared: Gateway) -> None:  # noqa: F811
    create_old(shared, "pics")
    shared.upsert("pics", *(caption(f"t{n}", f"red {n}") for n in range(5)))
    set_alias(shared, "pics_too", "pics")
    done = last(reindex(shared, "pics", "pics_new", "pics"))
    assert (done.done_count, done.alias_swapped) == (5, True)
    for name in ("pics", "pics_too", "pics_new"):
        assert searched(shared, name, "red 3")[:2] == ("pics_new", "new"), name
    assert described(shared, "pics").name == "pics_new"
    listed = names(shared)
    assert listed["pics_new"] == ["pics", "pics_too"]
    assert "pics" not in listed
    shared.upsert("pics", caption("later", "blue"))
    assert set(contents(shared, "pics_new")) == {*(f"t{n}" for n in range(5)), "later"}
    # The same call again, and then back to the old model: the chain of names is followed.
    assert last(reindex(shared, "pics", "pics_new", "pics")).done_count == 6
    assert last(reindex(shared, "pics_new", "pics_old", "pics_new")).done_count == 6
    for name in ("pics", "pics_too", "pics_new", "pics_old"):
        assert searched(shared, name, "red 3")[:2] == ("pics_old", "old"), name
    assert names(shared)["pics_old"] == ["pics", "pics_new", "pics_too"]


def test_a_moved_name_is_an_alias_and_deletes_both(shared: Gateway) -> None:  # noqa: F811
    create_old(shared, "kept")
    create_old(shared, "gone")
    shared.upsert("gone", caption("a", "red"))
    last(reindex(shared, "gone", "gone_new", "gone"))
    aliased = ("FAILED_PRECONDITION", "COLLECTION_ALIASED")
    assert refusal(lambda: drop(shared, "gone_new")) == aliased
    assert refusal(lambda: set_alias(shared, "x", "gone")) == aliased
    request = pb.DeleteAliasRequest(alias="gone")
    assert refusal(lambda: shared.collections.DeleteAlias(request, timeout=20)) == aliased
    assert refusal(lambda: create_old(shared, "gone"))[0] == "ALREADY_EXISTS"
    set_alias(shared, "gone_too", "gone_new")
    assert refusal(lambda: drop(shared, "gone")) == aliased
    shared.collections.DeleteAlias(pb.DeleteAliasRequest(alias="gone_too"), timeout=20)
    # Elsewhere it does not point: then its deletion would delete what somebody else has stored.
    assert refusal(lambda: set_alias(shared, "gone", "kept"))[0] == "ALREADY_EXISTS"
    set_alias(shared, "gone", "gone_new")  # there it points already
    assert described(shared, "gone").name == "gone_new"
    drop(shared, "gone")
    assert not {"gone", "gone_new"} & set(names(shared))
    assert "kept" in names(shared)
    create_old(shared, "gone")  # the name is free
    assert contents(shared, "gone") == {}


def test_pages_go_on_in_the_collection_that_they_began_in(shared: Gateway) -> None:  # noqa: F811
    create_old(shared, "paged")
    shared.upsert("paged", *(caption(f"t{n}", f"red {n}") for n in range(4)))
    params = search_service_pb2.SearchParams(collection="paged", query=text("red 1"))
    request = search_service_pb2.SearchPageRequest(params=params, page_size=2)
    first = shared.search.SearchPage(request, timeout=20)
    last(reindex(shared, "paged", "paged_new", "paged"))
    request.page_token = first.next_page_token
    second = shared.search.SearchPage(request, timeout=20)
    assert sorted(hit.id for hit in [*first.hits, *second.hits]) == ["t0", "t1", "t2", "t3"]


def test_no_call_fails_or_is_lost_while_a_name_moves(place: Place) -> None:  # noqa: F811
    with place.gateway() as server:
        gateway = connect(server.address)
        create_old(gateway, "busy")
        gateway.upsert("busy", *(caption(f"t{n}", f"red {n}") for n in range(150)))
        with Traffic(gateway, "busy") as traffic:
            done = last(reindex(gateway, "busy", "busy_new", "busy"))
        assert done.alias_swapped
        assert {answer[:2] for answer in traffic.answers} == {("busy", "old"), ("busy_new", "new")}
        found = contents(gateway, "busy")
        assert {key: found[key][0] for key in traffic.expected} == traffic.expected


def test_a_gateway_that_dies_at_any_moment_leaves_a_call_that_can_finish(
    place: Place,  # noqa: F811
) -> None:
    """Killed while it copies, and killed between the move and the end."""
    with place.gateway() as server:
        gateway = connect(server.address)
        create_old(gateway, "killed")
        gateway.upsert("killed", *(caption(f"t{n}", f"red {n}") for n in range(40)))
        with pytest.raises(grpc.RpcError):
            for _ in islice(reindex(gateway, "killed", "killed_new", "killed"), 1):
                server.process.kill()
            last(reindex(gateway, "killed", "killed_new", "killed"))
    with place.gateway() as server:
        gateway = connect(server.address)
        assert searched(gateway, "killed", "red 3")[:2] == ("killed", "old")
        call = reindex(gateway, "killed", "killed_new", "killed")
        while described(gateway, "killed").name == "killed":
            time.sleep(0.02)
        server.process.kill()
        with pytest.raises(grpc.RpcError):
            last(call)
    with place.gateway() as server:
        gateway = connect(server.address)
        assert searched(gateway, "killed", "red 3")[:2] == ("killed_new", "new")
        done = last(reindex(gateway, "killed", "killed_new", "killed"))
        assert (done.done_count, done.alias_swapped) == (40, True)


def test_collect_orphans_deletes_the_rows_that_no_name_means(place: Place) -> None:  # noqa: F811
    with place.gateway() as server:
        gateway = connect(server.address)
        create_old(gateway, "old_rows")
        gateway.upsert("old_rows", caption("a", "red"), caption("b", "blue"))
        last(reindex(gateway, "old_rows", "new_rows", "old_rows"))

    async def collect(*, dry_run: bool) -> int:
        store = MilvusStore(place.milvus_uri, "", 2)
        images = ImageStore(str(place.folder / "objects"))
        try:
            hour = timedelta(hours=1)
            collector = OrphanCollector(store, images, older_than=hour, dry_run=dry_run)
            return (await collector.run()).old_rows
        finally:
            await store.close()
            images.close()

    counts = [asyncio.run(collect(dry_run=dry_run)) for dry_run in (True, False, False)]
    # On a server there are those of other tests, too.
    assert counts[0] == counts[1] >= 2 and counts[2] == 0
    with place.gateway() as server:
        assert set(contents(connect(server.address), "old_rows")) == {"a", "b"}
