"""Build requests of a bounded size, and run a bounded number of them at once."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message

from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import item_service_pb2 as item_pb
from sentinel_client import _messages
from sentinel_client._config import MIB, ClientConfig
from sentinel_client._errors import InvalidArgument
from sentinel_client._query import Box
from sentinel_client._text import valid_text
from sentinel_client._types import ImageSource, ImageUri, Item

T = TypeVar("T")
R = TypeVar("R")

# Bytes of an item beside its image: id, fields, framing.
_ITEM_OVERHEAD_BYTES = 1_024
# Bytes of a request beside its items.
_REQUEST_OVERHEAD_BYTES = 4_096


def split(
    values: Iterable[T], size: Callable[[T], int], *, max_items: int, max_bytes: int
) -> Iterator[list[T]]:
    """Yield batches of at most `max_items` and `max_bytes`; a larger value gets its own batch."""
    batch: list[T] = []
    batch_bytes = 0
    for value in values:
        value_bytes = size(value)
        if batch and (len(batch) >= max_items or batch_bytes + value_bytes > max_bytes):
            yield batch
            batch, batch_bytes = [], 0
        batch.append(value)
        batch_bytes += value_bytes
    if batch:
        yield batch


async def gather_bounded(
    work: Callable[[T], Coroutine[Any, Any, R]], values: Sequence[T], limit: int
) -> list[R]:
    """Return `work(value)` for each value, in order, at most `limit` at a time.

    The first error cancels the rest.
    """
    slots = asyncio.Semaphore(limit)

    async def one(value: T) -> R:
        async with slots:
            return await work(value)

    tasks = [asyncio.create_task(one(value)) for value in values]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def load_image(source: ImageSource) -> bytes | ImageUri:
    """Read an image from its path; return bytes and URIs unchanged. Blocking."""
    return source if isinstance(source, bytes | ImageUri) else Path(source).read_bytes()


def max_item_bytes(config: ClientConfig) -> int:
    """Return the size of the largest item that fits into a request of its own."""
    return config.max_message_bytes - _REQUEST_OVERHEAD_BYTES


def estimate_bytes(item: Item) -> int:
    """Return about how many bytes the item takes in a request."""
    size = _ITEM_OVERHEAD_BYTES + len(item.text or "")
    if item.by_reference:
        return size
    if isinstance(item.image, bytes):
        return size + len(item.image)
    if item.image is not None and not isinstance(item.image, ImageUri):
        try:
            return size + Path(item.image).stat().st_size
        except (OSError, ValueError):
            return size  # reported when the item is sent
    return size


def item_message(item: Item, max_bytes: int) -> item_pb.Item | InvalidArgument:
    """Return the item's message, or the error if it or its file cannot be sent. Blocking."""
    try:
        if item.by_reference:
            item = _referring(item)
        message = _messages.item_to_proto(item, _loaded(item.image))
        _check_size(message, max_bytes)
    except InvalidArgument as error:
        return error
    return message


def content_message(
    text: str | None, image: ImageSource | None, crop: Box | None, max_bytes: int
) -> content_pb2.Content | InvalidArgument:
    """Return the message of a text or an image, or the error if it cannot be sent. Blocking."""
    try:
        message = _messages.named_content_to_proto(text, _loaded(image), crop)
        _check_size(message, max_bytes)
    except InvalidArgument as error:
        return error
    return message


def _referring(item: Item) -> Item:
    """Return an item by reference with the URI and the digest of its file."""
    path = item.image
    if isinstance(path, ImageUri):
        return item
    if path is None or isinstance(path, bytes):
        raise TypeError("by_reference is about a file: image is its path, or an ImageUri")
    with _readable(path):
        # The gateway follows no links.
        uri = Path(os.path.realpath(path, strict=True)).as_uri()
        digest = item.digest or _sha256(path)
    return replace(item, image=ImageUri(uri), digest=digest)


def _sha256(path: str | Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _loaded(source: ImageSource | None) -> bytes | ImageUri | None:
    if source is None:
        return None
    with _readable(source):
        return load_image(source)


@contextmanager
def _readable(source: ImageSource) -> Iterator[None]:
    """Convert the error of a file that cannot be read."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a path with NUL or not Unicode
        cause = error.strerror if isinstance(error, OSError) else None
        name = valid_text(str(source))
        raise InvalidArgument("FILE_UNREADABLE", f"cannot read {name}: {cause or error}") from error


def _check_size(message: Message, max_bytes: int) -> None:
    if message.ByteSize() > max_bytes:
        raise InvalidArgument("IMAGE_TOO_LARGE", f"larger than {max_bytes // MIB} MiB")
