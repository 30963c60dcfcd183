"""`sentinel status`: what runs where, and what the library of this machine holds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import click
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from sentinel_client import Collection, Health, HealthStatus, SentinelClient, SentinelError
from sentinel_client._config import DEFAULT_ADDRESS
from sentinel_client.cli._console import (
    Options,
    cache_folder,
    err,
    explain,
    json_line,
    out,
)
from sentinel_client.cli._home import Home, data_option, find_home
from sentinel_client.cli._library import Running, read_milvus_uri, read_running
from sentinel_client.cli._options import json_option

# The parts of a library's folder that grow.
_PARTS = {"database": "milvus.db", "images": "objects", "logs": "logs"}


@dataclass(slots=True)
class _Gateway:
    """What a gateway answers.

    Attributes:
        problem: Why it does not answer, or does not serve; else empty.
    """

    address: str
    serving: bool = False
    problem: str = ""
    model: str = ""
    collections: list[Collection] = field(default_factory=list)


@click.command()
@data_option("Folder of the library.")
@json_option("status")
@click.pass_obj
def status(options: Options, data: Path | None, as_json: bool) -> None:
    """Show what runs where: servers, model, collections, and the disk that they use.

    It looks at the library of this machine, and at the gateway that --address names.
    """
    home = find_home(data)
    running = read_running(home.folder)
    asked = options.address != DEFAULT_ADDRESS
    if running is not None and running.gateway and not asked:
        options = replace(options, address=running.gateway)
    gateway = _ask(options)
    disk = {name: _size(home.folder / part) for name, part in _PARTS.items()}
    disk["cache"] = 0
    with suppress(OSError):  # without a home folder there is none
        disk["cache"] = _size(cache_folder())
    if as_json:
        click.echo(json_line(_as_dict(home, running, gateway, disk)))
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in _rows(home, running, gateway, disk):
        table.add_row(label, value)
    out().print(table)
    if home.note:
        err().print(home.note, style="yellow", markup=False, soft_wrap=True)
    if running is None and not gateway.serving:
        click.echo("\nNothing runs. Start it with `sentinel up`.")


def _ask(options: Options) -> _Gateway:
    """Return what the gateway says, as far as it answers."""
    found = _Gateway(options.address)
    try:
        with options.open(SentinelClient, max_attempts=1) as client:
            health = client.health()
            found.serving = health.serving
            found.problem = "" if found.serving else _not_serving(health)
            found.collections = client.list_collections()
            found.model = client.get_model().version.model
    except SentinelError as error:
        found.problem = found.problem or explain(error)
    return found


def _not_serving(health: Health) -> str:
    serving = HealthStatus.SERVING
    names = [name or "the gateway" for name, one in health.services.items() if one is not serving]
    return f"not serving: {', '.join(names)}"


def _rows(
    home: Home, running: Running | None, gateway: _Gateway, disk: dict[str, int]
) -> Iterator[tuple[str, Text]]:
    yield "library", Text(f"{home.folder}{'' if home.exists else ' (not made yet)'}")
    if running is not None:
        for server in running.servers:
            yield server.name, _with_note(server.address, f"process {server.pid}")
        yield "started by", _with_note("sentinel up", f"process {running.pid}")
        for model in running.models:
            yield "model", _with_note(model.choice.model, model.why or model.state.value)
    elif gateway.serving or gateway.collections:
        yield "gateway", _with_note(gateway.address, "not of this library's `sentinel up`")
        yield "model", Text(gateway.model)
    if gateway.problem and (running is not None or gateway.address != DEFAULT_ADDRESS):
        yield "problem", Text(gateway.problem, "red")
    if moved := read_milvus_uri(home.folder):
        yield "milvus", Text(moved)
    for collection in gateway.collections:
        names = ", ".join(collection.aliases)
        count = f"{collection.item_count:,} {'item' if collection.item_count == 1 else 'items'}"
        note = f"{collection.model.model}{f'; also {names}' if names else ''}"
        yield "collection", _with_note(f"{collection.name}  {count}", note)
    sizes = [f"{name} {decimal(size)}" for name, size in disk.items()]
    yield "disk", Text(" · ".join(sizes))


def _with_note(text: str, note: str) -> Text:
    return Text.assemble(text, ("  " + note, "dim"))


def _size(path: Path) -> int:
    """Return the bytes of all files in a folder; 0 if it does not exist."""
    total = 0
    folders = [os.fspath(path)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:  # it does not exist, went meanwhile, or is not ours to read
            continue
    return total


def _as_dict(
    home: Home, running: Running | None, gateway: _Gateway, disk: dict[str, int]
) -> dict[str, Any]:
    servers = [] if running is None else [asdict(one) for one in running.servers]
    models = [] if running is None else running.models
    return {
        "library": str(home.folder),
        "exists": home.exists,
        "milvus_uri": read_milvus_uri(home.folder),
        "pid": None if running is None else running.pid,
        "servers": servers,
        "models": [
            {"model": one.choice.model, "state": one.state.value, "why": one.why} for one in models
        ],
        "gateway": {
            "address": gateway.address,
            "serving": gateway.serving,
            "problem": gateway.problem,
            "model": gateway.model,
        },
        "collections": [
            {
                "name": one.name,
                "item_count": one.item_count,
                "model": one.model.model,
                "aliases": list(one.aliases),
            }
            for one in gateway.collections
        ],
        "disk_bytes": disk,
    }
