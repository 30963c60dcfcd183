"""Call a live gateway; run by a Python that has the client only.

Usage: client_program.py ADDRESS PHOTOS MARK. The names of its collections end with MARK. Prints as
JSON which modules it finds that only servers need.
"""

from __future__ import annotations

import asyncio
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from sentinel_client import (
    AsyncSentinelClient,
    F,
    FieldSchema,
    FieldType,
    Item,
    NotFound,
    Outcome,
    Q,
    SentinelClient,
)

SERVERS = (
    *("embedder_server", "search_server", "sentinel_core", "sentinel_store", "bulk_indexer"),
    *("sentinel_app", "pymilvus", "milvus_lite", "torch", "onnxruntime", "PIL", "pydantic"),
    *("aiohttp", "redis", "pandas", "streamlit", "ray", "pyarrow", "cryptography"),
)
NAMES = ("chelsea.png", "coffee.png", "flower.jpg", "rocket.jpg")


def synchronous(address: str, photos: Path, collection: str) -> None:
    """Store photos, find them, embed, rank; delete one."""
    items = [Item(image=photos / name, id=name, fields={"file": name}) for name in NAMES]
    with SentinelClient(address) as client:
        client.create_collection(collection, [FieldSchema("file", FieldType.STRING)])
        results = client.upsert(items, collection=collection)
        assert {one.outcome for one in results} == {Outcome.STORED}, results
        hits = client.search("a rocket", collection=collection, filter=F("file") != "coffee.png")
        assert (hits[0].fields["file"], len(hits)) == ("rocket.jpg", 3)
        like = client.search(image=photos / "chelsea.png", collection=collection, limit=1)
        assert like[0].id == "chelsea.png"
        vector = client.embed("a rocket")
        assert abs(float(np.linalg.norm(vector)) - 1) < 1e-3
        assert client.search(vector=vector, collection=collection, limit=1)[0].id == "rocket.jpg"
        ranked = client.rank(Q(image=photos / "rocket.jpg"), ["a rocket", "a cup of coffee"])
        assert ranked[0].index == 0
        client.delete_items(["rocket.jpg"], collection=collection)
        assert not client.get_items(["rocket.jpg"], collection=collection).items
        try:
            client.search("a rocket", collection="nowhere")
        except NotFound as error:
            assert error.reason == "COLLECTION_NOT_FOUND"
        else:
            raise AssertionError("a missing collection was searched")


async def asynchronous(address: str, photos: Path, collection: str) -> None:
    """Ingest photos over one stream, page through them, search them in a batch."""

    items = (Item(image=photos / name, id=name) for name in NAMES)
    async with AsyncSentinelClient(address) as client:
        await client.create_collection(collection)
        async for ack in client.ingest(items, collection=collection):
            assert not ack.failed_items
        pages = [page async for page in client.pages("a cat", collection=collection, page_size=3)]
        assert [len(page) for page in pages] == [3, 1]
        assert {item.id async for item in client.list_items(collection=collection)} == set(NAMES)


def main() -> None:
    address, photos, mark = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    synchronous(address, photos, f"sync_{mark}")
    asyncio.run(asynchronous(address, photos, f"async_{mark}"))
    print(json.dumps([name for name in SERVERS if find_spec(name) is not None]))


if __name__ == "__main__":
    main()
