"""One `sentinel up` per data folder.

The lock is the kernel's (`flock`), so nothing stale is left behind. The servers inherit it: while
one of them still uses the folder, it stays taken, even if `sentinel up` itself was killed.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from sentinel_client.cli._console import Failure


class FolderLock:
    """A context manager that holds the lock; `descriptor` is for the servers to inherit."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.descriptor = -1

    def __enter__(self) -> FolderLock:
        import fcntl  # noqa: PLC0415 - not on Windows, where the other commands still work

        self.descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(self.descriptor, 32).decode(errors="replace").strip()
            os.close(self.descriptor)
            raise Failure(self._refusal(owner), exit_code=1) from None
        os.ftruncate(self.descriptor, 0)
        os.write(self.descriptor, f"{os.getpid()}\n".encode())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Not unlinked: another process may hold the same file open and lock a ghost.
        os.close(self.descriptor)

    def _refusal(self, owner: str) -> str:
        folder = self._path.parent.parent
        if owner.isdecimal() and _alive(int(owner)):
            return (
                f"{folder} is in use by another `sentinel up` (process {owner}): "
                "use that one, stop it, or choose another --data"
            )
        return f"the servers of an earlier `sentinel up` still use {folder}: try again in a moment"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
