"""The contract and the code agree, and both servers tell what they serve."""

from __future__ import annotations

import ast
from pathlib import Path

import grpc
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from sentinel.common.v1 import error_reason_pb2
from sentinel_core import errors
from tests import processes

ROOT = Path(__file__).resolve().parents[2]
SERVERS = ("embedder_server", "search_server", "sentinel_core", "sentinel_store")
ERROR_NAMES = {cls.__name__ for cls in errors.SentinelError.__subclasses__()}


def raised_reasons() -> set[str]:
    """Every reason that the servers' code gives to an error."""
    reasons = set()
    for path in (path for server in SERVERS for path in (ROOT / server).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Name(id=name), args=[ast.Constant(value=str(reason)), *_]):
                    if name in ERROR_NAMES:
                        reasons.add(reason)
    return reasons


def test_the_contract_lists_exactly_the_reasons_that_are_raised() -> None:
    listed = {
        name.removeprefix("ERROR_REASON_")
        for name in error_reason_pb2.ErrorReason.keys()  # noqa: SIM118 - an enum wrapper, not a dict
    } - {"UNSPECIFIED"}
    assert raised_reasons() == listed


@pytest.mark.parametrize(
    ("module", "services"),
    [
        ("embedder_server", {"sentinel.embedding.v1.EmbeddingService"}),
        (
            "search_server",
            {
                "sentinel.search.v1.SearchService",
                "sentinel.search.v1.ItemService",
                "sentinel.search.v1.CollectionService",
                "sentinel.search.v1.AccessService",
                "sentinel.embedding.v1.EmbeddingService",
            },
        ),
    ],
)
def test_reflection_lists_the_services(tmp_path: Path, module: str, services: set[str]) -> None:
    flags = processes.gateway_flags(tmp_path, str(tmp_path / "m.db"), "127.0.0.1:1")
    with (
        processes.running(
            tmp_path, module, *(flags if module == "search_server" else []), serving=False
        ) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        database = ProtoReflectionDescriptorDatabase(channel)
        assert set(database.get_services()) == services | {
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        for service in services:  # and describes them, down to their imports
            assert database.FindFileContainingSymbol(service).package in service
        assert database.FindFileByName("google/rpc/status.proto").package == "google.rpc"
