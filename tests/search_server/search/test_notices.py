"""What a search tells about its query: a cut text, a language that the model does not know."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sentinel_client import Item, Notice, NoticeKind, Q, SearchPage, SentinelClient
from tests import photos, processes
from tests.search_server.fake_pair import new_name

GERMAN = "ein hund am strand"
LONG = "a dog on the beach " * 200


@pytest.fixture(scope="module")
def client(gateway_process: processes.Server) -> Iterator[SentinelClient]:
    with SentinelClient(gateway_process.address) as client:
        yield client


@pytest.fixture(scope="module")
def collection(client: SentinelClient) -> str:
    name = new_name()
    client.create_collection(name)
    client.upsert([Item(id="dog", text="a dog on the beach")], collection=name)
    return name


def kinds(notices: tuple[Notice, ...]) -> list[NoticeKind]:
    return [notice.kind for notice in notices]


def test_a_text_in_another_language_gets_a_notice_every_time(
    client: SentinelClient, collection: str
) -> None:
    assert client.get_model().languages == ("en",)
    first, again = (client.search(GERMAN, collection=collection) for _ in range(2))
    assert again.timings.embed_cached
    assert first.notices == again.notices
    [notice] = first.notices
    assert notice.kind is NoticeKind.LANGUAGE_UNKNOWN
    assert "German" in notice.message and "only English" in notice.message
    assert client.search("a dog on the beach", collection=collection).notices == ()


def test_a_text_that_was_cut_gets_a_notice_also_from_the_cache(
    client: SentinelClient, collection: str
) -> None:
    first, again = (client.search(LONG, collection=collection) for _ in range(2))
    assert again.timings.embed_cached
    assert first.notices == again.notices
    [notice] = first.notices
    assert notice.kind is NoticeKind.TEXT_TRUNCATED
    assert f"{client.get_model().max_text_tokens} of " in notice.message


def test_pages_batches_and_streams_have_notices(client: SentinelClient, collection: str) -> None:
    page = client.search_page(GERMAN, collection=collection)
    first, second = client.batch_search([GERMAN, "a dog"], collection=collection)
    assert isinstance(first, SearchPage) and isinstance(second, SearchPage)
    assert kinds(page.notices) == kinds(first.notices) == [NoticeKind.LANGUAGE_UNKNOWN]
    assert second.notices == ()
    told: list[tuple[Notice, ...]] = []
    list(client.stream_search(GERMAN, collection=collection, on_notices=told.append))
    assert told == [page.notices]


def test_every_text_of_a_mixed_query_counts_and_each_notice_comes_once(
    client: SentinelClient, collection: str
) -> None:
    image = Q(image=photos.photo("coffee"))
    found = client.search(image + Q(GERMAN) + 0.5 * Q("zwei katzen"), collection=collection)
    assert kinds(found.notices) == [NoticeKind.LANGUAGE_UNKNOWN]
    assert client.search(image, collection=collection).notices == ()
