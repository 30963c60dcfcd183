"""Find the library of `sentinel up`, for commands that look after what a gateway has stored.

The client knows where it is. A process of its own asks it, since no server imports the client.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, TypeVar

from search_server.settings import GatewaySettings

_MODULE = "sentinel_client.cli._print_library"
SettingsT = TypeVar("SettingsT", bound=GatewaySettings)


class LibraryError(Exception):
    """It is not clear which library is meant, or there is none; the message says what to do."""


def with_library(settings: SettingsT, program: str) -> SettingsT:
    """Return the settings with the places of the library, and say so on standard error.

    Settings that name a Milvus or an object store stay as they are.

    Raises:
        LibraryError: There is none, or what these settings name may not be what belongs together.
    """
    named = settings.model_fields_set & {"milvus_uri", "object_store_uri"}
    if named and settings.library_folder is None:
        return settings
    found = _ask(settings)
    if named:
        if other := [name for name in sorted(named) if getattr(settings, name) != found[name]]:
            flags = " and ".join(f"--{name.replace('_', '-')}" for name in other)
            raise LibraryError(f"{flags} and the library {found['folder']} differ: name only one")
        return settings
    if problem := _problem(found):
        raise LibraryError(problem)
    rows = f", its rows in {found['milvus_uri']}" if "://" in found["milvus_uri"] else ""
    print(f"{program}: the library {found['folder']}{rows}", file=sys.stderr)
    places = {name: found[name] for name in ("milvus_uri", "object_store_uri")}
    return settings.model_copy(update=places)


def _ask(settings: GatewaySettings) -> dict[str, Any]:
    given = [] if settings.library_folder is None else [str(settings.library_folder)]
    asked = subprocess.run(
        [sys.executable, "-P", "-m", _MODULE, *given], capture_output=True, text=True, check=False
    )
    if asked.returncode:
        raise LibraryError(asked.stderr.strip())
    found: dict[str, Any] = json.loads(asked.stdout)
    return found


def _problem(found: dict[str, Any]) -> str:
    """Return why nobody should look after this library unasked; empty if nothing is against it."""
    folder = found["folder"]
    if not found["exists"]:
        return (
            f"there is no library in {folder}: name another one with --library-folder, or the "
            "stores with --milvus-uri and --object-store-uri"
        )
    if not found["is_only"]:
        return f"this folder has another library than {folder}: name one with --library-folder"
    if found["elsewhere"] is not None:
        # In its own Milvus, images of the other one's rows look like orphans.
        return (
            f"`sentinel up --milvus-uri {found['elsewhere']}` has run on {folder}, so its rows may "
            f"be there: name them with --milvus-uri, and --object-store-uri "
            f"{found['object_store_uri']}"
        )
    return ""
