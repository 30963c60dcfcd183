"""The pictures of the page: thumbnails, larger copies, originals, and images to search with."""

from __future__ import annotations

import asyncio
import hashlib
from urllib.parse import quote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from sentinel_app.formatting import FORMATS, safe_file_name
from sentinel_app.library import Library, library_of
from sentinel_app.previews import ImageRefused, Preview
from sentinel_app.uploads import MAX_IMAGE_BYTES
from sentinel_app.web import (
    MIN_BYTES_PER_S,
    STALL_S,
    Refused,
    Slots,
    json_body,
    read_body,
    unless_left,
)

# Longest sides of copies, in pixels: of tiles, and of an opened picture.
SIDES = (360, 640, 960, 1600, 2560)
_QUERY_SIDE = 960
# Raw files are large.
_MAX_STORED_BYTES = 64 * 2**20
_KEEP = "private, max-age=31536000, immutable"
_downloads = Slots(4, 200)
# Originals in memory until browsers have them, which may take long.
_sent = Slots(4, 60)
_PART_BYTES = 256 * 1024


async def _thumbnail(request: Request) -> Response:
    collection, item_id = _names(request)
    data = await library_of(request).thumbnails.get(collection, item_id)
    if not data:
        return Response(status_code=404)
    return _picture(data, "image/webp", lasts=bool(request.query_params.get("v")))


async def _larger(request: Request) -> Response:
    """A copy of a stored image with the side that the page asks for."""
    collection, item_id = _names(request)
    side = _side(request)
    library = library_of(request)
    version = request.query_params.get("v", "")[:64]
    name = library.copies_of(collection, item_id) + _key(version, str(side))[:32]
    kept = await asyncio.to_thread(library.larger.read, name)
    if kept is None:
        kept = (await unless_left(request, _decoded(library, collection, item_id, side))).shown
        await asyncio.to_thread(library.larger.write, name, kept)
    return _picture(kept, _type_of(kept), lasts=bool(version))


async def _decoded(library: Library, collection: str, item_id: str, side: int) -> Preview:
    async with _downloads.slot():
        stored = await library.client.download_image(item_id, collection=collection)
        return await _copy(library, stored.data, side)


async def _copy(library: Library, stored: bytes, side: int) -> Preview:
    try:
        return await library.decoders.preview(stored, side, _MAX_STORED_BYTES)
    except ImageRefused as error:
        raise Refused(415, str(error), "NOT_SHOWN") from error


class _Original(Response):
    """Reads a stored file and sends it in parts: few are in memory, however slow browsers are."""

    def __init__(self, request: Request) -> None:
        super().__init__()
        self._request = request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with _sent.slot():
            whole = await _stored_file(self._request)
            start = {"status": whole.status_code, "headers": whole.raw_headers}
            try:
                async with asyncio.timeout(STALL_S + len(whole.body) / MIN_BYTES_PER_S):
                    await send({"type": "http.response.start", **start})
                    for at in range(0, len(whole.body), _PART_BYTES):
                        part = bytes(whole.body[at : at + _PART_BYTES])
                        await send({"type": "http.response.body", "body": part, "more_body": True})
                    await send({"type": "http.response.body", "body": b""})
            except TimeoutError as error:
                raise ClientDisconnect from error


async def _original(request: Request) -> Response:
    return _Original(request)


async def _stored_file(request: Request) -> Response:
    """The stored file, to download. Its bytes decide its type and its extension, not its name."""
    collection, item_id = _names(request)
    library = library_of(request)
    async with _downloads.slot():
        stored = await library.client.download_image(item_id, collection=collection)
    found = await library.client.get_items([item_id], collection=collection)
    path = next((str(item.fields.get("path", "")) for item in found), "")
    kind = FORMATS.get(stored.media_type)
    name = safe_file_name(path or item_id[:32], kind or ("bin",))
    return Response(
        stored.data,
        media_type=stored.media_type if kind else "application/octet-stream",
        headers={
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
            "Cache-Control": "no-store",
        },
    )


async def _add_query_image(request: Request) -> Response:
    """Keep an image to search with; answer with its id, which nobody guesses without the image."""
    library = library_of(request)
    with library.uploads.reserved(request, MAX_IMAGE_BYTES):
        data = await read_body(request, MAX_IMAGE_BYTES)
        try:
            view = await library.decoders.preview(data, _QUERY_SIDE)
        except ImageRefused as error:
            raise Refused(415, str(error), "NOT_AN_IMAGE") from error
        name = hashlib.sha256(data).hexdigest()
        await asyncio.to_thread(library.query_images.write, name, data)
    await asyncio.to_thread(library.larger.write, _key("query", name), view.shown)
    return JSONResponse({"id": name})


async def _query_image_of(request: Request) -> Response:
    """Keep the image of an item, to search with a part of it; answer with its id."""
    asked = await json_body(request)
    collection, item_id = asked.get("collection"), asked.get("id")
    if not isinstance(collection, str) or not isinstance(item_id, str):
        raise Refused(400, "This takes a collection and an id.")
    library = library_of(request)
    async with _downloads.slot():
        stored = await library.client.download_image(item_id, collection=collection)
        data = stored.data
        if len(data) > MAX_IMAGE_BYTES:  # a copy has all that models see
            data = (await _copy(library, data, SIDES[-1])).shown
    name = hashlib.sha256(data).hexdigest()
    await asyncio.to_thread(library.query_images.write, name, data)
    return JSONResponse({"id": name})


async def _query_image(request: Request) -> Response:
    library = library_of(request)
    name = request.query_params.get("id", "")
    key = _key("query", name)
    kept = await asyncio.to_thread(library.larger.read, key)
    if kept is None:
        data = await query_image(library, name)
        try:
            kept = (await library.decoders.preview(data, _QUERY_SIDE)).shown
        except ImageRefused as error:
            raise Refused(415, str(error), "NOT_AN_IMAGE") from error
        await asyncio.to_thread(library.larger.write, key, kept)
    return _picture(kept, _type_of(kept))


async def query_image(library: Library, name: str) -> bytes:
    """Return an image that somebody has searched with, or raise Refused if it is not kept."""
    data = await asyncio.to_thread(library.query_images.read, name)
    if data is None:
        raise Refused(
            410,
            "The picture of this search is no longer kept. Add it again.",
            "QUERY_IMAGE_GONE",
        )
    return data


def _names(request: Request) -> tuple[str, str]:
    query = request.query_params
    return query.get("c", ""), query.get("id", "")


def _side(request: Request) -> int:
    asked = request.query_params.get("side", "")
    if asked not in map(str, SIDES):
        raise Refused(400, f"The side is one of {', '.join(map(str, SIDES))}.")
    return int(asked)


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()


def _type_of(copy: bytes) -> str:
    return "image/webp" if copy[:4] == b"RIFF" else "image/jpeg"


def _picture(data: bytes, media_type: str, *, lasts: bool = True) -> Response:
    # Without a version, an address can have another picture the next time.
    headers = {"Cache-Control": _KEEP if lasts else "no-store"}
    return Response(data, media_type=media_type, headers=headers)


ROUTES = [
    Route("/thumbnail", _thumbnail),
    Route("/picture", _larger),
    Route("/original", _original),
    Route("/query-image", _add_query_image, methods=["POST"]),
    Route("/query-image", _query_image),
    Route("/query-image-of", _query_image_of, methods=["POST"]),
]
