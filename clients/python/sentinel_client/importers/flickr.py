"""Flickr8k and Flickr30k, as they are published and as Kaggle repacks them.

| | Flickr8k | Flickr30k |
|---|---|---|
| pictures | `Flicker8k_Dataset/` (sic), `Flickr8k_Dataset/` | `flickr30k-images/` |
| captions | `Flickr8k.token.txt` | `results_20130124.token` |
| a row | `name.jpg#0<TAB>caption` | the same |
| splits | `Flickr_8k.{train,dev,test}Images.txt` | `{train,val,test}.txt` of Flickr30k Entities |
| Kaggle | `Images/`, `captions.txt`: CSV | `flickr30k_images/`, `results.csv`: between bars |

Each picture has 5 captions. Karpathy's `dataset_flickr8k.json` and `dataset_flickr30k.json` tell
the splits, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sentinel_client.importers._captions import (
    Captions,
    captioned_folder,
    find_file,
    find_pictures,
)
from sentinel_client.importers._entries import BrokenEntry, Dataset, LayoutError

_TOKEN_ROW = re.compile(r"(?P<name>[^\t]+)#\d+\t(?P<caption>.*)")
# The published results.csv has a row whose last bar is missing: `name.jpg| 4   A dog runs`.
_BAR_ROW = re.compile(r"(?P<name>[^|]+)\|\s*\d+\s*(?:\||\s)\s*(?P<caption>[^|\s].*)")

_SPLITS_8K = {
    "Flickr_8k.trainImages.txt": "train",
    "Flickr_8k.devImages.txt": "val",
    "Flickr_8k.testImages.txt": "test",
}
_SPLITS_30K = {"train.txt": "train", "val.txt": "val", "test.txt": "test"}


def flickr8k(root: Path, *, by_name: bool = False, full_text: bool = False) -> Dataset:
    """Return the Flickr8k dataset under `root`. Blocking: it reads the captions.

    Args:
        root: Where the archives were unpacked.
        by_name: Whether a picture's id is its file name instead of its content's hash.
        full_text: Whether the captions can be searched.

    Raises:
        LayoutError: Pictures or captions are missing.
    """
    root = root.absolute()
    folder = find_pictures(root, ("Flicker8k_Dataset", "Flickr8k_Dataset", "Images"))
    captions_file = _captions_file(root, ("Flickr8k.token.txt", "captions.txt"))
    rows = _csv_rows if captions_file.name == "captions.txt" else _token_rows
    return captioned_folder(
        "flickr8k",
        folder,
        _read(captions_file, rows(captions_file)),
        _splits(root, _SPLITS_8K, "dataset_flickr8k.json"),
        by_name=by_name,
        full_text=full_text,
    )


def flickr30k(root: Path, *, by_name: bool = False, full_text: bool = False) -> Dataset:
    """Return the Flickr30k dataset under `root`; as `flickr8k`.

    Raises:
        LayoutError: Pictures or captions are missing.
    """
    root = root.absolute()
    folder = find_pictures(root, ("flickr30k-images", "flickr30k_images"))
    captions_file = _captions_file(root, ("results_20130124.token", "results.csv"))
    rows = _bar_rows if captions_file.suffix == ".csv" else _token_rows
    return captioned_folder(
        "flickr30k",
        folder,
        _read(captions_file, rows(captions_file)),
        _splits(root, _SPLITS_30K, "dataset_flickr30k.json"),
        by_name=by_name,
        full_text=full_text,
    )


def _captions_file(root: Path, names: tuple[str, ...]) -> Path:
    found = find_file(root, names)
    if found is None:
        raise LayoutError(f"{root} has no captions file {' or '.join(names)}")
    return found


def _read(file: Path, rows: Iterator[tuple[int, str, str] | int]) -> Captions:
    """Collect `(line, name, caption)`; a line number alone is a row that cannot be read."""
    captions = Captions()
    for row in rows:
        if isinstance(row, int):
            message = f"line {row} is no caption of a picture"
            captions.broken.append(BrokenEntry(f"{file}#{row}", "ROW_INVALID", message))
        else:
            captions.add(row[1], row[2])
    return captions


def _lines(file: Path) -> Iterator[tuple[int, str | None]]:
    """Yield the lines with their numbers, None for one that is not UTF-8."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                text = line.decode("utf-8-sig").rstrip("\r\n")
            except UnicodeDecodeError:
                yield number, None
            else:
                if text.strip():
                    yield number, text


def _matches(
    pattern: re.Pattern[str], lines: Iterator[tuple[int, str | None]]
) -> Iterator[tuple[int, str, str] | int]:
    for number, line in lines:
        match = None if line is None else pattern.fullmatch(line)
        if match is None:
            yield number
        else:
            yield number, match["name"].strip(), match["caption"].strip()


def _token_rows(file: Path) -> Iterator[tuple[int, str, str] | int]:
    return _matches(_TOKEN_ROW, _lines(file))


def _bar_rows(file: Path) -> Iterator[tuple[int, str, str] | int]:
    lines = _lines(file)
    next(lines, None)  # the header
    return _matches(_BAR_ROW, lines)


def _csv_rows(file: Path) -> Iterator[tuple[int, str, str] | int]:
    lines = _lines(file)
    next(lines, None)  # the header
    for number, line in lines:
        name, comma, quoted = ("", "", "") if line is None else line.partition(",")
        caption = _unquoted(quoted).strip()
        if name and comma and caption:
            yield number, name.strip(), caption
        else:
            yield number


def _unquoted(quoted: str) -> str:
    """Return a CSV cell that goes on to the end of its line; commas need no quotes there."""
    if len(quoted) > 1 and quoted.startswith('"') and quoted.endswith('"'):
        return quoted[1:-1].replace('""', '"')
    return quoted


def _splits(root: Path, lists: dict[str, str], karpathy: str) -> dict[str, str]:
    """Return the split of each file name, as far as the files that tell it are there."""
    splits: dict[str, str] = {}
    for name, split in lists.items():
        if (file := find_file(root, [name])) is not None:
            for line in file.read_text("utf-8", "replace").split():
                splits[line if line.endswith(".jpg") else f"{line}.jpg"] = split
    if not splits and (file := find_file(root, [karpathy])) is not None:
        with suppress(ValueError, KeyError, TypeError):  # a help, not needed
            for image in json.loads(file.read_text("utf-8"))["images"]:
                splits[image["filename"]] = image["split"]
    return splits
