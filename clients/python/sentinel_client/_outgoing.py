"""Items on their way to the server: their size, their message, and what cannot be sent."""

from __future__ import annotations

from pathlib import Path

from sentinel.search.v1 import item_service_pb2 as item_pb
from sentinel_client import _convert
from sentinel_client._config import MIB, ClientConfig
from sentinel_client._errors import InvalidArgument
from sentinel_client._images import load_image
from sentinel_client._types import ImageUri, Item

# What an item weighs beside its image: id, fields, framing.
_ITEM_OVERHEAD_BYTES = 1_024
# What a request carries beside its items.
_REQUEST_OVERHEAD_BYTES = 4_096


def largest_item(config: ClientConfig) -> int:
    """Return how many bytes one item may have to fit into a message at all."""
    return config.max_message_bytes - _REQUEST_OVERHEAD_BYTES


def size_of(item: Item) -> int:
    """Return about how many bytes the item takes in a request."""
    size = _ITEM_OVERHEAD_BYTES + len(item.text or "")
    if isinstance(item.image, bytes):
        return size + len(item.image)
    if item.image is not None and not isinstance(item.image, ImageUri):
        try:
            return size + Path(item.image).stat().st_size
        except OSError:
            return size  # said when the item is sent
    return size


def message_or_failure(item: Item, max_bytes: int) -> item_pb.Item | InvalidArgument:
    """Return the item's message, or the error of one that cannot be sent. Blocking.

    Raises:
        TypeError: It is no item of ours (text and image at once, an unknown type of field).
    """
    try:
        image = None if item.image is None else load_image(item.image)
    except OSError as error:
        return InvalidArgument(
            "FILE_UNREADABLE", f"cannot read {item.image!s}: {error.strerror or error}"
        )
    message = _convert.item_to_proto(item, image)
    if message.ByteSize() > max_bytes:
        return InvalidArgument("IMAGE_TOO_LARGE", f"larger than {max_bytes // MIB} MiB")
    return message
