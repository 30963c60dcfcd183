"""Clients that retry do not multiply the load of servers that are full."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sentinel_client import AsyncSentinelClient, Item, ResourceExhausted
from tests import processes
from tests.processes import metric

_FULL = ["--max-queue-items", "2", "--max-contents-per-request", "2"]
_RATE, _SECONDS = 60, 8


@pytest.mark.slow
async def test_full_workers_get_at_most_a_fifth_more_than_the_first_attempts(
    tmp_path: Path,
) -> None:
    """It was 4.5 times the load at the gateway, and more calls timed out than without retries."""
    slow = {"FAKE_SECONDS_PER_BATCH": "0.3"}
    with (
        processes.running(tmp_path / "a", "tests.fakes.worker", *_FULL, environment=slow) as one,
        processes.running(tmp_path / "b", "tests.fakes.worker", *_FULL, environment=slow) as two,
    ):
        flags = processes.gateway_flags(
            tmp_path / "g", str(tmp_path / "m.db"), one.address, two.address
        )
        flags += ["--query-cache-entries", "0"]
        with processes.running(tmp_path / "g", "search_server", *flags) as gateway:
            outcomes = await _search_at_a_rate(gateway.address)
            calls = metric(
                gateway.metrics_address,
                "sentinel_gateway_request_duration_seconds_count",
                method="/sentinel.search.v1.SearchService/Search",
            )
    assert set(outcomes) <= {"OK", "QUEUE_FULL", "OVERLOADED"}
    assert outcomes.count("OK") > _SECONDS  # of some 13 a second
    assert len(outcomes) < calls <= 1.2 * len(outcomes) + 10


async def _search_at_a_rate(address: str) -> list[str]:
    async with AsyncSentinelClient(address) as client:
        await client.create_collection("photos")
        await client.upsert([Item(id="a", text="red")], collection="photos")

        async def search(number: int) -> str:
            try:
                await client.search(f"text {number}", collection="photos")
            except ResourceExhausted as error:
                return error.reason
            return "OK"

        tasks = []
        for number in range(_RATE * _SECONDS):
            tasks.append(asyncio.create_task(search(number)))
            await asyncio.sleep(1 / _RATE)
        return await asyncio.gather(*tasks)
