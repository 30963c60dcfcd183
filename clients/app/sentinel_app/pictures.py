"""Pictures that people bring: made small enough to be shown, and refused when they cannot be."""

from __future__ import annotations

import io
import threading

from PIL import Image, ImageOps

# As the gateway's own limits are.
MAX_BYTES = 16 * 1024 * 1024
_MAX_PIXELS = 100_000_000
_TOO_MANY_PIXELS = (
    f"The picture has too many pixels, more than {_MAX_PIXELS // 1_000_000} million; "
    "save a smaller version."
)
_one_at_a_time = threading.Lock()


class PictureError(ValueError):
    """A file cannot be searched with; the message says why."""


def preview(data: bytes, side: int) -> bytes:
    """Return the picture as a JPEG of at most `side` pixels a side, upright.

    Raises:
        PictureError: It is too large, or no picture.
    """
    if len(data) > MAX_BYTES:
        raise PictureError(
            f"The file has {len(data) / 2**20:.0f} MB; pictures may have {MAX_BYTES >> 20}. "
            "Save a smaller version."
        )
    try:
        # A picture of many pixels takes gigabytes when several are decoded at once.
        with _one_at_a_time, Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise PictureError(_TOO_MANY_PIXELS)
            image.draft("RGB", (side * 2, side * 2))
            # Small before anything else, so that there is only one large copy of it.
            image.thumbnail((side * 2, side * 2))
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except PictureError:
        raise
    # Pillow's own bounds: it refuses far above ours, and only warns near it (an error where
    # warnings are). Silencing it would change the filters of all threads.
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(_TOO_MANY_PIXELS) from error
    # Pillow raises whatever its decoders do.
    except Exception as error:
        raise PictureError(
            "This is not a picture that can be read (JPEG, PNG, WebP, GIF, BMP or TIFF), whatever "
            "its name says."
        ) from error
    upright.thumbnail((side, side))
    out = io.BytesIO()
    upright.save(out, "JPEG", quality=85)
    return out.getvalue()
