"""What TLS and a key cost: two systems on one Milvus, one open and one secured, in turns.

The secured one has TLS between client, gateway and worker, and a key at both. Both are searched
with our asynchronous client.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.load import contents
from benchmarks.report import Row, median, median_ratio
from benchmarks.servers import sentinel
from sentinel_client import AsyncSentinelClient, ClientConfig, SentinelClient, Tls

_CALLERS = 32
_MOST_P50, _LEAST_RATE = 1.05, 0.9
_SEARCHES_AT_ONCE = 10


class _System:
    """A client of one system, with texts that no cache knows."""

    def __init__(self, address: str, config: ClientConfig | None, collection: str) -> None:
        self._client = AsyncSentinelClient(address, config=config)
        self._collection = collection
        texts = contents.texts(2_000, seed=31)
        self._texts = (f"{text} {n}" for n in itertools.count() for text in texts)

    async def search(self) -> float:
        """Search once; return the seconds it took."""
        start = time.perf_counter()
        await self._client.search(next(self._texts), collection=self._collection)
        return time.perf_counter() - start

    async def rate(self, seconds: float) -> float:
        """Return the searches per second of 32 callers."""
        end = time.perf_counter() + seconds
        done = 0

        async def caller() -> None:
            nonlocal done
            while time.perf_counter() < end:
                await self.search()
                done += 1

        start = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(_CALLERS)))
        return done / (time.perf_counter() - start)

    async def close(self) -> None:
        await self._client.close()


@contextmanager
def secured(folder: Path, milvus: str, objects: Path) -> Iterator[tuple[str, ClientConfig]]:
    """Run a worker and a gateway with TLS and keys; yield the gateway's address and a client's."""
    folder.mkdir()
    pki = folder / "pki"
    _command("certs", str(pki))
    tls = ["--tls-cert", str(pki / "server.pem"), "--tls-key", str(pki / "server-key.pem")]
    ca = pki / "ca.pem"
    worker_key = folder / "worker-key"
    worker_key.write_text(_new_key(folder / "worker-keys.json", "service"))
    key = _new_key(folder / "keys.json", "owner")
    # It has no flag; servers start in this folder.
    (folder / ".env").write_text(f"SENTINEL_GATEWAY_PAGE_TOKEN_SECRET={secrets.token_hex()}\n")
    with ExitStack() as stack:
        embedder = sentinel(
            folder, "embedder_server", *tls, "--keys-file", str(folder / "worker-keys.json")
        )
        stack.callback(embedder.stop)
        gateway = sentinel(
            folder,
            "search_server",
            *tls,
            *("--keys-file", str(folder / "keys.json"), "--workers", embedder.address),
            *("--worker-ca", str(ca), "--worker-api-key-file", str(worker_key)),
            *("--milvus-uri", milvus, "--object-store-uri", str(objects)),
        )
        stack.callback(gateway.stop)
        config = ClientConfig(tls=Tls(ca=ca), api_key=key)
        with SentinelClient(gateway.address, config=config) as client:
            gateway.wait_until(lambda: client.health().serving)
        yield gateway.address, config


def _new_key(file: Path, grant: str) -> str:
    return _command("keys", "create", "--file", str(file), "--grant", grant)


def _command(*words: str) -> str:
    command = [sys.executable, "-m", "sentinel_client.cli", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def access(
    open_gateway: str,
    secured_gateway: tuple[str, ClientConfig],
    collection: str,
    *,
    searches: int,
    rounds: int,
    seconds: float,
) -> list[Row]:
    """Measure single searches and those of 32 callers, of both systems in turns."""
    work = _measure(open_gateway, secured_gateway, collection, searches, seconds=(rounds, seconds))
    alone, rates = asyncio.run(work)
    plain, safe = (1000 * median(times) for times in alone)
    return [
        Row(
            "p50 of one caller, secured ÷ open",
            safe / plain,
            "x",
            at_most=_MOST_P50,
            note=f"{safe:.2f} ms ÷ {plain:.2f} ms",
        ),
        Row(
            f"searches of {_CALLERS} callers, secured ÷ open",
            median_ratio(rates[1], rates[0]),
            "x",
            at_least=_LEAST_RATE,
            note=f"{median(rates[1]):.0f}/s ÷ {median(rates[0]):.0f}/s",
        ),
    ]


async def _measure(
    open_gateway: str,
    secured_gateway: tuple[str, ClientConfig],
    collection: str,
    searches: int,
    *,
    seconds: tuple[int, float],
) -> tuple[list[list[float]], list[list[float]]]:
    """Return seconds of single searches and rates, both of the open and of the secured system."""
    rounds, turn = seconds
    systems = [
        _System(open_gateway, ClientConfig(tls=False), collection),
        _System(*secured_gateway, collection),
    ]
    alone: list[list[float]] = [[], []]
    rates: list[list[float]] = [[], []]
    for system in systems:
        await system.rate(turn / 2)  # warms up
    for _ in range(searches // _SEARCHES_AT_ONCE):
        for system, times in zip(systems, alone, strict=True):
            times += [await system.search() for _ in range(_SEARCHES_AT_ONCE)]
    for _ in range(2 * rounds):
        for system, measured in zip(systems, rates, strict=True):
            measured.append(await system.rate(turn))
    for system in systems:
        await system.close()
    return alone, rates
