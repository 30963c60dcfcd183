"""Make a collection equal to the folders that were walked: what was replaced, what is gone.

Runs after an import. An item whose content the run has not seen is out of date:

* its path holds another content now: it was replaced, and is deleted;
* its path holds no picture any more: it is gone, and is deleted with --prune;
* its path could not be read, or was on a drive that is not there: it stays;
* its file has changed since the run began: it stays, because another run may have stored it.

The collection says what is stored. So items are found that any earlier run stored, on any machine.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

from sentinel_client import AsyncSentinelClient, F, Filter, Item
from sentinel_client._text import valid_text
from sentinel_client.cli._console import Failure, short_path
from sentinel_client.cli._importer import Importer
from sentinel_client.cli._journal import Journal
from sentinel_client.cli._seen import Seen
from sentinel_client.importers.folders import Walk, is_below, is_mount

_PAGE = 1_000
# Of one filter; the contract allows 1,000 comparisons and 1 MiB, and a path may have 4 KiB.
_MAX_COMPARISONS = 200
# Asks before more than this part of the items goes.
_UNASKED = 10


@dataclass
class SyncResult:
    """What became of stored items whose files have changed.

    Attributes:
        replaced: Items that were deleted because their path holds another content.
        gone: Items whose file is gone.
        pruned: How many of those were deleted.
        refused: Why nothing was pruned, although it should; empty: it was, or should not.
        kept: How many items stay because their folder could not be read, by folder and reason.
    """

    replaced: int = 0
    gone: int = 0
    pruned: int = 0
    refused: str = ""
    kept: dict[tuple[str, str], int] = field(default_factory=dict)


@dataclass(kw_only=True)
class FolderSync:
    """Compares a collection with a walk. Run it once, after the import."""

    walk: Walk
    journal: Journal
    seen: Seen
    prune: bool
    # Asks whether so many of so many items may go; returns why not, or an empty text.
    confirm: Callable[[int, int], str]

    async def run(self, client: AsyncSentinelClient, importer: Importer) -> SyncResult:
        """Delete what was replaced and, with `prune`, what is gone."""
        result = SyncResult()
        collection = importer.collection.name
        if "path" not in importer.fields:
            if self.prune:
                raise Failure(f"{collection} has no field path of type string: cannot prune it")
            return result
        remembered = await asyncio.to_thread(self.journal.mounts)
        await asyncio.to_thread(self.journal.remember_mounts, self.walk.mounts)
        protected = dict(await asyncio.to_thread(lambda: list(self._protected(remembered))))
        scopes = list(_scopes(self.walk.starts))
        tally = importer.tally
        # Reading everything takes long, counting does not. So first what a few new files replaced.
        if (stale := await _count(client, collection, scopes) - tally.below) <= 0:
            return result
        for paths in _parts(importer.new_paths or [], _MAX_COMPARISONS):
            await self._read(client, collection, F("path").isin(paths), {}, result)
        stale -= result.replaced
        if not self.prune and not protected and not tally.failed and importer.new_paths is not None:
            result.gone = stale
        elif stale > 0:
            result.gone = 0
            for scope in scopes:
                await self._read(client, collection, scope, protected, result)
        if self.prune and result.gone:
            await self._prune(client, collection, result)
        return result

    async def _read(
        self,
        client: AsyncSentinelClient,
        collection: str,
        scope: Filter,
        protected: Mapping[str, str],
        result: SyncResult,
    ) -> None:
        """Look at the items that a filter selects, and delete those that were replaced."""
        replaced: list[str] = []
        items = client.list_items(
            collection=collection, filter=scope, output_fields=["path"], page_size=_PAGE
        )
        async for item in items:
            self._classify(item, protected, result, replaced)
        for ids in _parts(replaced, _PAGE):
            result.replaced += await client.delete_items(ids, collection=collection)

    def _classify(
        self,
        item: Item,
        protected: Mapping[str, str],
        result: SyncResult,
        replaced: list[str],
    ) -> None:
        if self.seen.has(item.id):
            return
        path = str(item.fields.get("path", ""))
        if _changed_since(self.walk.began_ns, path):
            return
        content_is_known = self.seen.at(path)
        if content_is_known:
            replaced.append(item.id)
            return
        if content_is_known is False:
            return  # a failure was reported
        for folder, reason in protected.items():
            if is_below(path, folder):
                result.kept[folder, reason] = result.kept.get((folder, reason), 0) + 1
                return
        result.gone += 1
        self.seen.add_gone([item.id])

    def _protected(self, mounts: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Yield the folders whose items must stay, with the reason."""
        walk = self.walk
        for folder in walk.unreadable:
            yield valid_text(folder), "cannot be read"
        for start in walk.starts:
            if start in walk.roots and not walk.found.get(start):
                yield valid_text(start), "has no pictures now (is it mounted?)"
        for mount in mounts:
            if any(is_below(mount, one) for one in walk.starts) and not is_mount(mount):
                yield valid_text(mount), "was a drive of its own and is not mounted now"

    async def _prune(
        self, client: AsyncSentinelClient, collection: str, result: SyncResult
    ) -> None:
        count = await _count(client, collection, list(_scopes(self.walk.roots)))
        if missing := await asyncio.to_thread(_missing, self.walk.roots):  # since the walk
            result.refused = f"{short_path(missing[0])} is not there any more"
        elif result.gone * _UNASKED > count:
            result.refused = self.confirm(result.gone, count)
        if result.refused:
            return
        for ids in self.seen.gone():
            result.pruned += await client.delete_items(ids, collection=collection)


async def _count(client: AsyncSentinelClient, collection: str, scopes: Sequence[Filter]) -> int:
    """Return how many items the filters select together."""
    counts = [
        await client.delete_items(collection=collection, filter=one, dry_run=True) for one in scopes
    ]
    return sum(counts)


def _parts(values: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _changed_since(moment_ns: int, path: str) -> bool:
    """Tell whether there is a file that was made or changed at this time or later; blocks."""
    try:
        # Not the time of its content, which programs set.
        return os.stat(path).st_ctime_ns >= moment_ns
    except (OSError, ValueError):
        return False


def _missing(paths: Sequence[str]) -> list[str]:
    return [one for one in paths if not os.path.exists(one)]


def _scopes(starts: Sequence[str]) -> Iterator[Filter]:
    """Yield filters that together select the items below `starts`, each item once."""
    outer: list[str] = []
    for start in sorted(map(valid_text, starts), key=lambda one: one.split(os.sep)):
        if not outer or not is_below(start, outer[-1]):
            outer.append(start)
    path = F("path")
    conditions = [(path == one) | path.startswith(one.rstrip(os.sep) + os.sep) for one in outer]
    for at in range(0, len(conditions), _MAX_COMPARISONS // 2):
        part = conditions[at : at + _MAX_COMPARISONS // 2]
        yield reduce(lambda left, right: left | right, part)
