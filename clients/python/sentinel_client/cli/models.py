"""`sentinel models`: which models have a short name, which are here, and how to get one.

The catalog is the worker's. A process of its own reads it, since the client imports no server.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from sentinel_client.cli._console import (
    Failure,
    err,
    install_servers,
    json_line,
    new_table,
    out,
    require_modules,
    tell,
)
from sentinel_client.cli._library import DEFAULT_MODEL, ModelChoice
from sentinel_client.cli._options import json_option, outcome_options

_MODULE = "embedder_server.models"
_GB = 1000  # MB


@click.group(invoke_without_command=True)
@json_option("model")
@click.pass_context
def models(context: click.Context, as_json: bool) -> None:
    """List the models that have a short name; show, download or use one.

    \b
    sentinel models                     all of them
    sentinel models show siglip2-b16    one, with everything that is known about it
    sentinel models pull siglip2-b16    download it
    sentinel up --model siglip2-b16     use it for a new library
    sentinel models use siglip2-b16     change the model of a library that runs
    """  # noqa: D301 - click needs a real backspace to keep these lines as they are
    if context.invoked_subcommand is not None:
        return
    found = _catalog()
    if as_json:
        for model in found:
            click.echo(json_line(model))
        return
    table = new_table()
    for column in ("", "model", "dimensions", "download", "license", "languages", "R@1"):
        table.add_column(
            column, justify="right" if column in ("dimensions", "download") else "left"
        )
    for model in found:
        table.add_row(
            Text("●", "green") if model["path"] else "",
            Text(model["name"], "bold")
            + Text(" recommended" if model["recommended"] else "", "dim"),
            f"{model['dimensions']:,}",
            _size(model["download_mb"]),
            Text(model["license"], "" if model["commercial_use"] else "yellow"),
            Text(model["languages"]),
            _scores(model),
        )
    out().print(table)
    err().print(
        "[dim]● on this disk · yellow: not for commercial use, or not said · R@1: published, text "
        "to image · the offline default, conse-minilm-lite0, is part of Sentinel[/]"
    )


@models.command()
@click.argument("name")
@json_option("model")
def show(name: str, as_json: bool) -> None:
    """Show everything that is known about one model."""
    model = _named(name)
    if as_json:
        click.echo(json_line(model))
        return
    table = new_table(show_header=False)
    pinned = "" if model["pinned"] else " (of the download here)" if model["revision"] else ""
    uses = "allowed" if model["commercial_use"] else "not allowed, or not said"
    for label, value in (
        ("model", model["name"]),
        ("hub id", model["hub_id"]),
        ("revision", (model["revision"] or "not pinned: pull records the one it gets") + pinned),
        ("family", model["family"]),
        ("dimensions", str(model["dimensions"])),
        ("languages", model["languages"]),
        ("license", f"{model['license']}; commercial use {uses}"),
        ("download", f"about {_size(model['download_mb'])}"),
        ("memory of a worker", f"about {_size(model['memory_mb'])} on a CPU"),
        ("published R@1", _scores(model) or "none found for text to image"),
        ("from", f"{model['scores_from']}; not measured by us" if model["scores"] else ""),
        ("checked by us", model["verified"]),
        ("needs", f"pip install '.[{model['extra']}]'"),
        ("on this disk", model["path"] or f"no: sentinel models pull {name}"),
    ):
        table.add_row(Text(label, "dim"), Text(value))
    out().print(table)


@models.command()
@click.argument("name")
@outcome_options
def pull(name: str, as_json: bool, quiet: bool) -> None:
    """Download a model, or the rest of one, and check its files."""
    model = pull_model(name, quiet=quiet)
    text = f"{name} is in {model['path']}\nUse it: sentinel up --model {name}"
    tell(text, model, as_json=as_json, quiet=quiet)


def pull_model(name: str, *, quiet: bool = False) -> dict[str, Any]:
    """Download a model, with its progress on stderr if not `quiet`; return what is known about it.

    Raises:
        Failure: There is no such model, or it cannot be downloaded.
    """
    model = _run("pull", name, quiet=quiet)[0]
    if not model.get("commercial_use", True):
        click.secho(
            f"{name}: the license ({model['license']}) does not allow commercial use, or does not "
            "say so",
            fg="yellow",
            err=True,
        )
    return model


def model_choice(name: str, revision: str | None) -> ModelChoice:
    """Return the model that a user names; a folder by its full path, for other processes.

    Without a name: the one that the embedder's variables name, or its default.
    """
    if not name:
        name = os.environ.get("SENTINEL_EMBEDDER_MODEL") or DEFAULT_MODEL
        revision = revision or os.environ.get("SENTINEL_EMBEDDER_REVISION")
    folder = Path(name).expanduser()
    return ModelChoice(str(folder.resolve()) if folder.is_dir() else name, revision or "")


def download(choice: ModelChoice, *, quiet: bool = False) -> None:
    """Download a model of the catalog; the embedder downloads others itself, and has its default.

    Raises:
        Failure: There is no such model, or it cannot be downloaded.
    """
    name = choice.model
    if name != DEFAULT_MODEL and "/" not in name and not choice.revision:
        pull_model(name, quiet=quiet)


def _catalog() -> list[dict[str, Any]]:
    return _run("list")


def _named(name: str) -> dict[str, Any]:
    return _run("show", name)[0]


def _run(*words: str, quiet: bool = True) -> list[dict[str, Any]]:
    """Run the worker's own command; return the objects that it prints."""
    require_modules(
        ("embedder_server", "onnxruntime", "tokenizers"), "models are", install_servers("embedder")
    )
    done = subprocess.run(
        [sys.executable, "-P", "-m", _MODULE, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if quiet else None,
        # Otherwise the bars would be in what a failure says.
        env={**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"} if quiet else None,
        text=True,
        check=False,
    )
    if done.returncode:
        # Without `quiet` the reason is on the screen, below the progress.
        raise Failure((done.stderr or "").strip() or f"{words[-1]} is not downloaded", exit_code=1)
    return [json.loads(line) for line in _lines(done.stdout)]


def _lines(text: str) -> Iterable[str]:
    return (line for line in text.splitlines() if line.startswith("{"))


def _size(megabytes: int) -> str:
    return f"{megabytes / _GB:.1f} GB" if megabytes >= _GB else f"{megabytes} MB"


def _scores(model: dict[str, Any]) -> str:
    names = {"flickr30k": "Flickr30k", "coco": "COCO"}
    return ", ".join(f"{names[key]} {value}" for key, value in model["scores"].items())
