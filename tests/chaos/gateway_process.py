"""A gateway of the chaos suite: `python -m tests.chaos.gateway_process`, flags as the real one's.

`CHAOS_BUG` names a bug to plant. What the file `CHAOS_STORE_FAULT` says happens to the object store
in the folder `CHAOS_STORE`: `full`, `read-only` or `slow`. Nothing if there is no such file.
"""

from __future__ import annotations

import errno
import io
import os
import time
from collections.abc import Callable
from typing import Any

from search_server.__main__ import main
from tests.chaos import bugs

_ERRORS = {"full": errno.ENOSPC, "read-only": errno.EROFS}
_SLOW_S = 0.3


def _fail_writes(folder: str, fault_file: str) -> None:
    """Let every call that writes below `folder` fail as the operating system would."""

    def fail(path: object) -> None:
        if not isinstance(path, str | os.PathLike) or not os.fspath(path).startswith(folder):
            return
        try:
            with open_really(fault_file) as file:
                fault = file.read()
        except FileNotFoundError:
            return
        if fault in _ERRORS:
            raise OSError(_ERRORS[fault], os.strerror(_ERRORS[fault]), os.fspath(path))
        if fault == "slow":
            time.sleep(_SLOW_S)

    def failing(call: Callable[..., Any]) -> Callable[..., Any]:
        def replaced(path: Any, *arguments: Any, **named: Any) -> Any:
            fail(path)
            return call(path, *arguments, **named)

        return replaced

    open_really, open_low = io.open, os.open

    def checked_open(path: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        if set(mode) & set("wax+"):
            fail(path)
        return open_really(path, mode, *arguments, **named)

    def checked_open_low(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            fail(path)
        return open_low(path, flags, *arguments, **named)

    io.open = checked_open  # type: ignore[assignment] # what pathlib opens with
    os.open = checked_open_low
    for name in ("mkdir", "replace", "utime", "unlink"):
        setattr(os, name, failing(getattr(os, name)))


if __name__ == "__main__":
    _fail_writes(os.environ["CHAOS_STORE"], os.environ["CHAOS_STORE_FAULT"])
    if bug := os.environ.get(bugs.VARIABLE):
        bugs.plant(bug)
    main()
