"""`sentinel keys`: create, list and revoke the API keys in a server's file.

The file is the server's (`--keys-file`). It has hashes only, and no server runs here: servers read
the file again within a second.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from sentinel_client.cli._console import Failure, json_line, new_table, out, tell
from sentinel_client.cli._options import json_option, outcome_options

if sys.platform != "win32":
    import fcntl

# scrypt's cost: 10 ms. The secrets are random: a higher cost would make them no safer.
_N, _R, _P = 2**12, 8, 1
_GRANT = re.compile(r"(?P<name>\w+)(?::(?P<collection>\w+\*?|\*))?")
_NAMES = ("search", "read", "write", "admin", "embed", "reader", "writer", "owner", "service")
_TENANT = re.compile(r"[a-z0-9]{1,32}")
_EXPIRES = re.compile(r"(\d+)([dhm])")
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}

_file_option = click.option(
    "--file",
    "file",
    envvar="SENTINEL_KEYS_FILE",
    default="keys.json",
    show_default=True,
    show_envvar=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The server's file of keys.",
)


@click.group()
def keys() -> None:
    """Create, list and revoke the API keys of a server."""


@keys.command()
@_file_option
@click.option(
    "--grant",
    "grants",
    multiple=True,
    required=True,
    metavar="SCOPE[:COLLECTION]",
    help="A scope (search, read, write, admin) or a role (reader, writer, owner; service for "
    "workers), for all collections, for one, or for those that begin so: photos*. Repeatable.",
)
@click.option("--name", default="", help="Whose key it is, for the list.")
@click.option(
    "--tenant", default="", help="Whose collections the key sees: lower-case letters and digits."
)
@click.option("--expires", default="", metavar="NUMBER(d|h|m)", help="For how long: 90d, 12h.")
@json_option("key, with its secret")
def create(
    file: Path, *, grants: tuple[str, ...], name: str, tenant: str, expires: str, as_json: bool
) -> None:
    """Create a key and print it, this once."""
    with _locked(file):
        key, entry = _create(file, grants, name, tenant, expires)
    tell(key, {"key": key, **_shown(entry)}, as_json=as_json)


def _create(
    file: Path, grants: tuple[str, ...], name: str, tenant: str, expires: str
) -> tuple[str, dict[str, Any]]:
    """Add a key to the file; return it and its entry."""
    content = _read(file) if file.exists() else {"keys": []}
    for grant in grants:
        found = _GRANT.fullmatch(grant)
        names = (*_NAMES, *content.get("roles", {}))
        if found is None or found["name"] not in names:
            raise click.UsageError(
                f"--grant {grant!r} is not SCOPE or SCOPE:COLLECTION; scopes and roles are "
                f"{', '.join(names)}"
            )
    if tenant and not _TENANT.fullmatch(tenant):
        raise click.UsageError("--tenant takes 1 to 32 lower-case letters and digits")
    now = datetime.now(UTC)
    key_id = secrets.token_hex(6)
    key = f"sen_{key_id}_{secrets.token_urlsafe(32)}"
    entry = {
        "id": key_id,
        "name": name,
        "tenant": tenant,
        "grants": list(grants),
        "created": _text(now),
        "expires": _text(now + _duration(expires)) if expires else None,
        "hash": _hash(key),
    }
    content["keys"].append(entry)
    _write(file, content)
    return key, entry


def _shown(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != "hash"}


@keys.command("list")
@_file_option
@json_option("key")
def list_(file: Path, as_json: bool) -> None:
    """List the keys, without secrets."""
    shown = [_shown(entry) for entry in _read(file)["keys"]]
    if as_json:
        for entry in shown:
            click.echo(json_line(entry))
        return
    table = new_table()
    for column in ("id", "name", "tenant", "grants", "expires"):
        table.add_column(column)
    for entry in shown:
        cells = (entry["id"], entry.get("name", ""), entry.get("tenant", ""))
        table.add_row(*cells, " ".join(entry["grants"]), entry.get("expires") or "never")
    out().print(table)


@keys.command()
@_file_option
@click.argument("key_id", metavar="ID")
@outcome_options
def revoke(file: Path, key_id: str, as_json: bool, quiet: bool) -> None:
    """Remove a key; servers refuse it within a second."""
    with _locked(file):
        _revoke(file, key_id)
    tell(f"Revoked {key_id}.", {"revoked": key_id}, as_json=as_json, quiet=quiet)


def _revoke(file: Path, key_id: str) -> None:
    content = _read(file)
    left = [entry for entry in content["keys"] if entry["id"] != key_id]
    if len(left) == len(content["keys"]):
        raise Failure(f"{file} has no key {key_id}; `sentinel keys list` shows them")
    content["keys"] = left
    _write(file, content)


def _hash(key: str) -> str:
    salt = secrets.token_bytes(16)
    digest = hashlib.scrypt(key.encode(), salt=salt, n=_N, r=_R, p=_P, dklen=32)
    return f"scrypt${_N}${_R}${_P}${salt.hex()}${digest.hex()}"


def _duration(text: str) -> timedelta:
    found = _EXPIRES.fullmatch(text)
    if found is None:
        raise click.UsageError(f"--expires {text!r} is not a number of days, hours or minutes: 90d")
    try:
        return timedelta(**{_UNITS[found[2]]: int(found[1])})
    except OverflowError:
        raise click.UsageError(f"--expires {text} is too long") from None


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


def _read(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        content["keys"] = list(content["keys"])
    except OSError as error:
        raise Failure(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise Failure(f"{file} is no file of keys") from error
    return content


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Keep other commands from changing the file meanwhile."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.with_name(f".{file.name}.lock").open("w") as lock:
            if sys.platform != "win32":
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise Failure(f"cannot write {file}: {error.strerror}") from error


def _write(file: Path, content: dict[str, Any]) -> None:
    """Replace the file in one step: a server may be reading it. Whose it is stays."""
    file = file.resolve()  # a link stays one
    draft = file.with_name(f"{file.name}.{secrets.token_hex(4)}.tmp")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            json.dump(content, stream, indent=2)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
            if file.exists() and sys.platform != "win32":
                facts = file.stat()
                os.fchown(stream.fileno(), facts.st_uid, facts.st_gid)
                os.fchmod(stream.fileno(), facts.st_mode & 0o777)
        draft.replace(file)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
