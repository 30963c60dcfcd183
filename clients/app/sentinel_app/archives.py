"""What is in the files that people drop: pictures, and zips of pictures, never unpacked to disk."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from sentinel_app.pictures import MAX_BYTES

MAX_FILES = 2_000
_MAX_UNPACKED = 1024 * 1024 * 1024
_MOST_RATIO = 200
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_ENCRYPTED = 0x1


@dataclass(frozen=True, slots=True)
class Entry:
    """A picture to index, or why a file is none; `data` is empty then.

    Attributes:
        name: Name of the file; of one in a zip with the path inside it.
    """

    name: str
    data: bytes = field(default=b"", repr=False)
    problem: str = ""


class ArchiveError(ValueError):
    """A zip is refused as a whole; the message says why."""


def entries(files: Iterable[tuple[str, bytes]]) -> Iterator[Entry]:
    """Yield the pictures of dropped files, those inside of zips among them."""
    for name, data in files:
        if not _is_zip(name):
            yield _checked(name, data)
            continue
        try:
            archive, wanted = _opened(data)
        except ArchiveError as error:
            yield Entry(name, problem=str(error))
            continue
        with archive:
            for info in wanted:
                yield _entry(archive, info, f"{name}/{info.filename}")


def count(files: Iterable[tuple[str, bytes]]) -> int:
    """Return how many entries `entries` will yield; only tables of contents are read."""
    total = 0
    for name, data in files:
        try:
            total += len(_opened(data)[1]) if _is_zip(name) else 1
        except ArchiveError:
            total += 1
    return total


def _is_zip(name: str) -> bool:
    return name.lower().endswith(".zip")


def _opened(data: bytes) -> tuple[zipfile.ZipFile, list[zipfile.ZipInfo]]:
    """Open a zip; return it with the pictures in it.

    Raises:
        ArchiveError: It cannot be opened, or nothing of it should be.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    # It raises whatever its parsers do: BadZipFile, NotImplementedError, UnicodeDecodeError …
    except Exception as error:
        raise ArchiveError(f"not a zip that can be opened: {error}") from error
    wanted = [info for info in archive.infolist() if _is_picture(info)]
    if len(wanted) > MAX_FILES:
        raise ArchiveError(
            f"{len(wanted):,} pictures are too many for a browser, which takes {MAX_FILES:,}: "
            "unpack it and run `sentinel index FOLDER`"
        )
    # What the table of contents promises; what is read is bounded again.
    total = sum(info.file_size for info in wanted)
    packed = sum(info.compress_size for info in wanted)
    if total > _MAX_UNPACKED or total > _MOST_RATIO * max(packed, 1):
        raise ArchiveError(f"it would unpack to {total / 2**20:,.0f} MB: refused")
    return archive, wanted


def _is_picture(info: zipfile.ZipInfo) -> bool:
    base = info.filename.replace("\\", "/").rpartition("/")[2]
    hidden = base.startswith(".") or info.filename.startswith("__MACOSX/")
    return not info.is_dir() and not hidden and base.lower().endswith(_PICTURES)


def _entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> Entry:
    # Nothing is written to disk, so such a path could do no harm; but no honest zip has one.
    if info.filename.startswith(("/", "\\")) or ".." in info.filename.replace("\\", "/").split("/"):
        return Entry(name, problem="its path leads out of the zip")
    if info.flag_bits & _ENCRYPTED:
        return Entry(name, problem="it is encrypted")
    try:
        with archive.open(info) as member:
            return _checked(name, member.read(MAX_BYTES + 1))
    # Whatever its decompressors raise: zlib.error, LZMAError, EOFError, NotImplementedError …
    except Exception as error:
        return Entry(name, problem=f"damaged in the zip: {error}")


def _checked(name: str, data: bytes) -> Entry:
    if len(data) > MAX_BYTES:
        return Entry(name, problem=f"larger than {MAX_BYTES >> 20} MB; save a smaller version")
    return Entry(name, data) if data else Entry(name, problem="it is empty")
