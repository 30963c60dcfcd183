"""Measure how many JPEGs a core turns into a model's pixels, with our decoder and with others.

A GPU waits for its images if the cores beside it decode too few. So the section ends with the cores
that one H100 would need: a calculation, from its published speed and the networks' sizes.
"""

from __future__ import annotations

import asyncio
import io
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from typing import Any

import numpy as np
from PIL import Image
from prometheus_client import CollectorRegistry

from benchmarks.embedder.context import Bench
from benchmarks.report import Row
from embedder_server.engine.metrics import EmbedderMetrics
from embedder_server.images.decoder import ImageDecoder
from embedder_server.images.decoder_pool import DecoderPool
from embedder_server.images.decoder_process import NICENESS, Setup
from embedder_server.images.fork_server import ForkServer
from embedder_server.images.preprocessing import ImageRecipe
from embedder_server.types import ImageFile, Priority
from sentinel_core.calls import Deadline
from sentinel_core.memory import MemoryBudget
from tests.photos import all_photos

# Flickr's size, a full screen, and a phone's 12 megapixels.
_SIZES = {"0.2 Mpx": (500, 375), "2 Mpx": (1920, 1080), "12 Mpx": (4032, 3024)}
_QUALITY = 90
_SIDE = 224
_RECIPE = ImageRecipe(size=None, shortest_edge=_SIDE, crop=(_SIDE, _SIDE))
_MARGIN = 2  # every decoder keeps twice the side of what the model sees, as ours does
_OF_A_TURN = 1 / 12
# bfloat16 without sparsity, from NVIDIA's data sheet, and the part of it that networks of this kind
# usually reach. Both are assumptions: nothing of this was measured on a GPU.
_H100_FLOPS, _REACHED = 989e12, 0.4
# Width, layers and tokens of the image networks.
_NETWORKS = {"B/32": (768, 12, 50), "B/16": (768, 12, 197), "L/14": (1024, 24, 257)}

_Decode = Callable[[bytes], Image.Image]


def decoding(bench: Bench) -> list[Row]:
    """Measure each decoder on one core, then ours on several."""
    seconds = bench.plan.seconds * _OF_A_TURN
    rates: dict[tuple[str, str], float] = {}
    files = {name: _jpeg(*size) for name, size in _SIZES.items()}
    for size, data in files.items():
        for name, decode in _decoders():
            rates[size, name] = max(_rate(decode, data, seconds) for _ in range(3))
    return [
        *(_compared(size, rates) for size in _SIZES),
        _pool_compared(files["12 Mpx"], bench.plan.rounds, bench.plan.seconds),
        *_by_cores(files["2 Mpx"], seconds),
        *(_cores_for_a_gpu(network, rates) for network in _NETWORKS),
    ]


def _jpeg(width: int, height: int) -> bytes:
    """Return a JPEG full of real photos, at their own size: as much detail as a photo has."""
    canvas = Image.new("RGB", (width, height))
    x = y = row = 0
    photos = [Image.open(path, formats=["JPEG", "PNG"]).convert("RGB") for path in all_photos()]
    for number in range(10_000):
        if y >= height:
            break
        photo = photos[number % len(photos)]
        canvas.paste(photo, (x, y))
        row = max(row, photo.height)
        x += photo.width
        if x >= width:
            x, y, row = 0, y + row, 0
    file = io.BytesIO()
    canvas.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def _decoders() -> Iterator[tuple[str, _Decode]]:
    """Yield ours, Pillow without scaled decoding, and the others that are installed."""
    ours = ImageDecoder(max_bytes=1 << 26, max_pixels=1 << 26, model_side=_SIDE)
    yield "ours", lambda data: ours.decode(data).picture
    yield "Pillow, whole image", lambda data: _opened(data).convert("RGB")
    if find_spec("simplejpeg"):
        yield "simplejpeg (libjpeg-turbo)", _simplejpeg
    if find_spec("cv2"):
        yield "OpenCV", _opencv


def _opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=["JPEG"])


def _simplejpeg(data: bytes) -> Image.Image:
    import simplejpeg  # noqa: PLC0415 - optional

    least = _MARGIN * _SIDE
    return Image.fromarray(simplejpeg.decode_jpeg(data, min_height=least, min_width=least))


