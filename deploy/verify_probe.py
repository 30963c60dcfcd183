"""The questions that verify.sh asks of a running system, each a command with an exit code."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import click
import numpy as np
from PIL import Image

from sentinel_client import (
    ClientConfig,
    Item,
    Outcome,
    RetryPolicy,
    SentinelClient,
    SentinelError,
    Timeouts,
)

COLLECTION = "faults"
# For the shortest interval that the dashboard asks for: four scrapes.
RATE_INTERVAL = "40s"


@click.group()
def main() -> None:
    """Ask a running system what verify.sh wants to know."""


@main.command()
@click.option("--acked", type=click.Path(path_type=Path), required=True)
@click.option("--until", type=click.Path(path_type=Path), required=True)
def write(acked: Path, until: Path) -> None:
    """Upsert new pictures until the file UNTIL exists; note the ids that were acknowledged."""
    random = np.random.default_rng(7)
    config = ClientConfig(timeouts=Timeouts(upsert=20.0))
    with SentinelClient(config=config) as client, acked.open("w") as notes:
        client.get_or_create_collection(COLLECTION)
        failed = number = 0
        while not until.exists():
            batch = [_picture(random, f"{number + place:06d}") for place in range(4)]
            number += len(batch)
            try:
                results = client.upsert(batch, collection=COLLECTION)
            except SentinelError as error:
                failed += 1
                print(f"{time.strftime('%H:%M:%S')} upsert failed: {error}", flush=True)
                continue
            for result in results:
                if result.outcome is not Outcome.FAILED:
                    notes.write(f"{result.id}\n")
            notes.flush()
        print(f"{number} pictures sent, {failed} upserts of 4 failed")


def _picture(random: np.random.Generator, name: str) -> Item:
    pixels = random.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return Item(id=name, image=file.getvalue())


@main.command()
@click.option("--acked", type=click.Path(path_type=Path, exists=True), required=True)
def kept(acked: Path) -> None:
    """Fail unless every acknowledged item is there, with its thumbnail."""
    ids = acked.read_text().split()
    with SentinelClient() as client:
        found = client.get_items(ids, collection=COLLECTION, include_thumbnails=True)
        whole = {item.id for item in found.items if item.thumbnail}
    missing = sorted(set(ids) - whole)
    print(f"{len(ids)} acknowledged, {len(ids) - len(missing)} there, {len(missing)} missing")
    if missing or not ids:
        sys.exit(f"missing: {' '.join(missing[:20]) or 'nothing was ever acknowledged'}")


@main.command()
@click.option("--seconds", type=float, required=True)
@click.option("--collection", default="photos")
def searches(seconds: float, collection: str) -> None:
    """Search ten times a second, each time once; tell what failed and for how long.

    Fails when a search is unanswered at the end, or nothing was ever found.
    """
    config = ClientConfig(retry=RetryPolicy(max_attempts=1), timeouts=Timeouts(search=5.0))
    start = time.monotonic()
    answered = failed = 0
    broken_at, longest = 0.0, 0.0
    reasons: dict[str, int] = {}
    works = False
    with SentinelClient(config=config) as client:
        while (now := time.monotonic()) - start < seconds:
            try:
                # New words each time: a text that was embedded before may need no worker.
                works = bool(client.search(f"a cat, {now}", collection=collection, limit=3))
                answered += works
            except SentinelError as error:
                works = False
                reasons[error.reason] = reasons.get(error.reason, 0) + 1
            if works and broken_at:
                longest, broken_at = max(longest, time.monotonic() - broken_at), 0.0
            if not works:
                failed += 1
                broken_at = broken_at or now
            time.sleep(max(0.0, 0.1 - (time.monotonic() - now)))
    print(
        f"{answered} searches answered, {failed} not {reasons or ''}; longest gap {longest:.1f} s"
    )
    if not works:
        sys.exit("searches did not come back")


@main.command()
@click.option("--prometheus", required=True)
@click.option("--at-least", type=int, required=True)
def spread(prometheus: str, at_least: int) -> None:
    """Fail unless so many workers embedded something in the last 40 s."""
    busy = [
        f"{sample['metric']['instance']}: {float(sample['value'][1]):.1f}/s"
        for sample in _query(
            prometheus,
            f"sum by (instance) (rate(sentinel_embedder_items_total[{RATE_INTERVAL}])) > 0.5",
        )
    ]
    print("; ".join(busy) or "nobody")
    if len(busy) < at_least:
        sys.exit(f"{len(busy)} workers were used, not {at_least}")


@main.command()
@click.option("--prometheus", required=True)
def dashboard(prometheus: str) -> None:
    """Fail unless every query of the dashboard is answered with data."""
    folder = Path(__file__).parent
    board = json.loads((folder / "grafana" / "dashboards" / "sentinel.json").read_text())
    empty = []
    count = 0
    for panel in board["panels"]:
        for target in panel["targets"]:
            count += 1
            expression = re.sub(r"\$__rate_interval", RATE_INTERVAL, target["expr"])
            values = {sample["value"][1] for sample in _query(prometheus, expression)}
            if not values - {"NaN"}:
                empty.append(f"{panel['title']}: {expression}")
    print(f"{count} queries, {count - len(empty)} with data")
    if empty:
        sys.exit("no data:\n" + "\n".join(empty))


@main.command()
@click.argument("url")
@click.option("--screenshot", type=click.Path(path_type=Path), required=True)
def browser(url: str, screenshot: Path) -> None:
    """Search by words in a real Chromium; fail unless the cat comes first, with its picture."""
    from playwright.sync_api import sync_playwright

    quiet = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=quiet)
        page = chromium.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(90_000)
        page.goto(url)
        box = page.get_by_placeholder("a dog on the beach")
        box.fill("a cat")
        box.press("Enter")
        card = page.locator("article.card .open").first
        card.wait_for()
        label = card.get_attribute("aria-label") or ""
        shown = card.locator("img").evaluate("async (i) => (await i.decode(), i.naturalWidth)")
        page.screenshot(path=screenshot)
        chromium.close()
    print(f"first hit: {label}; its thumbnail is {shown} pixels wide")
    if "chelsea" not in label or not shown:
        sys.exit("the cat is not the first hit")


def _query(prometheus: str, expression: str) -> list[dict[str, list[str]]]:
    url = f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is on this machine
    with direct.open(url, timeout=10) as answer:
        result: list[dict[str, list[str]]] = json.load(answer)["data"]["result"]
    return result


if __name__ == "__main__":
    main()
