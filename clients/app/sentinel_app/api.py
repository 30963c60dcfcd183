"""What our script asks the server: collections, pages of photos or hits, details, deletions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sentinel_app import uploads
from sentinel_app.formatting import DEMO_MODEL, index_command
from sentinel_app.library import Library, library_of
from sentinel_app.queries import filter_of, query_of, time_of
from sentinel_app.tiles import details, moment_text, stacked, tile, time_field
from sentinel_app.uploads import limit_of
from sentinel_app.web import Refused, json_body, unless_left
from sentinel_client import (
    Caller,
    Collection,
    F,
    FieldSchema,
    FieldType,
    Filter,
    Hybrid,
    Q,
    Scope,
    SearchOptions,
)
from sentinel_client.importers.photo_fields import PHOTO_FIELDS

_PAGE_SIZE = 60
# Hidden items leave gaps in pages. More pages than this are not read to fill one.
_MAX_READS = 3
_MAX_DELETED = 500
# The same fields as `sentinel index` declares.
_FIRST_FIELDS = (
    FieldSchema("path", FieldType.STRING),
    FieldSchema("file_name", FieldType.STRING),
    FieldSchema("folder", FieldType.STRING),
    FieldSchema("size_bytes", FieldType.INT64),
    FieldSchema("modified_at", FieldType.INT64),
    *PHOTO_FIELDS,
)


async def _state(request: Request) -> Response:
    """Everything that the page shows around photos."""
    library = library_of(request)
    caller = await library.caller()
    # What may not be read is not listed.
    found = await library.client.list_collections() if caller.may(Scope.READ) else []
    usable = [one for one in found if caller.may(Scope.SEARCH, one.name)]
    return JSONResponse(
        {
            "index_command": index_command(library.client.address),
            "collections": [_collection(one, caller, library.read_only) for one in usable],
            "may_create": not library.read_only and caller.may(Scope.ADMIN, "photos"),
            "undo_seconds": library.trash.undo_seconds,
            "image_bytes": uploads.MAX_IMAGE_BYTES,
        }
    )


def _collection(found: Collection, caller: Caller, read_only: bool) -> dict[str, Any]:
    time = time_field(found)
    levels = found.match_levels
    limit = limit_of(caller, found.name)
    return {
        "name": found.name,
        "count": found.item_count,
        "model": found.model.model,
        "demo": found.model.model == DEMO_MODEL,
        "fields": [{"name": one.name, "type": one.type.value} for one in found.fields],
        "time": time.name if time else "",
        "words": any(one.full_text for one in found.fields),
        "levels": None if levels is None else {"fair": levels.fair, "strong": levels.strong},
        "may_write": not read_only and caller.may(Scope.WRITE, found.name),
        "may_list": caller.may(Scope.READ, found.name),
        "limit": {"bytes": limit.bytes, "files": limit.files},
    }


async def _page(request: Request) -> Response:
    """A page of photos, newest first; with `terms`, of the hits of a search."""
    asked = await json_body(request)
    library = library_of(request)
    async with library.searches.slot():
        return await unless_left(request, _page_of(library, asked))


async def _page_of(library: Library, asked: dict[str, Any]) -> Response:
    collection = await library.collection(_text(asked, "collection"))
    terms = asked.get("terms", [])
    filters = filter_of(collection, asked.get("filters", []))
    token = _text(asked, "page")
    query = await query_of(library, terms)
    if query is None:
        before = _text(asked, "before")
        return await _photos(library, collection, filters, before, token)
    wants_words = asked.get("words") is True and any(one.get("kind") == "text" for one in terms)
    return await _hits(
        library,
        collection,
        query,
        filters,
        token,
        words=_words(terms) if wants_words else "",
        stacks=asked.get("stacks") is not False,
    )


def _words(terms: Sequence[dict[str, Any]]) -> str:
    return " ".join(one["value"] for one in terms if one.get("kind") == "text")


async def _photos(
    library: Library, collection: Collection, filters: Filter | None, before: str, token: str
) -> Response:
    time = time_field(collection)
    if time is not None and before:
        moment = time_of(before)
        bound = moment if time.type is FieldType.TIMESTAMP else int(moment.timestamp())
        is_older = F(time.name) < bound
        filters = is_older if filters is None else filters & is_older
    shown: list[dict[str, Any]] = []
    for _ in range(_MAX_READS):
        page = await library.client.list_page(
            collection=collection.name,
            filter=filters,
            order_by=time.name if time else "",
            descending=time is not None,
            include_thumbnails=True,
            page_size=_PAGE_SIZE,
            page_token=token,
        )
        hidden = library.trash.hidden(collection.name)
        kept = [item for item in page if item.id not in hidden]
        shown += [tile(item, collection, library.thumbnails, time) for item in kept]
        token = page.next_page_token
        if not token or len(shown) >= _PAGE_SIZE // 2:
            break
    return JSONResponse({"tiles": shown, "next": token})


async def _hits(
    library: Library,
    collection: Collection,
    query: Q,
    filters: Filter | None,
    token: str,
    *,
    words: str,
    stacks: bool,
) -> Response:
    options: SearchOptions = {
        "filter": filters,
        "include_thumbnails": True,
        "include_vectors": stacks,
    }
    if words:
        options["hybrid"] = Hybrid(text=words)
    page = await library.client.search_page(
        query, collection=collection.name, page_size=_PAGE_SIZE, page_token=token, **options
    )
    hidden = library.trash.hidden(collection.name)
    hits = [hit for hit in page if hit.id not in hidden]
    time = time_field(collection)
    tiles = [tile(hit, collection, library.thumbnails, time) for hit in hits]
    return JSONResponse(
        {
            "tiles": stacked(tiles, hits) if stacks else tiles,
            "next": page.next_page_token,
            "timings": asdict(page.timings),
            "notices": [{"kind": one.kind.value, "text": one.message} for one in page.notices],
        }
    )


async def _span(request: Request) -> Response:
    """The times of the newest and the oldest photo; empty if none has one."""
    library = library_of(request)
    collection = await library.collection(request.query_params.get("c", ""))
    time = time_field(collection)
    if time is None:
        return JSONResponse({"newest": "", "oldest": ""})
    ends = []
    for descending in (True, False):
        page = await library.client.list_page(
            collection=collection.name,
            order_by=time.name,
            descending=descending,
            output_fields=[time.name],
            page_size=1,
        )
        ends.append(moment_text(page.items[0].fields.get(time.name)) if page.items else "")
    return JSONResponse({"newest": ends[0], "oldest": ends[1]})


async def _item(request: Request) -> Response:
    library = library_of(request)
    collection = await library.collection(request.query_params.get("c", ""))
    item_id = request.query_params.get("id", "")
    found = await library.client.get_items(
        [item_id], collection=collection.name, include_thumbnails=True
    )
    if not found.items or item_id in library.trash.hidden(collection.name):
        raise Refused(404, "This photo is not in the collection any more.", "GONE")
    item = found.items[0]
    shown = tile(item, collection, library.thumbnails, time_field(collection))
    return JSONResponse({**shown, **details(item, collection)})


async def _delete(request: Request) -> Response:
    """Hide items, to delete them when undoing is over; answer with the token to undo it."""
    asked = await json_body(request)
    library = library_of(request)
    collection, ids = _text(asked, "collection"), asked.get("ids")
    if library.read_only or not (await library.caller()).may(Scope.WRITE, collection):
        raise Refused(403, "This page may not delete.", "READ_ONLY")
    if not isinstance(ids, list) or not 0 < len(ids) <= _MAX_DELETED:
        raise Refused(400, f"1 to {_MAX_DELETED} items are deleted at once.")
    if not all(isinstance(one, str) and 0 < len(one) <= 256 for one in ids):
        raise Refused(400, "An id is a string.")
    try:
        return JSONResponse({"token": library.trash.hide(collection, ids)})
    except OverflowError as error:
        raise Refused(503, "Too many deletions wait for the gateway.", "BUSY") from error


async def _undo(request: Request) -> Response:
    asked = await json_body(request)
    if not library_of(request).trash.undo(_text(asked, "token")):
        raise Refused(410, "It is deleted already.", "DELETED")
    return JSONResponse({})


async def _create(request: Request) -> Response:
    """Create the first collection."""
    library = library_of(request)
    name = _text(await json_body(request), "collection")
    if library.read_only:
        raise Refused(403, "This page may not create collections.", "READ_ONLY")
    await library.client.create_collection(name, _FIRST_FIELDS)
    return JSONResponse({})


def _text(asked: dict[str, Any], name: str) -> str:
    value = asked.get(name, "")
    if not isinstance(value, str):
        raise Refused(400, f"{name} is a text.")
    return value


ROUTES = [
    Route("/state", _state),
    Route("/page", _page, methods=["POST"]),
    Route("/span", _span),
    Route("/item", _item),
    Route("/delete", _delete, methods=["POST"]),
    Route("/undo", _undo, methods=["POST"]),
    Route("/create", _create, methods=["POST"]),
]
