"""What a caller is shown of hits does not stay in the blocks that they came in."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

from search_server.search.nearest import rank
from search_server.search.paging import START
from search_server.search.searcher import Page, Searcher
from search_server.types.queries import Query, SearchSpec, Term
from search_server.types.searches import Hit, Search, SearchTimings, Selection
from sentinel_core.calls import Deadline
from sentinel_core.metrics import ServerMetrics
from sentinel_store.collections import CollectionInfo
from sentinel_store.items import Row
from sentinel_store.values import ModelRef

VECTOR = np.ones(1, np.float32)
INFO = CollectionInfo("album", ModelRef("m", "r", "f"), 1, {})


class Images:
    """An image store in which every image has a thumbnail; notes what is left of a block then."""

    def __init__(self, block: list[Hit]) -> None:
        self._block = block
        self.left: list[int] = []

    async def image_uris(self, digests: Sequence[str]) -> list[str]:
        return [f"file:///{digest}" for digest in digests]

    async def get_thumbnails(self, digests: Sequence[str]) -> list[bytes]:
        self.left.append(len(self._block))
        return [digest.encode() for digest in digests]


def test_a_block_of_hits_does_not_keep_the_thumbnails_that_were_shown() -> None:
    """It has up to 500 hits, and only 64 thumbnails should be in memory at once."""
    block = rank([(Row(f"row{n}", "d", f"image{n}", "", {}), 1.0) for n in range(200)])
    images = Images(block)
    parts: Any = (None, None, None, images, None)
    metrics = ServerMetrics("gateway", CollectorRegistry())
    searcher = Searcher(*parts, row_memory=None, metrics=metrics)  # type: ignore[arg-type]
    spec = SearchSpec(INFO.name, Query((Term(vector=VECTOR),)), include_thumbnails=True)
    selection = Selection(INFO, "", INFO.consistency, Deadline.after(None, default_s=60.0))
    search = Search(spec, selection, VECTOR, SearchTimings(), perf_counter())

    async def page() -> Page:
        return await searcher.page(search, 199, START, max_bytes=1 << 20, first_hits=block)

    hits = asyncio.run(page()).hits
    assert [hit.thumbnail for hit in hits] == [f"image{n}".encode() for n in range(199)]
    assert images.left == [136, 72, 8, 0]
