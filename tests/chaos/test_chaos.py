"""Short runs of the chaos suite, and the proof that it finds bugs; `make chaos` runs longer."""

from __future__ import annotations

import fcntl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import milvus_server, shared
from tests.chaos.bugs import BUGS
from tests.chaos.faults import Fault, Generator, Kind
from tests.chaos.rounds import Chaos

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # with waiting for the others

_SEED, _SECONDS = 1, 25.0
_MOST_FAULTS = 60  # in which each bug must be found


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """One system at a time: each has eight processes, and its limits are seconds."""
    with (shared.folder() / "chaos.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.mark.milvus
async def test_nothing_is_lost_on_a_milvus_server(tmp_path: Path) -> None:
    report = await Chaos(tmp_path, _SEED).run(_SECONDS)
    assert not report.violations, report


async def test_nothing_is_lost_on_milvus_lite(tmp_path: Path) -> None:
    report = await Chaos(tmp_path, _SEED, lite=True).run(_SECONDS)
    assert not report.violations, report


@pytest.mark.milvus
@pytest.mark.long
@pytest.mark.parametrize("bug", BUGS)
async def test_a_planted_bug_is_found(tmp_path: Path, bug: str) -> None:
    chaos = Chaos(tmp_path, _SEED, bug=bug)
    report = await chaos.run(480.0, most_faults=_MOST_FAULTS, stop_at_violation=True)
    assert report.violations, report
    print(f"{bug}: found after {report.faults} faults")


@pytest.mark.milvus
@pytest.mark.long
async def test_a_planted_bug_is_found_after_a_failed_restart_of_milvus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The harness starts Milvus once more; a gateway that then stays away is still reported."""
    _fail_first_restart(monkeypatch)
    kill = Fault(1, Kind.KILL, "milvus", 0.5, 0.5)
    monkeypatch.setattr(Generator, "round", lambda _: [kill])
    report = await Chaos(tmp_path, _SEED, bug="never-reconnect").run(480.0, most_faults=1)
    assert report.failed_restarts >= 1, report  # Milvus may fail by itself, too
    assert any("do not serve: ['gateway-0', 'gateway-1'" in one for one in report.violations)


def _fail_first_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    restart, failed = milvus_server.restart, [subprocess.Popen(["true"])]

    def fail_once(folder: Path) -> subprocess.Popen[bytes]:
        return failed.pop() if failed else restart(folder)

    monkeypatch.setattr(milvus_server, "restart", fail_once)
