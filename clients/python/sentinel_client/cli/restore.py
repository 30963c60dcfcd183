"""`sentinel restore`: bring the collections of a backup back into a running gateway.

    1  read the whole file and check it, and the collections that are there; nothing is changed yet
    2  create collections, and store the items that are not there as they are in the file
    3  read every item back and compare it with the file

Each step may be repeated. So an interrupted restore is continued by the same command.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from google.protobuf.json_format import ParseDict, ParseError
from rich.filesize import decimal
from rich.progress import Progress

from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import collection_service_pb2 as collection_pb
from sentinel.search.v1 import item_service_pb2 as item_pb
from sentinel_client import AsyncSentinelClient, Internal, NotFound, SentinelError, _messages, _rpcs
from sentinel_client.cli import _backup_file
from sentinel_client.cli._backup_items import SavedItem, is_same, read_batches, to_store
from sentinel_client.cli._commands import tell_error
from sentinel_client.cli._console import Failure, Options, err, progress_bar, tell
from sentinel_client.cli._options import outcome_options
from sentinel_client.cli.backup import ATTEMPTS

_BATCHES_IN_FLIGHT = 4
# How far an element of a vector may be off where Milvus holds fewer bits of it.
_TOLERANCE = 0.02


@dataclass(slots=True)
class _Result:
    """What became of the items of one collection."""

    items: int = 0
    stored: int = 0
    wrong: int = 0


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--collection", "-c", "names", multiple=True, help="Only this collection. Repeatable."
)
@click.option("--dry-run", is_flag=True, help="Only check FILE and say what it has.")
@click.option("--yes", is_flag=True, help="Do not ask before items of a collection are replaced.")
@outcome_options
@click.pass_obj
def restore(
    options: Options,
    *,
    file: Path,
    names: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Bring back the collections of a backup, with the same ids, vectors, fields and images.

    A damaged or incomplete FILE changes nothing. In a collection that exists, items of the same ids
    are replaced, and others stay. Run the command again to continue where it stopped. Exit code 1:
    items could not be stored, or are not as in the file afterwards; each is listed.
    """
    with err(quiet=quiet).status(f"checking {file}"):
        header, manifest = _backup_file.read_manifest(file)
    collections = _collections(file, header, names)
    counts = {name: _count(file, manifest, name) for name in collections}
    if dry_run:
        facts = {"file": str(file), "made_at": header.get("made_at"), "collections": counts}
        parts = [f"{name} ({count:,} items)" for name, count in counts.items()]
        text = f"{file}, {decimal(file.stat().st_size)}, is whole: {', '.join(parts)}."
        tell(text, facts, as_json=as_json)
        return
    with progress_bar(err(quiet=quiet)) as progress:
        run = _Restore(options, file, collections, counts, progress)
        if any_replaced := asyncio.run(run.check()):
            progress.stop()
            if not yes:
                listed = ", ".join(f"{name} ({count:,})" for name, count in any_replaced.items())
                click.confirm(f"Replace items of the same ids in {listed}?", abort=True, err=True)
            progress.start()
        results = asyncio.run(run.run())
    wrong = sum(one.wrong for one in results.values())
    facts = {name: asdict(one) for name, one in results.items()}
    parts = [f"{name} has its {one.items:,} items" for name, one in results.items()]
    text = f"Restored and compared with {file}: {', '.join(parts)}."
    if wrong:
        text = f"{wrong:,} items of {file} are not restored; all others are, and were compared."
    tell(text, {"file": str(file), "collections": facts}, as_json=as_json, quiet=quiet)
    raise SystemExit(1 if wrong else 0)


def _collections(
    file: Path, header: dict[str, Any], names: tuple[str, ...]
) -> dict[str, collection_pb.Collection]:
    """Return the wanted descriptions of a backup, by name."""
    try:
        found = [
            ParseDict(one, collection_pb.Collection(), ignore_unknown_fields=True)
            for one in header["collections"]
        ]
    except (ParseError, KeyError, TypeError) as error:
        raise _backup_file.damaged(file, str(error)) from None
    by_name = {one.name: one for one in found}
    if missing := [name for name in names if name not in by_name]:
        raise Failure(f"{file} has no collection {missing[0]!r}; it has {', '.join(by_name)}")
    return {name: by_name[name] for name in names or by_name}


