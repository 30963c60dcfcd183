"""A run of tests leaves no process behind, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import reaper, shared
from tests.waiting import until

ROOT = Path(__file__).parents[1]
# A server of ours, a program in a session of its own, which ignores what it can, and a test that
# fails or never ends.
TESTS = """
import subprocess, sys, time
from pathlib import Path
from tests import processes, shared

def test_that_leaves_servers_behind(tmp_path):
    processes.start(tmp_path, "tests.fakes.worker")
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    subprocess.Popen([sys.executable, "-c", deaf], start_new_session=True)
    Path({here!r}).write_text(str(shared.folder()))
    {end}
"""


def run(tmp_path: Path, end: str, *flags: str) -> tuple[subprocess.Popen[str], Path]:
    """Start pytest in a process of its own; return it and the file that names its folder."""
    here = tmp_path / "here"
    (tmp_path / "test_it.py").write_text(TESTS.format(here=str(here), end=end))
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    command += ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), str(tmp_path), *flags]
    environment = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    return (
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        ),
        here,
    )  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.slow
def test_a_failing_test_leaves_none(tmp_path: Path, workers: str) -> None:
    pytest_process, here = run(tmp_path, "raise AssertionError", "-n", workers)
    output, _ = pytest_process.communicate(timeout=90)
    assert "1 failed" in output
    assert reaper.processes_of(here.read_text()) == []
    assert not Path(here.read_text()).exists()


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
@pytest.mark.slow
def test_a_run_that_is_killed_leaves_none(tmp_path: Path) -> None:
    pytest_process, here = run(tmp_path, "time.sleep(600)", "-n", "1")
    until(lambda: here.exists() and here.read_text(), 60)
    assert len(reaper.processes_of(here.read_text())) >= 4
    pytest_process.send_signal(signal.SIGKILL)
    pytest_process.communicate()
    until(lambda: not reaper.processes_of(here.read_text()))


def test_a_child_hears_sigint_though_the_parent_ignores_it() -> None:
    child = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    program = (
        "import signal, subprocess, sys; signal.signal(signal.SIGINT, signal.SIG_IGN);"
        "from tests import shared; shared.let_children_hear_sigint();"
        f"subprocess.run([sys.executable, '-c', {child!r}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True"]


def test_a_server_is_started_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(shared.VARIABLE, str(tmp_path))
    starts: list[Path] = []

    def start(folder: Path) -> str:
        starts.append(folder)
        return "here"

    assert [shared.once("it", start) for _ in range(2)] == ["here", "here"]
    assert starts == [tmp_path / "it"]
