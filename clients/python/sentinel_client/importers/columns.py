"""Map the columns of a table to images, texts, ids and fields, and cells to field values."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import TypeAlias

from sentinel_client._filters import FieldValue, GeoPoint
from sentinel_client._text import valid_text
from sentinel_client._types import FieldSchema, FieldType, ImageUri
from sentinel_client.importers.dataset import (
    BrokenEntry,
    ImportEntry,
    ImportItem,
    LayoutError,
    digest_stamp,
    local_file,
)
from sentinel_client.importers.rows import TableRow, is_empty, is_unicode

_DECLARED = re.compile(r"(?:(?P<name>\w+)=)?(?P<column>.+?)(?::(?P<type>\w+))?")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")  # no leading zero: 007 is text
_NUMBER = re.compile(r"-?[0-9]+\.[0-9]+(e[+-]?[0-9]+)?", re.IGNORECASE)
_MAX_INT64 = 2**63 - 1
_MEANINGS = {
    FieldType.STRING: "a text",
    FieldType.INT64: "a whole number of at most 64 bits",
    FieldType.DOUBLE: "a finite number",
    FieldType.BOOL: "true or false",
    FieldType.STRING_LIST: "a list of texts",
    FieldType.TIMESTAMP: "a date or time as ISO 8601 text, such as 2021-07-04T18:30:00+02:00",
    FieldType.GEO: "a place: 'LATITUDE,LONGITUDE' or an object with both, in degrees",
}
_PLACE_KEYS = (("latitude", "longitude"), ("lat", "lon"))
_MAX_SHOWN = 80
_WRITTEN_AS_TEXT = {FieldType.STRING, FieldType.INT64, FieldType.DOUBLE}


@dataclass(frozen=True, slots=True)
class Column:
    """A column that should become a field; type None: inferred."""

    column: str
    field: str
    type: FieldType | None = None

    @classmethod
    def parse(cls, text: str) -> Column:
        """Read `column`, `column:type`, `field=column` or `field=column:type`."""
        match = _DECLARED.fullmatch(text)
        if match is None:
            raise LayoutError(f"{text!r} is not [FIELD=]COLUMN[:TYPE]")
        types = {kind.value: kind for kind in FieldType}
        column, kind = match["column"], match["type"]
        if kind is not None and kind not in types:
            raise LayoutError(f"{kind!r} is not a field type; types are {', '.join(types)}")
        return cls(column, match["name"] or field_name(column), types[kind] if kind else None)


# A column, and the field that it becomes.
FieldColumn: TypeAlias = tuple[str, FieldSchema]


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What the columns of a table hold. Either `image` or `text` is set.

    Attributes:
        image: Column of a path, a URL or, in Parquet, the encoded image.
        text: Column of the text to store.
        id: Column of the id; None: the SHA-256 of the content.
        fields: Columns that become fields; None: all others.
        base: Folder of relative paths; None: the table's folder.
        full_text: Fields with full-text search; strings only.
    """

    image: str | None = None
    text: str | None = None
    id: str | None = None
    fields: Sequence[Column] | None = None
    base: Path | None = None
    full_text: Sequence[str] = ()

    def __post_init__(self) -> None:
        if (self.image is None) == (self.text is None):
            raise LayoutError("name one column: the image column or the text column")

    def check(self, names: Sequence[str], table: Path) -> None:
        """Raise LayoutError if the table, whose columns are `names`, lacks a column."""
        wanted = [self.image, self.text, self.id, *(one.column for one in self.fields or ())]
        for name in wanted:
            if name is not None and name not in names:
                raise LayoutError(f"{table} has no column {name!r}; it has {', '.join(names)}")

    def candidates(self, names: Iterable[str]) -> list[Column]:
        """Return those of the columns `names` that should become fields."""
        if self.fields is not None:
            return list(self.fields)
        special = {self.image, self.text, self.id}
        return [Column(name, field_name(name)) for name in names if name not in special]


def field_name(column: str) -> str:
    """Return the column's name with every character replaced that a field name cannot have."""
    name = re.sub(r"\W", "_", column.strip(), flags=re.ASCII) or "_"
    return f"_{name}" if name[0].isdigit() else name


def field_columns(
    columns: Iterable[Column], infer: Callable[[str], FieldType | None]
) -> list[FieldColumn]:
    """Return the columns with their fields; leave out those for which `infer` returns no type."""
    kinds = ((one, one.type or infer(one.column)) for one in columns)
    return [(one.column, FieldSchema(one.field, kind)) for one, kind in kinds if kind is not None]


def common_type(rows: Iterable[Mapping[str, object]], column: str) -> FieldType | None:
    """Return the type of a column's values; None if no field can hold them.

    A column without values, or with both numbers and strings, is a string.
    """
    kinds = {_type_of(row[column]) for row in rows if row.get(column) is not None}
    if kinds == {FieldType.INT64, FieldType.DOUBLE}:
        return FieldType.DOUBLE
    if len(kinds) == 1:
        return kinds.pop()
    return FieldType.STRING if kinds <= _WRITTEN_AS_TEXT else None


