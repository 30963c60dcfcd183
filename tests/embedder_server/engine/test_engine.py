"""The engine without a network: admission, order, isolation, timings."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from embedder_server.engine.engine import Engine
from embedder_server.engine.metrics import EmbedderMetrics
from embedder_server.images.fork_server import ForkServer
from embedder_server.settings import EmbedderSettings
from embedder_server.texts.tokenizer import TokenizedText
from embedder_server.types import (
    Content,
    EmbedOptions,
    EmbedResults,
    ImageFile,
    ModelLoadError,
    Priority,
)
from sentinel_core.calls import Deadline
from sentinel_core.errors import (
    DeadlineExceeded,
    InvalidArgument,
    ResourceExhausted,
    SentinelError,
    Unavailable,
)
from sentinel_core.memory import MemoryBudget
from sentinel_core.vectors import Role
from tests.embedder_server.calls import until_busy
from tests.embedder_server.pictures import encode, flat, noise
from tests.fakes.fake_model import FakeModel, shrink_and_note
from tests.fakes.preprocessing import DEADLY, GREEDY, STUCK, misbehave
from tests.waiting import eventually

DEFAULT = EmbedOptions()
BULK = EmbedOptions(priority=Priority.BULK)


def engine_of(model: FakeModel, settings: EmbedderSettings, forks: ForkServer) -> Engine:
    metrics = EmbedderMetrics(CollectorRegistry())
    memory = MemoryBudget(2**30, metrics)
    return Engine(model, settings, metrics, memory=memory, forks=forks, on_failure=pytest.fail)


@pytest.fixture
async def make_engine(
    model: FakeModel, make_settings: Callable[..., EmbedderSettings], forks: ForkServer
) -> AsyncIterator[Callable[..., Any]]:
    engines: list[Engine] = []

    async def make(**changes: Any) -> Engine:
        engine = engine_of(model, make_settings(**changes), forks)
        engines.append(engine)
        await engine.start()
        model.batches.clear()
        return engine

    yield make
    model.faults.gate.set()
    for engine in engines:
        await engine.close()


@pytest.fixture
async def engine(make_engine: Callable[..., Any]) -> Engine:
    made: Engine = await make_engine()
    return made


async def embed(
    engine: Engine,
    *contents: Content | bytes,
    options: EmbedOptions = DEFAULT,
    seconds: float = 30,
) -> EmbedResults:
    wrapped = [ImageFile(one) if isinstance(one, bytes) else one for one in contents]
    return await engine.embed(wrapped, options, Deadline.after(seconds, default_s=60))


def outcomes(outcome: EmbedResults) -> list[str]:
    return [
        result.outcome.reason if isinstance(result.outcome, SentinelError) else "ok"
        for result in outcome.results
    ]


async def test_mixed_contents_keep_their_order_and_their_errors(engine: Engine) -> None:
    outcome = await embed(
        engine,
        "red",
        encode(flat("red"), "JPEG"),
        " ",
        b"%PDF",
        InvalidArgument("CONTENT_MISSING", "nothing"),
        encode(flat("blue"), "PNG"),
        "blue",
    )
    assert outcomes(outcome) == [
        "ok", "ok", "TEXT_EMPTY", "IMAGE_FORMAT_UNSUPPORTED", "CONTENT_MISSING", "ok", "ok",
    ]  # fmt: skip
    red, red_image, *_, blue_image, blue = (result.outcome for result in outcome.results)
    assert np.dot(red, red_image) > 0.9 > abs(np.dot(red, blue_image))
    assert np.dot(blue, blue_image) > 0.9


async def test_text_facts(engine: Engine) -> None:
    outcome = await embed(engine, "two words", "long " * 40)
    first, second = outcome.results
    assert (first.token_count, first.truncated) == (2, False)
    assert (second.token_count, second.truncated) == (40, True)


async def test_long_text_is_refused_if_it_may_not_be_cut(engine: Engine) -> None:
    outcome = await embed(engine, "long " * 40, "short", options=EmbedOptions(truncate=False))
    assert outcomes(outcome) == ["TEXT_TOO_LONG", "ok"]
    error = outcome.results[0].outcome
    assert isinstance(error, InvalidArgument)
    assert error.metadata == {"limit": "32"}


async def test_image_facts_and_thumbnail(engine: Engine) -> None:
    data = encode(noise((120, 60)), "PNG")
    plain = (await embed(engine, data)).results[0]
    outcome = await embed(engine, data, options=EmbedOptions(thumbnail_side=16))
    facts = outcome.results[0].image
    assert facts is not None
    assert (facts.width, facts.height, facts.media_type) == (120, 60, "image/png")
    assert facts.thumbnail.startswith(b"RIFF")
    assert plain.image is not None
    assert plain.image.thumbnail == b""
    # The thumbnail changes nothing about the vector.
    assert np.array_equal(plain.outcome, outcome.results[0].outcome)


async def embed_behind_one(engine: Engine, model: FakeModel, count: int) -> list[EmbedResults]:
    """Embed `count` texts of as many callers, all queued while the device is at another one."""
    model.faults.gate.clear()
    first = asyncio.create_task(embed(engine, "first"))
    await until_busy(model)
    others = [asyncio.create_task(embed(engine, f"text {n}")) for n in range(count)]
    for _ in range(20):  # rounds of the event loop, however late it is
        await asyncio.sleep(0.005)
    model.faults.gate.set()
    await first
    return await asyncio.gather(*others)


async def test_contents_of_many_callers_share_batches(engine: Engine, model: FakeModel) -> None:
    others = await embed_behind_one(engine, model, 10)
    assert {other.timings.batch_size for other in others} == {10}


@pytest.mark.parametrize(
    ("device", "settings", "sizes"),
    [
        ("cpu", {}, [1, 20, 16, 4]),
        ("cuda:0", {}, [1, 32, 8]),
        ("cpu", {"text_batch_items": 15}, [1, 15, 15, 10]),
        ("cuda:0", {"text_batch_items": 15}, [1, 15, 15, 10]),
    ],
)
async def test_on_a_cpu_a_large_batch_of_texts_leaves_as_many_waiting(
    make_engine: Callable[..., Any],
    model: FakeModel,
    device: str,
    settings: dict[str, Any],
    sizes: list[int],
) -> None:
    model.info = dataclasses.replace(model.info, device=device)
    await embed_behind_one(await make_engine(**settings), model, 40)
    assert [len(batch.contents) for batch in model.batches] == sizes


async def test_interactive_text_overtakes_bulk_images(engine: Engine, model: FakeModel) -> None:
    model.faults.gate.clear()
    images = [encode(noise((20, 20), seed), "PNG") for seed in range(40)]
    bulk = asyncio.create_task(embed(engine, *images, options=BULK))
    await until_busy(model)
    text = asyncio.create_task(embed(engine, "urgent"))
    await asyncio.sleep(0.05)
    model.faults.gate.set()
    await text
    assert not bulk.done()
    await bulk
    assert [batch.modality for batch in model.batches].index("text") == 1


async def test_a_full_queue_refuses_whole_requests(
    make_engine: Callable[..., Any], model: FakeModel
) -> None:
    engine = await make_engine(max_queue_items=4, max_contents_per_request=4)
    model.faults.gate.clear()
    held = asyncio.create_task(embed(engine, "a", "b", "c"))
    await until_busy(model)
    with pytest.raises(ResourceExhausted) as caught:
        await embed(engine, "d", "e")
    assert caught.value.reason == "QUEUE_FULL"
    assert caught.value.retry_after_s is not None
    fits = asyncio.create_task(embed(engine, "f"))
    await asyncio.sleep(0.01)
    model.faults.gate.set()
    assert outcomes(await held) == ["ok"] * 3
    assert outcomes(await fits) == ["ok"]


async def test_bulk_fills_no_interactive_queue(
    make_engine: Callable[..., Any], model: FakeModel
) -> None:
    engine = await make_engine(max_queue_items=2, max_contents_per_request=2)
    model.faults.gate.clear()
    held = asyncio.create_task(embed(engine, "a", "b", options=BULK))
    await until_busy(model)
    text = asyncio.create_task(embed(engine, "c"))
    with pytest.raises(ResourceExhausted):
        await embed(engine, "d", options=BULK)
    model.faults.gate.set()
    assert outcomes(await text) == ["ok"]
    await held


async def test_images_that_take_long_do_not_shut_out_texts(
    make_engine: Callable[..., Any], model: FakeModel
) -> None:
    engine = await make_engine(max_queue_items=4, max_contents_per_request=4)
    model.faults.gate.clear()
    pictures = [encode(noise((20, 20), seed), "PNG") for seed in range(4)]
    held = asyncio.create_task(embed(engine, *pictures))
    await until_busy(model)
    text = asyncio.create_task(embed(engine, "a text"))
    with pytest.raises(ResourceExhausted):
        await embed(engine, pictures[0])
    model.faults.gate.set()
    assert outcomes(await text) == ["ok"]
    await held


async def test_characters_are_limited_too_and_leave_room_for_short_texts(
    make_engine: Callable[..., Any], model: FakeModel
) -> None:
    engine = await make_engine(max_queue_items=10, max_contents_per_request=10)
    model.faults.gate.clear()
    long = "word " * 2_000
    held = asyncio.create_task(embed(engine, *[long] * 5))  # 50,000 of 40,960 characters
    await until_busy(model)
    with pytest.raises(ResourceExhausted) as caught:
        await embed(engine, *[long] * 2)
    assert caught.value.reason == "QUEUE_FULL"
    short = asyncio.create_task(embed(engine, *["a short text"] * 5))
    await asyncio.sleep(0.01)
    model.faults.gate.set()
    assert outcomes(await short) == ["ok"] * 5
    assert outcomes(await held) == ["ok"] * 5


async def test_a_request_of_long_texts_takes_turns_with_others(
    make_engine: Callable[..., Any], model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One long text takes up to 0.1 s to tokenize: 256 of them delayed others by seconds."""
    engine = await make_engine()
    tokenized: list[str] = []
    began, go_on = threading.Event(), threading.Event()
    tokenize = model.tokenize

    def slow_tokenize(text: str, role: Role) -> TokenizedText:
        tokenized.append(text[:4])
        began.set()
        assert go_on.wait(20)
        return tokenize(text, role)

    monkeypatch.setattr(model, "tokenize", slow_tokenize)
    long = [f"{number:03d} " * 3_000 for number in range(128)]
    heavy = asyncio.create_task(embed(engine, *long))
    assert await asyncio.to_thread(began.wait, 20)
    others = [asyncio.create_task(embed(engine, "mine " * 1_000)) for _ in range(3)]
    await asyncio.sleep(0.05)
    go_on.set()
    for other in others:
        await other
    assert max(place for place, text in enumerate(tokenized) if text == "mine") <= 12
    assert outcomes(await heavy) == ["ok"] * 128


