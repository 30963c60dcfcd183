"""Measure how fast the app draws 60 photos, in Chromium.

    python -m benchmarks.gateway.page_load [--runs 5]
    python -m benchmarks.gateway.page_load --gateway HOST:PORT --collection photos --query "a cat"

Starts a worker, a gateway with 60 photos of 1 megapixel, and the page. Or uses a running gateway
and one of its collections with 60 images or more. Needs Chromium.

Each load is a new visitor with an empty cache, in a window that shows all 60. It prints the times

* from the arrival of the hits in the browser until every photo is decoded and painted (goal: 1 s)
* from the address in the browser until then: the page's files, the search, and the photos

`--scale 2` is a fine screen; then the time until all visible photos are sharp is printed, too.
"""

from __future__ import annotations

import io
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
from PIL import Image

from sentinel_client import Item, SentinelClient
from tests import photos, processes
from tests.app import album

_HITS = 60
_GOAL_S = 1.0
_BOX = 0.72  # of a photo's sides, in each cut
# Resolves when all photos are decoded and the next frame is painted: milliseconds since the hits.
_DRAWN = """async (count) => {
  const all = () => [...document.querySelectorAll('a.tile img')];
  while (all().length < count) await new Promise(requestAnimationFrame);
  await Promise.all(all().slice(0, count).map((one) => one.decode()));
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  return performance.now() - performance.getEntriesByName('hits')[0].startTime;
}"""
_SHARP = """async (count) => {
  const coarse = () => [...document.querySelectorAll('a.tile img')].slice(0, count).some(
    (one) => one.naturalWidth * 1.15 < one.clientWidth * devicePixelRatio && !one.dataset.sharp);
  while (coarse()) await new Promise(requestAnimationFrame);
  return performance.now() - performance.getEntriesByName('hits')[0].startTime;
}"""


@click.command()
@click.option("--gateway", metavar="HOST:PORT", help="A running gateway. Default: start one.")
@click.option("--collection", default="album", show_default=True)
@click.option("--query", default="a cat", show_default=True, help="Empty: the newest photos.")
@click.option("--scale", default=1, show_default=True, help="Pixels of the screen per CSS pixel.")
@click.option("--runs", default=5, show_default=True)
def main(gateway: str | None, collection: str, query: str, scale: int, runs: int) -> None:
    """Load the page several times; print each time and the medians."""
    parameters = urllib.parse.urlencode({"c": collection, "q": query, "flat": 1})
    with ExitStack() as stack:
        address = gateway or stack.enter_context(_album(collection))
        cache = stack.enter_context(tempfile.TemporaryDirectory())
        port = stack.enter_context(_page(address, cache))
        times = _loads(f"http://127.0.0.1:{port}/?{parameters}", scale, runs)
    drawn, whole, sharp = zip(*times, strict=True)
    _print(f"{_HITS} photos drawn after the hits arrived (goal {_GOAL_S:g} s)", drawn)
    _print(f"{_HITS} photos drawn after the address was opened", whole)
    if scale > 1:
        _print("visible photos sharp after the hits arrived (the first run decodes them)", sharp)


def _print(what: str, seconds: tuple[float, ...]) -> None:
    each = ", ".join(f"{one:.2f}" for one in seconds)
    click.echo(f"{what}: {each} s; median {statistics.median(seconds):.2f} s")


@contextmanager
def _album(collection: str) -> Iterator[str]:
    """Run a gateway with 60 photos; yield its address."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        worker = stack.enter_context(processes.running(folder, "embedder_server"))
        flags = processes.gateway_flags(folder, str(folder / "milvus.db"), worker.address)
        server = stack.enter_context(processes.running(folder, "search_server", *flags))
        with SentinelClient(server.address) as client:
            client.create_collection(collection, album.FIELDS)
            client.upsert(list(_items()), collection=collection)
        yield server.address


def _items() -> Iterator[Item]:
    """Yield different parts of the photos, as large as photos for a page."""
    paths = photos.all_photos()
    for number in range(_HITS):
        path, corner = paths[number % len(paths)], (number // len(paths)) / 10
        with Image.open(path, formats=["JPEG", "PNG"]) as opened:
            picture = opened.convert("RGB").resize((1600, 1200))
        left, top = int(corner * 1600), int(corner * 1200)
        part = picture.crop((left, top, left + int(_BOX * 1600), top + int(_BOX * 1200)))
        out = io.BytesIO()
        part.save(out, "JPEG", quality=90)
        yield Item(image=out.getvalue(), fields={"path": f"{path.stem}-{number}.jpg"})


@contextmanager
def _page(gateway: str, cache: str) -> Iterator[int]:
    """Run the page in front of a gateway; yield its port."""
    port = processes.free_port()
    command = [sys.executable, "-m", "sentinel_app", "--gateway", gateway, "--port", str(port)]
    environment = {**os.environ, "XDG_CACHE_HOME": cache}
    page = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        _until_it_serves(f"http://127.0.0.1:{port}/health")
        yield port
    finally:
        page.terminate()
        page.wait(20)


def _loads(url: str, scale: int, runs: int) -> list[tuple[float, float, float]]:
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - a tool of developers

    names = ("chromium-headless-shell", "chromium", "google-chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        times = [_load(browser, url, scale) for _ in range(runs)]
        browser.close()
    return times


def _load(browser: Any, url: str, scale: int) -> tuple[float, float, float]:
    context = browser.new_context(
        viewport={"width": 1920, "height": 2600}, device_scale_factor=scale
    )
    page = context.new_page()
    started = time.perf_counter()
    page.goto(url, wait_until="commit")
    drawn = page.evaluate(_DRAWN, _HITS) / 1000
    whole = time.perf_counter() - started
    sharp = page.evaluate(_SHARP, _HITS) / 1000 if scale > 1 else 0.0
    context.close()
    return drawn, whole, sharp


def _until_it_serves(url: str) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise click.ClickException("the page did not start")


if __name__ == "__main__":
    main()
