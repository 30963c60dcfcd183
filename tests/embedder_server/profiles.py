"""Colour profiles that change colours a lot, made from bytes."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from PIL import ImageCms

# Of Display P3, which phones use, adapted to D50.
_P3 = {
    b"rXYZ": (0.51512, 0.24120, -0.00105),
    b"gXYZ": (0.29198, 0.69225, 0.04189),
    b"bXYZ": (0.15710, 0.06657, 0.78407),
}
_D50 = (0.9642, 1.0, 0.8249)


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped() -> bytes:
    """sRGB with the primaries of red and blue exchanged."""
    data = srgb()
    return (
        data.replace(b"rXYZ", b"?XYZ", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"?XYZ", b"bXYZ", 1)
    )


def display_p3() -> bytes:
    data = bytearray(srgb())
    for name, values in _P3.items():
        place = struct.unpack_from(">I", data, data.index(name) + 4)[0]
        data[place + 8 : place + 20] = _xyz(*values)
    return bytes(data)


def _xyz(*values: float) -> bytes:
    return struct.pack(">3i", *(round(value * 65536) for value in values))


def grey(gamma: float) -> bytes:
    """A profile of greys with a gamma of their own."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    white = b"XYZ " + bytes(4) + _xyz(*_D50)
    return _profile(b"GRAY", b"XYZ ", {b"wtpt": white, b"kTRC": curve})


def cmyk() -> bytes:
    """A printer whose cyan ink is red, and whose other inks are as expected, roughly."""
    lab = bytearray()
    for node in range(16):
        cyan, magenta, yellow, black = (node >> shift & 1 for shift in (3, 2, 1, 0))
        light = 0 if black else 255 - 60 * (cyan + magenta + yellow)
        # L, a and b of 8 bits; a and b are 0 at 128.
        lab += bytes((light, 128 + 80 * (cyan or magenta), 128 + 60 * (cyan or yellow)))
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *(65536 * (n % 4 == 0) for n in range(9)))
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + identity + ramp * 4 + bytes(lab) + ramp * 3
    return _profile(b"CMYK", b"Lab ", {b"A2B0": table}, kind=b"prtr")


def _profile(
    space: bytes, connection: bytes, tags: Mapping[bytes, bytes], kind: bytes = b"mntr"
) -> bytes:
    head = struct.pack(">I4sI4s4s4s", 0, b"test", 0x02400000, kind, space, connection)
    head += bytes(12) + b"acsp" + bytes(28) + _xyz(*_D50)
    head = head.ljust(128, b"\0")
    entries, body = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        entries += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    data = head + struct.pack(">I", len(tags)) + entries + body
    return struct.pack(">I", len(data)) + data[4:]
