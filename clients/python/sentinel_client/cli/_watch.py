"""Index folders, then keep watching them and index what changes. Needs watchfiles.

    changes ──▶ folders that changed ──▶ one pass over those ──▶ a line, if something happened

A pass over all folders follows whenever changes may have been missed: after the gateway was away,
or when a folder was unmounted or came back. Ctrl-C ends it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, Protocol

import click
from watchfiles import awatch

from sentinel_client import SentinelError
from sentinel_client.cli._console import duration, err, explain, json_line, short_path
from sentinel_client.cli._import_run import ImportPlan, ImportRun
from sentinel_client.importers import Folders
from sentinel_client.importers.folders import is_below
from sentinel_client.importers.left_out import SIDECAR_EXTENSION, LeftOut

# Copying a folder causes many changes; they are indexed together.
_DEBOUNCE_MS = 2_000
_QUIET_MS = 500
# How often the roots themselves are looked at: an unmounted one causes no event.
_LOOK_MS = 2_000
# More changed folders than this cost more than a pass over everything.
_MAX_FOLDERS = 50
_PAUSES_S = (1, 2, 5, 10, 30)


class ReadFolders(Protocol):
    """`importers.folders` with everything but `only`."""

    def __call__(self, *, only: Sequence[str] = ()) -> Folders: ...


def run_watch(plan: ImportPlan, roots: Sequence[Path], read_folders: ReadFolders) -> NoReturn:
    """Index and watch until Ctrl-C, which is no failure; failed files were named on the way."""
    watch = _Watch(plan, [os.path.abspath(root) for root in roots], read_folders)
    try:
        asyncio.run(watch.run())
    except KeyboardInterrupt:
        watch.print_total()
    raise SystemExit(0)


class _Watch:
    def __init__(self, plan: ImportPlan, roots: Sequence[str], read_folders: ReadFolders) -> None:
        self._plan = plan
        self._roots = roots
        self._read_folders = read_folders
        self._console = err(quiet=plan.quiet)
        self._left_out = read_folders().walk.left_out
        self._changed: set[str] = set()  # folders to walk again
        self._all = True
        self._wake = asyncio.Event()
        self._listening = asyncio.Event()
        self.total: Counter[str] = Counter()
        self._started = time.monotonic()

    async def run(self) -> None:
        listener = asyncio.create_task(self._listen())
        try:
            await asyncio.wait(
                {listener, asyncio.ensure_future(self._listening.wait())},
                return_when=asyncio.FIRST_COMPLETED,
            )
            self._changed.clear()  # the pass over everything comes now
            await self._pass(first=True)
            self._say(f"Watching {', '.join(map(short_path, self._roots))}. Ctrl-C ends it.")
            while True:
                waiting = asyncio.ensure_future(self._wake.wait())
                await asyncio.wait({listener, waiting}, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if listener.done():
                    listener.result()
                self._wake.clear()
                await self._pass_with_retries()
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)

    async def _listen(self) -> None:
        """Note the changes below the roots, as long as they are the same folders."""
        before: dict[str, tuple[int, int] | None] | None = None
        while True:
            now = await asyncio.to_thread(_identities, self._roots)
            present = [root for root, identity in now.items() if identity]
            if before is not None and now != before:
                for root in self._roots:
                    if (now[root] is None) != (before[root] is None):
                        came = "is back" if now[root] else "is not there any more; waiting for it"
                        self._say(f"{short_path(root)} {came}.")
                self._all = True
                self._wake.set()
            before = now
            if not present:
                self._listening.set()
                await asyncio.sleep(_LOOK_MS / 1000)
                continue
            changes = awatch(
                *present,
                watch_filter=None,
                debounce=_DEBOUNCE_MS,
                step=_QUIET_MS,
                rust_timeout=_LOOK_MS,
                yield_on_timeout=True,
                ignore_permission_denied=True,
            )
            async for batch in changes:
                self._listening.set()
                paths = {path for _, path in batch}
                self._changed |= await asyncio.to_thread(self._folders_of, paths)
                if self._changed:
                    self._wake.set()
                if await asyncio.to_thread(_identities, self._roots) != now:
                    break

    def _folders_of(self, paths: set[str]) -> set[str]:
        """Return the folders to walk for changes at these paths; blocks."""
        found = set()
        for path in paths:
            root = next((one for one in self._roots if is_below(path, one)), None)
            if root is None or not _concerns(path, root, self._left_out):
                continue
            folder = path
            while folder != root and not os.path.isdir(folder):
                folder = os.path.dirname(folder)
            found.add(folder)
        return found

    async def _pass_with_retries(self) -> None:
        for attempt in range(1 << 30):
            try:
                await self._pass()
            except SentinelError as error:
                if not error.retryable:
                    raise
                self._all = True
                if not attempt:
                    self._say(f"{explain(error)}. Trying again until it works.")
                await asyncio.sleep(_PAUSES_S[min(attempt, len(_PAUSES_S) - 1)])
            else:
                if attempt:
                    self._say("The gateway is back.")
                return

    async def _pass(self, *, first: bool = False) -> None:
        folders = _outer(self._changed)
        everything, self._all = self._all or len(folders) > _MAX_FOLDERS, False
        self._changed = set()
        folders = await asyncio.to_thread(_present, self._roots if everything else folders)
        if not folders:
            return
        read: Callable[[], Folders] = lambda: self._read_folders(only=folders)  # noqa: E731
        run = ImportRun(replace(self._plan, read_dataset=read, only_changes=not first))
        try:
            await run.run()
        except SentinelError:
            self._changed |= set(folders)
            raise
        finally:
            run.failures.close()
            self.total.update(run.counts)
        run.print_summary()

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True, style="dim")

    def print_total(self) -> None:
        """Print what all passes together did."""
        seconds = time.monotonic() - self._started
        if self._plan.as_json:
            facts = {"collection": self._plan.collection, **self.total}
            click.echo(json_line({**facts, "seconds": round(seconds, 3)}))
            return
        if self._plan.quiet:
            return
        parts = ", ".join(f"{count:,} {what}" for what, count in self.total.items())
        click.echo(f"\n{self._plan.collection}: {parts or 'nothing'} in {duration(seconds)}")


def _present(paths: Sequence[str]) -> list[str]:
    return [one for one in paths if os.path.exists(one)]


def _identities(roots: Sequence[str]) -> dict[str, tuple[int, int] | None]:
    """Return which file or folder each root is now; None if there is none. Blocks."""
    found: dict[str, tuple[int, int] | None] = {}
    for root in roots:
        try:
            status = os.stat(root)
        except OSError:
            found[root] = None
        else:
            # Programs replace a file when they save it; the new one has to be watched, too.
            found[root] = (status.st_dev, status.st_ino)
    return found


def _concerns(path: str, root: str, left_out: LeftOut) -> bool:
    """Tell whether a change at a path can change what is indexed; blocks."""
    relative = os.path.relpath(path, root)
    *parents, name = relative.split(os.sep)
    folder, below = root, ""
    for one in parents:
        below += one
        if left_out.folder(one, folder, below):
            return False
        folder, below = os.path.join(folder, one), f"{below}/"
    ending = os.path.splitext(name)[1].lower()
    if path == root or ending == SIDECAR_EXTENSION or not ending or os.path.isdir(path):
        return not name.startswith(".") or path == root
    return not left_out.file(name, below + name)


def _outer(folders: set[str]) -> list[str]:
    """Return the folders that are in no other of them."""
    found: list[str] = []
    for one in sorted(folders, key=lambda path: path.split(os.sep)):
        if not found or not is_below(one, found[-1]):
            found.append(one)
    return found
