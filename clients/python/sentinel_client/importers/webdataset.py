"""Import tar shards in the layout of webdataset: `000000.jpg`, `000000.json`, `000000.txt`, ….

Adjacent members with the same name up to the first dot are one sample. The image is the item,
`.txt` its caption, the values of `.json` its fields, `.cls` its class.
"""

from __future__ import annotations

import itertools
import json
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from glob import glob
from pathlib import Path

from sentinel_client.importers.columns import (
    Column,
    FieldColumn,
    common_type,
    field_columns,
    field_name,
    field_values,
)
from sentinel_client.importers.dataset import (
    BrokenEntry,
    Dataset,
    FileSlice,
    ImportEntry,
    ImportItem,
    LayoutError,
    changed_ns,
    file_stamp,
    searchable,
    unreadable,
)
from sentinel_client.importers.left_out import IMAGE_EXTENSIONS

_SAMPLE = 100
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
# A larger member is not the caption or description of one image.
_MAX_TEXT_BYTES = 1024 * 1024
_TAR_MAGIC_AT = 257


@dataclass
class _Sample:
    """The members of one name."""

    shard: Path
    name: str
    stamp: str
    changed_ns: int
    image: FileSlice | bytes | None = None
    values: dict[str, object] = field(default_factory=dict)
    problem: str = ""

    @property
    def key(self) -> str:
        return f"{self.shard}#{self.name}"


def webdataset(
    patterns: Sequence[str], *, by_name: bool = False, full_text: bool = False
) -> Dataset:
    """Return the samples of tar shards, plain or compressed.

    `*` and `{000000..000127}` in the patterns are expanded.
    """
    shards = [Path(name).absolute() for pattern in patterns for name in _expand(pattern)]
    first = [one for one in itertools.islice(_samples(shards), _SAMPLE) if isinstance(one, _Sample)]
    if not any(one.image is not None for one in first):
        raise LayoutError(f"{shards[0]} has no images in the layout of webdataset")
    names = dict.fromkeys(name for one in first for name in one.values)
    columns = [Column(name, field_name(name)) for name in names]
    fields = field_columns(columns, partial(common_type, [one.values for one in first]))
    kept = {column for column, _ in fields}

    def entries() -> Iterator[ImportEntry]:
        for one in _samples(shards):
            yield one if isinstance(one, BrokenEntry) else _entry(one, fields, by_name=by_name)

    dataset = Dataset(
        name="webdataset",
        fields=tuple(schema for _, schema in fields),
        entries=entries,
        left_out=tuple(name for name in names if name not in kept),
    )
    return searchable(dataset, ["caption"] if full_text else [])


def _entry(sample: _Sample, fields: Sequence[FieldColumn], *, by_name: bool) -> ImportEntry:
    if sample.problem or sample.image is None:
        return BrokenEntry(sample.key, "ROW_INVALID", sample.problem or "no image")
    try:
        values = field_values(sample.values, fields)
    except ValueError as error:
        return BrokenEntry(sample.key, "ROW_INVALID", str(error))
    return ImportItem(
        key=sample.key,
        stamp=sample.stamp,
        changed_ns=sample.changed_ns,
        image=sample.image,
        id=sample.name if by_name else "",
        fields=values,
    )


def _samples(shards: Sequence[Path]) -> Iterator[_Sample | BrokenEntry]:
    """Yield the samples of all shards; after damage, continue with the next shard."""
    for shard in shards:
        try:
            yield from _shard_samples(shard)
        except (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError) as error:
            yield unreadable(str(shard), error)


def _shard_samples(shard: Path) -> Iterator[_Sample]:
    status = shard.stat()
    # Only the headers of a plain archive are read here: stored images are not read again.
    plain = _is_plain(shard)
    current: _Sample | None = None
    with tarfile.open(shard, "r:" if plain else "r|*") as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # else it keeps every header
            folder, _, name = member.name.rpartition("/")
            stem, dot, ending = name.partition(".")
            if not member.isreg() or not stem or not dot:
                continue
            name = f"{folder}/{stem}" if folder else stem
            if current is None or current.name != name:
                if current is not None:
                    yield current
                current = _Sample(shard, name, file_stamp(status), changed_ns(status))
            _take(current, archive, member, ending.lower(), plain=plain)
    if current is not None:
        yield current


def _take(
    sample: _Sample, archive: tarfile.TarFile, member: tarfile.TarInfo, ending: str, *, plain: bool
) -> None:
    """Add one member to its sample, if its kind is known."""
    if f".{ending}" in IMAGE_EXTENSIONS:
        if plain and not member.issparse():
            sample.image = FileSlice(sample.shard, member.offset_data, member.size)
        else:
            sample.image = _bytes(archive, member)
    elif ending in ("json", "txt", "cls"):
        if member.size > _MAX_TEXT_BYTES:
            sample.problem = f"{member.name} is too long"
            return
        try:
            values = _values(ending, _bytes(archive, member))
        except (ValueError, RecursionError) as error:
            sample.problem = f"{member.name}: {error}"
        else:
            # The caption in a file of its own wins: people edit that one.
            sample.values = (
                {**values, **sample.values} if ending == "json" else {**sample.values, **values}
            )


def _values(ending: str, data: bytes) -> dict[str, object]:
    text = data.decode("utf-8-sig")
    if ending == "txt":
        return {"caption": text.strip()}
    if ending == "cls":
        return {"cls": int(text)}
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    return values


def _bytes(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    data = b"" if file is None else file.read()
    if len(data) != member.size:
        raise tarfile.ReadError(f"the archive ends inside {member.name}")
    return data


def _is_plain(shard: Path) -> bool:
    with shard.open("rb") as file:
        return file.read(_TAR_MAGIC_AT + 5)[_TAR_MAGIC_AT:] == b"ustar"


def _expand(pattern: str) -> list[str]:
    """Return the paths that match a pattern with braces and wildcards."""
    found = [
        path
        for name in _expand_braces(pattern)
        for path in (sorted(glob(name)) if any(sign in name for sign in "*?[") else [name])
    ]
    if not any(Path(path).is_file() for path in found):
        raise LayoutError(f"there is no file {pattern}")
    return found


def _expand_braces(name: str) -> list[str]:
    match = _BRACES.search(name)
    if match is None:
        return [name]
    first, last, listed = match.groups()
    if listed is not None:
        middles = listed.split(",")
    else:
        middles = [f"{one:0{len(first)}d}" for one in range(int(first), int(last) + 1)]
    start, end = name[: match.start()], name[match.end() :]
    return [path for middle in middles for path in _expand_braces(f"{start}{middle}{end}")]
