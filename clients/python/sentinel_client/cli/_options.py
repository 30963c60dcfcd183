"""Options that several commands share: collection, --where, item ids, JSON, index parameters."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import click

from sentinel_client import (
    ClientConfig,
    Consistency,
    ElementType,
    RetryPolicy,
    SentinelClient,
    SentinelError,
    VectorStorage,
)
from sentinel_client.cli._console import cache_folder

Decorator: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]

_MAX_RECENT_IDS = 2_000
# A person has pressed Tab.
_COMPLETION_TIMEOUT_S = 1.0


def collection_option(text: str) -> Decorator:
    return click.option(
        "--collection",
        "-c",
        default="photos",
        show_default=True,
        shell_complete=complete_collection,
        help=text,
    )


def complete_collection(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Return the names of collections that begin so, as far as the gateway answers at once."""
    address = context.find_root().params["address"]
    config = ClientConfig(retry=RetryPolicy(max_attempts=1))
    try:
        with SentinelClient(address, config=config) as client:
            found = client.list_collections(timeout=_COMPLETION_TIMEOUT_S)
    except (SentinelError, ValueError):
        return []
    names = [name for one in found for name in (one.name, *one.aliases)]
    return [name for name in names if name.startswith(incomplete)]


def where_option(text: str) -> Decorator:
    """Return the option --where; pass its values to `_filters.parse_filter`."""
    return click.option(
        "--where", "conditions", multiple=True, metavar="'FIELD OP VALUE'", help=text
    )


def json_option(noun: str) -> Decorator:
    return click.option("--json", "as_json", is_flag=True, help=f"One JSON object per {noun}.")


def paths_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --paths and -0; pass both to `_files.echo_paths`."""
    paths = click.option(
        "--paths",
        is_flag=True,
        help="Only the path of each file, one per line, for other programs.",
    )
    nul = click.option(
        "-0", "--null", "nul", is_flag=True, help="As --paths, for `xargs -0`: any name is safe."
    )
    return paths(nul(command))


def outcome_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --json and --quiet to a command that says what it did, with `tell`."""
    as_json = click.option(
        "--json", "as_json", is_flag=True, help="Say what was done as one JSON object."
    )
    return as_json(quiet_option("Show no progress, and do not say what was done.")(command))


def quiet_option(text: str) -> Decorator:
    return click.option("-q", "--quiet", is_flag=True, help=text)


def consistency_option(text: str) -> Decorator:
    names = [level.value for level in Consistency]
    return click.option("--consistency", type=click.Choice(names), help=text)


def index_param_option(text: str) -> Decorator:
    return click.option(
        "--index-param",
        "index_params",
        multiple=True,
        type=_parse_index_param,
        metavar="NAME=NUMBER",
        help=text,
    )


def storage_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --dimensions, --storage and --rescore; `storage_from` reads the last two."""
    dimensions = click.option(
        "--dimensions",
        default=0,
        type=click.IntRange(0),
        help="Length of the vectors, one that the model supports.  [default: the model's own]",
    )
    storage = click.option(
        "--storage",
        type=click.Choice([one.value for one in ElementType]),
        help="Type of the vectors' elements in Milvus's memory.  [default: float32]",
    )
    rescore = click.option(
        "--rescore",
        is_flag=True,
        help="With --storage int8: keep the float32 vectors, too, on disk, and rank hits by them.",
    )
    return dimensions(storage(rescore(command)))


def storage_from(element_type: str | None, rescore: bool) -> VectorStorage | None:
    """Return what --storage and --rescore say; None: nothing."""
    if element_type is None:
        if rescore:
            raise click.UsageError("--rescore needs --storage int8")
        return None
    return VectorStorage(ElementType(element_type), rescore)


def _parse_index_param(text: str) -> tuple[str, int]:
    name, sign, number = text.partition("=")
    if not (name and sign and number.strip().isdecimal()):
        raise click.BadParameter(f"{text!r} is not NAME=NUMBER")
    return name.strip(), int(number)


@dataclass(frozen=True, slots=True)
class LastSearch:
    """The hits that a person has seen last: `ids[0]` is that of rank 1."""

    address: str
    collection: str
    ids: tuple[str, ...]


def remember_search(found: LastSearch) -> None:
    """Keep the hits of a search in the user's cache folder, for `sentinel open 3`."""
    remember_ids(found.ids)
    with suppress(OSError):
        _last_search_file().write_text(json.dumps(asdict(found)), encoding="utf-8")


def last_search() -> LastSearch | None:
    """Return the hits that a person has seen last; None if there are none."""
    try:
        content = json.loads(_last_search_file().read_text(encoding="utf-8"))
        return LastSearch(content["address"], content["collection"], tuple(content["ids"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _last_search_file() -> Path:
    return cache_folder() / "last-search.json"


def remember_ids(ids: Sequence[str]) -> None:
    """Keep the ids of a table in the user's cache folder, so that commands accept short ids."""
    with suppress(OSError):
        kept = dict.fromkeys([one for one in ids if "\n" not in one] + _recent_ids())
        _recent_ids_file().parent.mkdir(parents=True, exist_ok=True)
        text = "\n".join(list(kept)[:_MAX_RECENT_IDS])
        _recent_ids_file().write_text(text, encoding="utf-8")


def full_id(given: str) -> str:
    """Return the one recent id that begins with `given`, else `given` itself."""
    recent = _recent_ids()
    if given in recent:
        return given
    matches = [one for one in recent if one.startswith(given)]
    if len(matches) > 1:
        raise click.UsageError(f"several hits have an id that begins with {given!r}: give more")
    return matches[0] if matches else given


def _recent_ids() -> list[str]:
    try:
        return _recent_ids_file().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def _recent_ids_file() -> Path:
    return cache_folder() / "shown-ids"
