from __future__ import annotations

import subprocess
import sys

import sentinel_client
from sentinel.embedding.v1 import embedding_service_pb2
from sentinel.search.v1 import (
    access_service_pb2,
    collection_service_pb2,
    item_service_pb2,
    search_service_pb2,
)
from sentinel_client import AsyncSentinelClient, _rpcs


def test_all_names_exactly_what_is_public() -> None:
    public = {
        name
        for name, value in vars(sentinel_client).items()
        if not name.startswith("_") and name != "annotations" and not is_module(value)
    }
    assert public == set(sentinel_client.__all__)


def is_module(value: object) -> bool:
    return type(value).__name__ == "module"


def test_every_public_class_is_documented() -> None:
    for name in sentinel_client.__all__:
        value = getattr(sentinel_client, name)
        if isinstance(value, type):
            assert value.__doc__, name


def test_every_call_of_the_contract_is_known_and_has_a_method() -> None:
    known = {rpc.path for rpc in vars(_rpcs).values() if isinstance(rpc, _rpcs.Rpc)}
    methods = {
        "Search": "search",
        "SearchPage": "search_page",
        "BatchSearch": "batch_search",
        "UpsertItems": "upsert",
        "IngestItems": "ingest",
        "ListItems": "list_items",
        "DownloadImage": "download_image",
        "GetItems": "get_items",
        "DeleteItems": "delete_items",
        "CreateCollection": "create_collection",
        "GetCollection": "get_collection",
        "ListCollections": "list_collections",
        "DeleteCollection": "delete_collection",
        "PreviewDeletion": "preview_deletion",
        "SetAlias": "set_alias",
        "DeleteAlias": "delete_alias",
        "ReindexCollection": "reindex",
        "Embed": "embed",
        "Rank": "rank",
        "GetModel": "get_model",
        "GetCaller": "get_caller",
    }
    of_search = (search_service_pb2, item_service_pb2, collection_service_pb2, access_service_pb2)
    for file in (*of_search, embedding_service_pb2):
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                if method.name == "EmbedStream":  # workers only
                    continue
                assert f"/{service.full_name}/{method.name}" in known
                assert hasattr(AsyncSentinelClient, methods[method.name])


def test_repeating_follows_the_contract() -> None:
    assert _rpcs.SEARCH.repeatable
    assert _rpcs.UPSERT_ITEMS.repeatable
    assert not _rpcs.CREATE_COLLECTION.repeatable


def test_the_client_and_its_commands_import_nothing_beyond_the_base_install() -> None:
    code = (
        "import sys\n"
        "for name in ('PIL', 'pymilvus', 'onnxruntime', 'pydantic', 'grpc_health', 'torch',"
        " 'pyarrow', 'sentinel_core', 'search_server', 'embedder_server'):\n"
        "    sys.modules[name] = None\n"
        "import sentinel_client.cli.__main__\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