async def test_a_request_of_many_texts_leaves_the_device_to_others(
    make_engine: Callable[..., Any], model: FakeModel
) -> None:
    """Of 256 texts of the longest kind, others waited for all: seconds."""
    engine = await make_engine(text_batch_items=4)
    model.faults.gate.clear()
    heavy = asyncio.create_task(embed(engine, *[f"heavy {number}" for number in range(64)]))
    await until_busy(model)
    light = asyncio.create_task(embed(engine, "light"))
    await asyncio.sleep(0.05)
    model.faults.gate.set()
    await light
    assert outcomes(await heavy) == ["ok"] * 64
    batches = [batch.contents for batch in model.batches]
    assert next(place for place, texts in enumerate(batches) if "light" in texts) <= 2


@pytest.mark.parametrize("stage", ["queue", "inference"])
async def test_out_of_time_names_the_stage(
    engine: Engine, model: FakeModel, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In place of 5 ms, which a busy machine may be late by.
    monkeypatch.setattr("embedder_server.engine.engine._ANSWER_MARGIN_S", 0.5)
    model.faults.gate.clear()
    held = None
    if stage == "queue":
        held = asyncio.create_task(embed(engine, "first"))
        await until_busy(model)
    start = time.perf_counter()
    with pytest.raises(DeadlineExceeded) as caught:
        await embed(engine, "late", seconds=1.0)
    assert 0.4 < time.perf_counter() - start < 1.0  # in time for the answer to arrive
    assert (caught.value.reason, caught.value.metadata) == ("OUT_OF_TIME", {"stage": stage})
    model.faults.gate.set()
    if held is not None:
        await held
        assert outcomes(await embed(engine, "next")) == ["ok"]
        assert ("late",) not in [batch.contents for batch in model.batches]


async def test_a_cancelled_request_frees_its_place_and_costs_nothing(
    make_engine: Callable[..., Any], model: FakeModel
) -> None:
    engine = await make_engine(max_queue_items=3, max_contents_per_request=3)
    model.faults.gate.clear()
    held = asyncio.create_task(embed(engine, "first"))
    await until_busy(model)
    gone = asyncio.create_task(embed(engine, "gone", "gone too"))
    await asyncio.sleep(0.02)
    gone.cancel()
    await asyncio.wait({gone})
    assert gone.cancelled()
    again = asyncio.create_task(embed(engine, "again", "and again"))
    await asyncio.sleep(0.02)
    model.faults.gate.set()
    await asyncio.gather(held, again)
    assert [batch.contents for batch in model.batches] == [("first",), ("again", "and again")]


async def test_decoded_images_wait_in_bounded_number(
    make_engine: Callable[..., Any], model: FakeModel, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    made.touch()
    model.preprocess = partial(shrink_and_note, str(made))
    engine = await make_engine()
    before = made.stat().st_size
    model.faults.gate.clear()
    data = encode(flat(), "PNG")
    task = asyncio.create_task(embed(engine, *[data] * 200, options=BULK))
    # More than the batch on the device: prepared meanwhile.
    await eventually(lambda: made.stat().st_size - before > 2 + 8)
    await asyncio.sleep(0.3)
    assert made.stat().st_size - before <= 2 + 3 * 8
    model.faults.gate.set()
    assert outcomes(await task) == ["ok"] * 200


async def test_decoding_ends_with_the_deadline_and_others_go_on(
    make_engine: Callable[..., Any], model: FakeModel
) -> None:
    model.preprocess = misbehave
    engine = await make_engine()
    stuck = encode(flat("red", (STUCK, 20)), "PNG")
    start = time.perf_counter()
    late = [asyncio.create_task(embed(engine, stuck, seconds=0.5)) for _ in range(2)]
    good = asyncio.create_task(embed(engine, encode(flat(), "PNG")))
    for task in late:
        with pytest.raises(DeadlineExceeded) as caught:
            await task
        assert caught.value.metadata == {"stage": "preprocess"}
    assert outcomes(await good) == ["ok"]
    assert time.perf_counter() - start < 10


async def test_an_image_that_costs_too_much_fails_alone(
    make_engine: Callable[..., Any], model: FakeModel
) -> None:
    model.preprocess = misbehave
    engine = await make_engine(max_decode_seconds=3.0)
    bad = [encode(flat("red", (width, 20)), "PNG") for width in (STUCK, DEADLY, GREEDY)]
    outcome = await embed(engine, "text", *bad, encode(flat(), "PNG"))
    assert outcomes(outcome) == ["ok", *["IMAGE_TOO_COSTLY"] * 3, "ok"]


async def test_timings(engine: Engine, model: FakeModel) -> None:
    model.faults.seconds_per_batch = 0.02
    timings = (await embed(engine, "red", encode(flat(), "PNG"))).timings
    assert 0.02 <= timings.inference < timings.total
    assert timings.decode > 0
    assert timings.preprocess > 0
    assert timings.batch_size == 1


async def test_a_fault_in_preprocessing_fails_one_item_only(
    engine: Engine, model: FakeModel
) -> None:
    tokenize = model.tokenize

    def faulty(text: str, role: Role) -> Any:
        if text == "bad":
            raise RuntimeError("secret")
        return tokenize(text, role)

    model.tokenize = faulty  # type: ignore[method-assign]
    outcome = await embed(engine, "good", "bad", "fine")
    assert outcomes(outcome) == ["ok", "INTERNAL", "ok"]
    assert "secret" not in str(outcome.results[1].outcome)


async def test_a_closed_engine_refuses(engine: Engine, model: FakeModel) -> None:
    await engine.close()
    assert model.closed
    with pytest.raises(Unavailable):
        await embed(engine, "late")


async def test_a_device_without_memory_for_one_content_does_not_start(
    model: FakeModel, settings: EmbedderSettings, forks: ForkServer
) -> None:
    model.faults.error = RuntimeError("CUDA out of memory")
    engine = engine_of(model, settings, forks)
    with pytest.raises(ModelLoadError, match="does not fit into the memory of cpu"):
        await engine.start()
    await engine.close()


async def test_the_warm_up_goes_from_one_content_to_the_largest_batch(
    model: FakeModel, make_settings: Callable[..., EmbedderSettings], forks: ForkServer
) -> None:
    settings = make_settings(text_batch_items=32, image_batch_items=4)
    engine = engine_of(model, settings, forks)
    await engine.start()
    sizes = [(batch.modality, len(batch.contents)) for batch in model.batches]
    assert sorted(sizes) == [("image", 1), ("image", 4), ("text", 1), ("text", 8), ("text", 32)]
    assert [size for _, size in sizes] == sorted(size for _, size in sizes)
    await engine.close()


def spied(model: FakeModel, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of texts that `model` is given to tokenize from now on."""
    seen: list[str] = []
    tokenize = model.tokenize

    def spy(text: str, role: Role) -> Any:
        seen.append(text)
        return tokenize(text, role)

    monkeypatch.setattr(model, "tokenize", spy)
    return seen


async def test_what_is_too_late_is_refused_before_admission(
    make_engine: Callable[..., Any], model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await make_engine(max_queue_items=1, max_contents_per_request=1)
    tokenized = spied(model, monkeypatch)
    for texts in (["late"], ["late", "and", "more than fit"]):
        with pytest.raises(DeadlineExceeded) as caught:
            await embed(engine, *texts, seconds=0.004)
        assert caught.value.metadata == {"stage": "admission"}
    assert tokenized == []
    assert model.batches == []


async def test_what_a_stalled_device_cannot_answer_is_refused_before_admission(
    make_engine: Callable[..., Any], model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await make_engine(max_queue_items=1, max_contents_per_request=1)
    tokenized = spied(model, monkeypatch)
    engine.stalled = True
    with pytest.raises(Unavailable) as caught:
        await embed(engine, "two", "contents")
    assert caught.value.reason == "DEVICE_STALLED"
    assert tokenized == []
