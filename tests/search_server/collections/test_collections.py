"""Creating, describing, listing and deleting collections, on each Milvus."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import collection_service_pb2 as pb
from tests.search_server.conftest import FIELD_TYPES, Gateway, error_info, photo_item, text


def test_a_collection_remembers_its_model_and_fields(gateway: Gateway) -> None:
    name = gateway.create()
    found = gateway.collections.GetCollection(pb.GetCollectionRequest(name=name), timeout=20)
    assert found.collection.model_version.model == "conse-minilm-lite0"
    assert len(found.collection.model_version.fingerprint) == 64
    assert found.collection.dimensions == 384
    assert {field.name: field.type for field in found.collection.fields} == FIELD_TYPES
    assert found.collection.item_count == 0


def test_collections_are_listed_by_name_in_pages(gateway: Gateway) -> None:
    names = sorted(gateway.create() for _ in range(5))
    listed, token = [], ""
    while True:
        page = gateway.collections.ListCollections(
            pb.ListCollectionsRequest(page_size=2, page_token=token), timeout=20
        )
        assert len(page.collections) <= 2
        listed += [collection.name for collection in page.collections]
        token = page.next_page_token
        if not token:
            break
    assert listed == sorted(listed)
    assert set(names) <= set(listed)


def test_a_deleted_collection_is_gone_and_its_name_free(gateway: Gateway) -> None:
    name = gateway.create()
    gateway.upsert(name, photo_item("chelsea"))
    gateway.collections.DeleteCollection(pb.DeleteCollectionRequest(name=name), timeout=20)
    with pytest.raises(grpc.RpcError) as caught:
        gateway.hits(name, text("a cat"))
    assert error_info(caught.value) == ("NOT_FOUND", "COLLECTION_NOT_FOUND")
    gateway.create(name)
    assert gateway.count(name) == 0


def test_a_model_can_be_named_at_creation(gateway: Gateway) -> None:
    collection = pb.Collection(
        name="by_model", model_version=content_pb2.ModelVersion(model="conse-minilm-lite0")
    )
    made = gateway.collections.CreateCollection(
        pb.CreateCollectionRequest(collection=collection), timeout=20
    )
    assert made.collection.dimensions == 384
    gateway.collections.DeleteCollection(pb.DeleteCollectionRequest(name="by_model"), timeout=20)


def test_of_many_who_create_a_collection_at_once_one_does(gateway: Gateway) -> None:
    def create(_: int) -> str:
        try:
            gateway.create("at_once")
        except grpc.RpcError as error:
            return error_info(error)[1]
        return "made"

    with ThreadPoolExecutor(8) as callers:
        outcomes = sorted(callers.map(create, range(8)))
    assert outcomes == ["COLLECTION_EXISTS"] * 7 + ["made"]
    gateway.collections.DeleteCollection(pb.DeleteCollectionRequest(name="at_once"), timeout=20)


def test_a_collection_can_declare_as_many_fields_as_promised(gateway: Gateway) -> None:
    fields = [pb.FieldSchema(name=f"field{n}", type=pb.FieldSchema.TYPE_STRING) for n in range(56)]
    collection = pb.Collection(name="wide", fields=fields)
    gateway.collections.CreateCollection(
        pb.CreateCollectionRequest(collection=collection), timeout=20
    )
    found = gateway.collections.GetCollection(pb.GetCollectionRequest(name="wide"), timeout=20)
    assert len(found.collection.fields) == 56
    gateway.collections.DeleteCollection(pb.DeleteCollectionRequest(name="wide"), timeout=20)
