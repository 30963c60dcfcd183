"""Pictures of the page's server, for slow browsers and of large files."""

from __future__ import annotations

import asyncio
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.types import Message

from sentinel_app import pictures
from sentinel_app.library import Library
from sentinel_app.serve import application
from tests.app.conftest import run_apart


@dataclass
class Stored:
    """A downloaded image."""

    data: bytes
    media_type: str = "image/bmp"


class Gateway:
    """Has one image."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.downloads = 0
        self.address = "localhost:1"

    async def download_image(self, item_id: str, *, collection: str) -> Stored:
        self.downloads += 1
        return Stored(self.data)

    async def delete_items(self, ids: list[str], *, collection: str) -> int:
        return len(ids)

    async def get_items(self, ids: list[str], **_: Any) -> list[Any]:
        return []


async def ask(app: Any, path: str, send: Any, body: bytes = b"") -> None:
    """Send a request to an application."""
    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "method": "POST" if body else "GET",
        "path": path,
        "query_string": query.encode(),
        "headers": [
            (b"host", b"localhost"),
            (b"x-sentinel-page", b"1"),
            (b"content-length", str(len(body)).encode()),
        ],
        "client": ("127.0.0.1", 1),
    }
    sent = False

    async def receive() -> Message:
        nonlocal sent
        if sent:
            await asyncio.Event().wait()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    await app(scope, receive, send)


def test_few_originals_are_in_memory_however_slow_browsers_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway: Any = Gateway(bytes(2**20))
    app = application(Library(gateway, tmp_path))
    parts: list[int] = []

    async def run() -> None:
        reading, reads = asyncio.Event(), asyncio.Semaphore(0)

        async def send(message: Message) -> None:
            parts.append(len(message.get("body", b"")))
            if len(parts) == 4:
                reading.set()
            await reads.acquire()

        path = "/api/original?c=photos&id=a"
        tasks = [asyncio.create_task(ask(app, path, send)) for _ in range(12)]
        await asyncio.wait_for(reading.wait(), 30)
        for _ in range(100):
            await asyncio.sleep(0)
        assert gateway.downloads == 4
        for _ in range(1000):
            reads.release()
        await asyncio.wait_for(asyncio.gather(*tasks), 30)
        assert gateway.downloads == 12
        assert sum(parts) == 12 * 2**20
        # One that never reads is left.
        monkeypatch.setattr(pictures, "STALL_S", -100)
        reads = asyncio.Semaphore(0)
        await asyncio.wait_for(ask(app, path, send), 30)

    run_apart(run())
    assert max(parts) <= 256 * 1024


def test_a_part_of_a_large_original_is_searched_with_through_a_copy(tmp_path: Path) -> None:
    large = io.BytesIO()
    Image.new("RGB", (2400, 2400), "red").save(large, "BMP")
    gateway: Any = Gateway(large.getvalue())
    assert len(gateway.data) > 16 * 2**20

    async def run() -> None:
        got: list[Message] = []

        async def send(message: Message) -> None:
            got.append(message)

        async with Library(gateway, tmp_path) as library:
            app = application(library)
            body = json.dumps({"collection": "photos", "id": "a"}).encode()
            await ask(app, "/api/query-image-of", send, body)
            name = json.loads(got[1]["body"])["id"]
            kept = library.query_images.read(name)
            assert kept is not None
            assert len(kept) < 2**20
            got.clear()
            await ask(app, f"/api/query-image?id={name}", send)
            assert got[0]["status"] == 200

    run_apart(run())


def test_copies_are_of_one_gateway_and_go_with_their_item(tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (400, 400), "red").save(picture, "PNG")
    first: Any = Gateway(picture.getvalue())
    other: Any = Gateway(picture.getvalue())
    other.address = "localhost:2"

    async def run() -> None:
        got: list[Message] = []

        async def send(message: Message) -> None:
            got.append(message)

        for gateway in (first, other, first):
            async with Library(gateway, tmp_path) as library:
                for item in "ab":
                    path = f"/api/picture?c=photos&id={item}&side=360&v=1"
                    await ask(application(library), path, send)
        assert (first.downloads, other.downloads) == (2, 2)
        assert b"immutable" in dict(got[0]["headers"])[b"cache-control"]
        got.clear()
        async with Library(first, tmp_path) as library:
            await ask(application(library), "/api/picture?c=photos&id=b&side=360", send)
            assert dict(got[0]["headers"])[b"cache-control"] == b"no-store"
            library.thumbnails.keep("photos", "b", b"small")
            library.trash.hide("photos", ["b"])
        assert await library.thumbnails.get("photos", "b") == b""
        assert len(list((tmp_path / "pictures").iterdir())) == 3

    run_apart(run())
