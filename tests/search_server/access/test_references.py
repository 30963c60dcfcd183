"""Images by reference where tenants must not see what belongs to others."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from pathlib import Path

import grpc
import pytest

from sentinel.search.v1 import collection_service_pb2 as collections
from sentinel.search.v1 import item_service_pb2 as pb
from tests import photos
from tests.search_server.access.secured import OK, Caller, Secured
from tests.search_server.conftest import error_info, reason_of

ROCKET = photos.photo("rocket")


def stored(caller: Caller, file: Path, digest: str) -> pb.ItemResult:
    item = pb.Item(id="x", by_reference=True, digest=digest)
    item.content.image.uri = file.as_uri()
    request = pb.UpsertItemsRequest(collection="photos", items=[item])
    [answer] = caller.answers("ItemService/UpsertItems", request)
    result: pb.ItemResult = answer.results[0]
    return result


@pytest.fixture
def tenants(system: Secured) -> list[Caller]:
    made = []
    for name in ("one", "two"):
        caller = system.caller(system.key("owner", tenant=f"{name}{uuid.uuid4().hex[:8]}"))
        create = collections.CreateCollectionRequest()
        create.collection.name = "photos"
        assert caller.call("CollectionService/CreateCollection", create) == OK
        made.append(caller)
    return made


def test_a_tenant_gets_no_file_that_it_does_not_know(
    system: Secured, tenants: list[Caller]
) -> None:
    mine, other = tenants
    file = Path(shutil.copy(ROCKET, system.place / "mine.jpg"))
    digest = hashlib.sha256(ROCKET.read_bytes()).hexdigest()
    assert stored(mine, file, digest).outcome == pb.ItemResult.OUTCOME_STORED

    guessed, missing = (
        stored(other, path, "0" * 64) for path in (file, file.with_name("missing.jpg"))
    )
    assert reason_of(guessed.error) == reason_of(missing.error) == "ORIGINAL_GONE"
    assert guessed.error.message == missing.error.message.replace("missing.jpg", "mine.jpg")
    download = pb.DownloadImageRequest(collection="photos", id="x")
    assert other.call("ItemService/DownloadImage", download) == ("NOT_FOUND", "ITEM_NOT_FOUND")


def test_tenants_of_equal_photos_have_a_place_each(system: Secured, tenants: list[Caller]) -> None:
    digest = hashlib.sha256(ROCKET.read_bytes()).hexdigest()
    files = [Path(shutil.copy(ROCKET, system.place / f"{name}.jpg")) for name in ("a", "b")]
    for caller, file in zip(tenants, files, strict=True):
        assert stored(caller, file, digest).outcome == pb.ItemResult.OUTCOME_STORED
    files[0].unlink()
    get = pb.GetItemsRequest(collection="photos", ids=["x"])
    download = pb.DownloadImageRequest(collection="photos", id="x")
    for caller, file in zip(tenants, files, strict=True):
        [found] = caller.answers("ItemService/GetItems", get)
        assert found.items[0].image_uri == file.as_uri()
    with pytest.raises(grpc.RpcError) as caught:
        tenants[0].answers("ItemService/DownloadImage", download)
    assert error_info(caught.value) == ("NOT_FOUND", "ORIGINAL_GONE")
    parts = tenants[1].answers("ItemService/DownloadImage", download)
    assert b"".join(part.data for part in parts) == ROCKET.read_bytes()


def test_a_reader_stores_nothing(system: Secured) -> None:
    digest = hashlib.sha256(ROCKET.read_bytes()).hexdigest()
    item = pb.Item(id="x", by_reference=True, digest=digest)
    item.content.image.uri = (system.place / "cat.jpg").as_uri()
    request = pb.UpsertItemsRequest(collection="photos", items=[item])
    reader = system.caller(system.key("reader"))
    assert reader.call("ItemService/UpsertItems", request)[0] == "PERMISSION_DENIED"
