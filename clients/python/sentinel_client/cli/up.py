"""`sentinel up`: run embedders and a gateway as processes of this machine until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from functools import partial
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sentinel_client._config import DEFAULT_ADDRESS
from sentinel_client._proxy import is_loopback
from sentinel_client.cli._console import (
    Failure,
    err,
    install_servers,
    out,
    require_modules,
)
from sentinel_client.cli._home import Home, data_option, find_home
from sentinel_client.cli._library import (
    Running,
    Wanted,
    note_milvus_uri,
    read_milvus_uri,
    read_wanted,
)
from sentinel_client.cli._servers import locked_folder
from sentinel_client.cli._supervisor import Plan, Supervisor
from sentinel_client.cli.models import download, model_choice

_APP_MODULES = ("sentinel_app", "starlette", "uvicorn", "PIL")
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
@data_option("Folder of the library: the database, the stored images and the logs.")
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
    "[default: the one that `sentinel models use` has set, or the embedder's default]",
)
@click.option("--revision", help="Commit of a model from the hub.")
@click.option("--runtime", help="Runtime of the model.  [default: the fastest that is exact]")
@click.option("--milvus-uri", help="A Milvus server.  [default: Milvus Lite in DATA/milvus.db]")
@click.option("--app", is_flag=True, help="Also run the search page, for browsers here.")
@click.option(
    "--app-port",
    default=8501,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port of the search page; 0 picks a free one.",
)
@click.option("--open", "opens", is_flag=True, help="Run the search page and open it.")
@click.option(
    "--insecure",
    is_flag=True,
    help="With another --host: no TLS and no keys, where everybody who can reach it is trusted.",
)
def up(
    *,
    data: Path | None,
    host: str,
    port: int,
    worker_port: int,
    workers: int | None,
    device: str,
    model: str | None,
    revision: str | None,
    runtime: str | None,
    milvus_uri: str | None,
    app: bool,
    app_port: int,
    opens: bool,
    insecure: bool,
) -> None:
    """Start an embedder and a gateway on this machine; Ctrl-C stops them.

    All commands use one library, in the folder that --data names. Exit code 3: it runs already.
    """
    require_modules(_SERVER_MODULES, "the servers are", install_servers("all"))
    if app or opens:
        require_modules(_APP_MODULES, "the app is", "pip install '.[app]' in Sentinel's folder")
    home = find_home(data, adopt=True)
    data = home.folder
    wanted = _wanted_models(data, model, revision)
    milvus_uri = _milvus_uri(data, milvus_uri)
    more = ["--runtime", runtime] if runtime is not None else []
    embedders = [["--device", name, *more] for name in devices_for(workers, device)]
    gateway = [
        *("--host", host, "--port", str(port)),
        *("--milvus-uri", milvus_uri or str(data / "milvus.db"), "--library-folder", str(data)),
        *("--object-store-uri", str(data / "objects")),
        *(["--insecure"] if insecure else []),
        *_reference_flags(host),
    ]
    try:
        for name in ("run", "logs", "objects"):
            (data / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"cannot use {data}: {error.strerror}") from error
    with locked_folder(data) as lock:
        if milvus_uri is not None and read_milvus_uri(data) is None:
            note_milvus_uri(data, milvus_uri)
        for choice in wanted.models:
            download(choice)  # it may take longer than a start
        page = _free_port(app_port) if app or opens else 0
        plan = Plan(embedders, gateway, wanted, milvus_uri, worker_port, page)
        supervisor = Supervisor(data, lock, plan, partial(_tell, out(), home, opens))
        raise SystemExit(asyncio.run(supervisor.run()))


def _reference_flags(host: str) -> list[str]:
    """Let images stay where they are, if only programs of this machine can ask for them.

    They must know the SHA-256 of a file, so they learn nothing that they do not know.
    """
    if os.environ.get("SENTINEL_GATEWAY_REFERENCE_PLACES") or not is_loopback(host):
        return []
    return ["--reference-places", "file:///"]


def _wanted_models(data: Path, model: str | None, revision: str | None) -> Wanted:
    """Return the models to start: those that the library uses, if it has changed its model.

    Raises:
        Failure: The flags name another one.
    """
    given = model_choice(model or "", revision)
    kept = read_wanted(data)
    if kept is None:
        return Wanted((given,))
    if model and given not in kept.models:
        used = kept.models[0].model
        raise Failure(
            f"{data} uses {used} since `sentinel models use`: leave out --model, or change the "
            f"model with `sentinel models use {model}` while `sentinel up` runs"
        )
    return kept


def _milvus_uri(data: Path, given: str | None) -> str | None:
    """Return where the rows are; None: in the folder.

    Raises:
        Failure: --milvus-uri names another Milvus than that of `sentinel migrate`.
    """
    moved = read_milvus_uri(data)
    if moved is not None and given not in (None, moved):
        raise Failure(f"{data} is on {moved} since `sentinel migrate`: leave out --milvus-uri")
    return moved or given


def _free_port(wanted: int) -> int:
    """Return the port for the app; 0: any that is free.

    Raises:
        Failure: Another program listens there.
    """
    with socket.socket() as probe:
        # As servers do: a port that a connection of before still holds is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError as error:
            raise Failure(f"port {wanted} is in use: choose another --app-port") from error
        port: int = probe.getsockname()[1]
        return port


def _tell(console: Console, home: Home, opens: bool, running: Running) -> None:
    """Say what runs where, and what to do next."""
    table = Table.grid(padding=(0, 2))
    for server in running.servers:
        metrics = escape(f"http://{server.metrics}/metrics") if server.metrics else ""
        table.add_row(f"[bold]{server.name}[/]", escape(server.address), f"[dim]{metrics}[/]")
    table.add_row("[bold]library[/]", escape(str(home.folder)), "")
    if moved := read_milvus_uri(home.folder):
        table.add_row("[bold]milvus[/]", escape(moved), "")
    console.print("[green]Sentinel is up.[/] Ctrl-C stops it.\n")
    console.print(table)
    if home.note:
        err().print(f"\n{home.note}", style="yellow", markup=False, soft_wrap=True)
    console.print("\nNext, in another terminal:")
    if running.gateway != DEFAULT_ADDRESS:
        console.print(f"  [cyan]export SENTINEL_ADDRESS={escape(running.gateway)}[/]")
    console.print("  [cyan]sentinel index ~/Pictures[/]")
    console.print('  [cyan]sentinel search "a dog on the beach"[/]\n')
    if opens:
        click.launch(next(one.address for one in running.servers if one.name == "app"))


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
