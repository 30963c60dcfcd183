"""What a run folder remembers, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bulk_indexer import run_folder
from bulk_indexer.entries import DatasetEntry
from bulk_indexer.run_folder import BulkError, Plan, Run, RunFolder, shard_file


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> RunFolder:
    """A run folder on a disk and in an object store."""
    if request.param == "local":
        return RunFolder(str(tmp_path / "run"))
    return RunFolder(f"memory://{tmp_path.name}/run")


def test_a_dataset_is_cut_once_and_reads_back_as_it_was(folder: RunFolder) -> None:
    entries = [DatasetEntry(f"p{n}", f"/u{n}.jpg", id=f"{n}", fields={"n": n}) for n in range(7)]
    assert run_folder.read_plan(folder) is None
    assert run_folder.write_plan(folder, entries, 3) == Plan(shards=3, entries=7)
    assert run_folder.read_plan(folder) == Plan(3, 7)
    assert folder.numbers("plan") == {0, 1, 2}
    read = [entry for shard in range(3) for entry in run_folder.read_entries(folder, shard)]
    assert read == entries


def test_an_empty_dataset_is_refused(folder: RunFolder) -> None:
    with pytest.raises(BulkError, match="nothing to index"):
        run_folder.write_plan(folder, [], 3)


def test_a_folder_holds_one_run_only(folder: RunFolder, run: Run) -> None:
    assert run_folder.read_run(folder) is None
    run_folder.claim(folder, run)
    run_folder.claim(folder, replace(run, revision="told otherwise"))
    assert run_folder.read_run(folder) == run
    with pytest.raises(BulkError, match="shard_items is 1000, not 5"):
        run_folder.claim(folder, replace(run, shard_items=5))
    folder.write("run.json", b'{"from": "another version"}')
    with pytest.raises(BulkError, match="another version"):
        run_folder.claim(folder, run)


def test_files_that_are_not_whole_are_not_seen(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    folder.write(shard_file("done", 3), b"{}")
    (tmp_path / "done" / "000004.json.abc.tmp").write_bytes(b"{")
    assert folder.numbers("done") == {3}
