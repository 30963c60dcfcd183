"""Bounds over what browsers drop, so that many files or many people cannot fill the memory."""

from __future__ import annotations

from collections import deque

import pytest
from starlette.exceptions import HTTPException
from streamlit.runtime.uploaded_file_manager import UploadedFileRec
from streamlit.testing.v1 import AppTest

from sentinel_app import uploads
from sentinel_app.uploads import MAX_FILES, MAX_UPLOAD_BYTES, BoundedUploads, over_limit

MB = 2**20


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ([1] * MAX_FILES, ""),
        ([1] * 10_000, "10,000 files are too many"),
        ([16 * MB] * 12, ""),
        ([16 * MB] * 13, "208 MB are too much"),
    ],
)
def test_number_and_sum_of_sizes_are_bounded(sizes: list[int], says: str) -> None:
    assert over_limit(sizes).startswith(says)
    assert bool(over_limit(sizes)) == bool(says)


def _add_tab() -> None:
    from types import SimpleNamespace
    from unittest import mock

    import streamlit as st

    from sentinel_app.index_tab import index_tab
    from sentinel_client import Collection, ModelVersion

    files = [SimpleNamespace(name="a.jpg", size=1)] * 10_000
    with mock.patch.object(st, "file_uploader", return_value=files):
        index_tab(None, Collection("album", ModelVersion(), 4, 0))  # type: ignore[arg-type]


def test_ten_thousand_files_are_sent_to_the_command_line_where_they_were_dropped() -> None:
    page = AppTest.from_function(_add_tab).run()
    assert not page.exception
    assert "10,000 files are too many: the limit is 2,000 at once" in page.warning[0].value
    assert "sentinel index FOLDER --collection album" in page.code[0].value
    assert not page.button


def test_all_people_together_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_TOTAL_BYTES", 100)
    kept = BoundedUploads("/upload")

    def add(person: str, number: int, size: int) -> None:
        kept.add_file(person, UploadedFileRec(str(number), "a.jpg", "image/jpeg", bytes(size)))

    add("one", 1, 40)
    add("two", 2, 40)
    with pytest.raises(HTTPException, match="too many uploads"):
        add("three", 3, 40)
    leaving = deque([("b.jpg", bytes(50))])
    uploads.pending_uploads.append(leaving)
    kept.remove_session_files("one")
    with pytest.raises(HTTPException, match="too many uploads"):  # on their way to the gateway
        add("three", 3, 40)
    uploads.pending_uploads.remove(leaving)
    add("three", 3, 40)


def test_streamlit_takes_our_store_and_the_limit_is_said_once() -> None:
    from streamlit.web.server import server

    from sentinel_app import __main__ as script

    before = server.MemoryUploadedFileManager  # type: ignore[attr-defined]
    try:
        uploads.install()
        made = server.MemoryUploadedFileManager("/upload")  # type: ignore[attr-defined]
        assert isinstance(made, BoundedUploads)
    finally:
        server.MemoryUploadedFileManager = before  # type: ignore[attr-defined]
    assert int(script._STREAMLIT["server.maxUploadSize"]) * MB == MAX_UPLOAD_BYTES
