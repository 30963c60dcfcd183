"""Uploaded files: limits on memory, the images in files and zips, and previews.

Streamlit keeps uploads in memory and limits single files only. Zips are never unpacked to disk.
"""

from __future__ import annotations

import io
import threading
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from PIL import Image, ImageOps
from starlette.exceptions import HTTPException
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.uploaded_file_manager import UploadedFileRec

IMAGE_TYPES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
NOT_AN_IMAGE = "This file is not a readable image (JPEG, PNG, WebP, GIF, BMP or TIFF)."
# The gateway's own limit.
MAX_IMAGE_BYTES = 16 * 1024 * 1024
# Limits of one upload, and of one zip. `sentinel index` has no such limits.
MAX_FILES = 2_000
MAX_UPLOAD_BYTES = 192 * 1024 * 1024
# Of all people together, files of running imports included; deploy/k8s gives the app 1 GiB.
MAX_TOTAL_BYTES = 2 * MAX_UPLOAD_BYTES
_MAX_UNPACKED_BYTES = 1024 * 1024 * 1024
_MAX_ZIP_RATIO = 200
_ENCRYPTED = 0x1
_MAX_PIXELS = 100_000_000
_TOO_MANY_PIXELS = (
    f"The image has too many pixels. The limit is {_MAX_PIXELS // 1_000_000} million; "
    "save a smaller version."
)
# Pairs of name and content, of each import that runs.
pending_uploads: list[deque[tuple[str, bytes]]] = []
_preview_lock = threading.Lock()


class BoundedUploads(MemoryUploadedFileManager):
    """Streamlit's store of uploaded files, with a limit on their total size."""

    def add_file(self, session_id: str, file: UploadedFileRec) -> None:
        """Keep a file, or raise error 413, which the uploader shows beside the file's name."""
        stored = [one for files in list(self.file_storage.values()) for one in list(files.values())]
        pending = [data for files in list(pending_uploads) for _, data in list(files)]
        total = sum(len(one.data) for one in stored) + sum(map(len, pending))
        if total + len(file.data) > MAX_TOTAL_BYTES:
            raise HTTPException(413, "the page holds too many uploads; try again later")
        super().add_file(session_id, file)


def install() -> None:
    """Make the Streamlit server of this process use `BoundedUploads`; it has no setting for it."""
    from streamlit.web.server import server  # noqa: PLC0415 - starts half of Streamlit

    setattr(server, "MemoryUploadedFileManager", BoundedUploads)  # noqa: B010 - mypy forbids it


def over_limit(sizes: Sequence[int]) -> str:
    """Return why files of these sizes are too much for one upload; empty if they are not."""
    if len(sizes) > MAX_FILES:
        return f"{len(sizes):,} files are too many: the limit is {MAX_FILES:,} at once"
    if sum(sizes) > MAX_UPLOAD_BYTES:
        limit = megabytes(MAX_UPLOAD_BYTES)
        return f"{megabytes(sum(sizes))} are too much: the limit is {limit} at once"
    return ""


def megabytes(byte_count: int) -> str:
    """Return a size in MB."""
    return f"{byte_count / 2**20:,.0f} MB"


@dataclass(frozen=True, slots=True)
class UploadedImage:
    """An image to store, or the reason why a file is none.

    Attributes:
        name: Name of the file; in a zip: name of the zip and path inside it.
        data: Its content; empty if there is a problem.
        problem: Why it cannot be stored; empty if it can.
    """

    name: str
    data: bytes = field(default=b"", repr=False)
    problem: str = ""


def images_in(files: Iterable[tuple[str, bytes]]) -> Iterator[UploadedImage]:
    """Yield the images among files, pairs of name and content, and in their zips, one by one."""
    for name, data in files:
        for read in _readers(name, data):
            yield read()


def total_images(files: Iterable[tuple[str, bytes]]) -> int:
    """Return how many results `images_in` will yield, without unpacking anything."""
    return sum(len(_readers(name, data)) for name, data in files)


