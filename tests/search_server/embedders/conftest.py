"""Fake workers that a test starts and ends as it likes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import processes
from tests.search_server.embedders.pools import Hold, Start


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a fake worker; all are killed at the end."""
    started: list[processes.Server] = []

    def start_one(*flags: str, **environment: str) -> processes.Server:
        folder = tmp_path / f"worker-{len(started)}"
        started.append(
            processes.start(folder, "tests.fakes.worker", *flags, environment=environment)
        )
        return started[-1]

    yield start_one
    for server in started:
        server.kill()


@pytest.fixture
def hold(tmp_path: Path) -> Hold:
    """While it is not released, no worker that has its path answers."""
    return Hold(tmp_path / "hold")
