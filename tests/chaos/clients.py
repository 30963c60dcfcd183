"""The clients: they search, upsert, ingest, delete and reindex, and note what was acknowledged."""

# ruff: noqa: ASYNC109, ASYNC110 - timeouts of calls; pauses between attempts

from __future__ import annotations

import asyncio
import itertools
import random
import time
import types
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from grpc.aio import _utils

from sentinel_client import (
    AsyncSentinelClient,
    ClientConfig,
    Consistency,
    FieldSchema,
    FieldType,
    IndexType,
    Item,
    ModelVersion,
    NotFound,
    Outcome,
    RetryPolicy,
    SearchResult,
    SentinelError,
    VectorIndex,
)
from tests.chaos import contents
from tests.chaos.calls import Balancer, Calls, Done
from tests.chaos.contents import Version
from tests.chaos.ledger import Ledger

ITEMS, MOVING = "items", "moving"
_FIELDS = [FieldSchema("revision", FieldType.INT64)]
# Exact, so that the best hits are known.
_INDEX = VectorIndex(IndexType.FLAT)
_SEARCH_TIMEOUT_S, _PATIENT_S, _WRITE_TIMEOUT_S, _REINDEX_TIMEOUT_S = 10.0, 20.0, 12.0, 30.0
_LIMIT = 5
_BLAMED = "CONTENT_POISONOUS"
_SCORE_ERROR = 2e-3
_KEEP = 400  # items; above, more is deleted than written