def _count(file: Path, manifest: dict[str, Any], name: str) -> int:
    try:
        return int(manifest["collections"][name]["items"])
    except (KeyError, TypeError, ValueError):
        raise _backup_file.damaged(file, f"it has no count of {name!r}") from None


class _Restore:
    """One run of the command."""

    def __init__(
        self,
        options: Options,
        file: Path,
        collections: dict[str, collection_pb.Collection],
        counts: dict[str, int],
        progress: Progress,
    ) -> None:
        self._options = options
        self._file = file
        self._collections = collections
        self._counts = counts
        self._progress = progress

    async def check(self) -> dict[str, int]:
        """Check the collections that are there; return how many items those have that have any.

        Raises:
            Failure: One is not as in the backup, or no worker has its model.
        """
        filled = {}
        async with self._options.open(AsyncSentinelClient) as client:
            for name, wanted in self._collections.items():
                there = await _find(client, name)
                if there is None:
                    await self._check_model(client, wanted)
                    continue
                _check_same(wanted, there)
                if there.item_count:
                    filled[name] = there.item_count
        return filled

    async def _check_model(
        self, client: AsyncSentinelClient, wanted: collection_pb.Collection
    ) -> None:
        model = wanted.model_version
        try:
            served = (await client.get_model(model.model)).version
        except NotFound:
            served = (await client.get_model()).version
        if served.fingerprint != model.fingerprint:
            raise Failure(
                f"the vectors of {wanted.name!r} are of {model.model}, and the gateway serves "
                f"{served.model}: vectors of two models cannot be compared. Start the gateway with "
                f"that model, for example `sentinel up --data NEW-FOLDER --model {model.model}`, "
                "restore there, and change the model afterwards with `sentinel models use` "
                "[MODEL_MISMATCH]. Nothing was changed."
            )

    async def run(self) -> dict[str, _Result]:
        """Create, store, compare; return what became of the items, by collection."""
        async with self._options.open(AsyncSentinelClient, max_attempts=ATTEMPTS) as client:
            self._call = client._connection.unary  # items as the contract's own messages
            for name, wanted in self._collections.items():
                if await _find(client, name) is None:
                    await self._create(wanted)
            results = {name: _Result() for name in self._collections}
            await self._each_part("storing", results, self._store, with_images=True)
            await self._each_part("comparing", results, self._compare, with_images=False)
            for name, result in results.items():
                if result.items != self._counts[name]:
                    raise Failure(
                        f"{self._file} has {result.items:,} items of {name!r}, not "
                        f"{self._counts[name]:,}"
                    )
            for wanted in self._collections.values():
                await self._name(client, wanted)
        return results

    async def _create(self, wanted: collection_pb.Collection) -> None:
        new = collection_pb.Collection()
        new.CopyFrom(wanted)
        for output_only in ("item_count", "aliases", "metric", "match_levels"):
            new.ClearField(output_only)
        # By its weights: their name may have been given to others.
        new.model_version.Clear()
        new.model_version.fingerprint = wanted.model_version.fingerprint
        request = collection_pb.CreateCollectionRequest(collection=new)
        await self._call(_rpcs.CREATE_COLLECTION, request, None)

    async def _name(self, client: AsyncSentinelClient, wanted: collection_pb.Collection) -> None:
        """Give a collection the other names that it had, unless they mean another one now."""
        for alias in wanted.aliases:
            there = await _find(client, alias)
            if there is None:
                await client.set_alias(alias, wanted.name)
            elif there.name != wanted.name:
                err().print(
                    f"the name {alias} means {there.name} here; change that with "
                    f"`sentinel collections alias {alias} {wanted.name}`",
                    style="yellow",
                    markup=False,
                    soft_wrap=True,
                )

    async def _each_part(
        self, doing: str, results: dict[str, _Result], work: Any, *, with_images: bool
    ) -> None:
        """Give each batch of the file to `work`, with a few of them in flight."""
        bars = {
            name: self._progress.add_task(f"{doing} {name}", total=count)
            for name, count in self._counts.items()
        }
        slots = asyncio.Semaphore(_BATCHES_IN_FLIGHT)

        async def one(name: str, batch: list[SavedItem]) -> None:
            try:
                await work(self._collections[name], batch, results[name])
                self._progress.advance(bars[name], len(batch))
            finally:
                slots.release()

        try:
            async with asyncio.TaskGroup() as tasks:
                async for name, batch in self._batches(with_images=with_images):
                    await slots.acquire()
                    tasks.create_task(one(name, batch))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _batches(
        self, *, with_images: bool
    ) -> AsyncGenerator[tuple[str, list[SavedItem]], None]:
        """Read the file in batches of bounded size."""
        batches = read_batches(self._file, frozenset(self._collections), with_images=with_images)
        while (found := await asyncio.to_thread(next, batches, None)) is not None:
            yield found

    async def _store(
        self, collection: collection_pb.Collection, batch: list[SavedItem], result: _Result
    ) -> None:
        """Store the items of a batch that are not there as they are in the file."""
        there = await self._read(collection.name, batch, vectors=False)
        left = [
            one
            for one in batch
            if one.item.id not in there or not is_same(one.item, there[one.item.id], None)
        ]
        failed = await self._upsert(collection.name, left, by_reference=True)
        # The gateway may not be allowed to refer to the file, or it is gone: store the bytes.
        again = [saved for saved, _ in failed if saved.item.by_reference and saved.image]
        failed = [one for one in failed if one[0] not in again]
        failed += await self._upsert(collection.name, again, by_reference=False)
        for saved, error in failed:
            tell_error(saved.item.id, error)
        result.stored += len(left) - len(failed)

    async def _upsert(
        self, collection: str, batch: list[SavedItem], *, by_reference: bool
    ) -> list[tuple[SavedItem, SentinelError]]:
        """Store items; return those that failed with their errors."""
        if not batch:
            return []
        messages = [to_store(one, by_reference=by_reference) for one in batch]
        request = item_pb.UpsertItemsRequest(collection=collection, items=messages)
        answer = await self._call(_rpcs.UPSERT_ITEMS, request, None)
        outcomes = map(_messages.item_result_from_proto, answer.results)
        found = zip(batch, outcomes, strict=True)
        return [(saved, one.error) for saved, one in found if one.error is not None]

    async def _compare(
        self, collection: collection_pb.Collection, batch: list[SavedItem], result: _Result
    ) -> None:
        """Compare what is stored with the file."""
        there = await self._read(collection.name, batch, vectors=True)
        storage = collection.storage
        exact = storage.rescore or storage.element_type in (0, content_pb2.ELEMENT_TYPE_FLOAT32)
        for saved in batch:
            result.items += 1
            found = there.get(saved.item.id)
            if found is None:
                result.wrong += 1  # its error was shown when it was stored
            elif not is_same(saved.item, found, 0.0 if exact else _TOLERANCE):
                result.wrong += 1
                tell_error(saved.item.id, Internal("INTERNAL", "it is not as in the backup"))

    async def _read(
        self, collection: str, batch: list[SavedItem], *, vectors: bool
    ) -> dict[str, item_pb.Item]:
        ids = [one.item.id for one in batch]
        found: dict[str, item_pb.Item] = {}
        while ids:
            request = item_pb.GetItemsRequest(
                collection=collection, ids=ids, include_vectors=vectors
            )
            answer = await self._call(_rpcs.GET_ITEMS, request, None)
            found |= {item.id: item for item in answer.items}
            ids = list(answer.unread_ids)
        return found


