from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from sentinel.search.v1 import item_service_pb2 as item_pb
from sentinel_client import (
    AsyncSentinelClient,
    Box,
    Consistency,
    Diversity,
    GroupBy,
    Hybrid,
    ImageUri,
    InvalidArgument,
    Q,
    ResultTruncated,
    SearchPage,
    _messages,
)
from tests.client.fake_gateway import FakeGateway, as_dict, hit


@pytest.fixture
async def client(gateway: FakeGateway) -> AsyncIterator[AsyncSentinelClient]:
    async with AsyncSentinelClient(gateway.address) as client:
        yield client


async def test_a_sum_is_sent_as_weighted_terms(
    gateway: FakeGateway, client: AsyncSentinelClient, tmp_path: Path
) -> None:
    (tmp_path / "beach.jpg").write_bytes(b"jpeg")
    query = Q(image=tmp_path / "beach.jpg") + 0.5 * (Q("night") - Q("people")) - Q(item_id="7")
    await client.search(query, collection="c")
    terms = gateway.calls["Search"][0].params.query.composite.terms
    assert [term.weight for term in terms] == [1, 0.5, -0.5, -1]
    assert terms[0].content.image.data == b"jpeg"
    assert [terms[1].content.text, terms[2].content.text] == ["night", "people"]
    assert terms[3].item_id == "7"


async def test_a_query_of_one_term_is_no_sum_unless_it_has_a_weight(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    await client.search(Q("a cat"), collection="c")
    await client.search(-Q(vector=np.ones(4)), collection="c")
    plain, negative = (call.params.query for call in gateway.calls["Search"])
    assert plain.content.text == "a cat"
    assert negative.composite.terms[0].weight == -1
    assert negative.composite.terms[0].vector.dimensions == 4


async def test_an_image_may_be_a_uri_and_have_a_crop(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    query = Q(image=ImageUri("https://example.org/x.jpg"), crop=Box(right=0.5))
    await client.search(query, collection="c")
    assert as_dict(gateway.calls["Search"][0].params.query.content.image) == {
        "uri": "https://example.org/x.jpg",
        "crop": {"right": 0.5, "bottom": 1.0},
    }


@pytest.mark.parametrize("number", [2, 0.5, np.float32(0.5), np.int64(2)])
def test_any_real_number_is_a_weight_on_either_side(number: float) -> None:
    assert (number * Q("x")).terms[0].weight == (Q("x") * number).terms[0].weight == float(number)


def test_what_is_no_query_is_refused() -> None:
    with pytest.raises(TypeError, match="exactly one"):
        Q()
    with pytest.raises(TypeError, match="exactly one"):
        Q("x", item_id="7")
    with pytest.raises(TypeError, match="exactly one"):
        Q("x", image=b"y", vector=[1.0])
    with pytest.raises(TypeError, match="crop"):
        Q("x", crop=Box())
    with pytest.raises(TypeError, match=r"Q\(image"):
        Q(Path("x.jpg"))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Q("x") + "y"  # type: ignore[operator]
    with pytest.raises(TypeError):
        Q("x") * Q("y")  # type: ignore[operator]


def test_a_text_with_an_image_is_one_content() -> None:
    query = Q("at night", image=b"y", crop=Box(right=0.5))
    content = _messages.query_to_proto([(query.terms[0], b"y")]).content
    assert (content.image.data, content.image.text, content.image.crop.right) == (
        b"y",
        "at night",
        0.5,
    )


async def test_a_q_and_a_shorthand_are_one_too_many(client: AsyncSentinelClient) -> None:
    with pytest.raises(TypeError, match="not both"):
        await client.search(Q("x"), image=b"y", collection="c")
    with pytest.raises(TypeError, match="exactly one"):
        await client.search("x", item_id="7", collection="c")
    with pytest.raises(TypeError, match="exactly one"):
        await client.search(collection="c")


async def test_the_request_carries_every_option(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    await client.search(
        "x",
        collection="c",
        consistency=Consistency.STRONG,
        hybrid=Hybrid(text="dog", rrf_k=10, text_weight=0),
        diversity=Diversity(duplicate_threshold=0.5, mmr_lambda=0),
        group_by=GroupBy("year", 3),
        index_params={"ef": 128},
    )
    params = gateway.calls["Search"][0].params
    assert as_dict(params.hybrid) == {"text": "dog", "rrf_k": 10, "text_weight": 0.0}
    assert as_dict(params.diversity) == {"duplicate_threshold": 0.5, "mmr_lambda": 0.0}
    assert as_dict(params.group) == {"field": "year", "size": 3}
    assert as_dict(params)["consistency"] == "CONSISTENCY_STRONG"
    assert dict(params.index_params) == {"ef": 128}


async def test_unset_options_are_not_sent(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    await client.search("x", collection="c")
    assert set(as_dict(gateway.calls["Search"][0].params)) == {"collection", "query"}


async def test_pages_go_to_the_last(gateway: FakeGateway, client: AsyncSentinelClient) -> None:
    gateway.hits = [hit(rank, 0.5) for rank in range(1, 6)]
    pages = [page async for page in client.pages("x", collection="c", page_size=2)]
    assert [[one.rank for one in page] for page in pages] == [[1, 2], [3, 4], [5]]


async def test_a_batch_answers_in_order_and_a_bad_query_fails_alone(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    gateway.hits = [hit(rank, 0.5) for rank in range(1, 9)]
    queries = [f"query {number}" for number in range(150)]
    queries[100] = "BAD"
    answers = await client.batch_search(queries, collection="c", limit=3)
    assert len(answers) == 150
    bad = answers.pop(100)
    assert isinstance(bad, InvalidArgument)
    assert bad.reason == "TEXT_TOO_LONG"
    assert all(isinstance(page, SearchPage) and len(page) == 3 for page in answers)
    assert sorted(len(call.searches) for call in gateway.calls["BatchSearch"]) == [22, 64, 64]
    with pytest.raises(TypeError, match="list of queries"):
        await client.batch_search("one", collection="c")


async def test_items_are_listed_over_all_pages(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    for number in range(5):
        gateway.items[str(number)] = item_pb.Item(id=str(number))
    listed = [item.id async for item in client.list_items(collection="c", page_size=2)]
    assert listed == ["0", "1", "2", "3", "4"]
    assert len(gateway.calls["ListItems"]) == 3


async def test_a_picture_is_downloaded_whole_or_not_at_all(
    gateway: FakeGateway, client: AsyncSentinelClient
) -> None:
    gateway.images["a"] = b"12345"
    image = await client.download_image("a", collection="c")
    assert (image.data, image.media_type) == (b"12345", "image/jpeg")
    gateway.break_stream_after = 2
    with pytest.raises(ResultTruncated):
        await client.download_image("a", collection="c")
