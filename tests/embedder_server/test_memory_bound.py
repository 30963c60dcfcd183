"""No mix of images makes a worker take more memory than its budget."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import psutil
import pytest

from sentinel.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from tests import processes
from tests.embedder_server.calls import image, item_reason, request, text
from tests.embedder_server.hostile_pictures import (
    float_tiff,
    lossless_webp,
    scans_jpeg,
    tile_tiff,
)
from tests.embedder_server.pictures import encode, noise, png_of

MIB = 2**20
BUDGET = 384 * MIB
# Of the worker and its decoders, besides what their requests hold.
_BESIDES = 64 * MIB
_CALLS = 60
_CALLERS = 12


@contextmanager
def watched(worker: psutil.Process) -> Iterator[list[int]]:
    """Sample the memory of a process and its children, in bytes; shared pages count once."""
    samples: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            total = 0
            for process in (worker, *worker.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    total += process.memory_full_info().pss
            samples.append(total)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


@pytest.mark.slow
async def test_no_mix_of_images_exceeds_the_budget(tmp_path: Path) -> None:
    files = [
        float_tiff(10_000)[:400_000],
        float_tiff(4000),
        float_tiff(2500),
        scans_jpeg(2000, 3000),
        scans_jpeg(4000, 99),
        tile_tiff(10_001),
        tile_tiff(3000),
        png_of(100_000_000, 1),
        png_of(5000, 5000),
        lossless_webp(10_000),
        lossless_webp(2500),
        encode(noise((800, 600)), "JPEG"),
    ]
    # Small messages, because a part of the budget is set aside for receiving them.
    flags = ("--decode-processes=4", f"--memory-bytes={BUDGET}", f"--max-message-bytes={4 * MIB}")
    with processes.running(tmp_path, "tests.fakes.worker", *flags) as server:
        worker = psutil.Process(server.process.pid)
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = pb_grpc.EmbeddingServiceStub(channel)
            await stub.Embed(request(text("warm"), image(files[-1])))
            outcomes: Counter[str] = Counter()

            async def call(seed: int) -> None:
                rng = random.Random(seed)
                for _ in range(_CALLS // _CALLERS):
                    chosen = [image(rng.choice(files)) for _ in range(3)]
                    try:
                        answer = await stub.Embed(
                            request(*chosen, text("a text")), timeout=rng.choice((0.5, 20))
                        )
                    except grpc.aio.AioRpcError as error:
                        outcomes[error.code().name] += 1
                        continue
                    *pictures, words = answer.results
                    assert words.HasField("vector")
                    for one in pictures:
                        ok = one.HasField("vector")
                        outcomes["ok" if ok else item_reason(one.error)] += 1

            with watched(worker) as samples:
                await asyncio.gather(*(call(seed) for seed in range(_CALLERS)))
        assert server.process.poll() is None
    assert max(samples) <= samples[0] + BUDGET + _BESIDES
    assert max(samples) > samples[0] + 40 * MIB  # it was tried
    assert set(outcomes) <= {
        "ok", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "MEMORY_EXHAUSTED", "IMAGE_TOO_COSTLY",
        "IMAGE_TOO_MANY_PIXELS", "IMAGE_SIDE_TOO_LONG", "IMAGE_DECODE_FAILED",
    }  # fmt: skip
    assert outcomes["ok"] > 10
