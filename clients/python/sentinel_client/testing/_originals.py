"""Images by reference: the fake reads any file of its machine, as the gateway of `sentinel up`."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from urllib.parse import unquote_to_bytes

from sentinel.search.v1 import item_service_pb2 as pb
from sentinel_client._errors import InvalidArgument, NotFound

_DIGEST = re.compile(r"[0-9a-f]{64}")


def check(item: pb.Item, path: str) -> None:
    """Raise InvalidArgument if an item cannot be stored by reference, whatever its file is."""
    uri = item.content.image.uri
    if not uri:
        raise _wrong("only an image with a file URI can be stored by reference", path)
    if not _DIGEST.fullmatch(item.digest):
        raise _wrong("by_reference needs the hex SHA-256 of the file", f"{path}.digest")


def read(uri: str, digest: str, field: str) -> bytes:
    """Return the bytes of a file; raise NotFound if it is not there or has other bytes."""
    path = _path(uri, field)
    try:
        # Not through a link, and no device, which may never end.
        is_file = path.is_file() and os.path.realpath(path) == str(path)
        data = path.read_bytes() if is_file else b""
    except OSError:
        data = b""
    if data and hashlib.sha256(data).hexdigest() == digest:
        return data
    raise NotFound(
        "ORIGINAL_GONE",
        f"the original of the image is gone: {path} is not there, cannot be read, or has other "
        "content than the item",
        field=field or None,
        metadata={"uri": uri} | ({"field": field} if field else {}),
    )


def _path(uri: str, field: str) -> Path:
    scheme, _, rest = uri.partition("://")
    authority, slash, encoded = rest.partition("/")
    names = [os.fsdecode(unquote_to_bytes(name)) for name in encoded.split("/")]
    if (
        scheme.lower() != "file"
        or authority not in ("", "localhost")
        or not slash
        or set("?#\\") & set(encoded)
        or any(name in ("", ".", "..") or "/" in name or "\0" in name for name in names)
    ):
        raise _wrong("by_reference takes the URI of a file, such as file:///folder/a.jpg", field)
    return Path("/", *names)


def _wrong(message: str, field: str) -> InvalidArgument:
    return InvalidArgument("PARAMETER_OUT_OF_RANGE", message, field=field)