def _readers(name: str, data: bytes) -> list[Callable[[], UploadedImage]]:
    """Return a function for each image of a file or a zip, or one for the problem with it."""
    if not name.lower().endswith(".zip"):
        return [partial(_checked, name, data)]
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    # Its parsers raise many types: BadZipFile, NotImplementedError, UnicodeDecodeError …
    except Exception as error:
        return [partial(UploadedImage, name, problem=f"this zip cannot be opened: {error}")]
    members = [info for info in archive.infolist() if _is_image(info)]
    # The sizes in the table of contents may be wrong; `_read_member` has a limit of its own.
    total = sum(info.file_size for info in members)
    packed = sum(info.compress_size for info in members)
    if len(members) > MAX_FILES:
        problem = (
            f"{len(members):,} images are too many: the limit is {MAX_FILES:,} at once; "
            "unpack the zip and run `sentinel index FOLDER`"
        )
        return [partial(UploadedImage, name, problem=problem)]
    if total > _MAX_UNPACKED_BYTES or total > _MAX_ZIP_RATIO * max(packed, 1):
        problem = f"refused because it would unpack to {megabytes(total)}"
        return [partial(UploadedImage, name, problem=problem)]
    return [partial(_read_member, archive, info, f"{name}/{info.filename}") for info in members]


def _is_image(info: zipfile.ZipInfo) -> bool:
    base = info.filename.replace("\\", "/").rpartition("/")[2]
    hidden = base.startswith(".") or info.filename.startswith("__MACOSX/")
    return not info.is_dir() and not hidden and base.lower().rpartition(".")[2] in IMAGE_TYPES


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> UploadedImage:
    # Such a path could do no harm, since nothing is written to disk. But no honest zip has one.
    if info.filename.startswith(("/", "\\")) or ".." in info.filename.replace("\\", "/").split("/"):
        return UploadedImage(name, problem="its path points outside the zip")
    if info.flag_bits & _ENCRYPTED:
        return UploadedImage(name, problem="it is encrypted")
    try:
        with archive.open(info) as member:
            return _checked(name, member.read(MAX_IMAGE_BYTES + 1))
    # Decompressors raise many types: zlib.error, LZMAError, EOFError, NotImplementedError …
    except Exception as error:
        return UploadedImage(name, problem=f"damaged in the zip: {error}")


def _checked(name: str, data: bytes) -> UploadedImage:
    if len(data) > MAX_IMAGE_BYTES:
        limit = megabytes(MAX_IMAGE_BYTES)
        return UploadedImage(name, problem=f"larger than {limit}; save a smaller version")
    return UploadedImage(name, data) if data else UploadedImage(name, problem="it is empty")


class ImageRefused(ValueError):
    """An image cannot be used as a query; the message says why."""


def preview(data: bytes, side: int) -> bytes:
    """Return an image as an upright JPEG of at most `side` pixels a side, or raise ImageRefused."""
    if len(data) > MAX_IMAGE_BYTES:
        raise ImageRefused(
            f"The file is {megabytes(len(data))}. The limit is {megabytes(MAX_IMAGE_BYTES)}; "
            "save a smaller version."
        )
    try:
        # One at a time: decoding several images with many pixels takes gigabytes.
        with _preview_lock, Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise ImageRefused(_TOO_MANY_PIXELS)
            image.draft("RGB", (side * 2, side * 2))
            # Shrink first, so that there is only one large copy.
            image.thumbnail((side * 2, side * 2))
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except ImageRefused:
        raise
    # Pillow refuses images far above our limit, and warns near it, which is an error where warnings
    # are errors. Silencing the warning would change the filters of all threads.
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageRefused(_TOO_MANY_PIXELS) from error
    # Decoders raise many types.
    except Exception as error:
        raise ImageRefused(NOT_AN_IMAGE) from error
    upright.thumbnail((side, side))
    out = io.BytesIO()
    upright.save(out, "JPEG", quality=85)
    return out.getvalue()
