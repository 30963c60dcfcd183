"""Short runs of the chaos suite, and the proof that it finds bugs; `make chaos` runs longer."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import shared
from tests.chaos.bugs import BUGS
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
