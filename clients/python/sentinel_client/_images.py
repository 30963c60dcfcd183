"""Reading the pictures that callers name by path."""

from __future__ import annotations

import asyncio
from pathlib import Path

from sentinel_client._types import ImageSource


async def read_image(source: ImageSource) -> bytes:
    """Return the encoded file's bytes, read off the event loop.

    Raises:
        OSError: The path cannot be read.
    """
    if isinstance(source, bytes):
        return source
    return await asyncio.to_thread(Path(source).read_bytes)
