"""Items on their way between a gateway and the file of a backup."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from sentinel.search.v1 import item_service_pb2 as item_pb
from sentinel_client import DownloadedImage, _messages
from sentinel_client.cli._backup_file import (
    ITEMS,
    BackupWriter,
    Entry,
    damaged,
    read_entries,
    read_objects,
)
from sentinel_client.cli._files import file_name

# What one request holds.
_BATCH_ITEMS, _BATCH_BYTES = 64, 14 * 1024 * 1024


@dataclass(slots=True)
class SavedItem:
    """An item of a backup.

    Attributes:
        item: As the gateway gave it, with its vector; with `vector_from_model` if its digest says
            so, and with `image_uri` only if it is stored by reference.
        image: Its image; empty: it has none, or it is not read.
        image_name: Name of its image in the file; empty: it has none there.
    """

    item: item_pb.Item
    image: bytes = field(default=b"", repr=False)
    image_name: str = ""


def saved_item(item: item_pb.Item, content: bytes) -> item_pb.Item:
    """Return what a restore needs of an item with this content; empty: it was not read."""
    kept = item_pb.Item()
    kept.CopyFrom(item)
    kept.ClearField("thumbnail")
    if not kept.by_reference:
        kept.ClearField("image_uri")  # if presigned, it would let readers of the file in
    if content:
        kept.vector_from_model = hashlib.sha256(content).hexdigest() == item.digest
    else:
        kept.vector_from_model = item.by_reference
    return kept


def belongs(item: item_pb.Item, content: bytes) -> bool:
    """Tell whether the item's digest is that of this content, with or without its vector."""
    digests = (hashlib.sha256(content), hashlib.sha256(content + item.vector.data))
    return item.digest in [one.hexdigest() for one in digests]


def write_part(
    writer: BackupWriter,
    folder: str,
    part: Sequence[tuple[item_pb.Item, DownloadedImage | None]],
) -> None:
    """Append a part: its items, then their images."""
    lines, images = [], []
    for place, (item, image) in enumerate(part, 1):
        line: dict[str, Any] = {"item": to_json(item)}
        if image is not None:
            line["image"] = file_name(f"{place:04}", image)
            images.append((line["image"], image.data))
        lines.append(json.dumps(line))
    writer.add(f"{folder}/{ITEMS}", "\n".join(lines).encode())
    for name, data in images:
        writer.add(f"{folder}/{name}", data)


def to_json(message: Any) -> dict[str, Any]:
    """Return a message in the JSON that protobuf defines, with the names of the contract."""
    found: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    return found


def read_batches(
    path: Path, collections: Collection[str], *, with_images: bool
) -> Iterator[tuple[str, list[SavedItem]]]:
    """Yield the items of these collections in batches that fit into one request.

    Raises:
        Failure: The file is not as a backup is written.
    """

    def wanted(name: str) -> bool:
        collection, _, leaf = name.split("/", 2) if name.count("/") == 2 else ("", "", "")
        return collection in collections and (with_images or leaf == ITEMS)

    batch: list[SavedItem] = []
    size, collection = 0, ""
    for saved, name in _items(
        path, (one for one in read_entries(path, wanted) if wanted(one.name))
    ):
        more = saved.item.ByteSize() + len(saved.image)
        full = len(batch) == _BATCH_ITEMS or size + more > _BATCH_BYTES
        if batch and (full or name != collection):
            yield collection, batch
            batch, size = [], 0
        collection = name
        batch.append(saved)
        size += more
    if batch:
        yield collection, batch


def _items(path: Path, entries: Iterable[Entry]) -> Iterator[tuple[SavedItem, str]]:
    """Yield each item, complete with its image if the entries have images, and its collection."""
    waiting: list[SavedItem] = []  # of one part, in order
    collection = ""
    for entry in entries:
        folder, leaf = entry.name.rsplit("/", 1)
        if leaf == ITEMS:
            yield from ((one, collection) for one in waiting)
            collection = folder.split("/")[0]
            waiting = [_parsed(path, entry, one) for one in read_objects(path, entry)]
            continue
        while waiting and waiting[0].image_name != leaf:
            yield waiting.pop(0), collection
        if not waiting:
            raise damaged(path, f"nothing belongs to its entry {entry.name[:200]!r}")
        saved = waiting.pop(0)
        saved.image = entry.data
        yield saved, collection
    yield from ((one, collection) for one in waiting)


def _parsed(path: Path, entry: Entry, line: dict[str, Any]) -> SavedItem:
    try:
        item = ParseDict(line["item"], item_pb.Item(), ignore_unknown_fields=True)
        return SavedItem(item, image_name=str(line.get("image", "")))
    except (ParseError, KeyError, TypeError, ValueError, RecursionError):
        raise damaged(path, f"an item of {entry.name[:200]!r} cannot be read") from None


def to_store(saved: SavedItem, *, by_reference: bool) -> item_pb.Item:
    """Return the message that stores an item as it was; its image as bytes unless by reference."""
    message = item_pb.Item()
    message.CopyFrom(saved.item)
    for output_only in ("digest", "image_uri", "by_reference"):
        message.ClearField(output_only)
    if saved.item.by_reference and by_reference:
        message.by_reference = True
        message.content.image.uri = saved.item.image_uri
        # Without the bytes, the model's vector: then it is the digest of the file.
        digest = hashlib.sha256(saved.image).hexdigest() if saved.image else saved.item.digest
        message.digest = digest
    elif saved.image:
        message.content.image.data = saved.image
    return message


def is_same(saved: item_pb.Item, stored: item_pb.Item, tolerance: float | None) -> bool:
    """Tell whether an item is stored as it was saved.

    Args:
        saved: From the file.
        stored: From the gateway.
        tolerance: How far an element of the vector may be off; None: vectors are not compared.
    """
    if saved.fields != stored.fields or saved.content.text != stored.content.text:
        return False
    # A vector that is stored in fewer bits came back as another one, with another digest.
    if saved.digest != stored.digest and (saved.vector_from_model or not tolerance):
        return False
    if tolerance is None or saved.vector.data == stored.vector.data:
        return True
    before = _messages.vector_from_proto(saved.vector)
    now = _messages.vector_from_proto(stored.vector)
    return before.shape == now.shape and bool(np.allclose(before, now, rtol=0, atol=tolerance))
