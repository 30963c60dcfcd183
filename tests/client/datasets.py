"""Miniature datasets in their published layouts, of real photos."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests import photos

NAMES = ("chelsea", "coffee", "rocket")


def caption(name: str, number: int) -> str:
    return f"A {name}, number {number} ."


def pictures(folder: Path, names: Sequence[str] = NAMES) -> list[str]:
    """Write photos as NAME.jpg into `folder`; return the file names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.jpg").write_bytes(photos.photo(name).read_bytes())
    return [f"{name}.jpg" for name in names]


def token_lines(names: Sequence[str]) -> str:
    return "".join(
        f"{name}#{number}\t{caption(name, number)}\n" for name in names for number in range(5)
    )


def flickr8k(root: Path) -> Path:
    """As the University of Illinois published it, with the row that names no picture."""
    names = pictures(root / "Flicker8k_Dataset")
    text = root / "Flickr8k_text"
    text.mkdir()
    (text / "Flickr8k.token.txt").write_text(
        token_lines(names) + token_lines(["2258277193_586949ec62.jpg.1"]) + "no caption at all\n"
    )
    (text / "Flickr_8k.trainImages.txt").write_text("chelsea.jpg\n")
    (text / "Flickr_8k.devImages.txt").write_text("coffee.jpg\n")
    (text / "Flickr_8k.testImages.txt").write_text("rocket.jpg\n")
    return root


def flickr8k_of_kaggle(root: Path) -> Path:
    names = pictures(root / "Images")
    rows = "".join(f'{name},"A {name} , with a comma ."\n{name},plain\n' for name in names)
    (root / "captions.txt").write_text(f"image,caption\n{rows}")
    return root


def flickr30k(root: Path) -> Path:
    names = pictures(root / "flickr30k-images")
    (root / "results_20130124.token").write_text(token_lines(names))
    (root / "train.txt").write_text("chelsea\n")
    (root / "test.txt").write_text("coffee\nrocket\n")
    return root


def flickr30k_of_kaggle(root: Path) -> Path:
    """With the nested folders, and the row whose last bar is missing."""
    names = pictures(root / "flickr30k_images" / "flickr30k_images")
    rows = [f"{name}| {number}| {caption(name, number)}" for name in names for number in range(5)]
    rows[4] = f"{names[0]}| 4   A dog runs across the grass ."
    lines = "\n".join(["image_name| comment_number| comment", *rows, "nothing of the kind"])
    (root / "flickr30k_images" / "results.csv").write_text(lines + "\n")
    return root


def coco(root: Path) -> tuple[Path, Path]:
    """Return the annotations and the folder of pictures."""
    names = pictures(root / "val2017")
    images: list[object] = [
        {"id": number, "file_name": name, "width": 1, "height": 1}
        for number, name in enumerate(names)
    ]
    annotations: list[object] = [
        {"id": 9 * number, "image_id": number, "caption": f"caption\nof {number}"}
        for number in range(3)
        for _ in range(5)
    ]
    content = {
        "images": [*images, {"id": 9}, {"id": 10, "file_name": "000000000010.jpg"}],
        "annotations": [*annotations, {"image_id": 1}],
    }
    (root / "annotations").mkdir()
    file = root / "annotations" / "captions_val2017.json"
    file.write_text(json.dumps(content))
    return file, root / "val2017"


def shard(file: Path, members: Mapping[str, bytes], mode: str = "w") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file


def webdataset(root: Path, mode: str = "w") -> Path:
    """Two shards with a sample of each kind: whole, without JSON, without picture, broken JSON."""
    chelsea, coffee, rocket = (photos.photo(name).read_bytes() for name in NAMES)
    more = {"key": "1", "width": 451, "score": 0.5, "tags": ["cat"], "exif": {"a": 1}, "none": None}
    shard(
        root / "00000.tar",
        {
            "00000/000.png": chelsea,
            "00000/000.json": json.dumps(more).encode(),
            "00000/000.txt": b"a cat\n",
            "00000/001.jpg": coffee,
            "00000/001.txt": b"a cup",
            "00000/001.npy": b"not ours",
        },
        mode,
    )
    shard(
        root / "00001.tar",
        {
            "002.jpg": rocket,
            "002.cls": b"7",
            "003.txt": b"no picture here",
            "004.jpg": rocket + b"4",
            "004.json": b"{broken",
        },
        mode,
    )
    return root
