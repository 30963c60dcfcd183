"""One run: rounds of faults under load, each followed by the checks."""

from __future__ import annotations

import asyncio
import functools
import signal
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sentinel_client import AsyncSentinelClient, SentinelError
from tests import processes
from tests.chaos import invariants
from tests.chaos.calls import Calls, Done, Lag
from tests.chaos.clients import ITEMS, MOVING, Clients, jump_clock
from tests.chaos.cluster import Cluster, Node, until_all
from tests.chaos.faults import LINK_FAULTS, STORE_FAULTS, Fault, Generator, Kind, Targets
from tests.chaos.proxy import LinkState

# What a search that starts later than this after a fault must not notice.
_NOTICE_S = 1.0
# A gateway whose Milvus does not answer notices at its next health check: 2 s, and a pause.
_NOTICE_MILVUS_S = 3.5
_RECOVERY_S = 10.0
# Within this time Milvus answers one read of each collection, if the machine is not busy.
_FLOOR_S = 0.5
_QUIET_S = 45.0
_AN_HOUR_S = 3600.0
_DELAY_S = 0.25
_STORE_LOGGER = "sentinel_store.images.image_store"
_MOST_DEATHS_BY_POISON = 2


@dataclass
class Report:
    """The outcome of a run.

    Attributes:
        violations: Each with its round and faults, in words.
        failed_restarts: New starts after which Milvus itself, asked past our code, did not serve.
    """

    seed: int
    rounds: int = 0
    faults: int = 0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)
    longest_recovery_s: float = 0.0
    longest_floor_s: float = 0.0
    failed_restarts: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    most_late_s: float = 0.0
    most_lag_s: float = 0.0

    def __str__(self) -> str:
        counts = ", ".join(f"{number} {name}" for name, number in sorted(self.counts.items()))
        return (
            f"seed {self.seed}: {self.faults} faults in {self.rounds} rounds, "
            f"{self.seconds:.0f} s; {len(self.violations)} violations; "
            f"longest recovery {self.longest_recovery_s:.1f} s, Milvus itself late by up to "
            f"{self.longest_floor_s:.1f} s; Milvus restarts that failed: {self.failed_restarts}; "
            f"latest deadline {self.most_late_s * 1000:.0f} ms, of this machine's lag up to "
            f"{self.most_lag_s * 1000:.0f} ms; calls: {counts}"
        )


