"""Ctrl-C and SIGTERM end a bulk index at once, also while Ray is starting."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests import photos

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _children_take_sigint() -> Iterator[None]:
    """Start children with the default SIGINT, even if our own parent ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_ray_is_starting(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(photos.photo("chelsea").read_bytes())
    flags = {"run": "run", "object-store-uri": "objects", "milvus-uri": "m.db"}
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "bulk_indexer", str(tmp_path / "photos"), "--collection", "c"),
            *(word for name, path in flags.items() for word in (f"--{name}", str(tmp_path / path))),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert any("starting Ray" in line for line in process.stderr)
    time.sleep(3)  # in the middle of it: the first processes are there
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    assert process.wait(15) == 130
    assert "run it again to continue" in process.stderr.read()
    assert not any(child.is_running() for child in psutil.wait_procs(children, 10)[1])
