"""Bounds of what browsers drop at once. `test_upload_space.py` has those of all together."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from streamlit.testing.v1 import AppTest

from sentinel_app import __main__ as script
from sentinel_app import uploads
from sentinel_app.uploads import MIB, NOTHING, UploadLimit, limit_of
from sentinel_client import Caller, Grant, Scope

LIMIT = UploadLimit(192 * MIB, 2_000)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ([1] * 2_000, ""),
        ([1] * 10_000, "10,000 files are too many"),
        ([16 * MIB] * 12, ""),
        ([16 * MIB] * 13, "208 MB are too much"),
    ],
)
def test_number_and_sum_of_sizes_are_bounded(sizes: list[int], says: str) -> None:
    assert LIMIT.exceeded_by(sizes).startswith(says)
    assert bool(LIMIT.exceeded_by(sizes)) == bool(says)


def test_the_highest_scope_decides() -> None:
    grants = (Grant(Scope.SEARCH), Grant(Scope.WRITE, "mine"), Grant(Scope.ADMIN, "own", False))
    caller = Caller("", "", grants, access_controlled=True)
    assert limit_of(caller) == limit_of(caller, "own") == uploads.limits[Scope.ADMIN]
    assert limit_of(caller, "mine2") == uploads.limits[Scope.WRITE]
    assert limit_of(caller, "own2") == uploads.limits[Scope.SEARCH]
    assert limit_of(Caller("", "", (Grant(Scope.READ),), access_controlled=True)) == NOTHING


def _add_tab() -> None:
    from types import SimpleNamespace
    from unittest import mock

    import streamlit as st

    from sentinel_app.streamlit_page.index_tab import index_tab
    from sentinel_app.uploads import UploadLimit
    from sentinel_client import Collection, ModelVersion

    files = [SimpleNamespace(name="a.jpg", size=1)] * 10_000
    with mock.patch.object(st, "file_uploader", return_value=files):
        album = Collection("album", ModelVersion(), 4, 0)
        backend = SimpleNamespace(client=SimpleNamespace(address="127.0.0.1:7"))
        index_tab(backend, album, UploadLimit(2**20, 2_000))  # type: ignore[arg-type]


def test_ten_thousand_files_are_sent_to_the_command_line_where_they_were_dropped() -> None:
    page = AppTest.from_function(_add_tab).run()
    assert not page.exception
    assert "10,000 files are too many: the limit is 2,000 at once" in page.warning[0].value
    command = "sentinel --address 127.0.0.1:7 index FOLDER --collection album"
    assert command in page.code[0].value
    assert not page.button


def test_the_command_changes_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    started: dict[str, object] = {}
    monkeypatch.setattr("streamlit.starlette.App.run", lambda self, config: started.update(config))
    monkeypatch.setattr(uploads, "limits", dict(uploads.limits))
    words = [
        "--streamlit",
        "--upload-limit",
        "search",
        "5",
        "2",
        "--upload-limit",
        "write",
        "400",
        "9000",
    ]
    assert CliRunner().invoke(script.main, words).exit_code == 0
    assert uploads.limits[Scope.SEARCH] == UploadLimit(5 * MIB, 2)
    assert uploads.limits[Scope.WRITE] == UploadLimit(400 * MIB, 9_000)
    assert started["server.maxUploadSize"] == 400
    for wrong in (["read", "1", "1"], ["write", "0", "1"], ["write", "1"]):
        assert CliRunner().invoke(script.main, ["--upload-limit", *wrong]).exit_code == 2


def test_the_help_names_the_limits() -> None:
    told = CliRunner().invoke(script.main, ["--help"]).output
    words = " ".join(told.split())
    for scope, limit in uploads.limits.items():
        assert f"{scope.value} {limit.bytes // MIB} {limit.files}" in words
