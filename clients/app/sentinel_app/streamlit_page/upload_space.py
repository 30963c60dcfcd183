"""Memory for uploads: reserved before their bytes are read, by visitor and for all together.

A visitor has what `allow` gives, and before that none: nobody uploads before signing in.

Streamlit keeps uploads in memory, limits single files only, and forgets none while a visitor stays.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, MutableMapping
from contextlib import suppress
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit import runtime
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.uploaded_file_manager import UploadedFile

from sentinel_app import uploads
from sentinel_app.uploads import NOTHING, UploadLimit, megabytes, pending_uploads

# What a file takes beside its content. Also bounds how many empty ones there can be.
_FILE_BYTES = 2048
# An upload ends when nothing came for so long, or when it is slower than this on the whole.
_STALL_S = 30.0
_MIN_BYTES_PER_S = 64 * 1024
# By visitor: bytes of the images in the search, and how much may be uploaded.
_in_searches: dict[str, int] = {}
_allowed: dict[str, UploadLimit] = {}
# Visitors whose connection broke come back, and then upload without a click on the page before.
_MOST_REMEMBERED = 1_000
_PATH = re.compile(r"/_stcore/upload_file/([^/]+)/[^/]+$")


class _TooSlow(Exception):
    """An upload stalled, or its visitor has left."""


class UploadSpace:
    """ASGI middleware that lets an upload in when there is space for all of it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        # By upload: its session and its length.
        self._reserved: dict[object, tuple[str, int]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = _PATH.search(scope.get("path", ""))
        if found is None or scope.get("method") != "PUT":
            await self._app(scope, receive, send)
            return
        session = found[1]
        length = Headers(scope=scope).get("content-length", "")
        if not length.isascii() or not length.isdigit():
            await PlainTextResponse("an upload states its length", 411)(scope, receive, send)
            return
        body = _Body(receive, session, int(length))
        if problem := self._problem(session, int(length)):
            await body.discard()
            await PlainTextResponse(problem, 413)(scope, receive, send)
            return
        upload = object()
        self._reserved[upload] = (session, int(length))
        try:
            await self._app(scope, body.receive, send)
        except _TooSlow:
            await PlainTextResponse("the upload stalled", 408)(scope, receive, send)
        # The browser has left. Nobody waits for an answer.
        except ClientDisconnect:
            pass
        finally:
            del self._reserved[upload]

    def _problem(self, session: str, length: int) -> str:
        """Return why an upload cannot be taken; empty if it can."""
        limit = _allowed.get(session, NOTHING)
        if limit == NOTHING:
            return "You may not upload to this page. Sign in first."
        if self._held_by(session) + length > _space(limit):
            return (
                f"You can upload {limit.files:,} files and {megabytes(limit.bytes)} at once. Store "
                "these files or remove some first."
            )
        if self._held() + length > _space_of_all():
            _forget_visitors_who_left()
        if self._held() + length > _space_of_all():
            return "The page holds too many uploads of others. Try again in a minute."
        return ""

    def _held_by(self, session: str) -> int:
        reserved = sum(length for owner, length in self._reserved.values() if owner == session)
        return reserved + _size(_files().get(session, {})) + _in_searches.get(session, 0)

    def _held(self) -> int:
        stored = sum(_size(files) for files in list(_files().values()))
        pending = sum(
            len(data) for files in list(pending_uploads.values()) for _, data in list(files)
        )
        reserved = sum(length for _, length in self._reserved.values())
        return stored + pending + reserved + sum(list(_in_searches.values()))


class _Body:
    """The body of one upload, with limits on its time. Ends when the visitor's page is closed."""

    def __init__(self, receive: Receive, session: str, length: int) -> None:
        self._receive = receive
        self._session = session
        self._due = asyncio.get_running_loop().time() + _STALL_S + length / _MIN_BYTES_PER_S

    async def receive(self) -> Message:
        left = self._due - asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(min(_STALL_S, left)):
                message = await self._receive()
        except TimeoutError as error:
            raise _TooSlow from error
        if not runtime.get_instance().is_active_session(self._session):
            raise _TooSlow
        return message

    async def discard(self) -> None:
        """Read to the end and keep nothing: a browser reads no answer before it has sent all."""
        with suppress(_TooSlow):
            while (await self.receive()).get("more_body", False):
                pass


def allow(limit: UploadLimit) -> None:
    """Let this visitor upload so much at once."""
    context = get_script_run_ctx()
    if context is None or _allowed.get(context.session_id) == limit:
        return
    _allowed[context.session_id] = limit
    if len(_allowed) > _MOST_REMEMBERED:
        for session in [*_allowed]:
            if not runtime.get_instance().is_active_session(session):
                _allowed.pop(session, None)


def forget_visitor() -> None:
    """Forget the files of this visitor, who may upload no more."""
    context = get_script_run_ctx()
    if context is not None:
        _allowed.pop(context.session_id, None)
        _forget_files(context.session_id)


def release(files: Iterable[UploadedFile]) -> None:
    """Forget files of this visitor. Streamlit would keep them until the visitor leaves."""
    context = get_script_run_ctx()
    if context is not None:
        for file in files:
            _manager().remove_file(context.session_id, file.file_id)


def hold(byte_count: int) -> None:
    """Count so many bytes of images, which are in this visitor's search and no longer uploads."""
    context = get_script_run_ctx()
    if context is None:
        return
    if byte_count:
        _in_searches[context.session_id] = byte_count
    else:
        _in_searches.pop(context.session_id, None)


def _forget_visitors_who_left() -> None:
    """Free what visitors uploaded whose pages are closed. Streamlit would keep it for minutes."""
    for session in [*_files(), *_in_searches]:
        if not runtime.get_instance().is_active_session(session):
            _forget_files(session)


def _forget_files(session: str) -> None:
    _manager().remove_session_files(session)
    _in_searches.pop(session, None)


def _space(limit: UploadLimit) -> int:
    return limit.bytes + limit.files * _FILE_BYTES


def _space_of_all() -> int:
    """Return the bytes of all people together, files of running imports included.

    Those of the two largest limits; deploy/k8s gives the app 1.5 GiB.
    """
    return sum(sorted(map(_space, uploads.limits.values()))[-2:])


def _size(files: MutableMapping[str, Any]) -> int:
    return sum(len(file.data) + _FILE_BYTES for file in list(files.values()))


def _files() -> dict[str, dict[str, Any]]:
    return _manager().file_storage


def _manager() -> MemoryUploadedFileManager:
    manager = runtime.get_instance().uploaded_file_mgr
    assert isinstance(manager, MemoryUploadedFileManager)
    return manager
