"""`sentinel up`: run embedders and a gateway as processes of this machine until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from functools import partial
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from sentinel_client._config import DEFAULT_ADDRESS
from sentinel_client.cli._console import Failure, err, install_servers, out, require_modules
from sentinel_client.cli._servers import Addresses, Server, ServerDied, locked_folder
from sentinel_client.cli.models import pull_model, short_names

# A server finishes its calls within 20 s, then closes them; it hangs if this takes longer.
_STOP_TIMEOUT_S = 30.0
_START_TIMEOUT_S = 300.0
_MAX_WORKERS = 64
_NVIDIA_SMI_TIMEOUT_S = 10

# The servers, and one module of each package that they need.
_SERVER_MODULES = (
    "embedder_server",
    "search_server",
    "pydantic_settings",
    "grpc_health",
    "onnxruntime",
    "PIL",
    "pymilvus",
    "milvus_lite",
)


def _parse_workers(text: str) -> int | None:
    if text == "auto":
        return None
    if text.isdecimal() and 1 <= int(text) <= _MAX_WORKERS:
        return int(text)
    raise click.BadParameter(f"{text!r} is neither auto nor a number from 1 to {_MAX_WORKERS}")


@click.command()
@click.option(
    "--data",
    default="sentinel-data",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the database, the stored images and the logs.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Host of the gateway.")
@click.option(
    "--port",
    default=50050,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port of the gateway; 0 picks a free one.",
)
@click.option(
    "--worker-port",
    default=0,
    type=click.IntRange(0, 65535),
    help="Port of the first embedder; others use the next ports.  [default: free ones]",
)
@click.option(
    "--workers",
    default="1",
    show_default=True,
    type=_parse_workers,
    metavar="NUMBER|AUTO",
    help="Number of embedders; auto: one for each GPU.",
)
@click.option("--device", default="cpu", show_default=True, help="Device of the embedders.")
@click.option(
    "--model",
    help="Model of the embedders: a name that `sentinel models` lists, a hub id, or a folder.  "
    "[default: the embedder's default]",
)
@click.option("--revision", help="Commit of a model from the hub.")
@click.option("--runtime", help="Runtime of the model.  [default: the fastest that is exact]")
@click.option("--milvus-uri", help="A Milvus server.  [default: Milvus Lite in DATA/milvus.db]")
@click.option(
    "--insecure",
    is_flag=True,
    help="With another --host: no TLS and no keys, where everybody who can reach it is trusted.",
)
def up(
    *,
    data: Path,
    host: str,
    port: int,
    worker_port: int,
    workers: int | None,
    device: str,
    milvus_uri: str | None,
    insecure: bool,
    **model_options: str | None,
) -> None:
    """Start an embedder and a gateway on this machine; Ctrl-C stops them."""
    require_modules(_SERVER_MODULES, "the servers are", install_servers("all"))
    model = model_options["model"]
    is_short = model and "/" not in model and not Path(model).is_dir()
    if is_short and model_options["revision"] is None and model in short_names():
        pull_model(model)  # it may take longer than a start
    data = data.absolute()
    model_flags = [
        word
        for flag, value in model_options.items()
        if value is not None
        for word in (f"--{flag}", value)
    ]
    embedders = [
        ["--port", str(worker_port and worker_port + number), "--device", name, *model_flags]
        for number, name in enumerate(devices_for(workers, device))
    ]
    gateway = [
        *("--host", host, "--port", str(port)),
        *("--milvus-uri", milvus_uri or str(data / "milvus.db")),
        *("--object-store-uri", str(data / "objects")),
        *(["--insecure"] if insecure else []),
    ]
    try:
        for name in ("run", "logs", "objects"):
            (data / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"cannot use {data}: {error.strerror}") from error
    with locked_folder(data) as lock:
        raise SystemExit(asyncio.run(_Up(data, lock, milvus_uri).run(embedders, gateway)))


class _Up:
    """The processes of one `sentinel up`."""

    def __init__(self, data: Path, lock: int, milvus_uri: str | None) -> None:
        self._data = data
        self._milvus_uri = milvus_uri
        self._lock = lock
        self._err = err()
        self._servers: list[Server] = []  # in the order of their start
        self._stop = asyncio.Event()
        self._killed = False
        self._waiting_for = ""

    async def run(self, embedders: list[list[str]], gateway: list[str]) -> int:
        """Start servers with these flags, wait, stop them; return the exit code."""
        loop = asyncio.get_running_loop()
        # SIGINT even if the parent ignores it, as CI runners and `sh -c "sentinel up &"` do: it
        # is the documented way to stop. The servers start with the default again, because exec
        # resets a handled signal and keeps an ignored one.
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores it on purpose
            loop.add_signal_handler(signal.SIGHUP, self._on_signal)
        stopping = asyncio.create_task(self._stop.wait())
        work = asyncio.create_task(self._start_and_watch(embedders, gateway))
        try:
            await asyncio.wait((stopping, work), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            return 0
        except ServerDied as death:
            click.secho(str(death), fg="red", err=True)
            return 1
        except TimeoutError:
            logs = self._data / "logs"
            waited = f"not serving after {_START_TIMEOUT_S:.0f} s: {self._waiting_for}; see {logs}"
            click.secho(waited, fg="red", err=True)
            return 1
        finally:
            for task in (stopping, work):
                task.cancel()
            await asyncio.gather(stopping, work, return_exceptions=True)
            await self._stop_all()

    def _on_signal(self) -> None:
        if self._stop.is_set():  # the second signal: do not wait
            self._killed = True
            for server in self._servers:
                server.kill()
        self._stop.set()

    async def _start_and_watch(self, embedders: list[list[str]], gateway: list[str]) -> None:
        async with asyncio.timeout(_START_TIMEOUT_S):
            with self._err.status("starting the embedder") as status:
                several = len(embedders) > 1
                workers = []
                for number, flags in enumerate(embedders, 1):
                    name = f"embedder-{number}" if several else "embedder"
                    workers.append(await self._start(name, "embedder_server", flags))
                status.update("starting the gateway")
                flags = [*gateway, "--workers", ",".join(one.grpc for one in workers)]
                addresses = await self._start("gateway", "search_server", flags)
                for server, one in zip(self._servers, [*workers, addresses], strict=True):
                    await server.serving(one.grpc, partial(self._wait_for, status, server.name))
        _print_addresses(out(), self._data, addresses, workers)
        await asyncio.gather(
            *(server.ended() for server in self._servers),
            *(server.keep_log_small() for server in self._servers),
        )

    def _wait_for(self, status: Status, name: str, problem: str) -> None:
        """Say what a server waits for; on a terminal, in place of what it waited for before."""
        doing = "starting" if name == "gateway" else "loading the model"
        waiting_for = f"{name}: {problem or doing}"
        if self._milvus_uri and problem.startswith("Milvus"):
            waiting_for += f" (--milvus-uri {self._milvus_uri})"
        if waiting_for != self._waiting_for:
            self._waiting_for = waiting_for
            status.update(escape(f"waiting for {waiting_for}"))
            if not self._err.is_terminal:
                click.echo(f"waiting for {waiting_for}", err=True)

    async def _start(self, name: str, module: str, flags: list[str]) -> Addresses:
        server = await Server.start(name, module, flags, self._data, self._lock)
        self._servers.append(server)
        return await server.listening()

    async def _stop_all(self) -> None:
        """Stop the gateway before the embedders, which its calls in flight still need."""
        if not self._servers:
            return
        with self._err.status("stopping"):
            for server in reversed(self._servers):
                if not await server.stop(_STOP_TIMEOUT_S) and not self._killed:
                    click.secho(f"{server.name} did not stop and was killed", fg="red", err=True)


def _print_addresses(
    console: Console, data: Path, gateway: Addresses, workers: list[Addresses]
) -> None:
    table = Table.grid(padding=(0, 2))
    servers = {"gateway": gateway}
    for number, worker in enumerate(workers, 1):
        servers["embedder" if len(workers) == 1 else f"embedder {number}"] = worker
    for name, addresses in servers.items():
        metrics = escape(f"http://{addresses.metrics}/metrics")
        table.add_row(f"[bold]{name}[/]", escape(addresses.grpc), f"[dim]{metrics}[/]")
    table.add_row("[bold]data[/]", escape(str(data)), "")
    console.print("[green]Sentinel is up.[/] Ctrl-C stops it.\n")
    console.print(table)
    console.print("\nNext, in another terminal:")
    if gateway.grpc != DEFAULT_ADDRESS:
        console.print(f"  [cyan]export SENTINEL_ADDRESS={escape(gateway.grpc)}[/]")
    console.print("  [cyan]sentinel index ~/Pictures[/]")
    console.print('  [cyan]sentinel search "a dog on the beach"[/]\n')


def devices_for(workers: int | None, device: str) -> list[str]:
    """Return the device of each embedder to start.

    `workers` None means one on each GPU, or one on `device` if the machine has no GPU.
    """
    if workers is not None:
        return [device] * workers
    return [f"cuda:{number}" for number in range(gpu_count())] or [device]


def gpu_count() -> int:
    """Return how many GPUs a new process would see."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    try:
        listed = subprocess.run(
            [program, "--list-gpus"],
            capture_output=True,
            text=True,
            check=False,
            timeout=_NVIDIA_SMI_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
