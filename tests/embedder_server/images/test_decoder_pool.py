"""Decoding in processes: each limit fails one image, and nothing outlives the worker."""

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from prometheus_client import CollectorRegistry

from embedder_server.engine.metrics import EmbedderMetrics
from embedder_server.images import costs, fork_server
from embedder_server.images.decoder import ImageDecoder
from embedder_server.images.decoder_pool import DecoderPool, PreparedImage
from embedder_server.images.decoder_process import Setup
from embedder_server.images.fork_server import ForkServer
from embedder_server.images.preprocessing import ImageRecipe, PatchRecipe, cropped, kept_share
from embedder_server.types import Crop, ImageFile, Priority
from sentinel_core.calls import Deadline
from sentinel_core.errors import InvalidArgument, ResourceExhausted, SentinelError, Unavailable
from sentinel_core.memory import MemoryBudget
from tests import processes
from tests.embedder_server.hostile_pictures import (
    float_tiff,
    lossless_webp,
    scans_jpeg,
    strip_tiff,
    tile_tiff,
)
from tests.embedder_server.pictures import encode, flat, halves, noise, rotated_jpeg
from tests.fakes.fake_model import shrink
from tests.fakes.preprocessing import BROKEN, DEADLY, GREEDY, SLOW, STUCK, misbehave
from tests.waiting import eventually, until

MIB = 2**20
GOOD = encode(halves(), "PNG")


def wide(width: int) -> bytes:
    return encode(flat("red", (width, 20)), "PNG")


class Pools:
    """Pools on one budget, and what they reported."""

    def __init__(self, forks: ForkServer) -> None:
        self._forks = forks
        self.ended: Counter[str] = Counter()
        self.failures: list[BaseException] = []
        self.pools: list[DecoderPool] = []

    async def make(
        self,
        *,
        count: int = 2,
        max_seconds: float = 60.0,
        memory_bytes: int = 1024 * MIB,
        forks: ForkServer | None = None,
        **changes: Any,
    ) -> DecoderPool:
        self.memory = MemoryBudget(memory_bytes, EmbedderMetrics(CollectorRegistry()))
        limits: dict[str, Any] = {
            "max_bytes": 16 * MIB,
            "max_pixels": 100_000_000,
            "model_side": 32,
            "preprocess": misbehave,
        }
        pool = DecoderPool(
            forks or self._forks,
            Setup(**{**limits, **changes}),
            processes=count,
            max_seconds=max_seconds,
            memory=self.memory,
            on_ended=lambda cause: self.ended.update([cause]),
            on_failure=self.failures.append,
        )
        self.pools.append(pool)
        await pool.start(8 * MIB)
        return pool


@pytest.fixture
async def pools(forks: ForkServer) -> AsyncIterator[Pools]:
    pools = Pools(forks)
    yield pools
    for pool in pools.pools:
        pool.close()
    assert pools.failures == []


async def prepare(
    pool: DecoderPool,
    data: bytes,
    *,
    seconds: float = 60.0,
    thumbnail_side: int = 0,
    priority: Priority = Priority.INTERACTIVE,
    crop: Crop | None = None,
) -> PreparedImage:
    deadline = Deadline.within(seconds)
    return await pool.prepare(ImageFile(data, crop), thumbnail_side, priority, deadline)


async def reason(pool: DecoderPool, data: bytes, **how: Any) -> str:
    try:
        await prepare(pool, data, **how)
    except SentinelError as error:
        return error.reason
    return "ok"


def first_grant(data: bytes) -> int:
    return costs.first_bytes(len(data), 32)


def jobs(pool: DecoderPool) -> int:
    return len(pool._jobs)


