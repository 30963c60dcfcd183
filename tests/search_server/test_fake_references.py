"""Images by reference, through the client: on `FakeSentinel` as on a gateway."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from sentinel_client import ImageUri, Item, SentinelClient
from tests import photos
from tests.search_server.fake_pair import Pair, stored


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photo behind a link, as a folder of photos may be."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "my photos").symlink_to("disk")
    return Path(shutil.copy(photos.photo("rocket"), tmp_path / "my photos" / "rocket 100%.jpg"))


def got(client: SentinelClient, pair: Pair) -> Any:
    [item] = client.get_items(["x"], collection=pair.collection, include_thumbnails=True)
    return item, [one.by_reference for one in client.list_items(collection=pair.collection)]


def uris(client: SentinelClient, pair: Pair) -> list[str]:
    [item] = client.get_items(["x"], collection=pair.collection)
    image = photos.photo("rocket").read_bytes()
    return [item.image_uri, client.search(image=image, collection=pair.collection)[0].image_uri]


def downloaded(client: SentinelClient, pair: Pair) -> Any:
    return client.download_image("x", collection=pair.collection)


def outcome(pair: Pair, *items: Item) -> list[str]:
    return [one["outcome"] for one in pair.same(stored(*items))]


def test_a_path_is_stored_by_reference_and_read_from_there(fresh: Pair, photo: Path) -> None:
    item = Item(id="x", image=photo, by_reference=True)
    assert outcome(fresh, item) == ["STORED"]
    assert outcome(fresh, item) == ["UNCHANGED"]
    [found, by_reference] = fresh.same(got)
    assert (found["by_reference"], by_reference) == (True, [True])
    assert found["digest"] == hashlib.sha256(photo.read_bytes()).hexdigest()
    assert fresh.same(uris) == [photo.resolve().as_uri()] * 2
    data = photo.read_bytes()
    assert fresh.same(downloaded) == {"data": data, "media_type": "image/jpeg"}

    moved = photo.rename(photo.with_name("moved.jpg"))
    assert fresh.same(downloaded)[2] == "ORIGINAL_GONE"
    uri = ImageUri(moved.resolve().as_uri())
    named = Item(id="x", image=uri, by_reference=True, digest=found["digest"])
    assert outcome(fresh, named) == ["STORED"]
    assert fresh.same(uris) == [uri.uri] * 2

    assert outcome(fresh, Item(id="x", image=moved)) == ["STORED"]
    moved.unlink()
    assert fresh.same(downloaded)["data"] == data
    assert not fresh.same(got)[0]["by_reference"]
    assert outcome(fresh, named) == ["UNCHANGED"]  # the copy stays
    assert not fresh.same(got)[0]["by_reference"]


def test_a_stream_stores_by_reference_and_a_bad_file_fails_alone(fresh: Pair, photo: Path) -> None:
    text = photo.with_name("text.jpg")
    text.write_text("no image")
    digest = hashlib.sha256(photo.read_bytes()).hexdigest()
    uri = ImageUri(photo.resolve().as_uri())
    items = [
        Item(id="x", image=str(photo), by_reference=True, fields={"title": "a rocket"}),
        Item(id="missing", image=photo.with_name("missing.jpg"), by_reference=True),
        Item(id="folder", image=photo.parent, by_reference=True),
        Item(id="text", image=text, by_reference=True),
        Item(id="no digest", image=uri, by_reference=True),
        Item(id="bad digest", image=uri, by_reference=True, digest="x" * 64),
        Item(id="other", image=uri, by_reference=True, digest="0" * 64),
        Item(id="link", image=ImageUri(photo.as_uri()), by_reference=True, digest=digest),
        Item(id="web", image=ImageUri("https://x/y"), by_reference=True, digest=digest),
        Item(id="words", text="a dog", by_reference=True, image=None, digest=digest),
    ]

    def ingested(client: SentinelClient, pair: Pair) -> Any:
        acks = list(client.ingest(items[:-1], collection=pair.collection))
        return [
            (item.id, error.reason, (error.field or "").partition("]")[2])
            for ack in acks
            for item, error in ack.failed_items
        ], sorted(digest for ack in acks for digest in ack.digests if digest)

    failed, digests = fresh.same(ingested)
    assert {one[0]: one[1] for one in failed} == {
        "missing": "FILE_UNREADABLE",
        "folder": "FILE_UNREADABLE",
        "text": "IMAGE_FORMAT_UNSUPPORTED",
        "no digest": "PARAMETER_OUT_OF_RANGE",
        "bad digest": "PARAMETER_OUT_OF_RANGE",
        "other": "ORIGINAL_GONE",
        "link": "ORIGINAL_GONE",
        "web": "PARAMETER_OUT_OF_RANGE",
    }
    assert digests == [digest]
    with pytest.raises(TypeError, match="by_reference"):
        fresh.real.upsert(items[-1:], collection=fresh.collection)
    with pytest.raises(TypeError, match="by_reference"):
        item = Item(image=photo.read_bytes(), by_reference=True)
        fresh.real.upsert([item], collection=fresh.collection)
