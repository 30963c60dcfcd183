"""Bounds over what browsers drop at once. `test_upload_space.py` has those of all together."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from sentinel_app.uploads import MAX_FILES, MAX_UPLOAD_BYTES, over_limit

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


def test_the_limit_of_one_upload_is_said_once() -> None:
    from sentinel_app import __main__ as script

    assert script._STREAMLIT["server.maxUploadSize"] == MAX_UPLOAD_BYTES // MB