@dataclass
class Clients:
    """All clients of one run. Use from one event loop.

    Attributes:
        default: A client of all gateways, with the default configuration.
        direct: By gateway: a client of one gateway, past the links.
        behind: By gateway: a client of one gateway, through its link.
        items: The ledger of the collection that is searched all the time.
        moving: The ledger of the alias whose collection is reindexed again and again.
        blamed: Seeds of innocent contents that were taken for poison.
    """

    calls: Calls
    balancer: Balancer
    default: AsyncSentinelClient
    direct: dict[str, AsyncSentinelClient]
    behind: dict[str, AsyncSentinelClient]
    chance: random.Random
    items: Ledger
    moving: Ledger
    poison_sent: bool = False  # in this round
    blamed: set[int] = field(default_factory=set)

    @classmethod
    def of(
        cls, addresses: dict[str, str], direct: dict[str, str], calls: Calls, seed: int
    ) -> Clients:
        """Create the clients. `addresses` are those of the gateways' links."""
        chance = random.Random(f"clients {seed}")
        once = ClientConfig(retry=RetryPolicy(max_attempts=1))
        target = "ipv4:" + ",".join(addresses.values())
        return cls(
            calls,
            Balancer(addresses),
            AsyncSentinelClient(target),
            {name: AsyncSentinelClient(address, config=once) for name, address in direct.items()},
            {name: AsyncSentinelClient(address) for name, address in addresses.items()},
            chance,
            Ledger(chance, 1_500),
            Ledger(chance, 60),
        )

    async def close(self) -> None:
        """Close all connections."""
        for client in (self.default, *self.direct.values(), *self.behind.values()):
            await client.close()

    async def prepare(self) -> None:
        """Create the collections and the alias."""
        first = ModelVersion(model="first")
        for name in (ITEMS, f"{MOVING}_0"):
            await self.default.create_collection(name, _FIELDS, model=first, index=_INDEX)
        await self.default.set_alias(MOVING, f"{MOVING}_0")

    # Searches.

    async def search_default(self, stop: asyncio.Event) -> None:
        """Search with the default client."""
        while not stop.is_set():
            await self._search(self.default, "the default client", _SEARCH_TIMEOUT_S)
            await asyncio.sleep(0.04)

    async def search_balanced(self, stop: asyncio.Event) -> None:
        """Search with a client of a gateway that answers its health checks."""
        while not stop.is_set():
            if self.balancer.healthy:
                name = self.chance.choice(sorted(self.balancer.healthy))
                await self._search(self.behind[name], f"a balancer at {name}", _SEARCH_TIMEOUT_S)
            await asyncio.sleep(0.04)

    async def search_patiently(self, stop: asyncio.Event) -> None:
        """Search with more time than the gateways give a call."""
        for name in itertools.cycle(self.direct):
            if stop.is_set():
                return
            await self._search(self.direct[name], f"{name} directly", _PATIENT_S, available=False)
            await asyncio.sleep(0.1)

    async def _search(
        self, client: AsyncSentinelClient, via: str, timeout: float, *, available: bool = True
    ) -> None:
        stable = self.items.stable_texts()
        if not stable:
            return
        item_id, version = self.chance.choice(stable)
        work = client.search(
            contents.words(version.seed),
            collection=ITEMS,
            limit=_LIMIT,
            consistency=Consistency.STRONG,
            timeout=timeout,
        )
        may_be_blamed = self.poison_sent or version.seed in self.blamed
        done = await self.calls.make(
            "search",
            via,
            timeout,
            work,
            available=available,
            tolerated=_BLAMED if may_be_blamed else "",
        )
        if done.error is not None and done.error.reason == _BLAMED:
            self.blamed.add(version.seed)
        if done.result is not None:
            self._check_hits(done, done.result, item_id, version)

    def _check_hits(
        self, done: Done[SearchResult], result: SearchResult, item_id: str, version: Version
    ) -> None:
        query = contents.text_vector("first", contents.words(version.seed))
        found = f"search for {item_id} ({version}): {[(h.id, h.score) for h in result]}"
        scores = [hit.score for hit in result]
        if len({hit.id for hit in result}) < len(result):
            self.calls.violations.append(f"a duplicate hit: {found}")
        if scores != sorted(scores, reverse=True):
            self.calls.violations.append(f"misordered hits: {found}")
        for hit in result:
            entry = self.items.entries.get(hit.id)
            possible = entry.possible(done.start, done.end) if entry else set()
            fits = [
                state
                for state in possible
                if state is not None
                and abs(float(query @ state.vector("first")) - hit.score) < _SCORE_ERROR
                and hit.fields.get("revision") == state.revision
            ]
            if not fits:
                self.calls.violations.append(
                    f"a wrong hit {hit.id} with score {hit.score}, fields {hit.fields}; "
                    f"possible: {possible}; {found}"
                )
        entry = self.items.entries[item_id]
        if entry.possible(done.start, done.end) == {version} and (
            not result.hits or result[0].id != item_id
        ):
            self.calls.violations.append(f"an acknowledged item is not found: {found}")

    # Writes.

    async def upsert(self, stop: asyncio.Event, collection: str, ledger: Ledger) -> None:
        """Store small batches: new items, changed ones, and some that are there already."""
        while not stop.is_set():
            ids = ledger.claim(6)
            if not ids:
                return
            versions = {item_id: ledger.next_version(item_id) for item_id in ids}
            for item_id, version in versions.items():
                ledger.begin(item_id, version)
            work = self.default.upsert(
                [version.item(item_id) for item_id, version in versions.items()],
                collection=collection,
                timeout=_WRITE_TIMEOUT_S,
            )
            done = await self.calls.make("upsert", "the default client", _WRITE_TIMEOUT_S, work)
            for result in done.result or ():
                if result.outcome is Outcome.FAILED:
                    self._note_failure(ledger, result.id, result.error, done)
                    continue
                before = ledger.entries[result.id].before
                if before == versions[result.id] and result.outcome is not Outcome.UNCHANGED:
                    self.calls.violations.append(
                        f"{result.id} was stored again though nothing had changed: {done}"
                    )
                ledger.acknowledge([result.id])
            await self._read_back(collection, ledger, ids)
            await asyncio.sleep(0.05)

    async def _read_back(self, collection: str, ledger: Ledger, ids: list[str]) -> None:
        """Read items that were just written, most often through another gateway."""
        work = self.default.get_items(ids, collection=collection, timeout=_SEARCH_TIMEOUT_S)
        done = await self.calls.make("get", "the default client", _SEARCH_TIMEOUT_S, work)
        if done.result is None:
            return
        found = {item.id: item for item in done.result.items}
        for item_id in ids:
            item = found.get(item_id)
            revision = item.fields.get("revision") if item else None
            possible = ledger.entries[item_id].possible(done.start, done.end)
            if revision not in {state.revision if state else None for state in possible}:
                self.calls.violations.append(
                    f"{item_id} was read as revision {revision}; possible: {possible}: {done}"
                )

    def _note_failure(
        self, ledger: Ledger, item_id: str, error: SentinelError | None, call: object
    ) -> None:
        """A good item failed by itself: only for now, or somebody is wrong.

        One that two workers had while other gateways' poison ended them is blamed, and refused for
        ten minutes.
        """
        version = ledger.entries[item_id].after
        if error is not None and error.reason == _BLAMED and version is not None:
            if self.poison_sent:
                self.blamed.add(version.seed)
            if version.seed in self.blamed:
                return
        if error is None or not error.retryable:
            self.calls.violations.append(f"{item_id} failed for good with {error!r}: {call}")

    async def ingest(self, stop: asyncio.Event) -> None:
        """Store a stream of items until `stop`, then wait for its last acknowledgement."""
        ledger = self.items

        async def items() -> AsyncIterator[Item]:
            while not stop.is_set() and (ids := ledger.claim(1)):
                version = ledger.next_version(ids[0])
                ledger.begin(ids[0], version)
                yield version.item(ids[0])
                await asyncio.sleep(0.02)

        async def all_acknowledged() -> None:
            async for ack in self.default.ingest(items(), collection=ITEMS):
                for item, error in ack.failed_items:
                    self._note_failure(ledger, item.id or "", error, "ingest")
                ledger.acknowledge(
                    item.id for index, item in enumerate(ack.items) if index not in ack.failures
                )

        await self.calls.make("ingest", "the default client", float("inf"), all_acknowledged())

    async def delete(self, stop: asyncio.Event, collection: str, ledger: Ledger) -> None:
        """Delete items, the more the more there are."""
        while not stop.is_set():
            await asyncio.sleep(0.4)
            many = sum(entry.before is not None for entry in ledger.entries.values()) > _KEEP
            ids = ledger.claim_existing(30 if many else 2)
            if not ids:
                continue
            for item_id in ids:
                ledger.begin(item_id, None)
            work = self.default.delete_items(ids, collection=collection, timeout=_WRITE_TIMEOUT_S)
            done = await self.calls.make("delete", "the default client", _WRITE_TIMEOUT_S, work)
            if done.error is None:
                ledger.acknowledge(ids)

    async def reindex(self) -> None:
        """Move the alias to the other model, again and again, and delete what it leaves behind."""
        number = 0
        while True:
            source, number = f"{MOVING}_{number}", number + 1
            model = ModelVersion(model=("first", "second")[number % 2])
            while not await self._reindexed(source, f"{MOVING}_{number}", model):
                await asyncio.sleep(0.5)
            await asyncio.sleep(3.0)  # gateways may use an alias of 2 s ago
            while not await self._deleted(source):
                await asyncio.sleep(0.5)

    async def _reindexed(self, source: str, target: str, model: ModelVersion) -> bool:
        async def moved() -> None:
            async for _ in self.default.reindex(
                source, target, alias=MOVING, model=model, timeout=_REINDEX_TIMEOUT_S
            ):
                pass

        done = await self.calls.make("reindex", "the default client", _REINDEX_TIMEOUT_S, moved())
        return done.error is None

    async def _deleted(self, name: str) -> bool:
        work = self.default.delete_collection(name, timeout=_WRITE_TIMEOUT_S)
        done = await self.calls.make("drop", "the default client", _WRITE_TIMEOUT_S, work)
        return done.error is None or isinstance(done.error, NotFound)

    async def send_poison(self, number: int) -> None:
        """Store a batch with an image that kills workers, and one that cannot be decoded."""
        self.poison_sent = True
        ledger = self.items
        good = {item_id: ledger.next_version(item_id) for item_id in ledger.claim(3)}
        for item_id, version in good.items():
            ledger.begin(item_id, version)
        bad = [
            Item(id=f"poison-{number}", image=contents.poison(number)),
            Item(id=f"broken-{number}", image=contents.broken(number)),
        ]
        batch = [version.item(item_id) for item_id, version in good.items()]
        work = self.default.upsert(
            [*batch[:1], *bad, *batch[1:]], collection=ITEMS, timeout=_WRITE_TIMEOUT_S
        )
        done = await self.calls.make("poison", "the default client", _WRITE_TIMEOUT_S, work)
        for result in done.result or ():
            if result.id in good and result.outcome is not Outcome.FAILED:
                ledger.acknowledge([result.id])
            if result.id not in good and result.outcome is not Outcome.FAILED:
                self.calls.violations.append(f"{result.id} was stored: {done}")


def jump_clock(seconds: float) -> None:
    """Set this process's clock forward, for all Python code but gRPC's.

    gRPC's core reads the system's clock, which we cannot set; its Python part computes deadlines
    with `time.time` and must agree with the core.
    """
    real = getattr(jump_clock, "real", time.time)
    jump_clock.real = real  # type: ignore[attr-defined]
    own = types.ModuleType("time")
    own.__dict__.update(vars(time), time=real)
    _utils.time = own  # type: ignore[attr-defined]
    time.time = (lambda: real() + seconds) if seconds else real
