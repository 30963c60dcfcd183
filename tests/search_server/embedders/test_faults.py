"""What happens when something around the gateway is down, slow, wrong or killed."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import grpc
import pytest

from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import item_service_pb2, search_service_pb2
from tests import photos, processes
from tests.processes import in_flight, metric
from tests.search_server.conftest import (
    Gateway,
    connect,
    error_info,
    image,
    photo_item,
    reason_of,
    text,
)
from tests.waiting import until

Result = item_service_pb2.ItemResult
FAKE = "tests.fakes.worker"


@pytest.fixture
def fake_worker(tmp_path: Path) -> Iterator[processes.Server]:
    with processes.running(tmp_path / "w", FAKE) as server:
        yield server


def lite(folder: Path) -> str:
    return str(folder / "milvus.db")


def gateway_at(
    folder: Path, *workers: str, milvus: str = "", serving: bool = True
) -> AbstractContextManager[processes.Server]:
    flags = processes.gateway_flags(folder, milvus or lite(folder), *workers)
    return processes.running(folder, "search_server", *flags, serving=serving)


def caption(words: str) -> item_service_pb2.Item:
    return item_service_pb2.Item(content=content_pb2.Content(text=words))


def test_a_collection_of_another_model_is_refused(tmp_path: Path) -> None:
    """Both reading and writing, and what was stored is still there for the right model."""
    with processes.running(tmp_path / "old", FAKE, environment={"FAKE_NAME": "old"}) as old:
        with gateway_at(tmp_path / "g", old.address) as server:
            name = connect(server.address).create()
            connect(server.address).upsert(name, caption("red"))
        with (
            processes.running(tmp_path / "new", FAKE, environment={"FAKE_NAME": "new"}) as new,
            gateway_at(tmp_path / "g", new.address) as server,
        ):
            gateway = connect(server.address)
            for call in (
                lambda: gateway.hits(name, text("red")),
                lambda: gateway.upsert(name, caption("blue")),
            ):
                with pytest.raises(grpc.RpcError) as caught:
                    call()
                assert error_info(caught.value) == ("FAILED_PRECONDITION", "MODEL_MISMATCH")
            assert gateway.count(name) == 1
        with gateway_at(tmp_path / "g", old.address) as server:
            assert connect(server.address).hits(name, text("red"))[0].text == "red"


def test_no_worker_up_is_said_and_ends_when_one_comes(tmp_path: Path) -> None:
    port = free_port()
    with gateway_at(tmp_path, f"127.0.0.1:{port}", serving=False) as server:
        gateway = connect(server.address)
        with pytest.raises(grpc.RpcError) as caught:
            gateway.create("early")
        assert error_info(caught.value) == ("UNAVAILABLE", "NO_HEALTHY_WORKER")
        assert not processes.is_serving(server.address)
        with processes.running(tmp_path / "w", FAKE, "--port", str(port)):
            assert processes.wait_for_health(server.address, True, 20)
            gateway.create("later")
            gateway.upsert("later", caption("red"))
        assert processes.wait_for_health(server.address, False, 20)
        with pytest.raises(grpc.RpcError) as caught:
            gateway.hits("later", text("red"))
        assert error_info(caught.value) == ("UNAVAILABLE", "NO_HEALTHY_WORKER")
        assert gateway.count("later") == 1


def test_milvus_down_is_said_at_once(tmp_path: Path, fake_worker: processes.Server) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    with gateway_at(tmp_path, fake_worker.address, milvus=nowhere, serving=False) as server:
        with pytest.raises(grpc.RpcError) as caught:
            connect(server.address).hits("any", text("red"))
        assert error_info(caught.value) == ("UNAVAILABLE", "STORE_UNAVAILABLE")
        assert not processes.is_serving(server.address)


@pytest.mark.slow
def test_a_milvus_that_never_answers_costs_no_more_than_the_deadline(
    tmp_path: Path, fake_worker: processes.Server
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with gateway_at(tmp_path, fake_worker.address, milvus=uri, serving=False) as server:
            stub = connect(server.address).items
            request = item_service_pb2.GetItemsRequest(collection="any", ids=["x"])
            start = time.monotonic()
            with pytest.raises(grpc.RpcError) as caught:
                stub.GetItems(request, timeout=1.5)
            assert time.monotonic() - start < 15  # it answers after 30 s without a deadline
            assert caught.value.code() in (
                grpc.StatusCode.DEADLINE_EXCEEDED,
                grpc.StatusCode.UNAVAILABLE,
            )


def test_a_second_gateway_on_the_same_lite_file_is_told(
    tmp_path: Path, fake_worker: processes.Server
) -> None:
    with gateway_at(tmp_path / "a", fake_worker.address, milvus=lite(tmp_path)) as first:
        connect(first.address).create("mine")
        with (
            gateway_at(
                tmp_path / "b", fake_worker.address, milvus=lite(tmp_path), serving=False
            ) as second,
            pytest.raises(grpc.RpcError) as caught,
        ):
            connect(second.address).hits("mine", text("red"))
        assert error_info(caught.value) == ("UNAVAILABLE", "STORE_UNAVAILABLE")
        assert "another process" in caught.value.details()


def test_an_object_store_that_refuses_fails_the_call_and_stores_no_row(
    tmp_path: Path, fake_worker: processes.Server
) -> None:
    with gateway_at(tmp_path, fake_worker.address) as server:
        gateway = connect(server.address)
        name = gateway.create()
        (tmp_path / "objects" / "images").write_text("a file where a folder should be")
        with pytest.raises(grpc.RpcError) as caught:
            gateway.upsert(name, photo_item("chelsea"))
        assert error_info(caught.value) == ("UNAVAILABLE", "OBJECT_STORE_UNAVAILABLE")
        assert gateway.count(name) == 0
        (tmp_path / "objects" / "images").unlink()
        assert gateway.upsert(name, photo_item("chelsea"))[0].outcome == Result.OUTCOME_STORED


def test_a_stalled_worker_costs_no_more_than_the_deadline(tmp_path: Path) -> None:
    slow = {"FAKE_STUCK": "1"}
    with (
        processes.running(tmp_path / "w", FAKE, environment=slow) as worker,
        gateway_at(tmp_path / "g", worker.address) as server,
    ):
        name = connect(server.address).create()
        start = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            list(connect(server.address).search.Search(search_request(name, "red"), timeout=1))
        assert time.monotonic() - start < 20
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        worker.kill()  # it would finish its batch


def test_the_only_worker_killed_mid_request_is_said(tmp_path: Path) -> None:
    slow = {"FAKE_STUCK": "1"}
    with (
        processes.running(tmp_path / "w", FAKE, environment=slow) as worker,
        gateway_at(tmp_path / "g", worker.address) as server,
    ):
        gateway = connect(server.address)
        name = gateway.create()

        def kill_in_mid_request() -> None:
            until(lambda: in_flight(server))
            time.sleep(0.5)  # for the way to the worker
            worker.kill()

        threading.Thread(target=kill_in_mid_request).start()
        start = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            gateway.hits(name, text("red"))
        assert error_info(caught.value) == ("UNAVAILABLE", "WORKER_LOST")
        assert time.monotonic() - start < 20


def test_two_workers_share_the_load_and_killing_one_loses_no_search(tmp_path: Path) -> None:
    busy = {"FAKE_SECONDS_PER_BATCH": "0.01"}
    with (
        processes.running(tmp_path / "w1", FAKE, environment=busy) as one,
        processes.running(tmp_path / "w2", FAKE, environment=busy) as two,
        gateway_at(tmp_path / "g", one.address, two.address) as server,
        ThreadPoolExecutor(8) as callers,
    ):
        gateway = connect(server.address)
        name = gateway.create()
        gateway.upsert(name, caption("red"), caption("blue"))

        def ask(number: int) -> int:
            return len(gateway.hits(name, text(f"red {number}")))

        assert set(callers.map(ask, range(200))) == {2}
        shares = [
            metric(
                worker.metrics_address,
                "sentinel_embedder_request_duration_seconds_count",
                code="OK",
            )
            for worker in (one, two)
        ]
        assert 0.4 < shares[0] / sum(shares) < 0.6, shares

        def kill_in_between(number: int) -> int:
            if number == 250:
                one.kill()
            return ask(number)

        assert set(callers.map(kill_in_between, range(200, 400))) == {2}
        assert one.process.poll() is not None


def test_sigterm_answers_everything_that_was_accepted(tmp_path: Path) -> None:
    slow = {"FAKE_SECONDS_PER_BATCH": "1"}
    with (
        processes.running(tmp_path / "w", FAKE, environment=slow) as worker,
        gateway_at(tmp_path / "g", worker.address) as server,
        ThreadPoolExecutor(8) as callers,
    ):
        gateway = connect(server.address)
        name = gateway.create()
        gateway.upsert(name, caption("red"))
        asked = [callers.submit(gateway.hits, name, text(f"red {n}")) for n in range(8)]
        until(lambda: sum(future.done() for future in asked) + in_flight(server) >= 8)
        assert server.stop() == 0
        assert [len(future.result()) for future in asked] == [1] * 8


def test_sigkill_in_mid_ingest_loses_and_doubles_nothing(
    tmp_path: Path, fake_worker: processes.Server
) -> None:
    """Three kills at different moments; whatever was acknowledged is there, once."""
    acknowledged: set[str] = set()
    pictures = [path.read_bytes() for path in photos.all_photos()]
    items = [
        item_service_pb2.Item(id=f"{copy}-{n}", content=image(data))
        for copy in range(4)
        for n, data in enumerate(pictures)
    ]

    def ingest(gateway: Gateway) -> None:
        for start in range(0, len(items), 6):
            batch = items[start : start + 6]
            for result in gateway.upsert("album", *batch):
                assert result.outcome != Result.OUTCOME_FAILED, reason_of(result.error)
                acknowledged.add(result.id)

    for turn, delay in enumerate((0.4, 0.8, 1.3)):
        with gateway_at(tmp_path, fake_worker.address) as server:
            gateway = connect(server.address)
            if turn == 0:
                gateway.create("album")
            threading.Timer(delay, server.kill).start()
            with pytest.raises(grpc.RpcError):
                while True:
                    ingest(gateway)
            server.process.wait()
    with gateway_at(tmp_path, fake_worker.address) as server:
        gateway = connect(server.address)
        answer = gateway.get("album", *acknowledged, include_thumbnails=True)
        assert {item.id for item in answer.items} == acknowledged
        assert all(item.thumbnail for item in answer.items)
        ingest(gateway)
        assert gateway.count("album") == len(items)
        hits = gateway.hits("album", text("red"), limit=1000)
        assert sorted(hit.id for hit in hits) == sorted(item.id for item in items)


def test_metrics_tell_stages_outcomes_and_codes(
    tmp_path: Path, fake_worker: processes.Server
) -> None:
    with gateway_at(tmp_path, fake_worker.address) as server:
        gateway = connect(server.address)
        name = gateway.create()
        gateway.upsert(name, photo_item("chelsea"), item_service_pb2.Item(id="bad"))
        gateway.hits(name, text("red"))
        with pytest.raises(grpc.RpcError):
            gateway.hits("nope", text("red"))

        def count(of: str, **labels: str) -> float:
            return metric(server.metrics_address, f"sentinel_gateway_{of}", **labels)

        for stage in ("embed", "milvus_search", "total"):
            assert count("stage_duration_seconds_count", stage=stage) >= 1, stage
        for stage in ("milvus_lookup", "object_store", "milvus_upsert"):
            assert count("stage_duration_seconds_count", stage=stage) == 1, stage
        assert count("items_total", operation="upsert", outcome="stored") == 1
        assert count("items_total", operation="upsert", outcome="content_missing") == 1
        search = "/sentinel.search.v1.SearchService/Search"
        assert count("request_duration_seconds_count", method=search, code="OK") == 1
        assert count("request_duration_seconds_count", method=search, code="NOT_FOUND") == 1


def test_a_port_that_is_taken_ends_the_gateway_with_a_clear_line(
    tmp_path: Path, fake_worker: processes.Server
) -> None:
    with pytest.raises(RuntimeError, match="cannot listen on"):
        processes.start(
            tmp_path,
            "search_server",
            "--port",
            fake_worker.address.rpartition(":")[2],
            *processes.gateway_flags(tmp_path, lite(tmp_path), fake_worker.address),
        )


def search_request(collection: str, words: str) -> search_service_pb2.SearchRequest:
    return search_service_pb2.SearchRequest(
        params=search_service_pb2.SearchParams(collection=collection, query=text(words))
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
