"""The files of items: their paths for other programs, and names for downloaded images."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from sentinel_client import DownloadedImage
from sentinel_client._text import printable
from sentinel_client.cli._console import err

# File endings of the media types that a store can have.
_ENDINGS = {
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "image/bmp": ".bmp",
    "image/tiff": ".tif",
    "image/heic": ".heic",
    "image/avif": ".avif",
    "image/jxl": ".jxl",
}


def path_of(fields: Mapping[str, object], image_uri: str) -> str:
    """Return the path of the indexed file, else the place of the stored image, else ""."""
    path = fields.get("path")
    if isinstance(path, str) and path:
        return path
    return local_path(image_uri) or image_uri


def local_path(uri: str) -> str:
    """Return the path that a `file` URI of this machine names; else an empty text."""
    parts = urlsplit(uri)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        return ""
    return url2pathname(parts.path)


def echo_paths(paths: Iterable[str], *, nul: bool) -> None:
    """Print paths for another program, each with a line feed or NUL; skip empty ones.

    On a terminal, no name commands it.
    """
    left_out = 0
    stream = sys.stdout.buffer
    safe = (lambda text: printable(text).replace("\n", "\\n")) if sys.stdout.isatty() else str
    for path in paths:
        if path:
            stream.write(os.fsencode(safe(path)) + (b"\0" if nul else b"\n"))
        else:
            left_out += 1
    stream.flush()
    if left_out:
        noun = "result has" if left_out == 1 else "results have"
        err().print(f"{left_out:,} {noun} no file", style="dim")


def file_name(item_id: str, image: DownloadedImage) -> str:
    """Return a file name for an id, which may be any text: it must not lead out of the folder."""
    name = item_id.replace("/", "_").replace(os.sep, "_").lstrip(".") or "picture"
    ending = _ENDINGS.get(image.media_type, "")
    return name if Path(name).suffix.lower() == ending else f"{name}{ending}"
