"""The data engine, Ray Data: actors that each own a device, and shards handed to whoever is free.

The only module that knows Ray. Ray restarts an actor that dies and gives its shards to another
one; a shard is written whole or not at all, so doing one twice changes nothing (docs/adr/0013).
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bulk_indexer.errors import BulkError
from bulk_indexer.shard_actor import Job, ShardActor, ShardReport, describe_model
from embedder_server.devices import usable_cores
from embedder_server.settings import EmbedderSettings
from sentinel_store.values import ModelRef

# Ray reads it when it is imported; what runs here is nobody else's business.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import psutil
import ray
import ray.data

# While one shard is written, the actor's device works on the next.
_SHARDS_PER_ACTOR = 2
# Only shard numbers and reports pass through it; image bytes and vectors never do.
_OBJECT_STORE_BYTES = 128 * 1024 * 1024
# Of a Ray of our own. Its processes wait 15 or 30 seconds for one another, which a cold disk or a
# busy machine uses up, and now and then one ends at once. The next start reads from memory.
_STARTS = 5
# A line of Ray's C++ servers that says why one gives up: `[time C pid thread] …`, fatal ones too.
_FATAL = re.compile(r"\[[^\]]* [CF] \d+ \d+\]")
_LINE_CHARACTERS = 1000
_END_S = 10.0
_END_ROUNDS = 3

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Layout:
    """How many actors there are, and what each of them owns."""

    actors: int
    cpus: int
    gpus: int


def plan_layout(
    nodes: Sequence[tuple[int, int]], *, on_gpu: bool, actors: int, cpus_per_actor: int
) -> Layout:
    """Return the layout for machines with (cores, GPUs) each.

    Args:
        nodes: At least one.
        on_gpu: Each actor owns a GPU; else cores only.
        actors: As asked for; 0: one for each GPU, or for each group of cores.
        cpus_per_actor: As asked for; 0: an equal share of the cores of its machine.

    Raises:
        BulkError: No machine has what one actor needs.
    """
    if on_gpu:
        usable = [(cpus, gpus) for cpus, gpus in nodes if gpus]
        if not usable:
            raise BulkError("no machine of the cluster has a GPU; use --device cpu")
        cpus = cpus_per_actor or max(1, min(cpus // gpus for cpus, gpus in usable))
        most = sum(min(gpus, cores // cpus) for cores, gpus in usable)
    elif cpus_per_actor or not actors:
        cpus = cpus_per_actor or min(cores for cores, _ in nodes if cores)
        most = sum(cores // cpus for cores, _ in nodes)
    else:
        # As many cores for each as let that many actors fit.
        total = max(cores for cores, _ in nodes)
        cpus = next(
            (n for n in range(total, 0, -1) if sum(cores // n for cores, _ in nodes) >= actors), 1
        )
        most = sum(cores // cpus for cores, _ in nodes)
    if most == 0 or actors > most:
        raise BulkError(
            f"the cluster has room for {most} actors of {cpus} cores"
            f"{' and a GPU' if on_gpu else ''} each; ask for fewer with --actors or for smaller "
            "ones with --cpus-per-actor"
        )
    return Layout(actors or most, cpus, 1 if on_gpu else 0)


class Cluster:
    """A connection to Ray, or a Ray of our own on this machine; from first use to the block's end.

    Use from one thread.
    """

    def __init__(self, address: str) -> None:
        """Remember where; nothing starts yet.

        Args:
            address: Of a cluster, as `ray.init` takes it; empty: this machine alone.
        """
        self._address = address
        self._temporary = ""

        self._started = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._started:
            ray.shutdown()
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _start(self) -> None:
        if self._started:
            return
        self._started = True
        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)  # we tell what happens ourselves
        if self._address:
            try:
                ray.init(self._address, logging_level=logging.ERROR)
            except Exception as error:  # ConnectionError, ValueError and Ray's own
                raise BulkError(f"cannot reach Ray at {self._address}: {error}") from error
        else:
            self._start_own()
        ray.data.DataContext.get_current().enable_progress_bars = False

    def _start_own(self) -> None:
        for left in reversed(range(_STARTS)):
            # Short, since paths of sockets are; and not kept, unlike Ray's own.
            self._temporary = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
            try:
                ray.init(
                    num_cpus=usable_cores(),
                    object_store_memory=_OBJECT_STORE_BYTES,
                    include_dashboard=False,
                    logging_level=logging.ERROR,
                    _node_ip_address="127.0.0.1",  # else its ports are open to the network
                    _temp_dir=self._temporary,
                )
            except Exception as error:  # Ray raises bare ones
                what = f"{error} {_last_words(Path(self._temporary))}"
                ray.shutdown()
                _end_processes(self._temporary)
                shutil.rmtree(self._temporary, ignore_errors=True)
                if not left:
                    raise BulkError(f"cannot start Ray: {what}") from error
                logger.warning("Ray did not start; trying again", extra={"error": what})
            else:
                return

    def layout(self, *, on_gpu: bool, actors: int, cpus_per_actor: int) -> Layout:
        """Return who runs where on the machines that are up.

        Raises:
            BulkError: There is no room.
        """
        self._start()
        resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        nodes = [(int(each.get("CPU", 0)), int(each.get("GPU", 0))) for each in resources]
        return plan_layout(nodes, on_gpu=on_gpu, actors=actors, cpus_per_actor=cpus_per_actor)

    def describe_model(self, settings: EmbedderSettings, layout: Layout) -> tuple[ModelRef, int]:
        """Return the model and its dimensions, found out where the actors will run.

        Raises:
            BulkError: It cannot be loaded.
        """
        # In a process that ends with it, so that the device is free again.
        remote = ray.remote(num_cpus=layout.cpus, num_gpus=layout.gpus, max_calls=1)(describe_model)
        try:
            described: tuple[ModelRef, int] = ray.get(remote.remote(settings))
        except ray.exceptions.RayError as error:
            raise BulkError(f"cannot load the model: {_cause(error)}") from error
        return described

    def embed(self, job: Job, shards: Sequence[int], layout: Layout) -> Iterator[ShardReport]:
        """Embed shards on all actors; yield each one's report when it comes.

        Raises:
            BulkError: Ray gave up.
        """
        dataset = ray.data.from_items(
            [{"shard": shard} for shard in shards], override_num_blocks=len(shards)
        ).map_batches(
            _Actor,
            batch_size=1,
            num_cpus=layout.cpus,
            num_gpus=layout.gpus or None,
            fn_constructor_args=[job],
            compute=ray.data.ActorPoolStrategy(
                size=min(layout.actors, len(shards)),
                max_concurrent_calls_per_actor=_SHARDS_PER_ACTOR,
                max_tasks_in_flight_per_actor=_SHARDS_PER_ACTOR,
                enable_true_multi_threading=True,
            ),
        )
        try:
            for row in dataset.iter_rows():
                yield ShardReport(**row)
        except ray.exceptions.RayError as error:
            raise BulkError(f"the cluster failed: {_cause(error)}") from error


def _last_words(folder: Path) -> str:
    """Return what the servers of a Ray that did not start wrote last: why, for one that gave up."""
    said = []
    for name in ("gcs_server", "raylet"):
        lines: list[str] = []
        for path in sorted(folder.glob(f"session_2*/logs/{name}.*"), reverse=True):
            with suppress(OSError):
                lines += filter(str.strip, path.read_text(errors="replace").splitlines())
        fatal = next((line for line in lines if _FATAL.match(line)), None)
        line = fatal or next(reversed(lines), "nothing")
        said.append(f"{name} said: {line[-_LINE_CHARACTERS:]}")
    return f"({'; '.join(said)})"


def _end_processes(folder: str) -> None:
    """End what a Ray that did not start has left running.

    Args:
        folder: Its own. Its servers have it among their arguments; its agents and workers, which
            rename themselves and may have outlived their parent, write their logs into it.
    """
    for _ in range(_END_ROUNDS):  # who is ended last may have started another one meanwhile
        left = [process for process in psutil.process_iter() if _belongs(process, folder)]
        if not left:
            return
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=_END_S)


def _belongs(process: psutil.Process, folder: str) -> bool:
    if process.pid == os.getpid():  # which writes a log there, too
        return False
    with suppress(psutil.Error):  # it has just ended, or is another user's
        return any(folder in argument for argument in process.cmdline()) or any(
            file.path.startswith(folder) for file in process.open_files()
        )
    return False


def _cause(error: ray.exceptions.RayError) -> Exception:
    """Return what was raised in the other process, without Ray's account of it."""
    cause: Exception | None = getattr(error, "cause", None)
    return cause or error


class _Actor:
    """`ShardActor` as Ray Data calls it: batches of columns in, batches of columns out."""

    def __init__(self, job: Job) -> None:
        self._actor = ShardActor(job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        reports = [asdict(self._actor.embed(int(shard))) for shard in batch["shard"]]
        return {name: [report[name] for report in reports] for name in reports[0]}
