"""Check requests as the gateway does: with the same codes, reasons and paths of fields."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sized
from typing import TypeVar, cast

import grpc
import numpy as np
from google.protobuf.message import Message

from sentinel.common.v1 import content_pb2
from sentinel_client._errors import InvalidArgument, PermissionDenied, SentinelError
from sentinel_client._types import Vector

MAX_HITS = 10_000
MAX_PAGE = 1_000
MAX_IDS = 1_000
_MAX_ID_BYTES = 256
# float32 elements of a normalised vector leave its length this far from 1.
_UNIT_TOLERANCE = 1e-6
_MAX_OUTPUT_FIELDS = 56
_MAX_NAME_CHARS = 128
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OF_A_TENANT = re.compile(r"tenant_[a-z0-9]+__")
_MAGIC = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"II+\0", "image/tiff"),
    (b"MM\0+", "image/tiff"),
    (b"\xff\x0a", "image/jxl"),
    (b"\0\0\0\x0cJXL ", "image/jxl"),
)
# Brands of media files: the first one, or one of those that a file is compatible with.
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), "image/heic"),
    **dict.fromkeys((b"avif", b"avis"), "image/avif"),
    b"crx ": "image/x-canon-cr3",
}
_GENERAL_BRANDS = (b"mif1", b"msf1")

_Number = TypeVar("_Number", bound=float | None)


def unsupported(what: str) -> SentinelError:
    """Return the error of what a gateway can do and the fake cannot."""
    error = SentinelError("METHOD_UNSUPPORTED", f"FakeSentinel {what}; test it with a real gateway")
    error.code = grpc.StatusCode.UNIMPLEMENTED
    return error


def out_of_range(message: str, field: str) -> InvalidArgument:
    """Return the error of a field whose value is not allowed."""
    return InvalidArgument("PARAMETER_OUT_OF_RANGE", f"{field}: {message}", field=field)


def check_range(value: float, least: float, most: float, field: str) -> None:
    """Raise InvalidArgument unless a value is `least` to `most`; NaN is not."""
    if not least <= value <= most:
        raise out_of_range(f"it is {value}; use {least:g} to {most:g}", field)


def optional(
    message: Message, name: str, default: _Number, allowed: tuple[float, float], parent: str = ""
) -> _Number:
    """Return the checked number in an optional field, or `default` if it is not set."""
    if not message.HasField(name):
        return default
    value = getattr(message, name)
    check_range(value, *allowed, f"{parent}{name}")
    return cast(_Number, value)


def check_count(count: int, most: int, field: str) -> None:
    """Raise InvalidArgument unless a list has 1 to `most` elements."""
    if count == 0:
        raise InvalidArgument("BATCH_EMPTY", f"{field} is empty; send at least one", field=field)
    if count > most:
        raise InvalidArgument(
            "BATCH_TOO_LARGE",
            f"{count} {field} in one request, at most {most}; split it",
            field=field,
            metadata={"limit": str(most)},
        )


def check_output_fields(names: Sized, field: str) -> None:
    """Raise InvalidArgument if these are more fields than a collection can have."""
    if len(names) > _MAX_OUTPUT_FIELDS:
        raise out_of_range(f"{len(names)} elements; send at most {_MAX_OUTPUT_FIELDS}", field)


def page_size(requested: int, default: int) -> int:
    """Return the size of a page: `default` for 0, at most 1,000; refuse a negative one."""
    if requested < 0:
        raise out_of_range(f"it is {requested}; use 0 to {MAX_PAGE}", "page_size")
    return min(requested or default, MAX_PAGE)


def check_name(name: str, field: str, longest: int = _MAX_NAME_CHARS) -> None:
    """Raise InvalidArgument unless `name` is an identifier of at most `longest` characters."""
    if len(name) > longest or not _NAME.fullmatch(name):
        raise InvalidArgument(
            "NAME_INVALID",
            f"{name[:50]!r} is not a valid name; use a letter or underscore, then letters, digits "
            f"and underscores, at most {longest} characters",
            field=field,
        )


def check_no_tenant(name: str, field: str) -> None:
    """Raise InvalidArgument for a name of a collection or alias that is kept for a tenant."""
    if _OF_A_TENANT.match(name):
        raise InvalidArgument(
            "NAME_INVALID", "names that begin like tenant_x__ are kept for tenants", field=field
        )


def check_ids(ids: Iterable[str], field: str) -> None:
    """Raise InvalidArgument if an id is longer than that of any item."""
    for index, item_id in enumerate(ids):
        check_id_length(item_id, f"{field}[{index}]")


def check_id_length(item_id: str, field: str) -> None:
    """Raise InvalidArgument if an id is longer than that of any item."""
    if len(item_id.encode()) > _MAX_ID_BYTES:
        raise _bad_id(field)


def check_new_id(item_id: str, field: str) -> None:
    """Raise InvalidArgument if an item cannot be stored under this id."""
    if not item_id:
        raise InvalidArgument(
            "NAME_INVALID", "an item that is a vector only needs an id", field=field
        )
    check_id_length(item_id, field)
    if any(unicodedata.category(char) == "Cc" for char in item_id):
        raise _bad_id(field)


def _bad_id(field: str) -> InvalidArgument:
    return InvalidArgument(
        "NAME_INVALID",
        f"an id is 1 to {_MAX_ID_BYTES} bytes without control characters",
        field=field,
    )


def check_content(content: content_pb2.Content, where: str) -> None:
    """Raise the error of a text or image that cannot be embedded, whatever the model."""
    kind = content.WhichOneof("kind")
    if kind is None:
        raise InvalidArgument("CONTENT_MISSING", "set a text or an image", field=where)
    if kind == "text":
        if not content.text.strip():
            raise InvalidArgument("TEXT_EMPTY", "the text is empty or blank", field=f"{where}.text")
    elif content.image.text and not content.image.text.strip():
        raise InvalidArgument("TEXT_EMPTY", "the text is blank", field=f"{where}.image.text")
    elif content.image.uri:
        raise PermissionDenied(
            "URI_FORBIDDEN",
            "FakeSentinel fetches nothing, like a gateway whose settings list no places; send the "
            "bytes, or store a file by reference",
            field=f"{where}.image.uri",
        )
    elif not content.image.data:
        source = content.image.WhichOneof("source") or "data"
        raise InvalidArgument(
            "IMAGE_EMPTY",
            "the image has neither bytes nor a URI",
            field=f"{where}.image.{source}",
        )


def check_crop(image: content_pb2.Image, where: str) -> None:
    """Raise InvalidArgument if the part of an image is not one."""
    box = image.crop
    if image.HasField("crop") and not (
        0 <= box.left < box.right <= 1 and 0 <= box.top < box.bottom <= 1
    ):
        raise InvalidArgument(
            "CROP_INVALID",
            "the crop box must have 0 <= left < right <= 1 and 0 <= top < bottom <= 1",
            field=f"{where}.crop",
        )


def media_type(data: bytes, field: str | None) -> str:
    """Return the media type of an image by its first bytes; the fake decodes no images."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    for magic, found in _MAGIC:
        if data.startswith(magic):
            return found
    if data[4:8] == b"ftyp":
        first, end = data[8:12], min(int.from_bytes(data[:4], "big"), 256)
        others = [data[at : at + 4] for at in range(16, end, 4)]
        for brand in (first, *(others if first in _GENERAL_BRANDS else ())):
            if brand in _BRANDS:
                return _BRANDS[brand]
    raise InvalidArgument(
        "IMAGE_FORMAT_UNSUPPORTED",
        "the bytes are no JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC, AVIF or JPEG XL",
        field=field,
    )


