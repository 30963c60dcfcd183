"""Run `sentinel up` and the other commands as processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import processes

SENTINEL = Path(sys.executable).parent / "sentinel"


@contextmanager
def sentinel_up(data: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `sentinel up` on free ports; yield the process and the gateway's address."""
    address_file = data / "run" / "gateway.address"
    address_file.unlink(missing_ok=True)
    process = subprocess.Popen(
        [SENTINEL, "up", "--data", data, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        end = time.monotonic() + 60
        while not address_file.exists():
            assert process.poll() is None, process.stdout and process.stdout.read()
            assert time.monotonic() < end
            time.sleep(0.05)
        address = address_file.read_text().split()[0]
        assert processes.wait_for_health(address, True, 60)
        yield process, address
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def sentinel(address: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [str(SENTINEL), "--address", address, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
