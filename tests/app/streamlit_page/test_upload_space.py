"""Space for uploads is reserved before they are read, and comes back whatever happens to them."""

from __future__ import annotations

import asyncio
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.uploaded_file_manager import UploadedFileRec

from sentinel_app import uploads
from sentinel_app.streamlit_page import upload_space
from sentinel_app.streamlit_page.upload_space import UploadSpace
from sentinel_app.uploads import UploadLimit
from sentinel_client import Scope
from tests.app.streamlit_page.conftest import run_apart

BIG = 100_000
FILES = 20
FILE = upload_space._FILE_BYTES


class Server:
    """Streamlit's store of files with its sessions, behind `UploadSpace`."""

    def __init__(self) -> None:
        self.files = MemoryUploadedFileManager("/upload")
        self.here = {"one", "two", "three"}
        self.space = UploadSpace(self.store)
        self.numbers = iter(range(1000))

    @property
    def runtime(self) -> Any:
        return SimpleNamespace(
            uploaded_file_mgr=self.files, is_active_session=lambda session: session in self.here
        )

    async def store(self, scope: Any, receive: Any, send: Any) -> None:
        session = scope["path"].split("/")[-2]
        body = b""
        while (message := await receive())["more_body"]:
            body += message["body"]
        number = str(next(self.numbers))
        self.files.add_file(session, UploadedFileRec(number, "a.jpg", "image/jpeg", body))
        await send({"type": "http.response.start", "status": 204})

    async def upload(self, session: str, size: int, receive: Any = None, length: str = "") -> int:
        """Upload a file; return the status of the answer."""
        path = f"/_stcore/upload_file/{session}/file"
        headers = [(b"content-length", (length or str(size)).encode())]
        scope = {"type": "http", "method": "PUT", "path": path, "headers": headers}
        parts = [
            {"type": "http.request", "body": bytes(size), "more_body": True},
            {"type": "http.request", "body": b"", "more_body": False},
        ]
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def body() -> Any:
            return parts.pop(0)

        await self.space(scope, receive or body, send)
        return int(sent[0]["status"])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server()
    monkeypatch.setattr(upload_space.runtime, "get_instance", lambda: made.runtime)
    # One visitor has 200,000 bytes, and all together 300,000.
    one = UploadLimit(2 * BIG - FILES * FILE, FILES)
    other = UploadLimit(BIG, 0)
    monkeypatch.setattr(uploads, "limits", {Scope.SEARCH: other, Scope.WRITE: one})
    monkeypatch.setattr(upload_space, "_allowed", dict.fromkeys(made.here, one))
    return made


def test_what_is_on_its_way_counts_before_a_byte_is_read(server: Server) -> None:
    async def test() -> None:
        arrived = asyncio.Event()

        async def slow() -> Any:
            await arrived.wait()
            return {"type": "http.request", "body": b"", "more_body": False}

        first = [asyncio.create_task(server.upload("one", 80_000, slow)) for _ in range(2)]
        await asyncio.sleep(0)
        assert await server.upload("one", 80_000) == 413  # its own limit
        assert await server.upload("two", 80_000) == 204
        assert await server.upload("three", 80_000) == 413  # of all together
        arrived.set()
        assert await asyncio.gather(*first) == [204, 204]
        assert await server.upload("three", 80_000) == 204

    run_apart(test())


def test_files_on_their_way_to_the_gateway_count(server: Server) -> None:
    async def test() -> None:
        leaving_job = object()
        leaving = deque([("b.jpg", bytes(2 * BIG))])
        uploads.pending_uploads[leaving_job] = leaving
        try:
            assert await server.upload("one", BIG + 1) == 413
        finally:
            del uploads.pending_uploads[leaving_job]
        assert await server.upload("one", BIG + 1) == 204

    run_apart(test())


def test_images_of_a_search_count_until_the_visitor_leaves(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hold(session: str, size: int) -> None:
        context = SimpleNamespace(session_id=session)
        monkeypatch.setattr(upload_space, "get_script_run_ctx", lambda: context)
        upload_space.hold(size)

    async def test() -> None:
        hold("one", 2 * BIG)
        assert await server.upload("one", 10_000) == 413
        hold("two", BIG)
        assert await server.upload("three", 10_000) == 413
        hold("two", 0)
        assert await server.upload("three", 10_000) == 204
        assert await server.upload("three", BIG) == 413
        server.here.remove("one")
        assert await server.upload("three", BIG) == 204
        assert upload_space._in_searches == {}

    run_apart(test())


def test_empty_files_are_not_for_nothing(server: Server) -> None:
    async def test() -> None:
        statuses = [await server.upload("one", 1) for _ in range(120)]
        assert statuses.index(413) == 2 * BIG // FILE + 1

    run_apart(test())


def test_a_visitor_uploads_what_its_scope_allows_and_before_that_nothing(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = SimpleNamespace(session_id="new")
    monkeypatch.setattr(upload_space, "get_script_run_ctx", lambda: context)
    server.here.add("new")

    async def test() -> None:
        assert await server.upload("new", 1) == 413
        upload_space.allow(UploadLimit(1_000, 1))
        assert await server.upload("new", 1_001 + FILE) == 413
        assert await server.upload("new", 1_000) == 204
        upload_space.allow(UploadLimit(BIG, 1))
        assert await server.upload("new", BIG - 1_000) == 204
        upload_space.forget_visitor()
        assert server.files.file_storage.get("new", {}) == {}
        assert await server.upload("new", 1) == 413

    run_apart(test())


def test_who_has_left_is_forgotten(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    context = SimpleNamespace(session_id="two")
    monkeypatch.setattr(upload_space, "get_script_run_ctx", lambda: context)
    server.here.remove("one")
    upload_space.allow(UploadLimit(BIG, 1))
    assert set(upload_space._allowed) == {"one", "two", "three"}  # it may come back
    monkeypatch.setattr(upload_space, "_MOST_REMEMBERED", 2)
    upload_space.allow(UploadLimit(BIG, 2))
    assert set(upload_space._allowed) == {"two", "three"}


def test_visitors_who_left_make_room(server: Server) -> None:
    async def test() -> None:
        assert await server.upload("one", 2 * BIG - 5_000) == 204
        assert await server.upload("two", BIG + 10_000) == 413
        server.here.remove("one")
        assert await server.upload("two", BIG + 10_000) == 204
        assert list(server.files.file_storage) == ["two"]

    run_apart(test())


def test_a_closed_tab_a_stall_and_a_trickle_end_an_upload(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async def silent() -> Any:
            await asyncio.Event().wait()

        async def trickle() -> Any:
            await asyncio.sleep(0.01)
            return {"type": "http.request", "body": b"x", "more_body": True}

        monkeypatch.setattr(upload_space, "_STALL_S", 0.1)
        assert await server.upload("one", BIG, silent) == 408
        monkeypatch.setattr(upload_space, "_MIN_BYTES_PER_S", 100 * BIG)
        assert await server.upload("one", BIG, trickle) == 408
        monkeypatch.setattr(upload_space, "_STALL_S", 60.0)
        server.here.remove("one")
        assert await server.upload("one", BIG, trickle) == 408
        assert server.space._held() == 0

    run_apart(test())


def test_an_upload_of_unknown_length_is_refused(server: Server) -> None:
    async def test() -> None:
        for length in ("-1", "many", "1e9", "\u0661"):
            assert await server.upload("one", 1, length=length) == 411

    run_apart(test())