async def _find(client: AsyncSentinelClient, name: str) -> collection_pb.Collection | None:
    request = collection_pb.GetCollectionRequest(name=name)
    try:
        return (await client._connection.unary(_rpcs.GET_COLLECTION, request, None)).collection
    except NotFound:
        return None


def _check_same(wanted: collection_pb.Collection, there: collection_pb.Collection) -> None:
    """Raise Failure if the items of a backup do not fit into the collection of this name."""
    name, model, other = wanted.name, wanted.model_version, there.model_version
    if there.name != name:
        raise Failure(
            f"the name {name!r} means the collection {there.name!r} here: delete the alias"
        )
    if model.fingerprint != other.fingerprint or wanted.dimensions != there.dimensions:
        raise Failure(
            f"collection {name!r} has vectors of {other.model} with {there.dimensions} dimensions; "
            f"those of the backup are of {model.model} with {wanted.dimensions}: rename or delete "
            "the collection first, or restore into another library [MODEL_MISMATCH]. Nothing was "
            "changed."
        )
    fields = {one.name: one.type for one in there.fields}
    if missing := [one.name for one in wanted.fields if fields.get(one.name) != one.type]:
        raise Failure(
            f"collection {name!r} lacks fields of the backup: {', '.join(missing)}. Nothing was "
            "changed."
        )