class Chaos:
    """One run on one cluster. Use it once, inside one event loop.

    Args:
        folder: For data and logs.
        seed: Of the faults.
        lite: Milvus Lite and one gateway in place of a Milvus server and two.
        bug: Name of a bug that the gateways get; see `bugs.py`.
    """

    def __init__(self, folder: Path, seed: int, *, lite: bool = False, bug: str = "") -> None:
        self.report = Report(seed)
        self._cluster = Cluster(folder, lite=lite, bug=bug)
        self._lag = Lag()
        self._calls = Calls(self._lag)
        self._logs, self._sizes = invariants.Logs(), invariants.Sizes()
        self._faults: list[Fault] = []
        self._began: dict[int, float] = {}
        self._poisoned = 0
        self._floor_s = 0.0
        self._background: list[asyncio.Task[Any]] = []

    async def run(
        self, seconds: float, *, most_faults: int = 10**9, stop_at_violation: bool = False
    ) -> Report:
        """Run rounds until the time is over or so many faults have happened."""
        try:
            await self._cluster.start()
            clients = self._clients()
            try:
                await clients.prepare()
                self._spawn(self._lag.run())
                self._spawn(clients.balancer.run())
                self._spawn(clients.reindex())
                await self._rounds(clients, seconds, most_faults, stop_at_violation)
            finally:
                for task in self._background:
                    task.cancel()
                await asyncio.gather(*self._background, return_exceptions=True)
                await clients.close()
        finally:
            await self._cluster.close()
        return self.report

    def _clients(self) -> Clients:
        cluster = self._cluster
        return Clients.of(
            {name: cluster.links[name].address for name in cluster.gateways},
            {name: node.running.address for name, node in cluster.gateways.items()},
            self._calls,
            self.report.seed,
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._background.append(asyncio.create_task(work))

    async def _rounds(
        self, clients: Clients, seconds: float, most_faults: int, stop_at_violation: bool
    ) -> None:
        cluster, report = self._cluster, self.report
        targets = Targets(
            gateways=tuple(cluster.gateways),
            workers=cluster.workers_of("first"),
            others=cluster.workers_of("second"),
            milvus=cluster.milvus is not None,
        )
        generator = Generator(report.seed, targets)
        start = time.monotonic()
        self._faults = []
        await self._round(clients)  # without faults: fills the collections
        while time.monotonic() - start < seconds and report.faults < most_faults:
            self._faults = generator.round()
            report.faults += len(self._faults)
            await self._round(clients)
            report.seconds = time.monotonic() - start
            if report.violations and stop_at_violation:
                return
        self._add_violations(self._sizes.check())

    async def _round(self, clients: Clients) -> None:
        self.report.rounds += 1
        self._began, self._poisoned = {}, 0
        self._calls.failed_searches.clear()
        clients.poison_sent = False
        began, stop = time.monotonic(), asyncio.Event()
        load = [
            asyncio.create_task(work)
            for work in (
                clients.search_default(stop),
                clients.search_balanced(stop),
                clients.search_patiently(stop),
                clients.upsert(stop, ITEMS, clients.items),
                clients.upsert(stop, ITEMS, clients.items),
                clients.upsert(stop, MOVING, clients.moving),
                clients.ingest(stop),
                clients.delete(stop, ITEMS, clients.items),
                clients.delete(stop, MOVING, clients.moving),
            )
        ]
        await asyncio.gather(*(self._happen(fault, clients) for fault in self._faults))
        if not self._faults:
            await asyncio.sleep(2.0)
        wrong = await self._recover(clients)
        recovered = time.monotonic()
        stop.set()
        _, late = await asyncio.wait(load, timeout=_QUIET_S)
        for task in late:
            task.cancel()
            wrong.append(f"a client did not end within {_QUIET_S} s: {task.get_coro()}")
        for outcome in await asyncio.gather(*load, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome
        wrong += self._unavailable(recovered)
        wrong += await self._check(clients, began)
        self._calls.counts["innocent contents blamed"] = len(clients.blamed)
        self._add_violations(wrong)

    def _add_violations(self, wrong: list[str]) -> None:
        self.report.counts = dict(self._calls.counts)
        self.report.most_late_s = self._calls.most_late_s
        self.report.most_lag_s = self._calls.most_lag_s
        found = [*wrong, *self._calls.violations]
        self._calls.violations.clear()
        faults = "; ".join(map(str, self._faults)) or "none"
        where = f"seed {self.report.seed}, round {self.report.rounds}, faults: {faults}"
        for violation in dict.fromkeys(found):
            self.report.violations.append(f"{where}\n  {violation}")
            print(f"VIOLATION {self.report.violations[-1]}", flush=True)

    # Faults.

    async def _happen(self, fault: Fault, clients: Clients) -> None:
        await asyncio.sleep(fault.at)
        self._began[fault.number] = time.monotonic()
        cluster = self._cluster
        if fault.kind in STORE_FAULTS:
            cluster.break_store(fault.kind.value)
            await asyncio.sleep(fault.seconds)
            cluster.mend_store()
        elif fault.kind is Kind.CLOCK:
            jump_clock(_AN_HOUR_S)
            await asyncio.sleep(fault.seconds)
            jump_clock(0.0)
        elif fault.kind is Kind.POISON:
            await clients.send_poison(fault.number)
            self._poisoned += 1
        elif fault.kind in LINK_FAULTS:
            link = cluster.links[fault.target]
            link.fail(LinkState(fault.kind.value), delay_s=_DELAY_S)
            await asyncio.sleep(fault.seconds)
            link.mend()
        elif fault.target == "milvus":
            await self._happen_to_milvus(fault)
        else:
            await self._happen_to_process(fault, cluster.nodes[fault.target])

    async def _happen_to_milvus(self, fault: Fault) -> None:
        milvus = self._cluster.milvus
        assert milvus is not None
        if fault.kind is Kind.PAUSE:
            milvus.signal(signal.SIGSTOP)
            await asyncio.sleep(fault.seconds)
            milvus.signal(signal.SIGCONT)
            return
        await milvus.kill()
        await asyncio.sleep(fault.seconds)
        await milvus.restart()

    async def _happen_to_process(self, fault: Fault, node: Node) -> None:
        if fault.kind is Kind.PAUSE:
            node.signal(signal.SIGSTOP)
            await asyncio.sleep(fault.seconds)
            node.signal(signal.SIGCONT)
            return
        if not node.alive:  # poison was faster
            return
        if fault.kind is Kind.KILL:
            await node.kill()
        elif (code := await node.stop()) != 0:
            self._calls.violations.append(f"{node.name} ended with code {code} after SIGTERM")
        await asyncio.sleep(fault.seconds)
        await node.start()

    # Checks.

    async def _recover(self, clients: Clients) -> list[str]:
        """Wait until everything serves again; return what is not back in time."""
        cluster = self._cluster
        wrong = await self._restart_the_dead()
        if cluster.milvus is not None:
            back = await cluster.milvus.recover()
            self.report.failed_restarts = cluster.milvus.failed_restarts
            if not back:
                return [*wrong, f"Milvus itself did not come back: {cluster.milvus.trouble}"]
        start = time.monotonic()
        floor = asyncio.create_task(self._measure_floor())
        failing = await cluster.wait_until_serving(self._recovery_s)
        elapsed = time.monotonic() - start
        failing += await until_all(
            {
                f"a search at {name}": functools.partial(_can_search, client)
                for name, client in clients.direct.items()
            },
            lambda: self._recovery_s() - elapsed,
        )
        floor.cancel()
        seconds = time.monotonic() - start
        self.report.longest_recovery_s = max(self.report.longest_recovery_s, seconds)
        if failing:
            wrong.append(f"{seconds:.1f} s after the last fault these do not serve: {failing}")
            await cluster.wait_until_serving(lambda: 60.0)
        return wrong

    def _recovery_s(self) -> float:
        return _RECOVERY_S + self._floor_s

    async def _measure_floor(self) -> None:
        """Add up how late Milvus itself answers, which is this machine's fault."""
        self._floor_s = 0.0
        while True:
            start = time.monotonic()
            if self._cluster.milvus is not None:
                await self._cluster.milvus.answers()
            await asyncio.sleep(_FLOOR_S)
            self._floor_s += max(0.0, time.monotonic() - start - 2 * _FLOOR_S)
            self.report.longest_floor_s = max(self.report.longest_floor_s, self._floor_s)

    async def _restart_the_dead(self) -> list[str]:
        dead = [node for node in self._cluster.nodes.values() if not node.alive]
        for node in dead:
            await node.start()
        most = _MOST_DEATHS_BY_POISON * self._poisoned
        if any(fault.target in self._cluster.gateways for fault in self._faults):
            most *= len(self._cluster.gateways)  # the client may have sent it to the other one, too
        if len(dead) > most:
            return [f"{[node.name for node in dead]} died; by poison may die {most}"]
        return []

    def _unavailable(self, recovered: float) -> list[str]:
        """Return searches that failed although enough of the system was healthy."""
        return [
            f"a search failed though others were healthy: {done}; faults began "
            f"{ {str(f): round(done.start - self._began[f.number], 2) for f in self._faults} } s "
            "before it"
            for done in self._calls.failed_searches
            if self._must_succeed(done, recovered)
        ]

    def _must_succeed(self, done: Done[object], recovered: float) -> bool:
        present = [
            fault
            for fault in self._faults
            if self._began[fault.number] <= done.end and done.start <= recovered
        ]
        targets = {fault.target.split(">")[0] for fault in present}
        if any(fault.kind is Kind.POISON for fault in present):
            return False
        workers, gateways = set(self._cluster.workers_of("first")), set(self._cluster.gateways)
        if "milvus" in targets or targets >= workers or targets >= gateways:
            return False
        for fault in present:
            silent = fault.kind in (Kind.PAUSE, Kind.HALF_OPEN, Kind.DELAY)
            gateway = fault.target.split(">")[0] in self._cluster.gateways
            if gateway and silent and done.via == "the default client":
                return False  # TCP cannot tell it, and nobody else does
            notice = _NOTICE_MILVUS_S if ">" in fault.target else _NOTICE_S
            if done.start - self._began[fault.number] < notice:
                return False
        return True

    async def _check(self, clients: Clients, began: float) -> list[str]:
        """Check everything that is stored, the logs, and the sizes of the processes."""
        cluster = self._cluster
        await until_all(
            {name: functools.partial(_is_quiet, node) for name, node in cluster.gateways.items()},
            lambda: _RECOVERY_S,
        )
        wrong: list[str] = []
        store = cluster.folder / "objects"
        readers = list(clients.behind.values())
        try:
            wrong += await invariants.check_collection(readers[0], ITEMS, clients.items, store)
            wrong += await invariants.check_searches(readers[-1], ITEMS, clients.items)
            wrong += await invariants.check_collection(readers[-1], MOVING, clients.moving, store)
        except SentinelError as error:
            wrong.append(f"the checks could not read: {error!r} {error}")
        slow = {fault.target for fault in self._faults if fault.kind is Kind.PAUSE}
        store_fails = any(fault.kind in STORE_FAULTS for fault in self._faults)
        tolerated = frozenset({_STORE_LOGGER} if store_fails else ())
        wrong += self._logs.check(cluster, slow, self._lag.since(began), tolerated)
        self._sizes.note(cluster)
        return wrong


async def _is_quiet(node: Node) -> bool:
    in_flight = await asyncio.to_thread(processes.in_flight, node.running)
    return in_flight <= 1  # the reindexing


async def _can_search(client: AsyncSentinelClient) -> bool:
    with suppress(SentinelError):
        await client.search("red", collection=ITEMS, limit=1, timeout=2.0)
        return True
    return False
