"""Measure the time from the address in the browser to 30 images on the search page.

    python -m benchmarks.gateway.page_load [--runs 5]
    python -m benchmarks.gateway.page_load --gateway HOST:PORT --collection photos --query "a cat"

Starts a worker, a gateway with the 48 images of tests/app/album.py, and the page. Or uses a running
gateway and one of its collections with 30 images or more. Needs Chromium.

Each load is a new visitor with an empty cache. It includes the page's scripts, the search and the
decoding of the thumbnails. The goal is below 2 s.
"""

from __future__ import annotations

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

from sentinel_client import SentinelClient
from tests import processes
from tests.app import album

_HITS = 30
_GOAL_S = 2.0
# True when every image is decoded; the grid is in a shadow root.
_DECODED = """async (count) => {
  const roots = [...document.querySelectorAll('*')].map((one) => one.shadowRoot ?? one);
  const all = roots.flatMap((one) => [...one.querySelectorAll?.('article.card img') ?? []]);
  const pictures = [...new Set(all)];
  if (pictures.length < count) return false;
  await Promise.all(pictures.map((one) => one.decode()));
  return true;
}"""


@click.command()
@click.option("--gateway", metavar="HOST:PORT", help="A running gateway. Default: start one.")
@click.option("--collection", default="album", show_default=True)
@click.option("--query", default="a cat", show_default=True)
@click.option("--runs", default=5, show_default=True)
def main(gateway: str | None, collection: str, query: str, runs: int) -> None:
    """Load the page several times; print each time and the median."""
    parameters = urllib.parse.urlencode({"collection": collection, "q": query})
    with ExitStack() as stack:
        address = gateway or stack.enter_context(_album(collection))
        port = stack.enter_context(_page(address))
        seconds = _loads(f"http://127.0.0.1:{port}/?{parameters}", runs)
    each = ", ".join(f"{one:.2f}" for one in seconds)
    median = statistics.median(seconds)
    click.echo(f"{_HITS} hits decoded after {each} s; median {median:.2f} s, goal {_GOAL_S:g} s")


@contextmanager
def _album(collection: str) -> Iterator[str]:
    """Run a gateway with the tests' pictures; yield its address."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        worker = stack.enter_context(processes.running(folder, "embedder_server"))
        flags = processes.gateway_flags(folder, str(folder / "milvus.db"), worker.address)
        server = stack.enter_context(processes.running(folder, "search_server", *flags))
        with SentinelClient(server.address) as client:
            client.create_collection(collection, album.FIELDS)
            client.upsert(list(album.items()), collection=collection)
        yield server.address


@contextmanager
def _page(gateway: str) -> Iterator[int]:
    """Run the page in front of a gateway; yield its port."""
    port = processes.free_port()
    command = [sys.executable, "-m", "sentinel_app", "--gateway", gateway, "--port", str(port)]
    page = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _until_it_serves(f"http://127.0.0.1:{port}/_stcore/health")
        yield port
    finally:
        page.terminate()
        page.wait(20)


def _loads(url: str, runs: int) -> list[float]:
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - a tool of developers

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        times = [_load(browser, url) for _ in range(runs)]
        browser.close()
    return times


def _load(browser: Any, url: str) -> float:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    started = time.perf_counter()
    page.goto(url, wait_until="commit")
    page.wait_for_function(_DECODED, arg=_HITS)
    seconds = time.perf_counter() - started
    context.close()
    return seconds


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
