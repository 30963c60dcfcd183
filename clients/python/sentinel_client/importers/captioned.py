"""Import Flickr8k, Flickr30k and COCO: images with several captions each.

Flickr has the layout of its publishers, or that of Kaggle. Files of the splits are optional:
those of the publishers, or Karpathy's `dataset_flickr8k.json` and `dataset_flickr30k.json`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sentinel_client._filters import FieldValue
from sentinel_client._text import valid_text
from sentinel_client._types import FieldSchema, FieldType
from sentinel_client.importers.dataset import (
    BrokenEntry,
    Dataset,
    ImportEntry,
    LayoutError,
    local_file,
)
from sentinel_client.importers.folders import is_image_name
from sentinel_client.importers.rows import RowError, read_lines

# How deep a published archive nests its folders, unpacked in a folder of its own.
_DEPTH = 3


@dataclass
class _Captions:
    """Captions by image, and the rows that cannot be read."""

    by_image: dict[str, list[str]] = field(default_factory=dict)
    broken: list[BrokenEntry] = field(default_factory=list)

    def add(self, image: str, caption: str) -> None:
        self.by_image.setdefault(image, []).append(caption)

    def add_broken(self, key: str, message: str) -> None:
        self.broken.append(BrokenEntry(key, "ROW_INVALID", message))


@dataclass(frozen=True)
class _CaptionFormat:
    """How a captions file writes one caption per line; `row` has groups `name` and `caption`."""

    row: re.Pattern[str]
    has_header: bool = False
    clean: Callable[[str], str] = str


def _unquoted(cell: str) -> str:
    if len(cell) > 1 and cell.startswith('"') and cell.endswith('"'):
        return cell[1:-1].replace('""', '"')
    return cell


@dataclass(frozen=True)
class _FlickrLayout:
    """Names of the image folders, captions files and split files; the first existing one counts."""

    name: str
    folders: Sequence[str]
    captions: Mapping[str, _CaptionFormat]
    splits: Mapping[str, str]
    karpathy: str


# As published. A row is `name.jpg#0<TAB>caption`.
_TOKENS = _CaptionFormat(re.compile(r"(?P<name>[^\t]+)#\d+\t(?P<caption>.*)"))
# Kaggle's results.csv has a row whose last bar is missing: `name.jpg| 4   A dog runs`.
_BARS = _CaptionFormat(
    re.compile(r"(?P<name>[^|]+)\|\s*\d+\s*(?:\||\s)\s*(?P<caption>[^|\s].*)"), has_header=True
)
# Kaggle's captions.txt. A caption extends to the end of its line, so commas in it need no quotes.
_CSV = _CaptionFormat(
    re.compile(r'(?P<name>[^,]+),(?!""$)(?P<caption>.*\S.*)'), has_header=True, clean=_unquoted
)
_FLICKR8K = _FlickrLayout(
    "flickr8k",
    ("Flicker8k_Dataset", "Flickr8k_Dataset", "Images"),
    {"Flickr8k.token.txt": _TOKENS, "captions.txt": _CSV},
    {
        "Flickr_8k.trainImages.txt": "train",
        "Flickr_8k.devImages.txt": "val",
        "Flickr_8k.testImages.txt": "test",
    },
    "dataset_flickr8k.json",
)
_FLICKR30K = _FlickrLayout(
    "flickr30k",
    ("flickr30k-images", "flickr30k_images"),
    {"results_20130124.token": _TOKENS, "results.csv": _BARS},
    {"train.txt": "train", "val.txt": "val", "test.txt": "test"},
    "dataset_flickr30k.json",
)


def flickr8k(root: Path, *, by_name: bool = False, full_text: bool = False) -> Dataset:
    """Return the Flickr8k dataset under `root`, the folder of the unpacked archives."""
    return _flickr(_FLICKR8K, root.absolute(), by_name=by_name, full_text=full_text)


def flickr30k(root: Path, *, by_name: bool = False, full_text: bool = False) -> Dataset:
    """Return the Flickr30k dataset under `root`, the folder of the unpacked archives."""
    return _flickr(_FLICKR30K, root.absolute(), by_name=by_name, full_text=full_text)


def coco(
    annotations: Path, image_folder: Path, *, by_name: bool = False, full_text: bool = False
) -> Dataset:
    """Return the images in a folder with the captions of a file such as `captions_val2017.json`."""
    images, rows = _read_coco(annotations)
    captions = _coco_captions(annotations, rows)
    split = re.sub(r"^captions_", "", annotations.stem)

    def entries() -> Iterator[ImportEntry]:
        yield from captions.broken
        for index, image in enumerate(images):
            name = image.get("file_name") if isinstance(image, dict) else None
            if not isinstance(name, str) or not isinstance(image.get("id"), int):
                message = "an image without id or file_name"
                yield BrokenEntry(f"{annotations}#images[{index}]", "ROW_INVALID", message)
                continue
            yield _captioned_image(
                image_folder.absolute() / name,
                captions.by_image.get(str(image["id"]), []),
                split=split,
                id=name if by_name else "",
                more={"coco_id": image["id"]},
            )

    return Dataset(
        name="coco",
        fields=_fields(FieldSchema("coco_id", FieldType.INT64), full_text=full_text),
        entries=entries,
        total=len(images) + len(captions.broken),
    )


def _fields(*more: FieldSchema, full_text: bool) -> tuple[FieldSchema, ...]:
    text = FieldSchema("caption", FieldType.STRING, full_text=True)
    return (
        FieldSchema("path", FieldType.STRING),
        FieldSchema("file_name", FieldType.STRING),
        FieldSchema("captions", FieldType.STRING_LIST),
        FieldSchema("split", FieldType.STRING),
        *([text] if full_text else []),
        *more,
    )


def _captioned_image(
    path: Path,
    captions: Sequence[str],
    *,
    split: str,
    id: str,
    more: Mapping[str, FieldValue] | None = None,
) -> ImportEntry:
    fields: dict[str, FieldValue] = {
        "path": valid_text(str(path)),
        "file_name": valid_text(path.name),
        "captions": list(captions),
        **(more or {}),
    }
    if captions:
        fields["caption"] = "\n".join(captions)
    if split:
        fields["split"] = split
    return local_file(path, id=id, fields=fields)


def _flickr(layout: _FlickrLayout, root: Path, *, by_name: bool, full_text: bool) -> Dataset:
    """Return the images in their folder, and those that only the captions name, by name."""
    folder = _find_images(root, layout.folders)
    file = _find_file(root, layout.captions)
    if file is None:
        raise LayoutError(f"{root} has no captions file {' or '.join(layout.captions)}")
    captions = _read_captions(file, layout.captions[file.name])
    splits = _splits(root, layout)
    present = {entry.name for entry in os.scandir(folder) if is_image_name(entry.name)}
    names = sorted(present | set(captions.by_image))

    def entries() -> Iterator[ImportEntry]:
        yield from captions.broken
        for image in names:
            yield _captioned_image(
                folder / image,
                captions.by_image.get(image, []),
                split=splits.get(image, ""),
                id=valid_text(image) if by_name else "",
            )

    return Dataset(
        name=layout.name,
        fields=_fields(full_text=full_text),
        entries=entries,
        total=len(names) + len(captions.broken),
    )


def _read_captions(file: Path, form: _CaptionFormat) -> _Captions:
    captions = _Captions()
    with file.open("rb") as data:
        lines = read_lines(data)
        if form.has_header:
            next(lines, None)
        for row in lines:
            if isinstance(row, RowError):
                captions.add_broken(f"{file}#{row.number}", row.message)
                continue
            number, line = row
            match = form.row.fullmatch(line)
            if match is None:
                captions.add_broken(f"{file}#{number}", f"line {number} is not an image's caption")
            else:
                captions.add(match["name"].strip(), form.clean(match["caption"]).strip())
    return captions


def _splits(root: Path, layout: _FlickrLayout) -> dict[str, str]:
    """Return the split of each file name, as far as files with splits exist."""
    splits: dict[str, str] = {}
    for name, split in layout.splits.items():
        if (file := _find_file(root, [name])) is not None:
            for line in file.read_text("utf-8", "replace").split():
                splits[line if line.endswith(".jpg") else f"{line}.jpg"] = split
    if not splits and (file := _find_file(root, [layout.karpathy])) is not None:
        with suppress(ValueError, KeyError, TypeError):  # splits are optional
            for image in json.loads(file.read_text("utf-8"))["images"]:
                splits[image["filename"]] = image["split"]
    return splits


def _find_file(root: Path, names: Iterable[str]) -> Path | None:
    """Return the first of these files under `root`; the names are in order of preference."""
    paths = (folder / name for name in names for folder in _folders(root))
    return next((path for path in paths if path.is_file()), None)


def _find_images(root: Path, names: Sequence[str]) -> Path:
    """Return the folder of one of these names, `root` included, that holds images."""
    for folder in _folders(root):
        if folder.name in names and any(is_image_name(one.name) for one in os.scandir(folder)):
            return folder
    raise LayoutError(f"{root} has no folder {' or '.join(names)} with images in it")


def _folders(root: Path) -> list[Path]:
    """Return `root` and the folders under it, the upper ones first."""
    level, found = [root], [root]
    for _ in range(_DEPTH):
        level = sorted(
            Path(entry.path)
            for folder in level
            for entry in os.scandir(folder)
            if entry.is_dir() and not entry.name.startswith(".")
        )
        found += level
    return found


def _read_coco(annotations: Path) -> tuple[list[Any], list[Any]]:
    try:
        content = json.loads(annotations.read_bytes())
        images, rows = content["images"], content["annotations"]
    except (ValueError, KeyError, TypeError) as error:
        raise LayoutError(f"{annotations} is not a COCO captions file: {error!r}") from None
    if not isinstance(images, list) or not isinstance(rows, list):
        raise LayoutError(f"{annotations} is not a COCO captions file: images must be a list")
    return images, rows


def _coco_captions(annotations: Path, rows: list[Any]) -> _Captions:
    captions = _Captions()
    for index, row in enumerate(rows):
        caption = row.get("caption") if isinstance(row, dict) else None
        if isinstance(caption, str) and isinstance(row.get("image_id"), int):
            captions.add(str(row["image_id"]), " ".join(caption.split()))
        else:
            key = f"{annotations}#annotations[{index}]"
            captions.add_broken(key, "an annotation without image_id or caption")
    return captions
