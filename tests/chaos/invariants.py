"""What must hold after each round, when the faults are over and the clients wait."""

from __future__ import annotations

import heapq
import json
import statistics
import time
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sentinel_client import AsyncSentinelClient, Consistency, Item
from tests.chaos import contents
from tests.chaos.calls import LATE_S, sizes
from tests.chaos.cluster import SEARCH_LIMIT_S, WRITE_LIMIT_S, Cluster
from tests.chaos.contents import Version
from tests.chaos.ledger import Ledger, State

_VECTOR_ERROR = 1e-3
_QUERIES = 4
_LIMIT = 10
_READ_TIMEOUT_S = 20.0
# Rounds after which a process has its usual size.
_WARM_ROUNDS = 4
_GROWTH = 1.10
# A tenth of few is less than one.
_MORE_THREADS, _MORE_FILES = 3, 6
# Pools grow while calls hang, and keep their threads: 16 for Milvus, 16 for images, those of
# asyncio and gRPC, and some of one. What leaks has more at some time.
_MOST_THREADS = 56

# Reports poison, as it should.
_MAY_REPORT = {"search_server.embedders.quarantine"}
_LIMITS_S = {
    "/sentinel.search.v1.SearchService/": SEARCH_LIMIT_S,
    "/sentinel.search.v1.ItemService/UpsertItems": WRITE_LIMIT_S,
    "/sentinel.search.v1.ItemService/DeleteItems": WRITE_LIMIT_S,
    "/sentinel.search.v1.ItemService/GetItems": SEARCH_LIMIT_S,
    "/sentinel.search.v1.ItemService/ListItems": SEARCH_LIMIT_S,
}


async def check_collection(
    client: AsyncSentinelClient, collection: str, ledger: Ledger, store: Path
) -> list[str]:
    """Compare a collection with its ledger; end the ledger's round. Returns what is wrong.

    Args:
        client: Of one gateway.
        collection: A name or an alias.
        ledger: What must be there.
        store: The folder of the images.
    """
    wrong: list[str] = []
    info = await client.get_collection(collection, timeout=_READ_TIMEOUT_S)
    found: dict[str, State] = {}
    listing = client.list_items(
        collection=collection, include_vectors=True, page_size=1_000, timeout=_READ_TIMEOUT_S
    )
    async with aclosing(listing):
        async for item in listing:
            if item.id in found:
                wrong.append(f"{item.id} is listed twice in {collection}")
            state = _state_of(item, ledger)
            if isinstance(state, str):
                wrong.append(f"{collection}: {state}")
            else:
                found[item.id] = state
    now = time.monotonic()
    for item_id, entry in ledger.entries.items():
        if found.get(item_id) not in (possible := entry.possible(now, now)):
            wrong.append(
                f"{collection}: {item_id} is {found.get(item_id)}, must be one of {possible}; "
                f"{entry}"
            )
    if info.item_count != len(found) and not wrong:
        wrong.append(f"{collection} counts {info.item_count} items and lists {len(found)}")
    for item_id, version in found.items():
        if version is not None and version.is_image:
            wrong += _check_image(store, item_id, version)
    ledger.settle(found)
    return wrong


def _state_of(item: Item, ledger: Ledger) -> Version | str:
    """Return the version that an item is, or what is wrong with it."""
    # By the vector's length: an alias may move at any moment.
    models = {model.dimensions: name for name, model in contents.MODELS.items()}
    if item.vector is None or len(item.vector) not in models:
        return f"{item.id} has no vector of a model: {item}"
    model = models[len(item.vector)]
    entry = ledger.entries.get(item.id)
    known = {entry.before, entry.after} if entry else set()
    for version in known:
        if version is None or item.fields.get("revision") != version.revision:
            continue
        if not np.allclose(item.vector, version.vector(model), atol=_VECTOR_ERROR):
            return f"{item.id} has the vector of something else than {version}"
        if version.is_image != bool(item.image_uri) or (
            not version.is_image and item.text != contents.words(version.seed)
        ):
            return f"{item.id} has other content than {version}: {item}"
        return version
    return f"{item.id} is stored as {item.fields}; known versions: {known}"


def _check_image(store: Path, item_id: str, version: Version) -> Iterable[str]:
    digest = version.digest
    image = store / "images" / digest[:2] / digest
    if not image.exists() or image.read_bytes() != contents.picture(version.seed):
        yield f"the image of {item_id} ({version}) is missing or wrong"
    thumbnail = store / "thumbnails" / digest[:2] / f"{digest}.webp"
    if not thumbnail.exists() or not thumbnail.stat().st_size:
        yield f"the thumbnail of {item_id} ({version}) is missing"


