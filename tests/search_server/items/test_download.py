"""DownloadImage: the bytes as they came, in pieces."""

from __future__ import annotations

import io
from pathlib import Path
from urllib.parse import urlparse

import grpc
import numpy as np
import pillow_heif
import pillow_jxl  # noqa: F401 - a plugin of Pillow
import pytest
from PIL import Image

from sentinel.search.v1 import item_service_pb2 as pb
from tests.search_server.conftest import Gateway, error_info, image

pillow_heif.register_heif_opener()
MIB = 1024 * 1024


def noise(kind: str, side: int) -> bytes:
    """A picture that no format makes small."""
    pixels = np.random.default_rng(7).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def pieces(gateway: Gateway, name: str, item_id: str) -> list[pb.DownloadImageResponse]:
    request = pb.DownloadImageRequest(collection=name, id=item_id)
    return list(gateway.items.DownloadImage(request, timeout=20))


def test_a_large_picture_comes_whole_in_pieces_of_at_most_a_mebibyte(gateway: Gateway) -> None:
    name, data = gateway.create(), noise("PNG", 1_000)
    gateway.upsert(name, pb.Item(id="big", content=image(data)))
    chunks = pieces(gateway, name, "big")
    assert b"".join(chunk.data for chunk in chunks) == data
    assert [len(chunk.data) for chunk in chunks[:-1]] == [MIB] * (len(data) // MIB)
    assert (chunks[0].media_type, chunks[0].total_bytes) == ("image/png", len(data))
    assert all(not chunk.media_type and not chunk.total_bytes for chunk in chunks[1:])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("JPEG", "image/jpeg"),
        ("GIF", "image/gif"),
        ("WEBP", "image/webp"),
        ("BMP", "image/bmp"),
        ("TIFF", "image/tiff"),
        ("HEIF", "image/heic"),
        ("AVIF", "image/avif"),
        ("JXL", "image/jxl"),
    ],
)
def test_the_media_type_is_read_from_the_bytes(gateway: Gateway, kind: str, expected: str) -> None:
    name, data = gateway.create(), noise(kind, 32)
    gateway.upsert(name, pb.Item(id="x", content=image(data)))
    [chunk] = pieces(gateway, name, "x")
    assert (chunk.data, chunk.media_type) == (data, expected)


def test_bytes_that_are_gone_are_told(gateway: Gateway) -> None:
    name = gateway.create()
    item = pb.Item(id="cat", content=image(noise("PNG", 40)))
    gateway.upsert(name, item)
    stored = gateway.get(name, "cat").items[0]
    Path(urlparse(stored.image_uri).path).unlink()
    with pytest.raises(grpc.RpcError) as caught:
        pieces(gateway, name, "cat")
    assert error_info(caught.value) == ("NOT_FOUND", "IMAGE_NOT_FOUND")
    # The rest of the item is as it was.
    assert gateway.get(name, "cat").items[0] == stored


def test_a_reader_may_leave_in_the_middle(gateway: Gateway) -> None:
    name, data = gateway.create(), noise("PNG", 1_000)
    gateway.upsert(name, pb.Item(id="big", content=image(data)))
    call = gateway.items.DownloadImage(pb.DownloadImageRequest(collection=name, id="big"))
    assert len(next(call).data) == MIB
    call.cancel()
    assert len(pieces(gateway, name, "big")) == len(data) // MIB + 1