def _type_of(value: object) -> FieldType | None:
    if isinstance(value, bool):
        return FieldType.BOOL
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return FieldType.STRING_LIST
    if _place_keys(value) is not None:
        return FieldType.GEO
    kinds = {int: FieldType.INT64, float: FieldType.DOUBLE, str: FieldType.STRING}
    return kinds.get(type(value))


def guess(cell: str) -> object:
    """Return the value that a cell of a text file looks like; None for an empty cell."""
    if _INTEGER.fullmatch(cell):
        return int(cell)
    if _NUMBER.fullmatch(cell):
        return float(cell)
    if cell.lower() in ("true", "false"):
        return cell.lower() == "true"
    return cell or None


def typed_value(value: object, kind: FieldType) -> FieldValue:
    """Convert a cell to the value of a field; raise ValueError if it has another type."""
    try:
        return _typed_value(value, kind)
    except (ValueError, OverflowError, RecursionError):
        raise ValueError(f"{_short(value)} is not {_MEANINGS[kind]} ({kind.value})") from None


def _typed_value(value: object, kind: FieldType) -> FieldValue:
    if kind in _READERS:
        return _READERS[kind](value)
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        if kind is FieldType.STRING:
            return str(value)
        if kind is FieldType.DOUBLE and math.isfinite(double := float(value)):
            return double
        if kind is FieldType.INT64 and not (isinstance(value, float) and value % 1):
            number = int(value)
            if -_MAX_INT64 <= number <= _MAX_INT64:
                return number
    raise ValueError(value)


def _texts(value: object) -> list[str]:
    if isinstance(value, str):  # in a text file
        value = json.loads(value) if value.startswith("[") else [value]
    if _type_of(value) is not FieldType.STRING_LIST:
        raise ValueError(value)
    return list(value)  # type: ignore[call-overload, no-any-return]


def _truth(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _TRUTH:
        return _TRUTH[value.lower()]
    raise ValueError(value)


def _moment(value: object) -> datetime:
    """Return a point in time; without a zone it is in UTC, so that all machines read the same."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value.strip())
    elif isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime):
        raise ValueError(value)
    aware = value if value.utcoffset() is not None else value.replace(tzinfo=UTC)
    return aware.astimezone(UTC)


def _place(value: object) -> GeoPoint:
    if isinstance(value, str):
        latitude, longitude = map(float, value.split(","))
    elif (keys := _place_keys(value)) is not None:
        latitude, longitude = (float(value[key]) for key in keys)  # type: ignore[index]
    else:
        raise ValueError(value)
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
        raise ValueError(value)
    return GeoPoint(latitude, longitude)


_READERS: dict[FieldType, Callable[[object], FieldValue]] = {
    FieldType.STRING_LIST: _texts,
    FieldType.BOOL: _truth,
    FieldType.TIMESTAMP: _moment,
    FieldType.GEO: _place,
}


def _place_keys(value: object) -> tuple[str, str] | None:
    """Return the keys of the two numbers of a place; None if it is something else."""
    if not isinstance(value, dict):
        return None
    for keys in _PLACE_KEYS:
        numbers = [value.get(key) for key in keys]
        if set(value) == set(keys) and all(type(one) in (int, float) for one in numbers):
            return keys
    return None


def _short(value: object) -> str:
    """Return a value as it is written in messages."""
    written = ascii(value) if not is_unicode(value) else repr(value)
    return written if len(written) <= _MAX_SHOWN else f"{written[:_MAX_SHOWN]}…"


def row_item(
    table: Path, row: TableRow, columns: Columns, fields: Sequence[FieldColumn]
) -> ImportEntry:
    """Return the item of one row of `table`, or what is wrong with the row."""
    key = f"{table}#{row.number}"
    try:
        values = field_values(row.cells, fields)
        item_id = "" if columns.id is None else str(_required(row.cells, columns.id))
        content = _required(row.cells, columns.image or columns.text or "")
    except ValueError as error:
        return BrokenEntry(key, "ROW_INVALID", str(error))
    item = partial(ImportItem, key=key, id=item_id, fields=values)
    if columns.text is not None:
        return item(stamp=digest_stamp(content), text=str(content))
    if isinstance(content, bytes):
        return item(stamp=hashlib.sha256(content).hexdigest(), image=content)
    if isinstance(content, str) and _URI.match(content):
        # The image is not fetched here: an equal URL counts as an equal image.
        return item(stamp=digest_stamp(content), image=ImageUri(content))
    path = (columns.base or table.parent).absolute() / str(content)
    found = local_file(path, id=item_id, fields={"path": valid_text(str(path)), **values})
    if isinstance(found, BrokenEntry):  # name its row, where the path can be corrected
        return BrokenEntry(key, found.reason, f"{content}: {found.message}")
    return found


def field_values(
    cells: Mapping[str, object], fields: Sequence[FieldColumn]
) -> dict[str, FieldValue]:
    """Return the values of the fields without empty cells; raise ValueError as `typed_value`."""
    values: dict[str, FieldValue] = {}
    for column, schema in fields:
        cell = cells.get(column)
        if not is_empty(cell):
            try:
                values[schema.name] = typed_value(cell, schema.type)
            except ValueError as error:
                raise ValueError(f"{column}: {error}") from None
    return values


def _required(cells: Mapping[str, object], name: str) -> object:
    if is_empty(cell := cells.get(name)):
        raise ValueError(f"no {name}")
    return cell
