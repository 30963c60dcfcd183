"""What all processes of one test run share: a folder, servers, and the end of every process.

Pytest's main process makes the folder and names it in `SENTINEL_TEST_RUN`, which every process of
the run inherits. When the main process ends, however it ends, `tests/reaper.py` kills all
processes with this variable and removes the folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

VARIABLE = "SENTINEL_TEST_RUN"


class Reaper:
    """The folder of a run, and the process that cleans up after it."""

    def __init__(self) -> None:
        # A run inside of another one: the outer reaper kills the processes of both.
        folder = tempfile.mkdtemp(prefix="sentinel-tests-", dir=os.environ.get(VARIABLE))
        environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("reaper.py"), folder],
            stdin=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C ends the tests, not their reaper
        )
        self._outer = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = folder

    def finish(self) -> None:
        """End every process of the run that is still there."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        if self._outer is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = self._outer


def folder() -> Path:
    """Return the folder that all processes of this run share."""
    return Path(os.environ[VARIABLE])


def once(name: str, start: Callable[[Path], Any]) -> Any:
    """Start a server for all pytest workers: the first that asks calls `start`.

    Args:
        name: Of the server, and of the folder that `start` gets.
        start: Returns how to reach the server, as JSON can hold it.
    """
    state = folder() / f"{name}.json"
    with (folder() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not state.exists():
            place = folder() / name
            place.mkdir(exist_ok=True)
            state.write_text(json.dumps(start(place)))
    return json.loads(state.read_text())


def let_children_hear_sigint() -> None:
    """Have children start with the default action of SIGINT, also below `nohup`.

    A child inherits an ignored signal, but not a handler.
    """
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ):
        signal.signal(signal.SIGINT, lambda *_: None)
