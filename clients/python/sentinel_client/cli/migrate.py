"""`sentinel migrate`: move the library that `sentinel up` runs to a Milvus server.

The gateway does the work, because only one process can open Milvus Lite; this command asks for it
and shows the progress. `search_server/milvus/move_requests.py` names the files.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from pathlib import Path
from typing import Any

import click

from sentinel_client.cli._console import Failure, err, progress_bar, tell
from sentinel_client.cli._home import data_option, find_home
from sentinel_client.cli._library import (
    MIGRATION_PROGRESS,
    MIGRATION_REQUEST,
    read_milvus_uri,
    read_running,
    replace_file,
)
from sentinel_client.cli._options import outcome_options

_POLL_S = 0.2
# The gateway looks for a request twice a second.
_ANSWER_TIMEOUT_S = 30.0
_INTERRUPTED = 130
_DOING = {
    "copying": "copying",
    "comparing": "comparing both sides",
    "following": "copying what was written meanwhile",
    "moving": "moving; writes wait",
}


@click.command()
@data_option("Folder of the library; `sentinel up` must be running on it.")
@click.option(
    "--to-milvus",
    "uri",
    required=True,
    metavar="URI",
    help="The Milvus server, such as http://localhost:19530. If it asks for a token, start "
    "`sentinel up` with SENTINEL_GATEWAY_MILVUS_TOKEN.",
)
@outcome_options
def migrate(data: Path | None, uri: str, as_json: bool, quiet: bool) -> None:
    """Move the library to a Milvus server, while it is searched and written.

    All rows are copied and compared, with the same ids and vectors, and counted on both sides.
    Searches go on; uploads wait for a moment at the end. From then on `sentinel up` uses the
    server. Images stay where they are. If it is interrupted, nothing has changed: run it again.
    """
    folder = find_home(data).folder
    if "://" not in uri:
        uri = str(Path(uri).expanduser().absolute())
    if read_running(folder) is None:
        raise Failure(
            f"no `sentinel up` runs on {folder}: start it in another terminal, or name its --data"
        )
    if read_milvus_uri(folder) == uri:
        raise Failure(f"{folder} uses {uri} already")
    request = uuid.uuid4().hex
    path = folder / MIGRATION_REQUEST
    replace_file(path, {"request": request, "to": uri, "pid": os.getpid()})
    try:
        counts = _follow(folder, request, quiet=quiet)
    except KeyboardInterrupt:
        if read_milvus_uri(folder) == uri:
            raise Failure(f"interrupted after the move: the library is on {uri}", 1) from None
        raise Failure("stopped; nothing has changed. Run it again", _INTERRUPTED) from None
    finally:
        path.unlink(missing_ok=True)
    rows = sum(counts.values())
    text = (
        f"The library is on {uri}: {rows:,} rows of {len(counts)} collections, compared and "
        f"counted on both sides. `sentinel up` uses it from now on; {folder / 'milvus.db'} is no "
        "longer used, and you may delete it."
    )
    tell(text, {"milvus_uri": uri, "rows": counts}, as_json=as_json, quiet=quiet)


def _follow(folder: Path, request: str, *, quiet: bool) -> dict[str, int]:
    """Show the progress until the gateway is done; return the rows by collection."""
    answered = False
    end = time.monotonic() + _ANSWER_TIMEOUT_S
    with progress_bar(err(quiet=quiet)) as progress:
        bar = progress.add_task("asking the gateway", total=None)
        while True:
            told = _progress(folder)
            if told.get("request") == request:
                answered = True
                if told["state"] == "done":
                    counts: dict[str, int] = told["counts"]
                    return counts
                if told["state"] == "failed":
                    raise Failure(f"nothing has changed: {told['why']}", 1)
                shown = _DOING.get(told["doing"], told["doing"])
                total = told["total"] or None
                progress.update(bar, description=shown, completed=told["done"], total=total)
            if read_running(folder) is None:
                raise Failure("`sentinel up` has ended: start it, then run this again", 1)
            if not answered and time.monotonic() > end:
                raise Failure("the gateway does not answer: restart `sentinel up`", 1)
            time.sleep(_POLL_S)


def _progress(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / MIGRATION_PROGRESS).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found
