"""A Ray of our own that does not start is ended and started again."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO

import psutil
import pytest
import ray

from bulk_indexer import cluster, page_cache
from bulk_indexer.run_folder import BulkError
from tests.waiting import until

# Ray 2.60's own, shortened, when its agent needs more than 15 seconds.
_FATAL = (
    "[2026-11-27 03:02:51,962 C 507 507] (raylet) node_manager.cc:3576: Check failed: Timed out"
)
_SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


class Starts:
    """Stands in for `ray.init`, whose processes fail at random: fails as often as it is told.

    Each failure leaves behind what Ray's do: logs, a server with the folder among its arguments, an
    agent that has renamed itself and writes into the folder, and a log that we hold open ourselves.
    """

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.folders: list[Path] = []
        self.left: list[psutil.Process] = []
        self.open: list[TextIO] = []

    def __call__(self, **options: Any) -> None:
        folder = Path(options["_temp_dir"])
        self.folders.append(folder)
        if len(self.folders) > self.failures:
            return
        logs = folder / "session_2026-11-27" / "logs"
        logs.mkdir(parents=True)
        (logs / "raylet.out").write_text(f"[x I 507 507] started\n{_FATAL}\n*** StackTrace ***\n")
        (logs / "gcs_server.out").write_text("[x I 441 441] listening on port 45779.\n\n")
        self.left.append(psutil.Process(subprocess.Popen([*_SLEEP, f"--dir={folder}/s"]).pid))
        with (logs / "dashboard_agent.out").open("w") as log:
            self.left.append(psutil.Process(subprocess.Popen(_SLEEP, stdout=log).pid))
        self.open.append((logs / "python-core-driver.log").open("w"))
        raise Exception("The current node timed out during startup.")


@pytest.fixture
def starts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Starts]:
    stand_in = Starts(request.param)
    monkeypatch.setattr(cluster.ray, "init", stand_in)
    monkeypatch.setattr(cluster.ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2}}])
    yield stand_in
    for file in stand_in.open:
        file.close()


def start() -> cluster.Layout:
    with cluster.Cluster("") as ours:
        return ours.layout(on_gpu=False, actors=0, cpus_per_actor=0)


def no_trace(starts: Starts) -> bool:
    """Return whether neither a process nor a folder is left of any start."""
    return not any(process.is_running() for process in starts.left) and not any(
        folder.exists() for folder in starts.folders
    )


@pytest.mark.parametrize("starts", [4], indirect=True)
def test_failures_are_got_over(starts: Starts, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with cluster.Cluster("") as ours:
        layout = ours.layout(on_gpu=False, actors=0, cpus_per_actor=0)
        assert layout == cluster.Layout(1, 2, 0)
        assert [folder.exists() for folder in starts.folders] == [False] * 4 + [True]
        assert not any(process.is_running() for process in starts.left)
    assert no_trace(starts)
    told = [record for record in caplog.records if record.msg.startswith("Ray did not start")]
    assert len(told) == 4
    assert all(_FATAL in record.error for record in told)


@pytest.mark.parametrize("starts", [1], indirect=True)
def test_rays_files_are_in_memory_before_its_time_limit_runs(
    starts: Starts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And the log says what a wait is for."""
    caplog.set_level(logging.INFO)
    read: list[int] = []

    def read_slowly(folder: Path, *, without: Collection[str]) -> int:
        assert not starts.folders, "it was started first"
        until(lambda: "still reading Ray's files" in caplog.text)
        read.append(page_cache.read_ahead(folder, without=without))
        return read[0]

    monkeypatch.setattr(cluster, "read_ahead", read_slowly)
    monkeypatch.setattr(cluster, "_REMIND_S", 0.05)
    start()
    programs = [*Path(ray.__file__).parent.glob("core/src/ray/*/*"), Path(ray._raylet.__file__)]
    assert read[0] > sum(file.stat().st_size for file in programs if os.access(file, os.X_OK))
    texts = [record.getMessage() for record in caplog.records]
    assert texts.index("reading Ray's files") < texts.index(
        "starting Ray: five processes that wait for one another"
    )


def test_every_needed_file_is_read_ahead(tmp_path: Path) -> None:
    for name in ("a", "core/b", "core/jars/c", "jars/d"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * 10)
    (tmp_path / "gone").symlink_to("nowhere")
    assert page_cache.read_ahead(tmp_path, without=["jars"]) == 30
    assert page_cache.read_ahead(tmp_path / "none") == 0


@pytest.mark.parametrize("starts", [9], indirect=True)
def test_ctrl_c_ends_a_start_at_once(starts: Starts, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**options: Any) -> None:
        try:
            starts(**options)
        except Exception:
            starts.left[-1].wait(20)  # as `ray.init` waits for its processes
            raise

    monkeypatch.setattr(cluster.ray, "init", init)
    with ThreadPoolExecutor(1) as thread:
        with cluster.Cluster("") as ours:
            layout = thread.submit(ours.layout, on_gpu=False, actors=0, cpus_per_actor=0)
            until(lambda: len(starts.left) == 2)
        error = layout.exception(20)
    assert isinstance(error, BulkError)
    assert "stopped while Ray was starting" in str(error)
    assert len(starts.folders) == 1
    assert no_trace(starts)


@pytest.mark.parametrize("starts", [9], indirect=True)
def test_ctrl_c_while_files_are_read_starts_nothing(
    starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, ended = threading.Event(), threading.Event()

    def read_slowly(folder: Path, *, without: Collection[str]) -> int:
        reading.set()
        ended.wait(20)
        return 0

    monkeypatch.setattr(cluster, "read_ahead", read_slowly)
    with ThreadPoolExecutor(1) as thread:
        with cluster.Cluster("") as ours:
            layout = thread.submit(ours.layout, on_gpu=False, actors=0, cpus_per_actor=0)
            assert reading.wait(20)
        ended.set()
        error = layout.exception(20)
    assert isinstance(error, BulkError)
    assert starts.folders == []


@pytest.mark.parametrize("starts", [9], indirect=True)
def test_the_last_failure_is_told_with_the_servers_own_words(starts: Starts) -> None:
    with pytest.raises(BulkError, match="cannot start Ray: The current node timed out") as told:
        start()
    assert f"raylet said: {_FATAL}" in str(told.value)
    assert "gcs_server said: [x I 441 441] listening on port 45779." in str(told.value)
    assert len(starts.folders) == 5
    assert no_trace(starts)


@pytest.mark.parametrize("starts", [1], indirect=True)
def test_other_processes_of_ours_are_left_alone(starts: Starts) -> None:
    other = subprocess.Popen([*_SLEEP, "--dir=/tmp/ray-another/s"])
    try:
        start()
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
