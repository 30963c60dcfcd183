"""`check` and `collect-orphans` look after the library that the other commands use, and say so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from search_server.maintenance import check, orphans
from search_server.maintenance.check import CheckSettings
from search_server.maintenance.library import LibraryError, with_library
from sentinel_client.cli._library import _PLACE, note_milvus_uri, replace_file

COMMANDS = {"check": check.run, "collect-orphans": orphans.run}
every_command = pytest.mark.parametrize("name", COMMANDS)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty home of a user, who is in an empty folder."""
    for name in ("MILVUS_URI", "OBJECT_STORE_URI", "LIBRARY_FOLDER"):
        monkeypatch.delenv(f"SENTINEL_GATEWAY_{name}", raising=False)
    monkeypatch.delenv("SENTINEL_DATA", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "share" / "sentinel"


def made(folder: Path) -> Path:
    (folder / "milvus.db" / "collections").mkdir(parents=True)
    (folder / "objects").mkdir()
    return folder


def places(*flags: str) -> tuple[str, str]:
    settings = with_library(CheckSettings(_cli_parse_args=list(flags)), "check")
    return settings.milvus_uri, settings.object_store_uri


@every_command
def test_without_a_flag_it_is_the_library_of_the_home_folder(
    home: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run: Callable[[list[str]], int] = COMMANDS[name]
    assert run([]) == 2
    assert f"{name}: there is no library in {home}: name" in capsys.readouterr().err
    assert not home.exists()
    made(home)
    # An empty library has no orphan that it is safe to call one.
    assert run([]) == (1 if name == "collect-orphans" else 0)
    assert f"{name}: the library {home}\n" in capsys.readouterr().err


def test_another_library_is_named_as_for_the_other_commands(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(home)
    other = made(tmp_path / "other")
    expected = (str(other / "milvus.db"), str(other / "objects"))
    assert places("--library-folder", str(other)) == expected
    monkeypatch.setenv("SENTINEL_DATA", str(other))
    assert places() == expected
    assert places("--library-folder", str(home)) == (str(home / "milvus.db"), str(home / "objects"))


def test_the_library_of_an_older_version_is_found(home: Path) -> None:
    old = made(Path("sentinel-data"))
    assert places() == (str(old.absolute() / "milvus.db"), str(old.absolute() / "objects"))


def test_a_library_that_was_moved_to_a_server_is_there(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_file(made(home) / _PLACE, {"uri": "http://milvus:19530"})
    assert places() == ("http://milvus:19530", str(home / "objects"))
    assert "its rows in http://milvus:19530" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--milvus-uri", "--object-store-uri"])
def test_who_names_a_store_gets_no_part_of_a_library(
    home: Path, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made(home)
    assert str(home) not in "".join(places(flag, "/elsewhere/x.db"))
    assert capsys.readouterr().err == ""


@every_command
def test_a_library_on_a_disk_that_is_away_is_named(
    home: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home.mkdir(parents=True)
    (home / "library-folder").write_text(f"{tmp_path / 'away'}\n")
    assert COMMANDS[name]([]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"{name}: your library is {tmp_path / 'away'}, which is not there")
    assert len(told.splitlines()) == 1


@every_command
def test_a_library_whose_rows_may_be_elsewhere_is_left_alone(
    home: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    note_milvus_uri(made(home), "http://milvus:19530")
    assert COMMANDS[name]([]) == 2
    told = capsys.readouterr().err
    assert "--milvus-uri http://milvus:19530` has run on" in told
    assert str(home / "objects") in told
    # Now they are nowhere else.
    replace_file(home / _PLACE, {"uri": "http://milvus:19530"})
    assert places() == ("http://milvus:19530", str(home / "objects"))


@every_command
def test_of_two_libraries_none_is_taken_unasked(
    home: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made(home)
    old = made(Path("sentinel-data")).absolute()
    assert COMMANDS[name]([]) == 2
    assert f"this folder has another library than {home}: name one" in capsys.readouterr().err
    assert places("--library-folder", str(old)) == (str(old / "milvus.db"), str(old / "objects"))


def test_a_library_and_stores_that_are_not_its_own_are_refused(home: Path) -> None:
    made(home)
    library = ("--library-folder", str(home))
    with pytest.raises(LibraryError, match=f"--milvus-uri and the library {home} differ"):
        places(*library, "--milvus-uri", "/elsewhere/milvus.db")
    own = (str(home / "milvus.db"), str(home / "objects"))
    assert places(*library, "--milvus-uri", own[0], "--object-store-uri", own[1]) == own
