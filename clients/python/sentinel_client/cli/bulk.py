"""`sentinel bulk-index`: hands over to the bulk indexer, which is a program of its own."""

from __future__ import annotations

import importlib.util
import os
import sys

import click

from sentinel_client.cli._console import Failure

# One module of each thing it cannot do without.
_NEEDED = ("bulk_indexer", "ray", "pyarrow", "onnxruntime", "pymilvus")


@click.command(
    "bulk-index",
    # Its flags are its own; even --help is.
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    short_help="Index a dataset too large for one machine.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bulk_index(arguments: tuple[str, ...]) -> None:
    """Index a dataset too large for one machine, on Ray, straight into Milvus.

    It talks to Milvus and the object store itself; no gateway takes part.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise Failure(
            f"the bulk indexer is not installed ({', '.join(missing)} missing): "
            "pip install '.[bulk]' in Sentinel's folder"
        )
    command = [sys.executable, "-P", "-m", "bulk_indexer", *arguments]
    os.execv(command[0], command)