@pytest.mark.parametrize(
    ("data", "crop"),
    [
        (GOOD, None),
        (rotated_jpeg(6), None),
        (encode(noise((900, 500)), "JPEG"), Crop(0.2, 0.1, 0.5, 0.9)),
        (encode(noise((400, 500)), "WEBP"), None),
    ],
)
async def test_a_process_decodes_as_this_one_does(
    pools: Pools, data: bytes, crop: Crop | None
) -> None:
    pool = await pools.make(preprocess=np.asarray)
    there = await prepare(pool, data, thumbnail_side=64, crop=crop)
    decoder = ImageDecoder(max_bytes=16 * MIB, max_pixels=100_000_000, model_side=32)
    here = decoder.decode(data, kept_share(crop))
    picture = here.picture
    if crop:
        picture = cropped(picture, crop)
    assert np.array_equal(there.pixels, np.asarray(picture))
    facts = there.facts
    assert (facts.width, facts.height) == (here.width, here.height)
    assert facts.media_type == here.media_type
    assert facts.thumbnail == decoder.thumbnail(data, here, 64)


async def test_every_image_gets_its_own_pixels(pools: Pools) -> None:
    pool = await pools.make(count=3)
    files = [encode(noise((40, 40), seed), "PNG") for seed in range(60)]
    prepared = await asyncio.gather(*(prepare(pool, data) for data in files))
    for data, one in zip(files, prepared, strict=True):
        picture = ImageDecoder(max_bytes=10**6, max_pixels=10**6, model_side=32).decode(data)
        assert np.array_equal(one.pixels, shrink(picture.picture))


async def test_what_takes_too_long_is_ended_and_only_that(pools: Pools) -> None:
    pool = await pools.make(max_seconds=3.0)
    stuck = [asyncio.create_task(prepare(pool, wide(STUCK))) for _ in range(4)]
    good = [asyncio.create_task(reason(pool, GOOD)) for _ in range(10)]
    assert await asyncio.gather(*good) == ["ok"] * 10
    for one in stuck:
        with pytest.raises(InvalidArgument, match="--max-decode-seconds") as caught:
            await one
        assert caught.value.reason == "IMAGE_TOO_COSTLY"
        assert caught.value.metadata == {"resource": "seconds", "limit": "3"}
    assert pools.ended == {"time": 4}
    assert pools.memory.used == 0
    await eventually(lambda: len(pool._decoders) == 2)


async def test_what_takes_more_memory_than_granted_is_refused(pools: Pools) -> None:
    pool = await pools.make()
    before = set(pool._decoders)
    outcomes = await asyncio.gather(reason(pool, wide(GREEDY)), reason(pool, GOOD))
    assert outcomes == ["IMAGE_TOO_COSTLY", "ok"]
    assert pools.ended == {"memory": 1}
    await eventually(lambda: len(pool._decoders) == 2)
    assert len(before & pool._decoders) == 1  # the other one is a new process
    assert await reason(pool, GOOD) == "ok"


async def test_a_process_that_dies_fails_its_image_only(pools: Pools) -> None:
    pool = await pools.make()
    outcomes = await asyncio.gather(
        *(reason(pool, data) for data in (GOOD, wide(DEADLY), GOOD, GOOD))
    )
    assert outcomes == ["ok", "IMAGE_TOO_COSTLY", "ok", "ok"]
    assert pools.ended == {"died": 2}
    assert await reason(pool, GOOD) == "ok"


def children(of: int) -> list[psutil.Process]:
    return psutil.Process(of).children(recursive=True)


async def test_an_image_whose_process_was_killed_by_chance_is_decoded_by_another(
    pools: Pools, forks: ForkServer
) -> None:
    pool = await pools.make(count=1)
    task = asyncio.create_task(reason(pool, wide(SLOW)))
    await eventually(lambda: jobs(pool))
    for decoder in pool._decoders:
        decoder.kill()
    assert await task == "ok"
    assert pools.ended == {"died": 1}
    assert pools.memory.used == 0


async def test_an_idle_process_that_dies_is_replaced(pools: Pools) -> None:
    pool = await pools.make()
    first = set(pool._decoders)
    for decoder in first:
        decoder.kill()
    await eventually(lambda: pools.ended["died"] == 2 and len(pool._decoders) == 2)
    assert not first & pool._decoders
    assert await reason(pool, GOOD) == "ok"


