"""The command looks and answers as those of `sentinel` do. A stand-in takes the place of Ray."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.file_proxy import FileProxy

from bulk_indexer import app
from bulk_indexer.cluster import Layout
from bulk_indexer.command import bulk_index
from bulk_indexer.progress import RunProgress
from bulk_indexer.run_folder import BulkError
from bulk_indexer.shard_actor import Job, ShardActor, ShardReport
from sentinel_client.cli import main
from tests import photos


class OneProcess:
    """Embeds in this process, as a cluster with one actor."""

    def __init__(self, _address: str, say: Callable[[str], None]) -> None:
        self._say = say
        self._started = False

    def __enter__(self) -> OneProcess:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def layout(self, **_: object) -> Layout:
        if not self._started:
            self._started = True
            self._say("starting Ray")
        return Layout(1, 1, 0)

    def embed(self, job: Job, shards: Sequence[int], _layout: Layout) -> Iterator[ShardReport]:
        actor = ShardActor(job)
        try:
            for shard in shards:
                yield actor.embed(shard)
        finally:
            actor.close()


@pytest.fixture
def levels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would be logged; the log of the test run stays as it is."""
    chosen: list[str] = []
    monkeypatch.setattr(app, "Cluster", OneProcess)
    monkeypatch.setattr(app.core_logging, "configure", lambda level, _style: chosen.append(level))
    return chosen


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    folder.mkdir()
    for name in ("rocket", "chelsea"):
        (folder / f"{name}.png").write_bytes(photos.photo(name).read_bytes())
    (folder / "words.png").write_text("no picture")
    return folder


def run(album: Path, *more: str) -> Result:
    base = album.parent
    flags = ("--run", str(base / "run"), "--object-store-uri", str(base / "objects"))
    words = (str(album), *flags, "--deliver", "files", "--shard-items", "2", *more)
    return CliRunner().invoke(bulk_index, words)


def test_the_help_looks_like_that_of_the_other_commands() -> None:
    ours = CliRunner().invoke(bulk_index, ["-h"], prog_name="sentinel bulk-index").stdout
    theirs = CliRunner().invoke(main, ["index", "-h"]).stdout
    for words in ("-c, --collection TEXT", "--json", "-q, --quiet", "-h, --help"):
        line = re.compile(rf"^  {words} ", re.MULTILINE)
        assert line.search(ours), ours
        assert line.search(theirs), theirs
    assert ours.startswith("Usage: sentinel bulk-index [OPTIONS] INPUT...\n")
    assert "\n  sentinel bulk-index ~/Pictures --run run-1\n" in ours
    assert "[default: 10000; 1<=x<=1000000]" in " ".join(ours.split())
    assert "token" not in ours
    assert not re.search(r"\b(str|int|None)\b", ours)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "Missing argument 'INPUT...'"),
        (["x"], "Missing option '--run'"),
        (["x", "--run", "r", "--shard-items", "0"], "'--shard-items': 0 is not in the range"),
        (["x", "--run", "r", "--fields", "year:date"], "types are string, int64"),
        (["x", "--run", "r", "--deliver", "import"], "--deliver import needs --import-uri"),
        (["x", "--run", "https://me:secret@host/x"], "'--run': everybody can read"),
        (["x", "--run", "r", "--milvus-token", "sesame"], "SENTINEL_BULK_MILVUS_TOKEN"),
        (["x", "--run", "r", "--milvus-token=sesame"], "every program can read a command line"),
    ],
)
def test_wrong_use_is_one_line_or_one_json_object(words: list[str], says: str) -> None:
    plain = CliRunner().invoke(bulk_index, words)
    assert plain.exit_code == 2
    assert says in plain.stderr.splitlines()[-1]
    as_json = CliRunner().invoke(bulk_index, [*words, "--json"])
    assert as_json.exit_code == 2
    assert says in json.loads(as_json.stderr)["error"]["message"]
    assert "sesame" not in plain.output + as_json.output


