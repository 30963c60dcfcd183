"""The system under chaos: gateways, workers and a Milvus server as processes, links between them.

    clients ─ link ─▶ gateway-0 ─ link ─▶ worker-0, worker-1, worker-2 (model "first"), worker-b
            ─ link ─▶ gateway-1            (model "second"; reindexing moves between the two)
                          └─ link ─▶ milvus

Each gateway has its own link to Milvus and shares the workers' links. On Milvus Lite there is one
gateway, and its file in place of the server.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import grpc
from pymilvus import MilvusClient
from pymilvus.client.types import LoadState
from pymilvus.exceptions import MilvusException

from tests import milvus_server, processes
from tests.chaos import bugs
from tests.chaos.contents import MODELS, POISON_COLOUR
from tests.chaos.proxy import Link, fixed_port

GATEWAY, WORKER = "tests.chaos.gateway_process", "tests.fakes.worker"
WORKERS = {"worker-0": "first", "worker-1": "first", "worker-2": "first", "worker-b": "second"}
# The gateways' own limits of a call.
SEARCH_LIMIT_S, WRITE_LIMIT_S = 5.0, 10.0
_DRAIN_S = 3.0
# Three times what a start takes while our load runs beside it on two cores.
_MILVUS_START_S = 60.0
_MILVUS_STARTS = 3  # after a fault; then the run cannot tell anything of what is ours
# More than there are collections in the longest run.
_CHANNELS = 1_024
# Longer than the longest pause.
_MILVUS_LEASE_S = 12


@dataclass
class Node:
    """One of our processes, on a fixed port."""

    name: str
    folder: Path
    module: str
    flags: list[str]
    environment: dict[str, str]
    port: int = field(default_factory=fixed_port)
    server: processes.Server | None = None

    async def start(self) -> None:
        """Start it and wait until it listens."""
        flags = [*self.flags, "--port", str(self.port)]
        self.server = await asyncio.to_thread(
            lambda: processes.start(
                self.folder,
                self.module,
                *flags,
                serving=False,
                environment=self.environment,
            )
        )

    @property
    def running(self) -> processes.Server:
        assert self.server is not None
        return self.server

    @property
    def alive(self) -> bool:
        return self.server is not None and self.server.process.poll() is None

    async def kill(self) -> None:
        """End it as a crash would."""
        await asyncio.to_thread(self.running.kill)

    async def stop(self) -> int:
        """End it as an operator would; return its exit code."""
        self.running.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.running.process.wait, _DRAIN_S + 12.0)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.running.process.send_signal(number)


class MilvusNode:
    """The Milvus server.

    Attributes:
        failed_restarts: How often it ended or did not serve after a new start.
        trouble: Why it did not answer when it was asked the last time.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._restarted = False  # and has not answered since
        self.port = 0
        self.failed_restarts = 0
        self.trouble = ""

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def start(self) -> None:
        """Start it for the first time."""
        self._process, self.port = await asyncio.to_thread(
            partial(milvus_server.start, self._folder, channels=_CHANNELS, lease_s=_MILVUS_LEASE_S)
        )

    async def restart(self) -> None:
        """Start it again after its end; return at once."""
        self._process = await asyncio.to_thread(milvus_server.restart, self._folder)
        self._restarted = True

    async def recover(self) -> bool:
        """Wait until it can be read, without our code; return whether it came to that.

        After SIGKILL, 2.3.5 does not always serve again. Then it is started once more, with its
        data. One that hangs though it was not started again gets no such help: that may be our
        doing.
        """
        for left in reversed(range(_MILVUS_STARTS)):
            if await self._wait_until_it_answers():
                self._restarted = False
                return True
            if self._restarted:
                self._note_failed_restart()
            elif self.alive:
                return False
            # Else it ended itself: it does when etcd has not heard of it for 5 s.
            if left:
                await self.kill()
                await self.restart()
        return False

    async def _wait_until_it_answers(self) -> bool:
        end = time.monotonic() + _MILVUS_START_S
        while not await self.answers():
            if not self.alive or time.monotonic() > end:
                return False
            await asyncio.sleep(0.1)
        return True

    def _note_failed_restart(self) -> None:
        self.failed_restarts += 1
        print(f"Milvus did not serve after a restart: {self.trouble}", flush=True)

    async def kill(self) -> None:
        """End it as a crash would."""
        assert self._process is not None
        self._process.kill()
        await asyncio.to_thread(self._process.wait)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        os.kill(self._process.pid, number)

    async def answers(self) -> bool:
        """Ask Milvus itself, past the links: whether all collections can be read."""
        self.trouble = await asyncio.to_thread(self._find_trouble)
        return not self.trouble

    def _find_trouble(self) -> str:
        """Return why not all collections can be read; empty if they can."""
        if not self.alive:
            return "its process has ended"
        name = ""
        try:
            client = MilvusClient(f"http://127.0.0.1:{self.port}", timeout=2)
            try:
                for name in client.list_collections(timeout=2):
                    _read(client, name)
                return ""
            finally:
                client.close()
        except (MilvusException, grpc.RpcError) as error:
            return f"{name or 'its list of collections'}: {error or error!r}"


