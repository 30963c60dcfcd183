"""The images among uploaded files and in their zips.

The limits hold for what a zip contains, whatever it declares. Nothing is unpacked to disk.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator

from sentinel_app.uploads import IMAGE_TYPES, MAX_IMAGE_BYTES, UploadedImage, megabytes

# A table of contents takes 46 bytes and a name for each file. This much is parsed in a second.
_MAX_TABLE_BYTES = 2 * 2**20
_MAX_UNPACKED_BYTES = 2**30
# Deflate reaches 1,032; photos do not reach 2.
_MAX_RATIO = 200
_MAX_NAME_CHARS = 250
_CHUNK_BYTES = 2**16
_ENCRYPTED = 0x1
# The others decompress without a bound in Python's zipfile: one kilobyte becomes gigabytes.
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_UNPACK = "unpack it and drop the images, or run `sentinel index FOLDER`"


def images_in(files: Iterable[tuple[str, bytes]], most: int) -> Iterator[UploadedImage]:
    """Yield the images among files, pairs of name and content, and in their zips, one by one.

    A zip with more than `most` images is refused.
    """
    for name, data in files:
        if not _is_zip(name):
            yield UploadedImage.checked(name, data)
            continue
        try:
            archive = ImageZip(name, data, most)
        except ZipRefused as error:
            yield UploadedImage(name, problem=str(error))
        else:
            yield from archive


def total_images(files: Iterable[tuple[str, bytes]], most: int) -> int:
    """Return how many results `images_in` will yield, without unpacking anything."""
    return sum(_count(name, data, most) for name, data in files)


def _count(name: str, data: bytes, most: int) -> int:
    try:
        return len(ImageZip(name, data, most)) if _is_zip(name) else 1
    except ZipRefused:
        return 1


def _is_zip(name: str) -> bool:
    return name.lower().endswith(".zip")


class ZipRefused(ValueError):
    """A zip cannot be read; the message says why."""


class ImageZip:
    """An opened zip. Its images are read one by one."""

    def __init__(self, name: str, data: bytes, most: int) -> None:
        """Read the table of contents, or raise ZipRefused; `most` images may be in it."""
        self._name = name
        self._left = min(_MAX_UNPACKED_BYTES, _MAX_RATIO * len(data))
        try:
            self._archive = zipfile.ZipFile(_BoundedReads(data))
        except ZipRefused:
            raise
        # Its parsers raise many types: BadZipFile, NotImplementedError, UnicodeDecodeError …
        except Exception as error:
            raise ZipRefused(f"this zip cannot be opened: {error}") from error
        self._members = [info for info in self._archive.infolist() if _is_wanted(info)]
        declared = sum(info.file_size for info in self._members)
        if len(self._members) > most:
            raise ZipRefused(
                f"{len(self._members):,} images are too many: the limit is {most:,} at once; "
                f"{_UNPACK}"
            )
        # Refuses honest bombs before anything is stored. `_read` stops the others.
        if declared > self._left:
            raise ZipRefused(f"refused because it would unpack to {megabytes(declared)}")

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[UploadedImage]:
        for info in self._members:
            yield self._image(info)

    def _image(self, info: zipfile.ZipInfo) -> UploadedImage:
        path = info.filename
        if len(path) > _MAX_NAME_CHARS:
            return UploadedImage(f"{self._name}/{path[:_MAX_NAME_CHARS]}…", problem=_LONG_NAME)
        name = f"{self._name}/{path}"
        if problem := _problem(info):
            return UploadedImage(name, problem=problem)
        try:
            return UploadedImage.checked(name, self._read(info))
        except ZipRefused as error:
            return UploadedImage(name, problem=str(error))
        # Decompressors and parsers raise many types: zlib.error, EOFError, BadZipFile …
        except Exception as error:
            return UploadedImage(name, problem=f"damaged in the zip: {error}")

    def _read(self, info: zipfile.ZipInfo) -> bytes:
        """Return the content of a member, one byte more than the limit of an image at most."""
        parts: list[bytes] = []
        size = 0
        with self._archive.open(info) as member:
            while size <= MAX_IMAGE_BYTES:
                if self._left <= 0:
                    raise ZipRefused(
                        "the zip unpacks to far more than its size; the rest was not read"
                    )
                part = member.read(min(_CHUNK_BYTES, MAX_IMAGE_BYTES + 1 - size))
                if not part:
                    break
                parts.append(part)
                size += len(part)
                self._left -= len(part)
        return b"".join(parts)


_LONG_NAME = f"its path is longer than {_MAX_NAME_CHARS} characters"


class _BoundedReads(io.BytesIO):
    """A zip in memory. `ZipFile` reads the table of contents at once, and all else in small parts.

    So a bound on single reads is a bound on the table, wherever in the file it claims to be.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if len(data) > _MAX_TABLE_BYTES:
            raise ZipRefused(f"its table of contents is too long; {_UNPACK}")
        return data


def _is_wanted(info: zipfile.ZipInfo) -> bool:
    base = info.filename.replace("\\", "/").rpartition("/")[2]
    hidden = base.startswith(".") or info.filename.startswith("__MACOSX/")
    kind = base.lower().rpartition(".")[2]
    return not info.is_dir() and not hidden and (kind in IMAGE_TYPES or kind == "zip")


def _problem(info: zipfile.ZipInfo) -> str:
    """Return why a member is not read; empty if it is."""
    path = info.filename.replace("\\", "/")
    # Such a path could do no harm, since nothing is written to disk. But no honest zip has one.
    if path.startswith("/") or ":" in path.partition("/")[0] or ".." in path.split("/"):
        return "its path points outside the zip"
    if _is_zip(path):
        return f"a zip in a zip is not opened; {_UNPACK}"
    if info.flag_bits & _ENCRYPTED:
        return "it is encrypted"
    if info.compress_type not in _COMPRESSIONS:
        return "its compression is not supported; make the zip with deflate, as most programs do"
    return ""
