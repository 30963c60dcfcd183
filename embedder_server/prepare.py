"""Contents to what the model's towers take. Everything here runs on pool threads.

A content that is at fault becomes its error as a value, so that it never fails its neighbours.
"""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from PIL import Image

from embedder_server.models.base import EmbeddingModel
from embedder_server.preprocess.images import ImageDecoder
from embedder_server.preprocess.text import clean_text
from embedder_server.requests import Crop, ImageFacts, ImageFile
from embedder_server.types import TokenizedText
from sentinel_core.errors import Internal, InvalidArgument, SentinelError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """One image, ready for the device or refused.

    Attributes:
        payload: The image tower's input, or why there is none.
        facts: What decoding told; None if it failed.
        decode_s: Seconds of decoding, thumbnail included.
        preprocess_s: Seconds of resizing and normalising.
    """

    payload: Any | SentinelError
    facts: ImageFacts | None = None
    decode_s: float = 0.0
    preprocess_s: float = 0.0


def prepare_texts(
    model: EmbeddingModel, texts: Sequence[str], *, max_chars: int, truncate: bool
) -> tuple[list[TokenizedText | SentinelError], float]:
    """Return the tokens of each text, or its error, and the seconds of the longest one."""
    prepared: list[TokenizedText | SentinelError] = []
    longest = 0.0
    for text in texts:
        start = perf_counter()
        try:
            prepared.append(_tokenize(model, text, max_chars=max_chars, truncate=truncate))
        except SentinelError as error:
            prepared.append(error)
        except Exception as error:
            prepared.append(_unexpected(error))
        longest = max(longest, perf_counter() - start)
    return prepared, longest


def _tokenize(model: EmbeddingModel, text: str, *, max_chars: int, truncate: bool) -> TokenizedText:
    tokens = model.tokenize(clean_text(text, max_chars))
    if tokens.truncated and not truncate:
        limit = model.info.max_text_tokens
        raise InvalidArgument(
            "TEXT_TOO_LONG",
            f"the text has {tokens.token_count} tokens, the model reads {limit}; shorten it or "
            "let it be cut (options.truncate)",
            limit=limit,
        )
    return tokens


def prepare_image(
    model: EmbeddingModel, decoder: ImageDecoder, file: ImageFile, thumbnail_side: int
) -> PreparedImage:
    """Return the model's input for one image file, or its error."""
    start = perf_counter()
    try:
        decoded = decoder.decode(file.data, _share(file.crop))
        thumbnail = decoder.thumbnail(file.data, decoded, thumbnail_side) if thumbnail_side else b""
        facts = ImageFacts(decoded.width, decoded.height, decoded.media_type, thumbnail)
        decoded_at = perf_counter()
        payload = model.preprocess(_cropped(decoded.picture, file.crop))
        return PreparedImage(payload, facts, decoded_at - start, perf_counter() - decoded_at)
    except SentinelError as error:
        return PreparedImage(error, decode_s=perf_counter() - start)
    except Exception as error:
        return PreparedImage(_unexpected(error), decode_s=perf_counter() - start)


def _share(crop: Crop | None) -> float:
    """Return the smaller share of a side that a crop keeps, so that enough detail is decoded."""
    return 1.0 if crop is None else min(crop.right - crop.left, crop.bottom - crop.top)


def _cropped(picture: Image.Image, crop: Crop | None) -> Image.Image:
    """Return the part of a picture, its edges rounded outwards to whole pixels."""
    if crop is None:
        return picture
    width, height = picture.size
    # From the decoded size, which draft mode may have made smaller than the file's.
    left = min(width - 1, math.floor(crop.left * width))
    top = min(height - 1, math.floor(crop.top * height))
    right = max(left + 1, math.ceil(crop.right * width))
    bottom = max(top + 1, math.ceil(crop.bottom * height))
    return picture.crop((left, top, min(width, right), min(height, bottom)))


def _unexpected(error: Exception) -> Internal:
    error_id = uuid.uuid4().hex
    logger.error("cannot prepare a content", exc_info=error, extra={"error_id": error_id})
    return Internal(
        "INTERNAL",
        f"internal error {error_id}; the worker's log has the details",
        error_id=error_id,
    )
