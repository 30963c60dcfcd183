"""Kill every process of a test run once pytest has ended: `python tests/reaper.py FOLDER`.

Pytest holds the other end of standard input, which closes even when pytest is killed. The
processes are found by the variable `SENTINEL_TEST_RUN` in their environment, so it does not matter
who started them, from which thread or in which session. Needs /proc: elsewhere nothing is found.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

_PATIENCE_S = 20.0


def processes_of(folder: str) -> list[int]:
    """Return the ids of all living processes of the run."""
    tag = f"SENTINEL_TEST_RUN={folder}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
            if state != "Z" and tag in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    folder = sys.argv[1]
    sys.stdin.buffer.read()
    end = time.monotonic() + _PATIENCE_S
    while (left := processes_of(folder)) and time.monotonic() < end:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