def test_variables_are_settings_and_flags_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTINEL_BULK_SHARD_ITEMS", "none")
    wrong = CliRunner().invoke(bulk_index, ["x", "--run", "r"])
    assert wrong.exit_code == 2
    assert wrong.stderr.startswith("sentinel: shard_items: ")
    seen = []
    monkeypatch.setattr(app, "run", lambda settings, **_: seen.append(settings) or 0)
    monkeypatch.setenv("SENTINEL_BULK_SHARD_ITEMS", "7")
    monkeypatch.setenv("SENTINEL_BULK_RUN", "theirs")
    assert CliRunner().invoke(bulk_index, ["x", "--run", "ours"]).exit_code == 0
    assert CliRunner().invoke(bulk_index, ["x", "--shard-items", "8"]).exit_code == 0
    assert [(one.run, one.shard_items) for one in seen] == [("ours", 7), ("theirs", 8)]


def test_a_terminal_sees_how_far_it_is(
    album: Path, levels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    said: list[str] = []
    counts: list[int] = []
    say, advance = RunProgress.say, RunProgress.advance
    monkeypatch.setattr(RunProgress, "say", lambda self, it: (said.append(it), say(self, it)))
    monkeypatch.setattr(
        RunProgress, "advance", lambda self, count: (counts.append(count), advance(self, count))
    )
    streams: list[object] = []
    monkeypatch.setattr(
        app.core_logging,
        "configure",
        lambda level, _: (levels.append(level), streams.append(sys.stderr)),
    )
    first = run(album)
    assert first.exit_code == 1, first.output
    assert "3 entries in 2 shards: 2 rows, 0 duplicates, 1 failed" in first.stdout
    assert said == [
        *("loading the model", "reading the inputs", "starting Ray"),
        *("indexing", "waiting for Milvus"),
    ]
    assert counts == [0, 2, 1]
    assert "waiting for Milvus" in first.stderr  # the last picture of the bar
    assert "3/3" in first.stderr
    assert levels == ["warning"]  # the bar says the rest
    assert isinstance(streams[0], FileProxy)  # lines go above it
    assert run(album, "--log-level", "info").exit_code == 1
    assert levels == ["warning", "info"]


def test_a_pipe_gets_the_log_and_quiet_what_failed(album: Path, levels: list[str]) -> None:
    quiet = run(album, "--quiet")
    assert (quiet.exit_code, quiet.stdout) == (1, "")
    listed = album.parent / "run" / "failures.jsonl"
    assert f"{listed} lists them" in quiet.stderr
    assert len(quiet.stderr.splitlines()) == 1
    plain = run(album)
    assert "2 shards" in plain.stdout
    assert plain.stderr == ""
    assert levels == ["warning", "info"]


def test_the_result_is_one_json_object(album: Path, levels: list[str]) -> None:
    done = run(album, "--json")
    assert done.exit_code == 1
    facts = json.loads(done.stdout)
    assert facts.pop("seconds") > 0
    assert facts == {
        "collection": "photos",
        **{"entries": 3, "shards": 2, "rows": 2, "duplicates": 0, "unfinished": 0},
        **{"failures": {"IMAGE_FORMAT_UNSUPPORTED": 1}, "failed": 1},
        **{"stored": 0, "unchanged": 0},
        "run": str(album.parent / "run"),
    }


def test_what_stops_a_run_is_one_line(
    album: Path, levels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> Layout:
        raise BulkError("cannot start Ray: it is tired")

    monkeypatch.setattr(OneProcess, "layout", refuse)
    assert run(album).stderr == "sentinel: cannot start Ray: it is tired\n"
    failed = run(album, "--json")
    assert (failed.exit_code, failed.stdout) == (2, "")
    assert json.loads(failed.stderr)["error"]["message"] == "cannot start Ray: it is tired"
