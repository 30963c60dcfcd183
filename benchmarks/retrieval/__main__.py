"""Measure a model on captioned pictures, through a worker and a gateway: recall, match levels.

    python -m benchmarks.retrieval --dataset flickr30k --model siglip2-b16
    python -m benchmarks.retrieval --dataset /usr/share/tuxpaint/stamps
    python -m benchmarks.retrieval --dataset coco --model clip-b32 --only match

Recall, text to image: the share of captions whose own picture is among the first 1, 5 or 10 hits.
Image to text: the share of pictures with any of their own captions among them. That is how the
papers of the models count. A search by text or picture is a real one: the worker embeds it as a
query, and Milvus Lite searches exactly. Datasets: datasets.py. Match levels: matches.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from benchmarks import report
from benchmarks.report import Row
from benchmarks.retrieval import matches
from benchmarks.retrieval.datasets import Captioned, read
from benchmarks.servers import sentinel, worker
from embedder_server.models.catalog import catalog
from sentinel_client import Item, Q, SentinelClient, SentinelError
from sentinel_client.importers.dataset import LayoutError

KS = (1, 5, 10)
TO_IMAGE, TO_TEXT = "text to image", "image to text"
PICTURES, CAPTIONS = "pictures", "captions"
SECTIONS = ("recall", "match")
# Pictures of some MB each share a message.
_PICTURES_PER_CALL = 8
_CAPTIONS_PER_CALL = 64
T = TypeVar("T")


def main() -> None:
    """Measure, print a table, write JSON."""
    options = _arguments()
    folder = options.dataset if options.dataset.is_dir() else options.datasets / options.dataset
    try:
        dataset = read(folder, set(options.without))
        others = read(options.absent, set(options.without)) if options.absent else None
    except LayoutError as error:
        sys.exit(str(error))
    count = sum(len(picture.captions) for picture in dataset.pictures)
    _say(f"{dataset.name} ({dataset.split}): {len(dataset.pictures)} pictures, {count} captions")
    if dataset.broken:
        _say(f"left out: {dataset.broken} entries that cannot be read or have no caption")
    flags = [f"--model={options.model}"] if options.model else []
    with tempfile.TemporaryDirectory() as scratch:
        found, model = measure(
            dataset,
            Path(scratch),
            [*flags, *options.worker_flags],
            only=set(options.only),
            others=others,
        )
    rows = rows_of(found.recalls, published(options.model, dataset.name))
    title = f"{model} on {dataset.name} ({dataset.split})"
    report.print_report({title: rows + found.matches}, Console())
    if options.json:
        facts = {"machine": report.machine(), "commit": report.commit(), "model": model}
        report.write_json(
            options.json,
            {"retrieval": rows, "match": found.matches},
            **facts,
            dataset=dataset.name,
            split=dataset.split,
            pictures=len(dataset.pictures),
            captions=count,
            left_out=dataset.broken,
        )


@dataclass(slots=True)
class Found:
    """What was measured.

    Attributes:
        recalls: R@k by direction and k, 0 to 1; empty if not measured.
        matches: Rows of the report; empty if not measured, or if the model has no match levels.
    """

    recalls: dict[str, dict[int, float]] = field(default_factory=dict)
    matches: list[Row] = field(default_factory=list)


def measure(
    dataset: Captioned,
    scratch: Path,
    worker_flags: Sequence[str],
    *,
    only: Collection[str],
    others: Captioned | None,
) -> tuple[Found, str]:
    """Return what was measured, and the model's name; start and stop the servers."""
    with worker(scratch, *worker_flags) as embedder:
        flags = ["--milvus-uri", str(scratch / "milvus.db")]
        flags += ["--object-store-uri", str(scratch / "objects")]
        gateway = sentinel(scratch, "search_server", "--workers", embedder.address, *flags)
        try:
            with SentinelClient(gateway.address) as client:
                gateway.wait_until(lambda: client.health().serving)
                found = Found()
                _fill_pictures(client, dataset)
                if "match" in only:
                    found.matches = _matches(client, dataset, others)
                if "recall" in only:
                    _fill_captions(client, dataset)
                    found.recalls[TO_IMAGE] = _to_image(client, dataset)
                    found.recalls[TO_TEXT] = _to_text(client, dataset)
                return found, client.get_model().version.model
        finally:
            gateway.stop()


