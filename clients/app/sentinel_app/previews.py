"""Small copies of images, decoded in processes with limits on time and memory."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from dataclasses import dataclass, field

from PIL import Image

from sentinel_app.uploads import MAX_IMAGE_BYTES, megabytes
from sentinel_client import Box

_MAX_PROCESSES = 2
_MAX_SECONDS = 10.0
_MAX_WAIT_S = 20.0
_slots = threading.BoundedSemaphore(_MAX_PROCESSES)


BREAKS_THE_DECODER = (
    "This image takes too long to decode, or breaks the decoder. Save it again as JPEG or PNG."
)


class ImageRefused(ValueError):
    """An image cannot be shown or searched with; the message says why."""


@dataclass(frozen=True, slots=True)
class Preview:
    """An upright copy of an image, and facts about the image itself.

    Attributes:
        format: Its format, found in its bytes: JPEG, PNG, WEBP, GIF, BMP or TIFF.
        width: Its width in pixels, before it was turned upright.
        height: Its height in pixels.
        shown_type: Media type of the copy.
        shown: The copy.
    """

    format: str
    width: int
    height: int
    shown_type: str
    shown: bytes = field(repr=False)


def preview(data: bytes, side: int) -> Preview:
    """Return a copy of at most `side` pixels a side, or raise ImageRefused."""
    check_size(data)
    if not _slots.acquire(timeout=_MAX_WAIT_S):
        raise ImageRefused("The page is busy with the images of others. Try again.")
    try:
        head, _, shown = _decode(data, side).partition(b"\n")
    finally:
        _slots.release()
    facts = json.loads(head)
    if "refused" in facts:
        raise ImageRefused(facts["refused"])
    return Preview(**facts, shown=shown)


def check_size(data: bytes, most: int = MAX_IMAGE_BYTES) -> None:
    """Raise ImageRefused for a file that is too large to be decoded."""
    if len(data) > most:
        raise ImageRefused(
            f"The file is {megabytes(len(data))}. The limit is {megabytes(most)}; "
            "save a smaller version."
        )


def _decode(data: bytes, side: int) -> bytes:
    """Return what the process wrote. It may die: a decoder can crash, or use up its time."""
    command = [sys.executable, "-P", "-m", "sentinel_app.preview_process", str(side)]
    try:
        done = subprocess.run(
            command, input=data, capture_output=True, timeout=_MAX_SECONDS, check=True
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        raise ImageRefused(BREAKS_THE_DECODER) from error
    return done.stdout


def cut(view: Preview, box: Box, side: int) -> bytes:
    """Return a part of a preview, at most `side` pixels a side, in the preview's own format."""
    # Safe in this process: we have made the copy.
    kind = view.shown_type.removeprefix("image/").upper()
    with Image.open(io.BytesIO(view.shown), formats=[kind]) as image:
        width, height = image.size
        left, top = int(box.left * width), int(box.top * height)
        right, bottom = round(box.right * width), round(box.bottom * height)
        part = image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
    part.thumbnail((side, side))
    out = io.BytesIO()
    part.save(out, kind, quality=88)
    return out.getvalue()
