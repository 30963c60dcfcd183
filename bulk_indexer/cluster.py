"""Run shard actors on Ray Data: each actor owns a device, and shards go to whichever is free.

The only module that imports Ray. Ray restarts an actor that dies and gives its shards to another
one; shards are written whole or not at all, so repeating one is safe (docs/adr/0013).
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bulk_indexer.page_cache import read_ahead
from bulk_indexer.run_folder import BulkError
from bulk_indexer.shard_actor import Job, ShardActor, ShardReport
from embedder_server.in_process import ModelInfo, describe_model, usable_cores
from embedder_server.settings import EmbedderSettings

# Ray reads it when it is imported. Send no usage statistics.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import psutil
import ray
import ray.data

# While one shard is written, the actor's device works on the next.
_SHARDS_PER_ACTOR = 2
# Only shard numbers and reports pass through it; image bytes and vectors never do.
_OBJECT_STORE_BYTES = 128 * 1024 * 1024
# For a local Ray. `ray.init` gives the raylet 30 seconds to register, and no option changes that
# (ray/_private/node.py). The raylet waits for two agents in Python, which load hundreds of files of
# Ray at the same time as three other processes of its own. From a cold disk that took longer. So
# its files are read first, in order and without a limit.
_NOT_NEEDED = ("jars", "llm", "rllib", "serve", "train", "tune")
# A busy machine can exceed the limit all the same, and sometimes a process exits at once.
_STARTS = 5
_REMIND_S = 10.0
# A line of Ray's C++ servers that says why one exits: `[time C pid thread] …`, or F for fatal.
_FATAL = re.compile(r"\[[^\]]* [CF] \d+ \d+\]")
_LINE_CHARACTERS = 1000
_END_S = 10.0
_END_ROUNDS = 3

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Layout:
    """The number of actors, and the cores and GPUs of each."""

    actors: int
    cpus: int
    gpus: int


def plan_layout(
    nodes: Sequence[tuple[int, int]], *, on_gpu: bool, actors: int, cpus_per_actor: int
) -> Layout:
    """Return the layout for machines with (cores, GPUs) each.

    Args:
        nodes: At least one machine.
        on_gpu: Each actor owns a GPU.
        actors: Number of actors; 0: one per GPU, or one per group of cores.
        cpus_per_actor: Cores of each; 0: an equal share of its machine.

    Raises:
        BulkError: The machines have no room for them.
    """
    usable = [(cores, gpus) for cores, gpus in nodes if gpus or not on_gpu]
    if not usable:
        raise BulkError("no machine of the cluster has a GPU; use --device cpu")

    def room(cpus: int) -> int:
        """Return how many actors with `cpus` cores fit."""
        return sum(min(cores // cpus, gpus) if on_gpu else cores // cpus for cores, gpus in usable)

    if cpus_per_actor:
        cpus = cpus_per_actor
    elif on_gpu:
        cpus = max(1, min(cores // gpus for cores, gpus in usable))
    elif not actors:
        cpus = min(cores for cores, _ in usable if cores)
    else:  # the most cores with which that many actors fit
        most = max(cores for cores, _ in usable)
        cpus = next((count for count in range(most, 0, -1) if room(count) >= actors), 1)
    if room(cpus) == 0 or actors > room(cpus):
        raise BulkError(
            f"the cluster has room for {room(cpus)} actors of {cpus} cores"
            f"{' and a GPU' if on_gpu else ''} each; reduce --actors or --cpus-per-actor"
        )
    return Layout(actors or room(cpus), cpus, 1 if on_gpu else 0)


class Cluster(AbstractContextManager["Cluster"]):
    """A connection to Ray, or a local Ray. Starts at its first use and ends with the block.

    Use from one thread. Methods raise BulkError if Ray or the model fails.
    """

    def __init__(self, address: str, say: Callable[[str], None] = lambda _: None) -> None:
        """Remember the address, as `ray.init` takes it; empty: this machine. Nothing starts yet.

        `say` gets what takes long, besides the log.
        """
        self._address = address
        self._say = say
        self._temporary = ""
        self._started = False
        self._starting = False
        self._ended = False

    def __exit__(self, *_: object) -> None:
        self._ended = True
        if self._starting:  # in another thread, which does not hear of Ctrl-C
            _end_processes(self._temporary)
        elif self._started:
            ray.shutdown()
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def layout(self, *, on_gpu: bool, actors: int, cpus_per_actor: int) -> Layout:
        """Return the layout for the running machines; see `plan_layout`."""
        self._start()
        resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        nodes = [(int(each.get("CPU", 0)), int(each.get("GPU", 0))) for each in resources]
        return plan_layout(nodes, on_gpu=on_gpu, actors=actors, cpus_per_actor=cpus_per_actor)

    def describe_model(self, settings: EmbedderSettings, layout: Layout) -> ModelInfo:
        """Load the model on a machine where actors will run, and describe it."""
        # In a process that ends afterwards, so that the device is free again.
        remote = ray.remote(num_cpus=layout.cpus, num_gpus=layout.gpus, max_calls=1)(describe_model)
        try:
            info: ModelInfo = ray.get(remote.remote(settings))
        except ray.exceptions.RayError as error:
            raise BulkError(f"cannot load the model: {_cause(error)}") from error
        return info

    def embed(self, job: Job, shards: Sequence[int], layout: Layout) -> Iterator[ShardReport]:
        """Embed shards on all actors; yield each report when its shard is done."""
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

    def _start(self) -> None:
        if self._started:
            return
        self._started = True
        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)  # we log the progress ourselves
        if self._address:
            try:
                ray.init(self._address, logging_level=logging.ERROR)
            except Exception as error:  # ConnectionError, ValueError and Ray's own
                raise BulkError(f"cannot reach Ray at {self._address}: {error}") from error
        else:
            self._start_local()
        ray.data.DataContext.get_current().enable_progress_bars = False

    def _start_local(self) -> None:
        with self._reminding("reading Ray's files"):
            read_ahead(Path(ray.__file__).parent, without=_NOT_NEEDED)
        self._check_wanted()
        with self._reminding("starting Ray: five processes that wait for one another"):
            self._starting = True
            try:
                self._init_local()
            finally:
                self._starting = False

    def _check_wanted(self) -> None:
        """Raise BulkError if the block has ended meanwhile, in another thread."""
        if self._ended:
            raise BulkError("stopped while Ray was starting")

    def _init_local(self) -> None:
        for left in reversed(range(_STARTS)):
            # A short path, since socket paths are limited; and removed later, unlike Ray's own.
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
            except Exception as error:  # Ray raises plain Exception
                reason = f"{error} {_last_log_lines(Path(self._temporary))}"
                ray.shutdown()
                _end_processes(self._temporary)
                shutil.rmtree(self._temporary, ignore_errors=True)
                self._check_wanted()
                if not left:
                    raise BulkError(f"cannot start Ray: {reason}") from error
                logger.warning("Ray did not start; trying again", extra={"error": reason})
            else:
                return

    @contextmanager
    def _reminding(self, what: str) -> Iterator[None]:
        """Say what takes the time of the block; log it at its start, and again while it lasts."""
        done, start = threading.Event(), time.monotonic()

        def remind() -> None:
            while not done.wait(_REMIND_S):
                logger.info("still %s", what, extra={"seconds": round(time.monotonic() - start)})

        self._say(what)
        logger.info("%s", what)
        thread = threading.Thread(target=remind, name="remind", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


class _Actor:
    """`ShardActor` as Ray Data calls it: batches of columns in, batches of columns out."""

    def __init__(self, job: Job) -> None:
        self._actor = ShardActor(job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        reports = [asdict(self._actor.embed(int(shard))) for shard in batch["shard"]]
        return {name: [report[name] for report in reports] for name in reports[0]}


def _last_log_lines(folder: Path) -> str:
    """Return the fatal, or else the last, log line of each server of a Ray that did not start."""
    messages = []
    for name in ("gcs_server", "raylet"):
        lines: list[str] = []
        for path in sorted(folder.glob(f"session_2*/logs/{name}.*"), reverse=True):
            with suppress(OSError):
                lines += filter(str.strip, path.read_text(errors="replace").splitlines())
        fatal = next((line for line in lines if _FATAL.match(line)), None)
        line = fatal or next(reversed(lines), "nothing")
        messages.append(f"{name} said: {line[-_LINE_CHARACTERS:]}")
    return f"({'; '.join(messages)})"


def _end_processes(folder: str) -> None:
    """End the processes of a Ray that did not start, by its own folder.

    Its servers have the folder among their arguments. Its agents and workers rename themselves and
    may have outlived their parent, but write their logs into it.
    """
    for _ in range(_END_ROUNDS):  # the last to end may have started another one
        left = [process for process in psutil.process_iter() if _belongs(process, folder)]
        if not left:
            return
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=_END_S)


def _belongs(process: psutil.Process, folder: str) -> bool:
    if process.pid == os.getpid():  # it also writes a log there
        return False
    with suppress(psutil.Error):  # it has just ended, or is another user's
        return any(folder in argument for argument in process.cmdline()) or any(
            file.path.startswith(folder) for file in process.open_files()
        )
    return False


def _cause(error: ray.exceptions.RayError) -> Exception:
    """Return what the other process raised, without Ray's traceback of it."""
    cause: Exception | None = getattr(error, "cause", None)
    return cause or error
