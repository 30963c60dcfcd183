"""A list of collections leaves out what somebody deletes while it is made, and does not fail."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from search_server.api.admission import GatewayAdmission
from search_server.api.collection_service import CollectionService
from search_server.api.page_tokens import PageTokens
from search_server.collections.catalog import Catalog
from search_server.milvus.search_store import SearchStore
from search_server.settings import GatewaySettings
from sentinel.search.v1 import collection_service_pb2 as pb
from sentinel_core.calls import Deadline
from sentinel_core.metrics import ServerMetrics
from sentinel_store.collections import CollectionInfo
from sentinel_store.values import ModelRef


class Context:
    def time_remaining(self) -> float:
        return 30.0


@pytest.mark.parametrize("step", ["describe_collection", "count"])
async def test_the_others_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    store = SearchStore(str(tmp_path / "milvus.db"), "", 4)
    for name in ("kept", "left", "other"):
        info = CollectionInfo(name, ModelRef("m", "r", "f"), 4, {})
        await store.create_collection(info, Deadline.within(30))
    asked = getattr(store, step)

    async def after_a_deletion(which: Any, *arguments: Any, **options: Any) -> Any:
        name = which if isinstance(which, str) else which.name
        if name == "left":
            await store.drop_collection("left", Deadline.within(30))
        return await asked(which, *arguments, **options)

    monkeypatch.setattr(store, step, after_a_deletion)
    nothing: Any = None
    settings = GatewaySettings(_env_file=None)
    service = CollectionService(
        Catalog(store, nothing, nothing),
        nothing,
        PageTokens(b"key", 60.0),
        30.0,
        asyncio.Event(),
        admission=GatewayAdmission(settings, ServerMetrics("gateway", CollectorRegistry())),
        confirmations=nothing,
        levels_of=lambda info: None,
    )
    context: Any = Context()
    listed = await service.ListCollections(pb.ListCollectionsRequest(), context)
    assert [one.name for one in listed.collections] == ["kept", "other"]
    await store.close()
