"""Options that several commands share: collection, --where, item ids, JSON, index parameters."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import reduce
from pathlib import Path
from typing import Any, TypeAlias

import click

from sentinel_client import (
    ClientConfig,
    Collection,
    Consistency,
    ElementType,
    F,
    FieldType,
    Filter,
    RetryPolicy,
    SentinelClient,
    SentinelError,
    VectorStorage,
)
from sentinel_client._filters import Scalar
from sentinel_client.cli._console import cache_folder

Decorator: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]

_MAX_RECENT_IDS = 2_000
# A person has pressed Tab.
_COMPLETION_TIMEOUT_S = 1.0

_CONDITION = re.compile(r"\s*(\w+)\s*(!=|<=|>=|\^=|=|<|>)\s*(.*?)\s*", re.DOTALL)
_OPERATORS: dict[str, Callable[[F, Scalar], Filter]] = {
    "=": lambda field, value: field == value,
    "!=": lambda field, value: field != value,
    "<": lambda field, value: field < value,
    "<=": lambda field, value: field <= value,
    ">": lambda field, value: field > value,
    ">=": lambda field, value: field >= value,
    "^=": lambda field, value: field.startswith(str(value)),
}
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


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
    """Return the option --where; pass its values to `parse_filter`."""
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
    return as_json(quiet_option("Do not say what was done.")(command))


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


def parse_filter(conditions: Sequence[str], collection: Collection) -> Filter:
    """Join one or more conditions such as `year>=2020`; read values as the declared type."""
    return reduce(lambda a, b: a & b, [_comparison(one, collection) for one in conditions])


def _comparison(condition: str, collection: Collection) -> Filter:
    match = _CONDITION.fullmatch(condition)
    if match is None:
        raise click.UsageError(
            f"--where {condition!r} is not FIELD OP VALUE with OP one of {' '.join(_OPERATORS)}"
        )
    name, operator, text = match.groups()
    _check_written(name, operator, text)
    types = {schema.name: schema.type for schema in collection.fields}
    if name not in types:
        raise click.UsageError(
            f"{collection.name} has no field {name!r}; it has {', '.join(types) or 'none'}"
        )
    if types[name] is FieldType.STRING_LIST:
        if operator not in ("=", "!="):
            raise click.UsageError(f"{name} is a list of strings: only = (contains) and != work")
        contains = F(name).contains(text)
        return contains if operator == "=" else ~contains
    if operator == "^=" and types[name] is not FieldType.STRING:
        raise click.UsageError(f"^= (begins with) is for strings; {name} is {types[name].value}")
    try:
        value = _value(text, types[name])
    except (ValueError, KeyError, OverflowError):
        raise click.UsageError(f"{text!r} is not {types[name].value}, as {name} is") from None
    return _OPERATORS[operator](F(name), value)


def _check_written(name: str, operator: str, text: str) -> None:
    """Raise UsageError for a condition of another language, which would find nothing here."""
    if operator == "=" and text.startswith("="):
        raise click.UsageError(f"--where: write {name}={text[1:].strip()}, with one =")
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        raise click.UsageError(
            f"--where: write {name}{operator}{text[1:-1]}, without quotes around the value"
        )


def _value(text: str, kind: FieldType) -> Scalar:
    if kind is FieldType.INT64:
        try:
            number = int(text.replace("_", ""))
        except ValueError:
            # Times are stored as seconds since 1970, for `modified_at>=2024-06-01`.
            return int(datetime.fromisoformat(text).timestamp())
        if not -(2**63) <= number < 2**63:
            raise ValueError(text)
        return number
    if kind is FieldType.DOUBLE:
        return float(text)
    if kind is FieldType.BOOL:
        return _BOOLEANS[text.lower()]
    return text