def _read(client: MilvusClient, collection: str) -> None:
    try:
        # Strongly: after a restart weaker reads are back earlier.
        client.query(collection, filter='id == "nothing"', timeout=2, consistency_level="Strong")
    except MilvusException:
        state = client.get_load_state(collection, timeout=2)["state"]
        if state is not LoadState.NotLoad:  # else it is for a gateway to load it
            raise


class Cluster:
    """All processes and links. Use from one event loop.

    Attributes:
        milvus: None on Milvus Lite.
        gateways: By name.
        workers: By name.
        links: By name: a gateway's or a worker's, or `gateway-0>milvus`.
    """

    def __init__(self, folder: Path, *, lite: bool, bug: str = "") -> None:
        self.folder = folder
        self._bug = bug
        self.milvus = None if lite else MilvusNode(folder / "milvus")
        self.gateways: dict[str, Node] = {}
        self.workers: dict[str, Node] = {}
        self.links: dict[str, Link] = {}
        self._store_fault = folder / "store-fault"

    @property
    def nodes(self) -> dict[str, Node]:
        return self.gateways | self.workers

    async def start(self) -> None:
        """Start everything."""
        if self.milvus is not None:
            await self.milvus.start()
        for name, model in WORKERS.items():
            environment = {
                "FAKE_NAME": model,
                "FAKE_DIMENSIONS": str(MODELS[model].dimensions),
                "FAKE_KILLER": POISON_COLOUR,
            }
            self.workers[name] = self._node(name, WORKER, [], environment)
            self._link(name, self.workers[name].port)
        for name in ("gateway-0",) if self.milvus is None else ("gateway-0", "gateway-1"):
            self._add_gateway(name)
        for link in self.links.values():
            await link.start()
        await asyncio.gather(*(node.start() for node in self.nodes.values()))
        await self.wait_until_serving(lambda: 60.0)

    def _add_gateway(self, name: str) -> None:
        uri = str(self.folder / "lite" / "milvus.db")
        if self.milvus is not None:
            uri = f"http://{self._link(f'{name}>milvus', self.milvus.port).address}"
        flags = [
            *processes.gateway_flags(
                self.folder, uri, *(self.links[worker].address for worker in self.workers)
            ),
            *("--search-timeout-seconds", str(SEARCH_LIMIT_S)),
            *("--write-timeout-seconds", str(WRITE_LIMIT_S)),
        ]
        environment = {
            "SENTINEL_GATEWAY_PAGE_TOKEN_SECRET": "chaos",
            "CHAOS_STORE": str(self.folder / "objects"),
            "CHAOS_STORE_FAULT": str(self._store_fault),
        }
        if self._bug:
            environment[bugs.VARIABLE] = self._bug
        self.gateways[name] = self._node(name, GATEWAY, flags, environment)
        self._link(name, self.gateways[name].port)

    def _node(self, name: str, module: str, flags: list[str], environment: dict[str, str]) -> Node:
        common = ["--drain-seconds", str(_DRAIN_S), "--log-style", "json"]
        return Node(name, self.folder / name, module, [*flags, *common], environment)

    def _link(self, name: str, target: int) -> Link:
        self.links[name] = Link(name, target)
        return self.links[name]

    def workers_of(self, model: str) -> tuple[str, ...]:
        """Return the names of the workers that serve a model."""
        return tuple(name for name, its in WORKERS.items() if its == model)

    def break_store(self, fault: str) -> None:
        """Let writes to the object store fail: `full`, `read-only` or `slow`."""
        self._store_fault.write_text(fault)

    def mend_store(self) -> None:
        """End the object store's fault."""
        self._store_fault.unlink(missing_ok=True)

    async def wait_until_serving(self, within_s: Callable[[], float]) -> list[str]:
        """Wait until every process is SERVING; return the names of those that are not."""

        def check(node: Node) -> Callable[[], Awaitable[bool]]:
            return lambda: asyncio.to_thread(processes.is_serving, node.running.address)

        return await until_all({name: check(node) for name, node in self.nodes.items()}, within_s)

    async def close(self) -> None:
        """End all processes and links."""
        for node in self.nodes.values():
            if node.alive:
                node.signal(signal.SIGCONT)
                await node.kill()
        if self.milvus is not None and self.milvus.port:
            await self.milvus.kill()
        for link in self.links.values():
            await link.close()


async def until_all(
    checks: dict[str, Callable[[], Awaitable[bool]]], within_s: Callable[[], float]
) -> list[str]:
    """Repeat each check until it is true; return the names of those that never were.

    `within_s` is asked again and again, since it may grow.
    """
    start = time.monotonic()

    async def wait(check: Callable[[], Awaitable[bool]]) -> bool:
        while not await check():
            if time.monotonic() - start > within_s():
                return False
            await asyncio.sleep(0.05)
        return True

    results = await asyncio.gather(*(wait(check) for check in checks.values()))
    return [name for name, done in zip(checks, results, strict=True) if not done]
