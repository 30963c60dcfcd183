"""Two live gateways on one Milvus server: the second goes on with what the first left undone."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from sentinel_client import ClientConfig, Item, SentinelClient
from tests import processes
from tests.processes import metric
from tests.search_server.conftest import connect
from tests.search_server.embedders.test_faults import FAKE
from tests.search_server.items.ingesting import picture

pytestmark = pytest.mark.milvus
ITEMS = 400


@pytest.fixture
def pair(tmp_path: Path, milvus_server_uri: str) -> Iterator[tuple[processes.Server, ...]]:
    environment = {"FAKE_SECONDS_PER_BATCH": "0.1"}
    with processes.running(tmp_path / "w", FAKE, environment=environment) as worker:
        flags = processes.gateway_flags(tmp_path, milvus_server_uri, worker.address)
        flags += ["--drain-seconds", "4"]
        with (
            processes.running(tmp_path / "one", "search_server", *flags) as one,
            processes.running(tmp_path / "two", "search_server", *flags) as two,
        ):
            yield one, two


def ingested(server: processes.Server) -> float:
    name = "sentinel_gateway_items_total"
    return metric(server.metrics_address, name, operation="upsert", outcome="stored")


@pytest.mark.parametrize("end", ["drained", "killed"])
@pytest.mark.slow
def test_a_stream_goes_on_at_the_other_gateway(
    pair: tuple[processes.Server, processes.Server], end: str
) -> None:
    name = f"c_{uuid.uuid4().hex}"
    connect(pair[0].address).create(name)
    items = [Item(id=f"i{number}", image=picture(number)) for number in range(ITEMS)]

    def one_by_one() -> Iterator[Item]:
        for item in items:
            time.sleep(0.005)  # the first gateway must not have them all when it stops
            yield item

    acknowledged: list[str] = []
    stopped = None
    address = "ipv4:" + ",".join(server.address for server in pair)
    with SentinelClient(address, config=ClientConfig(upsert_max_items=8)) as client:
        for ack in client.ingest(one_by_one(), collection=name):
            assert not ack.failures
            acknowledged += [item.id for item in ack.items]
            if stopped is None:
                [stopped] = [server for server in pair if ingested(server)]
                assert len(acknowledged) < ITEMS / 2
                if end == "drained":
                    stopped.process.terminate()
                else:
                    stopped.kill()
    [other] = [server for server in pair if server is not stopped]
    assert ingested(other)
    assert acknowledged == [item.id for item in items]
    assert connect(other.address).count(name) == ITEMS
