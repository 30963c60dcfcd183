"""Which folder is the library: one for the whole machine, and none is lost or made unasked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sentinel_client.cli._console import Failure
from sentinel_client.cli._home import find_home, home_folder
from sentinel_client.cli._library import read_running

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the home of other systems")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without a library, in a folder of theirs."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "share" / "sentinel"


def make_library(folder: Path) -> Path:
    (folder / "run").mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["up", "--help"], "~/.local/share/sentinel"),
        (["status"], "set HOME, or name the library with --data or SENTINEL_DATA"),
        (["status", "--data", "library"], "cache 0 bytes"),
        (["open", "1"], "there is no last search"),
    ],
)
def test_a_user_of_a_container_may_have_no_home(words: list[str], said: str) -> None:
    program = (
        "import pwd, sys\n"
        "pwd.getpwuid = lambda user: {}[user]\n"  # as of a user that the system does not know
        "from sentinel_client.cli import main\n"
        f"main({words!r})"
    )
    left = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "200"}
    result = subprocess.run(
        [sys.executable, "-c", program], env=left, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in result.stderr
    assert said in result.stdout + result.stderr


def test_a_folder_that_is_deleted_has_no_library(home: Path, tmp_path: Path) -> None:
    (tmp_path / "here").rmdir()
    assert find_home(None).folder == home


@pytest.mark.parametrize("content", ["[]", "7", '{"pid": 1}'])
def test_a_damaged_note_of_what_runs_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "up.json").write_text(content)
    with pytest.raises(Failure, match=r"up\.json is damaged"):
        read_running(tmp_path)


def test_every_folder_has_the_same_home(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        found = find_home(None, adopt=True)
        assert (found.folder, found.note, found.exists) == (home, "", False)
    assert home_folder() == home
    assert not home.exists(), "only `sentinel up` makes it"


def test_a_library_of_an_older_version_becomes_the_one_of_all_folders(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make_library(tmp_path / "here" / "sentinel-data")
    assert find_home(None).folder == old
    assert not home.exists(), "a command that only looks changes nothing"
    adopted = find_home(None, adopt=True)
    assert adopted.folder == old
    assert str(home / "library-folder") in adopted.note
    assert find_home(None, adopt=True).note == "", "it is told once"
    monkeypatch.chdir(tmp_path)
    assert find_home(None, adopt=True).folder == old


def test_with_two_libraries_the_home_counts_and_the_other_is_named(
    home: Path, tmp_path: Path
) -> None:
    make_library(home)
    other = make_library(tmp_path / "here" / "sentinel-data")
    found = find_home(None, adopt=True)
    assert found.folder == home
    assert "`--data sentinel-data` uses that one" in found.note
    assert find_home(Path("sentinel-data")).folder == other


def test_a_second_old_library_does_not_replace_the_first(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_library(tmp_path / "here" / "sentinel-data")
    find_home(None, adopt=True)
    make_library(tmp_path / "there" / "sentinel-data")
    monkeypatch.chdir(tmp_path / "there")
    found = find_home(None, adopt=True)
    assert found.folder == first
    assert "another library" in found.note


def test_a_library_on_a_disk_that_is_away_is_not_replaced_by_an_empty_one(
    home: Path, tmp_path: Path
) -> None:
    old = make_library(tmp_path / "here" / "sentinel-data")
    find_home(None, adopt=True)
    old.rename(tmp_path / "away")
    with pytest.raises(Failure, match="which is not there: is its disk connected"):
        find_home(None, adopt=True)


def test_a_folder_that_is_named_counts_as_it_is(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_library(home)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_home(Path("~/mine")).folder == tmp_path / "mine"
    assert find_home(Path("mine")).folder == tmp_path / "here" / "mine"
