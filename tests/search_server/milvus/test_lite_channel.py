"""Milvus Lite is called as functions: without a port, and with the errors that gRPC has."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from pymilvus import DataType
from pymilvus.grpc_gen import milvus_pb2

from sentinel_store.milvus.lite_channel import LiteChannel
from sentinel_store.milvus.lite_database import LiteDatabase

_METHOD = "/milvus.proto.milvus.MilvusService/ListAliases"


class Servicer:
    """Answers, fails or waits by the name of the collection in the request."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()

    def ListAliases(self, request: milvus_pb2.ListAliasesRequest, context: Any) -> Any:
        self.begun.set()
        match request.collection_name:
            case "fails":
                raise OSError("the disk is gone")
            case "unknown" | "lacking":
                context.set_code(grpc.StatusCode.UNIMPLEMENTED)
                context.set_details("no aliases here")
                if request.collection_name == "lacking":  # as the methods that Lite lacks
                    raise NotImplementedError
            case "slow":
                assert self.may_end.wait(30)
        found = dict(context.invocation_metadata()).get("dbname", "")
        return milvus_pb2.ListAliasesResponse(collection_name=found)


def call(channel: LiteChannel, name: str, *, later: bool = False) -> Any:
    method = channel.unary_unary(_METHOD)
    request = milvus_pb2.ListAliasesRequest(collection_name=name)
    options: dict[str, Any] = {"timeout": 5.0, "metadata": (("dbname", "d"),)}
    return method.future(request, **options) if later else method(request, **options)


@pytest.mark.parametrize("later", [False, True])
def test_answers_and_errors_are_those_of_a_connection(later: bool) -> None:
    with LiteChannel(Servicer()) as channel:

        def answer(name: str) -> Any:
            given = call(channel, name, later=later)
            return given.result() if later else given

        assert answer("any").collection_name == "d"
        for name, code, details in (
            ("fails", grpc.StatusCode.UNKNOWN, "the disk is gone"),
            ("unknown", grpc.StatusCode.UNIMPLEMENTED, "no aliases here"),
            ("lacking", grpc.StatusCode.UNIMPLEMENTED, "no aliases here"),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                answer(name)
            assert caught.value.code() is code
            assert details in caught.value.details()


def test_it_closes_after_the_last_call() -> None:
    servicer = Servicer()
    channel = LiteChannel(servicer)
    answers: list[Any] = []
    caller = threading.Thread(target=lambda: answers.append(call(channel, "slow")))
    caller.start()
    assert servicer.begun.wait(30)
    closer = threading.Thread(target=channel.close)
    closer.start()
    closer.join(0.2)
    assert closer.is_alive()
    servicer.may_end.set()
    closer.join(30)
    caller.join(30)
    assert [answer.collection_name for answer in answers] == ["d"]
    with pytest.raises(ValueError, match="closed"):
        call(channel, "any")


def test_nobody_else_can_reach_an_open_folder(tmp_path: Path) -> None:
    """Lite asks nobody for a key: whoever reaches its port reads and deletes everything."""

    def listening() -> set[Any]:
        connections = psutil.Process().net_connections("inet")
        return {one.laddr for one in connections if one.status == psutil.CONN_LISTEN}

    before = listening()
    database = LiteDatabase(tmp_path / "m.db")
    client = database.open()
    try:
        assert client.list_collections() == []
        assert listening() <= before
    finally:
        database.close()


def test_what_lite_lacks_is_asked_for_once(tmp_path: Path) -> None:
    """pymilvus repeats other errors until its time is over: ten minutes for a write."""
    database = LiteDatabase(tmp_path / "m.db")
    client = database.open()
    try:
        with pytest.raises(grpc.RpcError) as caught:
            client.list_roles(timeout=1.0)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    finally:
        database.close()


def test_open_databases_share_no_schemas(tmp_path: Path) -> None:
    """pymilvus remembers schemas by the address and the name of a collection."""
    databases = [LiteDatabase(tmp_path / name) for name in ("a.db", "b.db")]
    try:
        for database, number in zip(databases, (7, None), strict=True):
            client = database.open()
            table = client.create_schema()
            table.add_field("id", DataType.VARCHAR, is_primary=True, max_length=10)
            table.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
            table.add_field("number", DataType.INT64, nullable=number is None)
            client.create_collection("c", schema=table)
            client.upsert("c", [{"id": "i", "vector": [1.0, 0.0], "number": number}])
            [found] = client.query("c", filter='id in ["i"]', output_fields=["number"])
            assert found["number"] == number
    finally:
        for database in databases:
            database.close()
