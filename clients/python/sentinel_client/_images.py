"""Reading the pictures that callers name by path."""

from __future__ import annotations

import asyncio
from pathlib import Path

from sentinel_client._types import ImageSource, ImageUri


def load_image(source: ImageSource) -> bytes | ImageUri:
    """Return the encoded file's bytes, read now; a URI stays one. Blocking.

    Raises:
        OSError: The path cannot be read.
    """
    if isinstance(source, bytes | ImageUri):
        return source
    return Path(source).read_bytes()


async def read_image(source: ImageSource) -> bytes | ImageUri:
    """Do the same off the event loop.

    Raises:
        OSError: The path cannot be read.
    """
    if isinstance(source, bytes | ImageUri):
        return source
    return await asyncio.to_thread(load_image, source)
