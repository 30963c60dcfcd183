"""Match levels: what a real gateway learns about scores, and when."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sentinel_client import (
    FieldSchema,
    FieldType,
    Hybrid,
    Item,
    Match,
    MatchLevels,
    Q,
    SearchResult,
    SentinelClient,
)
from tests import photos, processes, waiting

_MODULE = "search_server.collections.match_levels."
# As fast as it goes: each step waits for what it needs, and nothing here measures time.
FAST = {
    f"{_MODULE}{name}": 0.01
    for name in ("_AFTER_WRITE_S", "_AFTER_SEARCH_S", "_PAUSE_S", "_RETRY_S", "_SETTLE_S", "_REST")
}
PHOTOS = [path for path in photos.all_photos() if path.stem != "rocket"]
ABSENT = "a quarterly report of sales figures"


@pytest.fixture(scope="module")
def gateway(
    default_worker: processes.Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[processes.Server]:
    folder = tmp_path_factory.mktemp("levels")
    flags = processes.gateway_flags(
        folder, str(folder / "milvus.db"), default_worker.address, match_levels=True
    )
    with processes.running(folder, "search_server", *flags, constants=FAST) as server:
        yield server


@pytest.fixture(scope="module")
def client(gateway: processes.Server) -> Iterator[SentinelClient]:
    with SentinelClient(gateway.address) as client:
        yield client


@pytest.fixture(scope="module")
def album(client: SentinelClient) -> str:
    """Photos and one text, whose levels are known."""
    client.create_collection("album", [FieldSchema("name", FieldType.STRING, full_text=True)])
    client.upsert([Item(image=p, fields={"name": p.stem}) for p in PHOTOS], collection="album")
    client.upsert([Item(id="text", text="a cat with green eyes")], collection="album")
    levels_of(client, "album")
    return "album"


def levels_of(client: SentinelClient, name: str) -> MatchLevels:
    """Wait until a collection has match levels."""
    waiting.until(lambda: client.get_collection(name).match_levels)
    levels = client.get_collection(name).match_levels
    assert levels is not None
    return levels


def best_image(result: SearchResult) -> Match | None:
    return next(hit.match for hit in result if hit.image_uri)


def test_a_present_thing_is_a_match_and_an_absent_one_is_not(
    client: SentinelClient, album: str
) -> None:
    levels = levels_of(client, album)
    assert -1 < levels.fair < levels.strong <= 1
    assert best_image(client.search("a cup of coffee", collection=album)) is Match.STRONG
    absent = client.search(ABSENT, collection=album)
    assert {hit.match for hit in absent if hit.image_uri} == {Match.WEAK}


def test_each_hit_has_the_level_of_its_score(client: SentinelClient, album: str) -> None:
    levels = levels_of(client, album)
    found = client.search("a cat", collection=album)
    assert {hit.match for hit in found if hit.image_uri} >= {Match.STRONG, Match.WEAK}
    for hit in found:
        expected = Match.FAIR if hit.score >= levels.fair else Match.WEAK
        if hit.score >= levels.strong:
            expected = Match.STRONG
        assert hit.match is (expected if hit.image_uri else None)
    page = client.search_page("a cat", collection=album)
    [batch] = client.batch_search(["a cat"], collection=album)
    assert page.hits == found.hits
    assert isinstance(batch, type(page)) and batch.hits == found.hits


def test_the_scores_of_a_hybrid_search_have_none(client: SentinelClient, album: str) -> None:
    found = client.search("a cup of coffee", collection=album, hybrid=Hybrid(text="coffee"))
    assert {hit.match for hit in found} == {None}


@pytest.mark.parametrize("query", ["image", "item", "vector", "composite"])
def test_only_queries_of_one_text_have_levels(
    client: SentinelClient, album: str, query: str
) -> None:
    coffee = photos.photo("coffee")
    known = client.search("a cat", collection=album)[0].id
    queries = {
        "image": Q(image=coffee),
        "item": Q(item_id=known),
        "vector": Q(vector=client.embed("a cat")),
        "composite": Q("a cat") + 0.5 * Q(image=coffee),
    }
    assert {hit.match for hit in client.search(queries[query], collection=album)} == {None}


def test_few_images_and_texts_alone_have_no_levels(client: SentinelClient, album: str) -> None:
    client.create_collection("texts")
    client.upsert([Item(text=f"a cat and {n} dogs") for n in range(20)], collection="texts")
    client.create_collection("few")
    client.upsert([Item(image=path) for path in PHOTOS[:9]], collection="few")
    # One collection at a time, in the order of their writes: the last one's levels come last.
    client.create_collection("last")
    client.upsert([Item(image=path) for path in PHOTOS], collection="last")
    levels_of(client, "last")
    for name in ("texts", "few"):
        assert client.get_collection(name).match_levels is None
        assert {hit.match for hit in client.search("a cat", collection=name)} == {None}


def test_levels_are_renewed_when_the_collection_has_grown_and_end_when_it_is_small(
    client: SentinelClient,
) -> None:
    client.create_collection("growing", [FieldSchema("name", FieldType.STRING)])

    def store(paths: list[Path]) -> None:
        items = [Item(image=path, fields={"name": path.stem}) for path in paths]
        client.upsert(items, collection="growing")

    def size() -> int:
        levels = client.get_collection("growing").match_levels
        return levels.item_count if levels else 0

    store(PHOTOS[:11])
    waiting.until(lambda: size() == 11)
    before = levels_of(client, "growing")
    store(PHOTOS)
    waiting.until(lambda: size() == len(PHOTOS))
    assert levels_of(client, "growing").fair > before.fair  # more pictures, better wrong ones
    kept = {path.stem for path in PHOTOS[:3]}
    gone = [
        item.id
        for item in client.list_items(collection="growing")
        if item.fields["name"] not in kept
    ]
    client.delete_items(gone, collection="growing")
    waiting.until(lambda: client.get_collection("growing").match_levels is None)


def test_a_collection_of_the_same_name_starts_anew(client: SentinelClient) -> None:
    client.create_collection("again")
    client.upsert([Item(image=path) for path in PHOTOS], collection="again")
    levels_of(client, "again")
    client.delete_collection("again")
    client.create_collection("again")
    assert client.get_collection("again").match_levels is None
    client.upsert([Item(image=path) for path in PHOTOS[:12]], collection="again")
    assert levels_of(client, "again").item_count == 12


def test_levels_outlive_the_gateway_and_a_search_is_enough_to_find_them(
    default_worker: processes.Server, tmp_path: Path
) -> None:
    uri = str(tmp_path / "milvus.db")

    def running(*, match_levels: bool) -> processes.Server:
        flags = processes.gateway_flags(
            tmp_path, uri, default_worker.address, match_levels=match_levels
        )
        return processes.start(tmp_path, "search_server", *flags, constants=FAST)

    first = running(match_levels=False)
    with SentinelClient(first.address) as client:
        client.create_collection("photos")
        client.upsert([Item(image=path) for path in PHOTOS], collection="photos")
        assert client.search("a cat", collection="photos")[0].match is None
    first.stop()
    second = running(match_levels=True)
    with SentinelClient(second.address) as client:
        client.search("a cat", collection="photos")
        levels = levels_of(client, "photos")
        name = "sentinel_gateway_match_calibration_duration_seconds_count"
        waiting.until(lambda: processes.metric(second.metrics_address, name, outcome="found") == 1)
    second.stop()
    third = running(match_levels=True)
    with SentinelClient(third.address) as client:
        assert client.get_collection("photos").match_levels == levels
        assert client.search("a cat", collection="photos")[0].match is Match.STRONG
    third.stop()
