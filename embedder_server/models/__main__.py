"""What `sentinel models` runs: list the catalog, show or download one model, as lines of JSON.

    python -m embedder_server.models list
    python -m embedder_server.models show NAME
    python -m embedder_server.models pull NAME

The command line has a process of its own, since the client imports no server.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import Any

from embedder_server.models.catalog import CatalogEntry, catalog, revision_of
from embedder_server.models.hub.downloads import find_downloaded, pull
from embedder_server.models.registry import DEFAULT_MODEL, named_entry
from embedder_server.types import ModelLoadError


def main(words: list[str]) -> int:
    """Run one command; return the exit code of the process."""
    # Its retries, and the layouts that a repository does not have, fill the screen.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    try:
        match words:
            case ["list"]:
                for entry in catalog().values():
                    print(json.dumps(_described(entry)))
            case ["show" | "pull", name] if name == DEFAULT_MODEL:
                raise ModelLoadError(
                    f"{name} is part of Sentinel: there is nothing to download; docs/models.md "
                    "describes it"
                )
            case ["show", name]:
                print(json.dumps(_described(named_entry(name))))
            case ["pull", name]:
                entry = named_entry(name)
                folder = pull(entry)
                found = {"path": str(folder.path), "revision": folder.revision}
                print(json.dumps(_described(entry) | found))
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except ModelLoadError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _described(entry: CatalogEntry) -> dict[str, Any]:
    folder = find_downloaded(entry)
    return asdict(entry) | {
        "scores": dict(entry.scores),
        "revision": revision_of(entry) or "",
        "pinned": bool(entry.revision),
        "download_mb": entry.download_mb,
        "memory_mb": entry.memory_mb,
        "path": str(folder.path) if folder else "",
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
