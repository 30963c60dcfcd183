"""COCO captions: `captions_*.json` and a folder of pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sentinel_client._types import FieldSchema, FieldType
from sentinel_client.importers._captions import Captions, caption_fields, captioned_picture
from sentinel_client.importers._entries import BrokenEntry, Dataset, Entry, LayoutError


def coco(
    annotations: Path, pictures: Path, *, by_name: bool = False, full_text: bool = False
) -> Dataset:
    """Return a COCO captions dataset. Blocking: it reads the whole file of annotations.

    Args:
        annotations: `captions_val2017.json` and the like.
        pictures: The folder of its pictures.
        by_name: Whether a picture's id is its file name instead of its content's hash.
        full_text: Whether the captions can be searched.

    Raises:
        LayoutError: The file is not of this kind.
        OSError: It cannot be read.
    """
    images, rows = _read(annotations)
    captions = _captions(annotations, rows)
    split = re.sub(r"^captions_", "", annotations.stem)

    def entries() -> Iterator[Entry]:
        yield from captions.broken
        for place, image in enumerate(images):
            name = image.get("file_name") if isinstance(image, dict) else None
            if not isinstance(name, str) or not isinstance(image.get("id"), int):
                message = "an image without id or file_name"
                yield BrokenEntry(f"{annotations}#images[{place}]", "ROW_INVALID", message)
                continue
            yield captioned_picture(
                pictures.absolute() / name,
                captions.by_name.get(str(image["id"]), []),
                split=split,
                id=name if by_name else "",
                more={"coco_id": image["id"]},
            )

    return Dataset(
        name="coco",
        fields=caption_fields(FieldSchema("coco_id", FieldType.INT64), full_text=full_text),
        entries=entries,
        total=len(images) + len(captions.broken),
    )


def _read(annotations: Path) -> tuple[list[Any], list[Any]]:
    try:
        content = json.loads(annotations.read_bytes())
        images, rows = content["images"], content["annotations"]
    except (ValueError, KeyError, TypeError) as error:
        raise LayoutError(f"{annotations} is no COCO captions file: {error!r}") from None
    if not isinstance(images, list) or not isinstance(rows, list):
        raise LayoutError(f"{annotations} is no COCO captions file: its images are no list")
    return images, rows


def _captions(annotations: Path, rows: list[Any]) -> Captions:
    captions = Captions()
    for place, row in enumerate(rows):
        caption = row.get("caption") if isinstance(row, dict) else None
        if isinstance(caption, str) and isinstance(row.get("image_id"), int):
            captions.add(str(row["image_id"]), " ".join(caption.split()))
        else:
            message = "an annotation without image_id or caption"
            key = f"{annotations}#annotations[{place}]"
            captions.broken.append(BrokenEntry(key, "ROW_INVALID", message))
    return captions