def _opencv(data: bytes) -> Image.Image:
    import cv2  # noqa: PLC0415 - optional

    cv2.setNumThreads(1)
    side = min(_opened(data).size)
    scale = next(n for n in (8, 4, 2, 1) if n == 1 or side // n >= _MARGIN * _SIDE)
    flag = cv2.IMREAD_COLOR if scale == 1 else getattr(cv2, f"IMREAD_REDUCED_COLOR_{scale}")
    return Image.fromarray(cv2.imdecode(np.frombuffer(data, np.uint8), flag)[:, :, ::-1])


def _rate(decode: _Decode, data: bytes, seconds: float, clock: Any = time.process_time) -> float:
    """Return images per second of `clock`: by default per second of CPU time, whoever else runs."""
    _RECIPE.pixels(decode(data))
    count, start = 0, clock()
    while clock() - start < seconds or count < 2:
        _RECIPE.pixels(decode(data))
        count += 1
    return float(count / (clock() - start))


def _compared(size: str, rates: dict[tuple[str, str], float]) -> Row:
    mine = rates[size, "ours"]
    others = {name: rate for (of, name), rate in rates.items() if of == size and name != "ours"}
    listed = ", ".join(f"{name} {rate:.0f}" for name, rate in others.items())
    return Row(
        f"JPEG of {size}: ours ÷ the fastest other",
        mine / max(others.values()),
        "x",
        note=f"{mine:.0f} images per second of a core, to a model's pixels; {listed}",
        detail={"ours": mine, **others},
    )


def _pool_compared(data: bytes, rounds: int, seconds: float) -> Row:
    """Compare the worker's decoder processes with as many that only call libjpeg-turbo."""
    processes = os.cpu_count() or 1
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        processes, mp_context=context, initializer=os.nice, initargs=(NICENESS,)
    ) as others:
        list(others.map(_scaled_rate, [(data, 0.01)] * processes))  # imports
        work = [(data, seconds)] * processes
        ours, theirs = asyncio.run(
            _take_turns(
                data, processes, rounds, seconds, lambda: sum(others.map(_scaled_rate, work))
            )
        )
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    middle = statistics.median(ours), statistics.median(theirs)
    counts = f"{sum(ours) * seconds:,.0f} and {sum(theirs) * seconds:,.0f} images"
    return Row(
        f"JPEG of 12 Mpx, {processes} processes: the worker's decoders ÷ libjpeg-turbo, scaled",
        statistics.median(ratios),
        "x",
        note=f"{middle[0]:.0f} and {middle[1]:.0f} images/s, to a model's pixels; {counts} in "
        f"{rounds} rounds; ratios {min(ratios):.2f} to {max(ratios):.2f}",
        detail={"ours": ours, "theirs": theirs},
    )


async def _take_turns(
    data: bytes, processes: int, rounds: int, seconds: float, other: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """Return images per second of each turn, ours and the other's."""
    setup = Setup(
        max_bytes=1 << 26, max_pixels=1 << 26, model_side=_SIDE, preprocess=_RECIPE.pixels
    )
    forks = ForkServer()
    pool = DecoderPool(
        forks,
        setup,
        processes=processes,
        max_seconds=60,
        memory=MemoryBudget(1 << 30, EmbedderMetrics(CollectorRegistry())),
        on_ended=lambda cause: None,
        on_failure=lambda error: None,
    )
    ours, theirs = list[float](), list[float]()
    try:
        await pool.start(3 * 4 * _SIDE**2)
        await _pool_rate(pool, data, 2 * processes, 0.01)
        for _ in range(rounds):
            ours.append(await _pool_rate(pool, data, 2 * processes, seconds))
            theirs.append(await asyncio.to_thread(other))
    finally:
        pool.close()
        forks.close()
    return ours, theirs


async def _pool_rate(pool: DecoderPool, data: bytes, callers: int, seconds: float) -> float:
    count, start = 0, time.perf_counter()

    async def call() -> None:
        nonlocal count
        while time.perf_counter() - start < seconds:
            await pool.prepare(ImageFile(data), 0, Priority.BULK, Deadline.within(60))
            count += 1

    await asyncio.gather(*(call() for _ in range(callers)))
    return count / (time.perf_counter() - start)


def _scaled_rate(work: tuple[bytes, float]) -> float:
    """Return images per second of libjpeg-turbo alone, scaled; the rest as the worker does it."""
    decode = _simplejpeg if find_spec("simplejpeg") else _drafted
    return _rate(decode, *work, clock=time.perf_counter)


def _drafted(data: bytes) -> Image.Image:
    """Pillow's own call of libjpeg-turbo."""
    image = _opened(data)
    image.draft(None, (_MARGIN * _SIDE, _MARGIN * _SIDE))
    return image.convert("RGB")


def _by_cores(data: bytes, seconds: float) -> Iterator[Row]:
    """Decode in 1, 2, 4 … processes, up to the machine's cores."""
    cores = os.cpu_count() or 1
    alone = 0.0
    for count in sorted({1, *(2**power for power in range(1, 8) if 2**power <= cores), cores}):
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(count, mp_context=context) as pool:
            list(pool.map(_walled, [(data, 0.01)] * count))  # imports
            rate = sum(pool.map(_walled, [(data, 4 * seconds)] * count))
        alone = alone or rate
        note = f"JPEG of 2 Mpx; {rate / alone:.2f} times one process"
        yield Row(f"images with {count} processes", rate, "images/s", note=note)


def _walled(work: tuple[bytes, float]) -> float:
    _, decode = next(_decoders())
    return _rate(decode, *work, clock=time.perf_counter)


def _cores_for_a_gpu(network: str, rates: dict[tuple[str, str], float]) -> Row:
    width, layers, tokens = _NETWORKS[network]
    # A multiplication and an addition for each weight and token, and for each pair of tokens.
    flops = 2 * layers * (12 * width**2 * tokens + 2 * tokens**2 * width)
    rate = _H100_FLOPS * _REACHED / flops
    cores = {size: rate / rates[size, "ours"] for size in _SIZES}
    listed = ", ".join(f"{count:.0f} of {size}" for size, count in cores.items())
    return Row(
        f"cores that feed {network} on an H100",
        cores["0.2 Mpx"],
        "cores",
        note=f"calculated, not measured: {rate:,.0f} images/s at {_REACHED:.0%} of the data "
        f"sheet's bfloat16; {listed}",
    )
