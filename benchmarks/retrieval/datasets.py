"""Read captioned pictures for the benchmark, by the layout of their folder.

    coco        annotations/captions_val2017.json and val2017/, or those of val2014
    flickr30k   flickr30k-images/ and results_20130124.token, or Kaggle's layout
    otherwise   each NAME.png or NAME.jpg with its caption in the first line of NAME.txt

Papers measure on Karpathy's splits: 1,000 pictures of Flickr30k, 5,000 of COCO's val2014. If the
folder has a file of the splits (dataset_coco.json, dataset_flickr30k.json, or Flickr's test.txt),
only its test pictures count. Nothing is downloaded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from sentinel_client.importers import coco, flickr30k
from sentinel_client.importers.dataset import BrokenEntry, ImportEntry, LayoutError
from sentinel_client.importers.folders import is_image_name

# Papers use five captions of each picture; some pictures of COCO have more.
CAPTIONS_PER_PICTURE = 5
_COCO_YEARS = ("val2017", "val2014")
_TEST = "test"


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture and its captions, at most five."""

    file: Path
    captions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Captioned:
    """A dataset.

    Attributes:
        name: As the catalog of models names its scores; otherwise the folder's name.
        split: Which pictures count, for the report.
        broken: Entries that cannot be read, or have no caption.
    """

    name: str
    split: str
    pictures: tuple[Picture, ...]
    broken: int


def read(folder: Path, without: AbstractSet[str] = frozenset()) -> Captioned:
    """Return the captioned pictures in `folder`; raise LayoutError if it has none.

    `without` has names of folders that are left out, where pictures have captions beside them.
    """
    if not folder.is_dir():
        raise LayoutError(f"{folder} is no folder; nothing is downloaded, unpack the dataset there")
    tested = _karpathy_test(folder)
    # The pictures of Karpathy's test are of val2014, and have other names in val2017.
    for year in reversed(_COCO_YEARS) if tested else _COCO_YEARS:
        annotations = folder / "annotations" / f"captions_{year}.json"
        if annotations.is_file():
            entries = coco(annotations, folder / year).entries()
            return _of_entries("coco", year, entries, tested)
    try:
        dataset = flickr30k(folder)
    except LayoutError:
        return _sidecars(folder, without)
    return _of_entries("flickr30k", "all", dataset.entries(), set())


def _of_entries(
    name: str, split: str, entries: Iterable[ImportEntry], test_names: set[str]
) -> Captioned:
    found: list[tuple[Picture, str]] = []
    broken = 0
    for entry in entries:
        captions = () if isinstance(entry, BrokenEntry) else entry.fields.get("captions")
        if isinstance(entry, BrokenEntry) or not captions or not isinstance(entry.image, Path):
            broken += 1
            continue
        picture = _picture(entry.image, list(captions) if isinstance(captions, list) else [])
        is_test = picture.file.name in test_names or entry.fields.get("split") == _TEST
        found.append((picture, _TEST if is_test else ""))
    tested = [picture for picture, of in found if of == _TEST]
    pictures = tested or [picture for picture, _ in found]
    return Captioned(name, _TEST if tested else split, tuple(pictures), broken)


def _picture(file: Path, captions: Sequence[str]) -> Picture:
    return Picture(file, tuple(captions[:CAPTIONS_PER_PICTURE]))


def _karpathy_test(folder: Path) -> set[str]:
    """Return the names of COCO's test pictures by Karpathy's file; empty without it."""
    file = folder / "dataset_coco.json"
    if not file.is_file():
        return set()
    images = json.loads(file.read_text("utf-8"))["images"]
    return {image["filename"] for image in images if image["split"] == _TEST}


def _sidecars(folder: Path, without: AbstractSet[str]) -> Captioned:
    pictures, broken = [], 0
    for file in sorted(_image_files(folder)):
        if without & set(file.relative_to(folder).parts):
            continue
        text = file.with_suffix(".txt")
        if not text.is_file():
            continue
        caption = text.read_text("utf-8", "replace").partition("\n")[0].strip()
        if caption:
            pictures.append(_picture(file, [caption]))
        else:
            broken += 1
    if not pictures:
        raise LayoutError(
            f"{folder} has neither the layout of COCO nor of Flickr30k, and no picture NAME.jpg or "
            "NAME.png with a caption in NAME.txt"
        )
    return Captioned(folder.name, "all", tuple(pictures), broken)


def _image_files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names if is_image_name(name))
