from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

from sentinel_client import (
    AsyncSentinelClient,
    ClientConfig,
    CollectionOptions,
    Diversity,
    EmbedOptions,
    FieldSchema,
    GroupBy,
    Hybrid,
    Item,
    Q,
    RetryPolicy,
    SearchOptions,
    SentinelClient,
    Timeouts,
    Tls,
    VectorIndex,
)

NOBODY = "127.0.0.1:1"


@pytest.mark.parametrize(
    ("call", "meant"),
    [
        (lambda client: client.search("x", collection="c", limits=3), "limit"),
        (lambda client: client.search("x", colection="c"), "collection"),
        (lambda client: client.search("x", collection="c", fliter=None), "filter"),
        (lambda client: client.search(imgae=b"", collection="c"), "image"),
        (lambda client: client.batch_search(["x"], collection="c", min_scor=0.1), "min_score"),
        (lambda client: client.get_items(["a"], collections="c"), "collection"),
        (lambda client: client.create_collection("c", expected_items=9), "expected_item_count"),
        (lambda client: client.embed("x", dimension=9), "dimensions"),
        (lambda client: client.rank("x", ["y"], topk=1), "top_k"),
        (lambda client: client.health(service=()), "services"),
        (lambda client: client.pages("x", collection="c", pagesize=3), "page_size"),
        (lambda client: client.list_items(collection="c", pages_size=3), "page_size"),
    ],
)
async def test_a_wrong_argument_is_told_with_the_closest_one(
    call: Callable[[Any], Any], meant: str
) -> None:
    said = rf"unexpected keyword argument '\w+'; did you mean '{meant}'\?"
    async with AsyncSentinelClient(NOBODY) as client:
        with pytest.raises(TypeError, match=said):
            await call(client)
    with SentinelClient(NOBODY) as blocking, pytest.raises(TypeError, match=said):
        list(call(blocking))


async def test_an_argument_like_no_other_is_told_alone() -> None:
    async with AsyncSentinelClient(NOBODY) as client:
        with pytest.raises(TypeError, match=r"keyword argument 'zzz'$"):
            await client.search("x", collection="c", zzz=3)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("create", "meant"),
    [
        (lambda: Item(fileds={}), "fields"),
        (lambda: Q(imgae=b""), "image"),
        (lambda: Hybrid(weight=1), "text_weight"),
        (lambda: Diversity(duplicates_treshold=1), "duplicate_threshold"),
        (lambda: GroupBy("x", sizes=1), "size"),
        (lambda: FieldSchema("x", full_txt=True), "full_text"),
        (lambda: VectorIndex(parms={}), "params"),
        (lambda: ClientConfig(timeout=1), "timeouts"),
        (lambda: RetryPolicy(attempts=1), "max_attempts"),
        (lambda: Timeouts(serch=1), "search"),
        (lambda: Tls(server=""), "server_name"),
    ],
)
def test_so_is_a_wrong_field_of_what_callers_create(
    create: Callable[[], object], meant: str
) -> None:
    with pytest.raises(TypeError, match=rf"did you mean '{meant}'\?"):
        create()


@pytest.mark.parametrize("options", [SearchOptions, CollectionOptions, EmbedOptions])
def test_every_option_is_documented_with_its_default(options: type) -> None:
    assert options.__doc__ is not None
    described = re.split(r"\n    (?=\w+: )", inspect.cleandoc(options.__doc__))
    told = dict(one.split(": ", 1) for one in described[1:])
    assert list(told) == list(options.__annotations__)
    for name, text in told.items():
        assert "Default:" in text, name


def test_methods_stay_what_they_are_for_tools() -> None:
    assert inspect.iscoroutinefunction(AsyncSentinelClient.search)
    assert "collection" in inspect.signature(AsyncSentinelClient.pages).parameters
