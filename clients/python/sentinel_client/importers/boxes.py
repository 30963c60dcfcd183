"""Find metadata in files that are made of boxes: JPEG XL and Canon's CR3."""

from __future__ import annotations

import struct
from typing import IO

_MAX_BOXES = 64
_MAX_BOX_BYTES = 8 * 1024 * 1024
# Canon writes its metadata at the beginning.
_CR3_HEAD_BYTES = 512 * 1024


def jxl_boxes(file: IO[bytes]) -> dict[bytes, bytes]:
    """Return the boxes `Exif` (a TIFF) and `xml ` of a JPEG XL file, as far as it has them."""
    found: dict[bytes, bytes] = {}
    for _ in range(_MAX_BOXES):
        head = file.read(8)
        if len(head) < 8:
            break
        size, kind = struct.unpack(">I4s", head)
        size -= 8
        if size == 1 - 8:
            size = int.from_bytes(file.read(8), "big") - 16
        if size < 0:  # to the end of the file, or damaged
            break
        if kind in (b"Exif", b"xml ") and size <= _MAX_BOX_BYTES:
            data = file.read(size)
            # The offset of the TIFF comes first.
            found[kind] = data[4 + int.from_bytes(data[:4], "big") :] if kind == b"Exif" else data
        else:
            file.seek(size, 1)
    return found


def cr3_boxes(file: IO[bytes]) -> dict[bytes, bytes]:
    """Return Canon's boxes CMT1 (main), CMT2 (Exif) and CMT4 (GPS), each a TIFF."""
    head = file.read(_CR3_HEAD_BYTES)
    found: dict[bytes, bytes] = {}
    for kind in (b"CMT1", b"CMT2", b"CMT4"):
        at = head.find(kind)
        if at >= 4:
            size = int.from_bytes(head[at - 4 : at], "big")
            found[kind] = head[at + 4 : at - 4 + size]
    return found