def _matches(client: SentinelClient, dataset: Captioned, others: Captioned | None) -> list[Row]:
    if len(dataset.pictures) < matches.LEAST_PICTURES:
        _say(f"no match levels: fewer than {matches.LEAST_PICTURES} pictures")
        return []
    _say("waiting for match levels")
    levels = matches.wait_for_levels(client, PICTURES, len(dataset.pictures))
    if levels is None:
        _say("this model or collection has no match levels")
        return []
    return matches.rows_of(matches.judge(client, PICTURES, dataset, others), levels)


def _fill_pictures(client: SentinelClient, dataset: Captioned) -> None:
    pictures = (
        Item(id=str(number), image=picture.file) for number, picture in enumerate(dataset.pictures)
    )
    _fill(client, PICTURES, pictures)


def _fill_captions(client: SentinelClient, dataset: Captioned) -> None:
    captions = (
        Item(id=f"{number}#{at}", text=caption)
        for number, picture in enumerate(dataset.pictures)
        for at, caption in enumerate(picture.captions)
    )
    _fill(client, CAPTIONS, captions)


def _fill(client: SentinelClient, name: str, items: Iterable[Item]) -> None:
    _say(f"storing {name}")
    client.create_collection(name)
    for ack in client.ingest(items, collection=name):
        for at, error in ack.failures.items():
            sys.exit(f"{name} {ack.items[at].id} cannot be stored: {error}")


def _to_image(client: SentinelClient, dataset: Captioned) -> dict[int, float]:
    """Search each caption among the pictures."""
    queries = [
        (Q(caption), {str(number)})
        for number, picture in enumerate(dataset.pictures)
        for caption in picture.captions
    ]
    return _recalls(client, PICTURES, queries, _CAPTIONS_PER_CALL)


def _to_text(client: SentinelClient, dataset: Captioned) -> dict[int, float]:
    """Search each picture among the captions."""
    queries = [
        (Q(image=picture.file), {f"{number}#{at}" for at in range(len(picture.captions))})
        for number, picture in enumerate(dataset.pictures)
    ]
    return _recalls(client, CAPTIONS, queries, _PICTURES_PER_CALL)


def _recalls(
    client: SentinelClient, collection: str, queries: Sequence[tuple[Q, set[str]]], at_once: int
) -> dict[int, float]:
    found = dict.fromkeys(KS, 0)
    for part in _parts(queries, at_once):
        asked = [query for query, _ in part]
        pages = client.batch_search(asked, collection=collection, limit=max(KS))
        for page, (_, right) in zip(pages, part, strict=True):
            if isinstance(page, SentinelError):
                sys.exit(f"a search in {collection} failed: {page}")
            ids = [hit.id for hit in page.hits]
            for k in KS:
                found[k] += not right.isdisjoint(ids[:k])
    return {k: count / len(queries) for k, count in found.items()}


def _parts(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def published(model: str, dataset: str) -> float | None:
    """Return the published R@1 from text to image in percent, from the catalog of models."""
    entry = catalog().get(model)
    return None if entry is None else entry.scores.get(dataset)


def rows_of(found: Mapping[str, Mapping[int, float]], published_score: float | None) -> list[Row]:
    """Return the rows of the report, in percent."""
    rows = []
    for direction, recalls in found.items():
        for k, value in recalls.items():
            note, detail = "", {}
            if direction == TO_IMAGE and k == 1:
                note = "no published score in the catalog"
                if published_score is not None:
                    off = 100 * value - published_score
                    note = f"published: {published_score:.1f} % ({off:+.1f}); protocols differ"
                    detail = {"published": published_score}
            rows.append(Row(f"{direction}: R@{k}", 100 * value, "%", note=note, detail=detail))
    return rows


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--dataset", required=True, type=Path, help="coco, flickr30k, or a folder of pictures"
    )
    parser.add_argument(
        "--datasets", type=Path, default=Path(), help="the folder that holds coco and flickr30k"
    )
    parser.add_argument("--model", default="", help="as of a worker; default: the built-in one")
    parser.add_argument(
        "--without", nargs="+", default=[], metavar="NAME", help="leave out folders of these names"
    )
    parser.add_argument(
        "--absent", type=Path, metavar="FOLDER", help="a dataset of other things, for match levels"
    )
    parser.add_argument(
        "--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="measure only these"
    )
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument(
        "worker_flags",
        nargs="*",
        help="after --: flags of the worker, such as --device=cuda:0",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
