"""The gateways that the clients of other languages are tested against, seen from Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentinel_client import ClientConfig, SentinelClient, Tls
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.milvus]


def test_each_gateway_is_what_its_variable_says(variables: dict[str, str]) -> None:
    with SentinelClient(variables["SENTINEL_TEST_ADDRESS"]) as client:
        client.create_collection("plain", {})
    config = ClientConfig(
        tls=Tls(ca=Path(variables["SENTINEL_TEST_CA"])), api_key=variables["SENTINEL_TEST_API_KEY"]
    )
    with SentinelClient(variables["SENTINEL_TEST_SECURE_ADDRESS"], config=config) as client:
        client.create_collection("secure", {})
    first, second = variables["SENTINEL_TEST_ADDRESSES"].split(",")
    with SentinelClient(first) as client:
        client.create_collection("seen_by_both", {})
    with SentinelClient(second) as client:
        assert "seen_by_both" in [found.name for found in client.list_collections()]
    assert (Path(variables["SENTINEL_TEST_PHOTOS"]) / "chelsea.png").exists()
    switch = Path(variables["SENTINEL_TEST_SWITCH"])
    (switch / "drain").touch()
    until((switch / "drained").exists, 30)
