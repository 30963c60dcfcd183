"""What only `FakeSentinel` has; tests/search_server/test_fake_*.py compare it to a gateway."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from sentinel.search.v1 import item_service_pb2 as item_pb
from sentinel_client import (
    AsyncSentinelClient,
    ClientConfig,
    ConnectionFailed,
    InvalidArgument,
    Item,
    Match,
    NoticeKind,
    Outcome,
    Q,
    ResourceExhausted,
    RetryPolicy,
    SentinelClient,
    SentinelError,
    Unavailable,
    _rpcs,
)
from sentinel_client._connection import Attempts
from sentinel_client.testing import FakeSentinel

PNG = b"\x89PNG\r\n\x1a\n"
ONCE = ClientConfig(retry=RetryPolicy(max_attempts=1))
NO_WORKER = Unavailable("NO_HEALTHY_WORKER", "no worker")


def store(client: SentinelClient, *texts: str) -> None:
    client.get_or_create_collection("c")
    results = client.upsert([Item(id=text, text=text) for text in texts], collection="c")
    assert all(one.outcome is Outcome.STORED for one in results)


def found(client: SentinelClient, query: str | Q) -> list[str]:
    return [hit.id for hit in client.search(query, collection="c")]


def test_a_text_is_found_by_some_of_its_words() -> None:
    with FakeSentinel() as client:
        store(client, "a dog on the beach", "the city at night", "a rocket")
        assert found(client, "city night")[0] == "the city at night"
        assert found(client, Q("a dog") - Q("rocket"))[0] == "a dog on the beach"


async def test_the_asynchronous_client_has_the_same_gateway() -> None:
    fake = FakeSentinel()
    with fake as blocking:
        store(blocking, "a dog", "a cat")
    async with fake as client:  # what is stored stays
        assert isinstance(client, AsyncSentinelClient)
        assert (await client.search("cat", collection="c"))[0].id == "a cat"
        assert [item.id async for item in client.list_items(collection="c")] == ["a cat", "a dog"]


def test_vectors_are_the_same_in_every_run() -> None:
    with FakeSentinel(dimensions=4) as client:
        vector = client.embed("Dog, beach!")
        assert np.array_equal(vector, client.embed("beach dog"))
        assert vector == pytest.approx([-0.8187, -0.3679, 0.1737, -0.4052], abs=1e-4)


def test_a_collection_can_have_shorter_vectors() -> None:
    with FakeSentinel(dimensions=8, supported_dimensions=(4,)) as client:
        assert client.get_model().supported_dimensions == (4, 8)
        client.create_collection("c", dimensions=4)
        client.upsert([Item(id="dog", text="a dog"), Item(id="cat", text="a cat")], collection="c")
        [hit, _] = client.search("dog", collection="c", include_vectors=True)
        whole = client.embed("a dog")
        assert hit.id == "dog"
        assert hit.vector == pytest.approx(whole[:4] / np.linalg.norm(whole[:4]), abs=1e-6)
        with pytest.raises(InvalidArgument, match="use 4, 8"):
            client.create_collection("d", dimensions=5)
    with pytest.raises(ValueError, match="supported"):
        FakeSentinel(dimensions=4, supported_dimensions=(8,))


def test_an_image_is_found_by_its_description() -> None:
    fake = FakeSentinel()
    with fake as client:
        fake.describe(PNG + b"1", "a dog on the beach")
        client.create_collection("c")
        images = [Item(id=str(number), image=PNG + b"%d" % number) for number in range(3)]
        client.upsert(images, collection="c")
        assert found(client, "a dog")[0] == "1"
        assert found(client, Q(image=PNG + b"2"))[0] == "2"


def test_hits_have_the_match_levels_that_were_set() -> None:
    fake = FakeSentinel()
    fake.describe(PNG, "a dog on the beach")
    with fake as client:
        client.create_collection("c")
        client.upsert([Item(id="p", image=PNG), Item(id="t", text="a dog")], collection="c")
        assert {hit.match for hit in client.search("a dog", collection="c")} == {None}
        assert client.get_collection("c").match_levels is None
        fake.set_match_levels("c", fair=0.5, strong=0.9)
        levels = client.get_collection("c").match_levels
        assert levels is not None and levels.item_count == 2

        def match(query: str | Q) -> Match | None:
            return {hit.id: hit.match for hit in client.search(query, collection="c")}["p"]

        assert match("a dog on the beach") is Match.STRONG
        assert match("a dog") is Match.FAIR
        assert match("rocket") is Match.WEAK
        assert match(Q(image=PNG)) is None
        by_id = {hit.id: hit.match for hit in client.search("a dog", collection="c")}
        assert by_id["t"] is None  # a text
    with pytest.raises(ValueError, match="fair <= strong"):
        fake.set_match_levels("c", fair=0.5, strong=0.4)


def test_a_long_query_has_a_notice() -> None:
    with FakeSentinel() as client:
        client.create_collection("c")
        assert client.search("word", collection="c").notices == ()
        [notice] = client.search("word " * 600, collection="c").notices
        assert notice.kind is NoticeKind.TEXT_TRUNCATED


def test_a_call_fails_as_told_and_the_client_repeats_it() -> None:
    fake = FakeSentinel()
    with fake as client:
        store(client, "a dog")
        fake.fail_next(NO_WORKER, times=2)
        assert found(client, "a dog") == ["a dog"]


def test_a_call_that_is_not_repeated_raises_what_was_told() -> None:
    fake = FakeSentinel(config=ONCE)
    with fake as client:
        store(client, "a dog")
        full = ResourceExhausted("QUEUE_FULL", "full", retry_after=1.5, metadata={"limit": "9"})
        fake.fail_next(full)
        with pytest.raises(ResourceExhausted) as raised:
            found(client, "a dog")
        told = raised.value
        assert (told.reason, told.message, told.retry_after) == ("QUEUE_FULL", "full", 1.5)
        assert told.metadata == {"limit": "9"}
        assert found(client, "a dog")  # only the next call


def test_only_calls_of_the_named_method_fail() -> None:
    fake = FakeSentinel(config=ONCE)
    with fake as client:
        fake.fail_next(NO_WORKER, method="SearchPage")
        store(client, "a dog")
        assert found(client, "a dog")
        with pytest.raises(Unavailable):
            client.search_page("a dog", collection="c")
        client.search_page("a dog", collection="c")


def test_an_ingest_outlives_a_failure() -> None:
    fake = FakeSentinel()
    with fake as client:
        client.create_collection("c")
        fake.fail_next(NO_WORKER, method="IngestItems")
        acks = client.ingest((Item(text=f"text {number}") for number in range(100)), collection="c")
        assert sum(ack.stored_count for ack in acks) == 100


def test_nobody_can_be_made_to_answer() -> None:
    fake = FakeSentinel(config=ONCE)
    with fake as client:
        fake.fail_next(ConnectionFailed("UNREACHABLE", "cut"))
        with pytest.raises(ConnectionFailed):
            client.list_collections()


def test_a_method_that_does_not_exist_is_told_with_the_closest_one() -> None:
    with pytest.raises(ValueError, match=r"'Serch'; did you mean 'Search'\?"):
        FakeSentinel().fail_next(NO_WORKER, method="Serch")


def test_what_it_cannot_do_it_says() -> None:
    with FakeSentinel() as client:
        store(client, "a dog")
        with pytest.raises(SentinelError, match="has one model") as raised:
            list(client.reindex("c", "d"))
        assert raised.value.code is grpc.StatusCode.UNIMPLEMENTED
        assert raised.value.reason == "METHOD_UNSUPPORTED"


async def test_a_stream_out_of_order_is_refused() -> None:
    """The client never sends one."""
    batch = item_pb.IngestItemsRequest(batch=item_pb.IngestBatch(sequence=1))
    async with FakeSentinel() as client:
        connection = client._connection
        attempts = Attempts(RetryPolicy(), timeout=20, retry=False)
        call = connection.open_duplex(_rpcs.INGEST_ITEMS, attempts)
        await call.write(batch)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call.read()
        assert connection.convert(raised.value, attempts).reason == "STREAM_INVALID"


def test_other_clients_can_call_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SENTINEL_TLS_CA", "SENTINEL_API_KEY", "SENTINEL_API_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    fake = FakeSentinel()
    with fake as client:
        store(client, "a dog")
        with SentinelClient(fake.address) as other:
            assert found(other, "dog") == ["a dog"]


def test_the_environment_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTINEL_ADDRESS", "192.0.2.1:1")
    monkeypatch.setenv("SENTINEL_TLS_CA", "/no/such/file")
    monkeypatch.setenv("SENTINEL_API_KEY_FILE", "/no/such/file")
    with FakeSentinel() as client:
        assert client.health().serving


def test_it_runs_inside_with_only_and_once() -> None:
    fake = FakeSentinel()
    with pytest.raises(RuntimeError, match="inside `with`"):
        _ = fake.address
    with fake, pytest.raises(RuntimeError, match="runs already"), fake:
        pass
    with pytest.raises(ValueError, match="dimensions"):
        FakeSentinel(dimensions=0)


def test_it_leaves_no_threads() -> None:
    def threads() -> int:
        return sum(one.name.startswith("fake-sentinel") for one in threading.enumerate())

    with FakeSentinel() as client:
        client.list_collections()
        assert threads()
        ours = [one for one in threading.enumerate() if one.name.startswith("fake-sentinel")]
    for one in ours:
        one.join(20)
    assert not threads()


def test_it_needs_nothing_beyond_the_base_install() -> None:
    code = (
        "import sys\n"
        "for name in ('PIL', 'pymilvus', 'milvus_lite', 'onnxruntime', 'pydantic', 'grpc_health',"
        " 'grpc_reflection', 'torch', 'sentinel_core', 'sentinel_store', 'search_server',"
        " 'embedder_server', 'pytest'):\n"
        "    sys.modules[name] = None\n"
        "from sentinel_client.testing import FakeSentinel\n"
        "with FakeSentinel() as client:\n"
        "    client.create_collection('c')\n"
        "    assert not len(client.search('x', collection='c'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


DOCUMENT = Path(__file__).parents[2] / "docs" / "python.md"


def test_the_document_is_right() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    ran: set[str] = set()
    for block in blocks:
        names: dict[str, Any] = {}
        exec(block, names)
        tests = {name: test for name, test in names.items() if name.startswith("test_")}
        for test in tests.values():
            test(FakeSentinel())  # what its fixture returns
        ran |= tests.keys()
    assert ran == {"test_search", "test_without_workers", "test_images"}


def test_the_messages_of_the_document_are_those_that_come() -> None:
    told = DOCUMENT.read_text()
    with FakeSentinel() as client:
        with pytest.raises(TypeError) as wrong:
            client.search("x", collection="c", min_scor=0.1)  # type: ignore[call-arg]
        assert f"TypeError: {wrong.value}\n" in told
