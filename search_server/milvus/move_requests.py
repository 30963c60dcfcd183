"""Do what `sentinel migrate` asks for: move the library of `sentinel up` to another Milvus.

    LIBRARY/run/migrate.json           the request; `sentinel migrate` writes it
    LIBRARY/run/migrate-progress.json  how far it is; the gateway writes it
    LIBRARY/milvus.json                where the rows are from now on; `sentinel up` starts with it

The command that asked must live until the move, so that Ctrl-C there ends the work here. A file is
replaced in one step.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import tempfile
import time
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from search_server.milvus.move import Move, Progress
from search_server.milvus.search_store import SearchStore
from search_server.settings import GatewaySettings
from sentinel_core.errors import SentinelError

logger = logging.getLogger(__name__)

_REQUEST, _PROGRESS, _PLACE = (
    Path("run", "migrate.json"),
    Path("run", "migrate-progress.json"),
    Path("milvus.json"),
)
_LOOK_EVERY_S = 0.5
_TELL_EVERY_S = 0.2


class MoveRequests:
    """Follows the requests in the folder of a library."""

    def __init__(self, settings: GatewaySettings, store: SearchStore, library: Path) -> None:
        self._settings = settings
        self._store = store
        self._library = library
        self._told_at = 0.0

    async def run(self) -> None:
        """Do what is asked for, for ever."""
        done = ""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            request = _read(self._library / _REQUEST)
            if request is None or request["request"] == done or not _is_alive(request["pid"]):
                continue
            done = request["request"]
            await self._do(request)

    async def _do(self, request: dict[str, Any]) -> None:
        """Do one request; whatever happens is told to the command, and the gateway serves on."""
        target = SearchStore(
            request["to"],
            self._settings.milvus_token.get_secret_value(),
            self._settings.milvus_threads,
            tls=self._settings.milvus_tls(),
            lite_fsync=self._settings.lite_fsync,
        )
        name = request["request"]
        move = Move(self._store, target, lambda progress: self._tell(name, progress))
        unused = target.connection
        try:
            counts, unused = await _while_alive(
                request["pid"], move.run(lambda: self._record(request))
            )
            self._write_progress({"request": name, "state": "done", "counts": counts})
            logger.info("moved to another milvus", extra={"uri": request["to"], "rows": counts})
        except asyncio.CancelledError:
            raise
        except Exception as error:  # pymilvus raises all kinds
            why = error.message if isinstance(error, SentinelError) else str(error)
            logger.exception("cannot move to another milvus")
            self._write_progress({"request": name, "state": "failed", "why": why})
        finally:
            await unused.close()

    def _record(self, request: dict[str, Any]) -> None:
        """Write the new place; leave the file as it was if that fails."""
        path = self._library / _PLACE
        before = path.read_text("utf-8") if path.exists() else None
        try:
            _replace(path, {"uri": request["to"], "request": request["request"]})
        except OSError:
            # It may be there, but not survive a power cut.
            if before is None:
                path.unlink(missing_ok=True)
            elif path.read_text("utf-8") != before:
                _replace(path, json.loads(before))
            raise

    def _tell(self, request: str, progress: Progress) -> None:
        now = time.monotonic()
        if progress.done in (0, progress.total) or now - self._told_at > _TELL_EVERY_S:
            self._told_at = now
            self._write_progress({"request": request, "state": "moving", **asdict(progress)})

    def _write_progress(self, content: dict[str, Any]) -> None:
        with suppress(OSError):  # only the command misses it
            _replace(self._library / _PROGRESS, content)


async def _while_alive(pid: int, work: Awaitable[Any]) -> Any:
    """Return what `work` returns; cancel it if the process ends before."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait([task], timeout=_LOOK_EVERY_S)
            if not task.done() and not _is_alive(pid):
                raise ConnectionAbortedError("`sentinel migrate` has ended; nothing has changed")
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_request = isinstance(found, dict) and {"request", "pid", "to"} <= found.keys()
    return found if is_request else None


def _replace(path: Path, content: dict[str, Any]) -> None:
    """Write a file that survives a power cut, in one step."""
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8"
    ) as file:
        try:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
