"""Add photos: one upload is an image or a zip of images. Each image gets its own result."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from sentinel_app.formatting import plain
from sentinel_app.library import Library, library_of
from sentinel_app.uploads import MAX_IMAGE_BYTES, UploadedImage, UploadLimit, limit_of
from sentinel_app.web import Refused, Slots, problem, read_body, unless_left
from sentinel_app.zips import images_in
from sentinel_client import Collection, FieldType, FieldValue, Item, Outcome, SentinelError
from sentinel_client import Scope as Access
from sentinel_client.importers.photo_metadata import read_metadata

_MAX_NAME = 500
# Images of a zip that are sent to the gateway together: so many, and no further one beyond so much.
_BATCH, _BATCH_BYTES = 16, 2 * MAX_IMAGE_BYTES
_running = Slots(4, 60)


async def _add(request: Request) -> Response:
    library = library_of(request)
    name = request.query_params.get("c", "")
    caller = await library.caller()
    if library.read_only or not caller.may(Access.WRITE, name):
        raise Refused(403, "This page may not add photos.", "READ_ONLY")
    collection = await library.collection(name)
    return _Adding(request, library, collection, limit_of(caller, name))


class _Adding(Response):
    """Reads an upload, stores its images, and sends a line of JSON for each.

    `{"name", "outcome"}`, the outcome being stored, unchanged or failed with a `message`. A last
    line without a name says why the rest is missing. The memory is held until all is sent.
    """

    def __init__(
        self, request: Request, library: Library, collection: Collection, limit: UploadLimit
    ) -> None:
        super().__init__()
        self._request = request
        self._library = library
        self._collection = collection
        self._limit = limit
        self._name = plain(request.query_params.get("name", ""))[-_MAX_NAME:] or "photo"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_zip = self._name.lower().endswith(".zip")
        most = self._limit.bytes if is_zip else min(self._limit.bytes, MAX_IMAGE_BYTES)
        with self._library.uploads.reserved(self._request, most):
            data = await read_body(self._request, most)
            async with _running.slot():
                await unless_left(self._request, self._store(data, send))

    async def _store(self, data: bytes, send: Send) -> None:
        kind = (b"content-type", b"application/x-ndjson")
        await send({"type": "http.response.start", "status": 200, "headers": [kind]})
        try:
            async for line in self._results(data):
                await send(_line(line))
        except SentinelError as error:
            await send(_line({"outcome": "failed", **problem(error)}))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _results(self, data: bytes) -> AsyncIterator[dict[str, Any]]:
        images = images_in([(self._name, data)], self._limit.files)
        while batch := await asyncio.to_thread(_take, images):
            usable = [one for one in batch if not one.problem]
            for one in batch:
                if one.problem:
                    yield _failure(one.name, one.problem)
            items = await asyncio.to_thread(self._items, usable)
            trash, name = self._library.trash, self._collection.name
            async with trash.adding():
                results = await self._library.client.upsert(items, collection=name)
                for result in results:
                    if result.outcome is not Outcome.FAILED:
                        trash.keep(name, result.id)
            for one, result in zip(usable, results, strict=True):
                if result.outcome is Outcome.FAILED and result.error is not None:
                    yield _failure(one.name, result.error.message)
                else:
                    yield {"name": one.name, "outcome": result.outcome.value, "id": result.id}

    def _items(self, images: Sequence[UploadedImage]) -> list[Item]:
        return [self._item(image) for image in images]

    def _item(self, image: UploadedImage) -> Item:
        """Return an image with what the upload and the camera say, as far as it is declared."""
        types = {schema.name: schema.type for schema in self._collection.fields}
        folder, _, name = image.name.rpartition("/")
        known: dict[str, FieldValue] = {
            "path": image.name,
            "file_name": name,
            "folder": folder,
            "size_bytes": len(image.data),
        }
        modified = _milliseconds(self._request.query_params.get("modified", ""))
        if modified is not None:
            is_number = types.get("modified_at") is FieldType.INT64
            known["modified_at"] = int(modified.timestamp()) if is_number else modified
        if "taken_at" in types:
            known |= _metadata(image.data, name)
        fields = {field: value for field, value in known.items() if field in types}
        return Item(image=image.data, fields=fields)


def _metadata(data: bytes, name: str) -> dict[str, FieldValue]:
    """Return what the camera wrote into a photo."""
    # Raw files are told by their extension. Nothing else of the name is used.
    _, _, extension = name.rpartition(".")
    suffix = f".{extension}" if extension.isalnum() and len(extension) < 6 else ""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"photo{suffix}")
        file.write_bytes(data)
        return read_metadata(str(file), None)


def _take(images: Iterator[UploadedImage]) -> Sequence[UploadedImage]:
    """Return the next images; unpacking them takes time."""
    batch: list[UploadedImage] = []
    for image in images:
        batch.append(image)
        if len(batch) == _BATCH or sum(len(one.data) for one in batch) >= _BATCH_BYTES:
            break
    return batch


def _milliseconds(text: str) -> datetime | None:
    try:
        return datetime.fromtimestamp(int(text) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _failure(name: str, message: str) -> dict[str, Any]:
    return {"name": name, "outcome": "failed", "message": message}


def _line(found: dict[str, Any]) -> Message:
    body = json.dumps(found).encode() + b"\n"
    return {"type": "http.response.body", "body": body, "more_body": True}


ROUTES = [Route("/add", _add, methods=["POST"])]