async def test_decoding_ends_when_its_caller_is_gone(
    pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedder_server.images.decoder_pool._GRACE_S", 0.05)
    pool = await pools.make()
    gone = [asyncio.create_task(prepare(pool, wide(STUCK))) for _ in range(6)]
    await eventually(lambda: jobs(pool) == 2)
    for task in gone:
        task.cancel()
    await asyncio.wait(gone)
    # Its memory is given back when the process has ended, and not before.
    assert pools.memory.used == 2 * first_grant(wide(STUCK))
    assert await reason(pool, GOOD) == "ok"
    assert pools.ended == {"caller_left": 2}
    assert pools.memory.used == 0


async def test_ordinary_images_may_end_after_their_caller_left(
    pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedder_server.images.decoder_pool._GRACE_S", 30.0)
    pool = await pools.make(count=1)
    first = set(pool._decoders)
    gone = asyncio.create_task(prepare(pool, wide(SLOW)))
    await eventually(lambda: jobs(pool))
    gone.cancel()
    assert await reason(pool, GOOD) == "ok"
    assert pool._decoders == first
    assert pools.ended == {}


async def test_a_bug_fails_one_image_and_its_traceback_is_told(pools: Pools) -> None:
    pool = await pools.make()
    with pytest.raises(RuntimeError, match="a bug"):
        await prepare(pool, wide(BROKEN))
    assert await reason(pool, GOOD) == "ok"
    assert pools.ended == {}


async def test_interactive_images_come_first(pools: Pools) -> None:
    pool = await pools.make(count=1)
    done: list[str] = []

    async def note(name: str, priority: Priority) -> None:
        await prepare(pool, wide(SLOW), priority=priority)
        done.append(name)

    tasks = [asyncio.create_task(note(f"bulk {n}", Priority.BULK)) for n in range(3)]
    await eventually(lambda: jobs(pool))
    tasks.append(asyncio.create_task(note("interactive", Priority.INTERACTIVE)))
    await asyncio.gather(*tasks)
    assert done == ["bulk 0", "interactive", "bulk 1", "bulk 2"]


async def test_images_that_wait_for_a_process_hold_no_memory(pools: Pools) -> None:
    pool = await pools.make(count=2)
    tasks = [asyncio.create_task(prepare(pool, wide(SLOW))) for _ in range(20)]
    await eventually(lambda: jobs(pool) == 2)
    assert pools.memory.used == 2 * first_grant(wide(SLOW))
    await asyncio.gather(*tasks)
    assert pools.memory.used == 0


async def test_large_images_take_turns_within_the_budget(pools: Pools) -> None:
    pool = await pools.make(count=4, memory_bytes=400 * MIB)
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, pools.memory.used)
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    # 9 megapixels of float32: some 130 MiB each, so that two of them fit.
    costly = [asyncio.create_task(reason(pool, float_tiff(3000))) for _ in range(5)]
    good = [asyncio.create_task(reason(pool, GOOD)) for _ in range(10)]
    assert await asyncio.gather(*good, *costly) == ["ok"] * 15
    watching.cancel()
    assert 200 * MIB < most <= 400 * MIB
    assert pools.memory.used == 0


async def test_an_image_larger_than_the_budget_is_refused_at_once(pools: Pools) -> None:
    pool = await pools.make(memory_bytes=100 * MIB)
    with pytest.raises(InvalidArgument, match="--memory-bytes") as caught:
        await prepare(pool, float_tiff(3000))
    assert caught.value.reason == "IMAGE_TOO_COSTLY"
    assert caught.value.metadata == {"resource": "bytes", "limit": str(75 * MIB)}
    assert pools.ended == {}


async def test_who_gets_no_memory_in_time_is_told(pools: Pools) -> None:
    pool = await pools.make(memory_bytes=400 * MIB)
    async with pools.memory.share(300 * MIB, Deadline.within(60)):
        with pytest.raises(ResourceExhausted) as caught:
            await prepare(pool, float_tiff(3000), seconds=0.3)
        assert caught.value.reason == "MEMORY_EXHAUSTED"
    assert await reason(pool, float_tiff(3000)) == "ok"


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: encode(_photo("RGB"), "JPEG"), id="jpeg"),
        pytest.param(lambda: encode(_photo("RGB"), "JPEG", progressive=True), id="progressive"),
        pytest.param(lambda: encode(_photo("CMYK"), "JPEG"), id="cmyk jpeg"),
        pytest.param(lambda: scans_jpeg(2000, 3), id="coefficients"),
        *(
            pytest.param(lambda mode=mode: _png(mode), id=f"{mode} png")
            for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
        ),
        pytest.param(lambda: _png("RGB", exif=_turned()), id="turned png"),
        pytest.param(lambda: _png("RGBA", exif=_turned()), id="turned rgba png"),
        pytest.param(
            lambda: encode(_photo("RGB"), "TIFF", tiffinfo={274: 6}, compression="tiff_lzw"),
            id="turned tiff",
        ),
        pytest.param(lambda: encode(_photo("RGB"), "WEBP", exif=_turned()), id="turned webp"),
        pytest.param(lambda: encode(_photo("RGBA"), "WEBP"), id="webp"),
        pytest.param(lambda: lossless_webp(2000), id="lossless webp"),
        pytest.param(lambda: encode(_photo("P"), "GIF"), id="gif"),
        pytest.param(lambda: encode(_photo("P"), "GIF", transparency=3), id="transparent gif"),
        pytest.param(lambda: encode(_photo("L"), "BMP"), id="bmp"),
        pytest.param(lambda: float_tiff(2000), id="float tiff"),
        pytest.param(lambda: tile_tiff(2000), id="tile"),
        pytest.param(lambda: strip_tiff((2000, 2000), samples=3, bits=8), id="rgb tiff"),
        pytest.param(lambda: strip_tiff((2000, 2000), samples=1, bits=16), id="16-bit tiff"),
        *(
            pytest.param(
                lambda mode=mode, how=how: encode(_photo(mode), "TIFF", compression=how),
                id=f"{mode} {how} tiff",
            )
            for mode, how in (
                ("RGB", "raw"), ("RGB", "jpeg"), ("RGBA", "tiff_lzw"), ("I", "packbits"),
                ("CMYK", "tiff_deflate"), ("1", "group4"),
            )
        ),
    ],
)  # fmt: skip
async def test_what_is_granted_is_enough(pools: Pools, make: Callable[[], bytes]) -> None:
    """The kernel holds each process to its grant, so it must not be too small."""
    pool = await pools.make(count=1, max_bytes=64 * MIB)
    assert await reason(pool, make(), thumbnail_side=256) == "ok"
    assert pools.ended == {}


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(ImageRecipe(size=(768, 768), shortest_edge=0, crop=None), id="large square"),
        pytest.param(ImageRecipe(size=None, shortest_edge=768, crop=(768, 768)), id="crop"),
        pytest.param(
            PatchRecipe(patch=16, most=1024, grid=32, resample=2, mean=(0.5,) * 3, std=(0.5,) * 3),
            id="patches",
        ),
    ],
)
async def test_the_first_grant_is_enough_for_models_of_large_images(
    pools: Pools, recipe: ImageRecipe | PatchRecipe
) -> None:
    pool = await pools.make(count=1, preprocess=recipe.pixels, model_side=recipe.side)
    for size in ((300, 200), (20, 1000)):
        assert await reason(pool, encode(noise(size), "JPEG"), thumbnail_side=256) == "ok"
    assert pools.ended == {}


