"""SIGKILL of gateway, worker or client in mid-import: nothing acknowledged is lost or doubled.

Six random moments by default; `SENTINEL_TEST_CRASHES=50` for as many as wanted.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlparse

import pytest

from sentinel.search.v1 import item_service_pb2 as pb
from tests import crash_client, processes
from tests.search_server.conftest import Gateway, connect
from tests.search_server.items.ingesting import picture

CRASHES = int(os.environ.get("SENTINEL_TEST_CRASHES", "6"))
BATCHES_PER_IMPORT = 40
VICTIMS = ("gateway", "worker", "client")
FAKE = "tests.fakes.worker"


@dataclass
class System:
    """A worker and a gateway on fixed addresses, and the imports that run against them."""

    folder: Path
    ports: tuple[int, int] = field(
        default_factory=lambda: (processes.free_port(), processes.free_port())
    )
    worker: processes.Server | None = None
    gateway: processes.Server | None = None

    def up(self) -> Gateway:
        """Start what is not running; return the gateway's stubs."""
        if self.worker is None:
            self.worker = processes.start(
                self.folder / "w",
                FAKE,
                *("--port", str(self.ports[0])),
                environment={"FAKE_SECONDS_PER_BATCH": "0.02"},
            )
        if self.gateway is None:
            flags = processes.gateway_flags(
                self.folder, str(self.folder / "milvus.db"), self.worker.address
            )
            self.gateway = processes.start(
                self.folder, "search_server", *flags, "--port", str(self.ports[1])
            )
        assert processes.wait_for_health(self.gateway.address, True, 30)
        return connect(self.gateway.address)

    def kill(self, victim: str, client: subprocess.Popen[bytes]) -> None:
        if victim == "client":
            client.kill()
            return
        server: processes.Server | None = getattr(self, victim)
        assert server is not None
        server.kill()
        setattr(self, victim, None)

    def start_import(self, journal: Path, first: int, last: int) -> subprocess.Popen[bytes]:
        assert self.gateway is not None
        command = [
            *(sys.executable, "-m", "tests.crash_client", self.gateway.address),
            *(str(journal), str(first), str(last)),
        ]
        with (self.folder / "client.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def down(self) -> None:
        for server in (self.gateway, self.worker):
            if server is not None:
                server.stop()


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    made = System(tmp_path)
    yield made
    made.down()


def acknowledged(journal: Path) -> list[int]:
    return [int(line) for line in journal.read_text().splitlines()] if journal.exists() else []


def wait_for_acks(journal: Path, count: int, client: subprocess.Popen[bytes]) -> None:
    """Wait until the import is under way, by so many acknowledgements, or has ended."""
    while client.poll() is None and (not journal.exists() or len(acknowledged(journal)) < count):
        time.sleep(0.002)


def numbers_of(batches: list[int]) -> list[int]:
    per_batch = crash_client.ITEMS_PER_BATCH
    return [
        number for batch in batches for number in range(batch * per_batch, (batch + 1) * per_batch)
    ]


def check_there(gateway: Gateway, batches: list[int]) -> None:
    """Fail unless every item of these batches is there, with its picture and its thumbnail."""
    for start in range(0, len(batches), 100):
        wanted = {
            crash_client.item_id(number): number
            for number in numbers_of(batches[start : start + 100])
        }
        found = gateway.get(crash_client.COLLECTION, *wanted, include_thumbnails=True)
        assert not found.missing_ids
        for item in found.items:
            data = Path(urlparse(item.image_uri).path).read_bytes()
            assert data == picture(wanted[item.id]), item.id
            assert item.thumbnail, item.id


def every_id(gateway: Gateway) -> list[str]:
    ids, token = [], ""
    while True:
        request = pb.ListItemsRequest(
            collection=crash_client.COLLECTION, page_size=1_000, page_token=token
        )
        page = gateway.items.ListItems(request, timeout=30)
        ids += [item.id for item in page.items]
        token = page.next_page_token
        if not token:
            return ids


@pytest.mark.timeout(120 + 60 * CRASHES)
@pytest.mark.slow
def test_sigkill_at_random_moments_of_an_import(system: System) -> None:
    chance = random.Random(20)
    system.up().create(crash_client.COLLECTION)
    moments: dict[str, list[int]] = {name: [] for name in VICTIMS}
    for crash in range(CRASHES):
        first, last = crash * BATCHES_PER_IMPORT, (crash + 1) * BATCHES_PER_IMPORT
        journal = system.folder / f"journal-{crash}"
        victim = VICTIMS[crash % len(VICTIMS)]
        client = system.start_import(journal, first, last)
        wait_for_acks(journal, chance.randrange(BATCHES_PER_IMPORT), client)
        time.sleep(chance.uniform(0.0, 0.05))
        system.kill(victim, client)
        client.wait(30)
        before = acknowledged(journal)
        moments[victim].append(len(before))
        assert before == list(range(first, first + len(before)))

        gateway = system.up()
        check_there(gateway, before)
        # A re-run, from the first batch that was not acknowledged, finishes the job.
        again = system.start_import(journal, first + len(before), last)
        assert again.wait(60) == 0, (system.folder / "client.log").read_text()[-2000:]
        assert acknowledged(journal) == list(range(first, last))
    print("batches acknowledged before each kill:", moments)

    gateway = system.up()
    batches = list(range(CRASHES * BATCHES_PER_IMPORT))
    check_there(gateway, batches)
    expected = [crash_client.item_id(number) for number in numbers_of(batches)]
    assert every_id(gateway) == expected
    assert gateway.count(crash_client.COLLECTION) == len(expected)