async def check_searches(client: AsyncSentinelClient, collection: str, ledger: Ledger) -> list[str]:
    """Compare a few searches with the exact answer, computed here."""
    wrong: list[str] = []
    stored = {item_id: entry.before for item_id, entry in ledger.entries.items() if entry.before}
    if not stored:
        return wrong
    for item_id in ledger.chance.sample(sorted(stored), min(_QUERIES, len(stored))):
        text = contents.words(stored[item_id].seed)
        result = await client.search(
            text,
            collection=collection,
            limit=_LIMIT,
            consistency=Consistency.STRONG,
            timeout=_READ_TIMEOUT_S,
        )
        query = contents.text_vector(result.model.model, text)
        exact = {
            name: float(query @ version.vector(result.model.model))
            for name, version in stored.items()
        }
        best = heapq.nlargest(_LIMIT, exact.values())
        scores = [hit.score for hit in result]
        ids = [hit.id for hit in result]
        if (
            len(set(ids)) != len(ids)
            or len(ids) != len(best)
            or not np.allclose(scores, best, atol=_VECTOR_ERROR)
            or any(abs(exact.get(hit.id, 9.0) - hit.score) > _VECTOR_ERROR for hit in result)
        ):
            wrong.append(
                f"search {text!r} in {collection} found {list(zip(ids, scores, strict=True))}; "
                f"the best are {best}"
            )
    return wrong


@dataclass
class Logs:
    """Reads what the processes have logged since the last time."""

    read: dict[str, int] = field(default_factory=dict)

    def check(
        self, cluster: Cluster, slow: set[str], lag_s: float, tolerated: frozenset[str]
    ) -> list[str]:
        """Return tracebacks, and calls that took longer than the gateway allows.

        Args:
            cluster: Whose logs to read.
            slow: Names of processes that were stopped in this round: their calls may be longer.
            lag_s: How late this machine was.
            tolerated: Loggers that may report errors, since the suite made them.
        """
        wrong: list[str] = []
        for name, node in cluster.nodes.items():
            if node.server is None:
                continue
            with node.server.log.open(errors="replace") as log:
                log.seek(self.read.get(name, 0))
                for line in log:
                    wrong += _wrong_line(name, line.rstrip(), name in slow, lag_s, tolerated)
                self.read[name] = log.tell()
        return wrong


def _wrong_line(
    name: str, line: str, slow: bool, lag_s: float, tolerated: frozenset[str]
) -> Iterable[str]:
    try:
        entry = json.loads(line)
    except ValueError:
        if line.startswith(("Traceback", "Exception ", "Fatal Python error")):
            yield f"{name} logged: {line}"
        return
    if not isinstance(entry, dict):
        return
    bad = entry.get("level") in ("ERROR", "CRITICAL") and entry.get("logger") not in _MAY_REPORT
    if (bad or "traceback" in entry) and entry.get("logger") not in tolerated:
        yield f"{name} logged: {line[:1500]}"
    for method, limit_s in _LIMITS_S.items():
        if str(entry.get("method", "")).startswith(method) and not slow:
            seconds = float(entry.get("ms", 0)) / 1000
            if seconds > limit_s + LATE_S + lag_s:
                yield f"{name} took {seconds:.2f} s for a call; its limit is {limit_s} s: {line}"


@dataclass
class Sizes:
    """Memory, threads and open files of each process, after each round."""

    seen: dict[int, list[tuple[int, int, int]]] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)

    def note(self, cluster: Cluster) -> None:
        """Measure every process."""
        for name, node in cluster.nodes.items():
            if node.alive:
                pid = node.running.process.pid
                self.names[pid] = name
                self.seen.setdefault(pid, []).append(sizes(node.running))

    def check(self) -> list[str]:
        """Compare the last rounds of each process with its first ones, after it was warm."""
        wrong: list[str] = []
        for pid, samples in self.seen.items():
            warm, last = samples[_WARM_ROUNDS : 2 * _WARM_ROUNDS], samples[-_WARM_ROUNDS:]
            if len(samples) < 3 * _WARM_ROUNDS:
                continue
            for index, (what, more) in enumerate(
                (("bytes of memory", 0), ("threads", _MORE_THREADS), ("open files", _MORE_FILES))
            ):
                before = statistics.median(sample[index] for sample in warm)
                now = min(sample[index] for sample in last)
                usual = _MOST_THREADS if what == "threads" else 0
                if now > max(before * _GROWTH, before + more, usual):
                    wrong.append(
                        f"{self.names[pid]} has {now} {what} after {len(samples)} rounds, "
                        f"it had {before:g}"
                    )
        return wrong