def _photo(mode: str) -> Image.Image:
    """4 megapixels with some detail."""
    picture = noise((300, 300)).resize((2000, 2000))
    if mode == "I;16":
        return Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 200)
    return picture.convert(mode)


def _png(mode: str, **options: Any) -> bytes:
    return encode(_photo(mode), "PNG", compress_level=1, **options)


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


async def test_a_closed_pool_refuses(pools: Pools) -> None:
    pool = await pools.make(count=1)
    stuck = asyncio.create_task(prepare(pool, wide(STUCK)))
    waiting = asyncio.create_task(prepare(pool, GOOD))
    await eventually(lambda: jobs(pool))
    pool.close()
    for task in (stuck, waiting, asyncio.create_task(prepare(pool, GOOD))):
        with pytest.raises(Unavailable):
            await task


class DiesAtOnce:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[Callable[[int], object], tuple[int]]:
        return os._exit, (1,)


async def test_processes_that_die_at_once_are_replaced_ever_later(pools: Pools) -> None:
    await pools.make(count=1, preprocess=DiesAtOnce())
    await eventually(lambda: pools.ended["died"] >= 5)
    before = pools.ended["died"]
    await asyncio.sleep(1)
    assert pools.ended["died"] <= before + 2


def test_an_answer_is_seen_however_many_files_are_open(forks: ForkServer) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, before[1]))
    decoder = forks.fork(Setup(MIB, MIB, 32, misbehave), MIB)
    try:
        with decoder.channel as channel:
            decoder.channel = socket.socket(fileno=fcntl.fcntl(channel, fcntl.F_DUPFD, 1500))
        assert not decoder.has_answered()
        decoder.kill()
        until(decoder.has_answered)
    finally:
        decoder.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_it_works_with_what_other_systems_than_linux_have(
    pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have neither SEQPACKET sockets nor memory files nor process handles nor limits."""
    pretence = "import PIL.Image, sys\nsys.platform = 'darwin'\nfrom embedder_server"
    program = fork_server._PROGRAM.replace("from embedder_server", pretence)
    monkeypatch.setattr(fork_server, "_PROGRAM", program)
    monkeypatch.setattr(fork_server, "CHANNEL", socket.SOCK_STREAM)
    monkeypatch.setattr(sys, "platform", "darwin")
    for name in ("memfd_create", "pidfd_open"):
        monkeypatch.delattr(os, name)
    forks = ForkServer()
    pool = await pools.make(forks=forks, count=1, max_seconds=1.0)
    assert await reason(pool, GOOD) == "ok"
    assert await reason(pool, wide(STUCK)) == "IMAGE_TOO_COSTLY"
    assert await reason(pool, GOOD) == "ok"
    assert await reason(pool, wide(DEADLY)) == "IMAGE_TOO_COSTLY"
    assert pools.ended == {"time": 1, "died": 2}
    ended = [psutil.Process(decoder._handle) for decoder in pool._decoders]
    pool.close()
    forks.close()
    await eventually(lambda: not any(process.is_running() for process in ended))


async def test_a_template_that_is_killed_is_started_again(pools: Pools) -> None:
    forks = ForkServer()
    try:
        pool = await pools.make(forks=forks)
        forks._process.kill()
        # Its decoders end with it.
        await eventually(lambda: pools.ended["died"] == 2 and len(pool._decoders) == 2)
        assert await reason(pool, GOOD) == "ok"
    finally:
        pool.close()
        forks.close()


def test_after_its_close_nothing_is_started() -> None:
    """A pool may be about to replace a process while its worker ends."""
    forks = ForkServer()
    forks.close()
    template = forks._process
    setup = Setup(max_bytes=1, max_pixels=1, model_side=1, preprocess=misbehave)
    with pytest.raises(ConnectionError):
        forks.fork(setup, MIB)
    assert forks._process is template
    assert template.poll() is not None


def test_decoders_end_with_their_worker_and_hold_no_port(tmp_path: Path) -> None:
    server = processes.start(tmp_path, "tests.fakes.worker", "--decode-processes=2")
    worker = psutil.Process(server.process.pid)
    until(lambda: len(worker.children(recursive=True)) == 3)
    template, *decoders = worker.children(recursive=True)
    for process in (template, *decoders):
        assert process.net_connections("inet") == []
        files = {file.path for file in process.open_files()}
        assert {file for file in files if not file.startswith("/proc/")} == {str(server.log)}
    os.kill(decoders[0].pid, signal.SIGSTOP)  # stuck
    worker.kill()
    until(lambda: not any(_is_alive(process) for process in (template, *decoders)))


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_decoders_import_neither_models_nor_servers(pools: Pools, forks: ForkServer) -> None:
    await pools.make(count=1)
    for process in children(forks._process.pid):
        mapped = {Path(file.path).name for file in process.memory_maps()}
        assert not [name for name in mapped if "onnx" in name or "torch" in name]