def vector_from(message: content_pb2.Vector, where: str) -> Vector:
    """Read a vector; `unit_vector` checks its elements."""
    known = (content_pb2.ELEMENT_TYPE_UNSPECIFIED, content_pb2.ELEMENT_TYPE_FLOAT32)
    if message.element_type not in known:
        raise InvalidArgument("VECTOR_INVALID", "element_type must be FLOAT32", field=where)
    if len(message.data) != 4 * message.dimensions:
        raise InvalidArgument(
            "VECTOR_INVALID",
            f"{message.dimensions} dimensions need {4 * message.dimensions} bytes, not "
            f"{len(message.data)}",
            field=where,
        )
    return np.frombuffer(message.data, dtype="<f4").astype(np.float32)


def unit_vector(vector: Vector, dimensions: int, where: str) -> Vector:
    """Return a vector at length 1; raise InvalidArgument if the collection cannot have it."""
    if len(vector) != dimensions:
        raise InvalidArgument(
            "VECTOR_DIMENSIONS",
            f"the vector has {len(vector)} dimensions, the collection has {dimensions}",
            field=where,
            metadata={"expected": str(dimensions)},
        )
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if not np.isfinite(length) or length == 0:
        raise InvalidArgument(
            "VECTOR_INVALID", "the vector must be finite and not all zeros", field=where
        )
    if abs(length - 1.0) <= _UNIT_TOLERANCE:  # kept with exactly its bits
        return vector.astype(np.float32, copy=False)
    return (vector / length).astype(np.float32)
