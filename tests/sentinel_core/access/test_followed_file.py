"""Files that are read again when they change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sentinel_core.access import followed_file
from sentinel_core.access.followed_file import FollowedFile


@pytest.fixture(autouse=True)
def looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed_file, "_LOOK_EVERY_S", 0.0)


def write(path: Path, text: str) -> None:
    other = path.with_suffix(".new")
    other.write_text(text)
    os.replace(other, path)


def test_a_secret_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("one\n")
    file = FollowedFile(path, followed_file.secret)
    assert file.value() == "one"
    write(path, "three\n")
    assert file.value() == "three"


@pytest.mark.parametrize("text", ["clé", None])
def test_an_unreadable_file_changes_nothing_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str | None
) -> None:
    path = tmp_path / "key"
    path.write_text("one")
    file = FollowedFile(path, followed_file.secret)
    path.unlink()
    if text is not None:
        write(path, text)
    assert [file.value(), file.value()] == ["one", "one"]
    assert [record.message for record in caplog.records] == ["file not read"]
    write(path, "two")
    assert file.value() == "two"


def test_a_file_must_be_readable_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        FollowedFile(tmp_path / "none", followed_file.secret)
