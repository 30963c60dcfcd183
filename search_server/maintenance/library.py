"""Find the library of `sentinel up`, for commands that look after what a gateway has stored.

The client knows where it is. A process of its own asks it, since no server imports the client.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TypeVar

from search_server.settings import GatewaySettings

_MODULE = "sentinel_client.cli._print_library"
SettingsT = TypeVar("SettingsT", bound=GatewaySettings)


class LibraryError(Exception):
    """There is no library; the message says what to do."""


def with_library(settings: SettingsT, program: str) -> SettingsT:
    """Return the settings with the places of the library, and say so on standard error.

    Settings that name a Milvus or an object store stay as they are.

    Raises:
        LibraryError: There is none.
    """
    if settings.model_fields_set & {"milvus_uri", "object_store_uri"}:
        return settings
    given = [] if settings.library_folder is None else [str(settings.library_folder)]
    asked = subprocess.run(
        [sys.executable, "-P", "-m", _MODULE, *given], capture_output=True, text=True, check=False
    )
    if asked.returncode:
        raise LibraryError(asked.stderr.strip())
    found = json.loads(asked.stdout)
    if not found["exists"]:
        raise LibraryError(
            f"there is no library in {found['folder']}: name another one with --library-folder, or "
            "the stores with --milvus-uri and --object-store-uri"
        )
    rows = f", its rows in {found['milvus_uri']}" if "://" in found["milvus_uri"] else ""
    print(f"{program}: the library {found['folder']}{rows}", file=sys.stderr)
    places = {name: found[name] for name in ("milvus_uri", "object_store_uri")}
    return settings.model_copy(update=places)
