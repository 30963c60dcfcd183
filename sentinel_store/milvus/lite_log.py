"""Read a log of Milvus Lite record by record; tell a torn end from damage in the middle.

A log is an Arrow IPC stream with one record for each write: `wal_data_N.arrow` has upserted rows,
`wal_delta_N.arrow` has deleted ids. Lite appends to them and reads them when it opens. It stops at
the first record that it cannot read, without a word, and deletes the log at the next flush.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pyarrow as pa

from sentinel_store.images.local_files import sync_folder

_MARK = b"\xff\xff\xff\xff"  # begins each message, at a multiple of 8 bytes
_ALIGNMENT = 8
_PREFIX = 8  # the mark and the length of the message's head
# Power cuts leave blocks of zeros where data had not reached the disk.
_BLOCK = 512
_UNREADABLE = (pa.ArrowException, OSError, EOFError, ValueError)


class LogState(StrEnum):
    """How a log ends."""

    WHOLE = "whole"
    TORN = "torn"  # with part of a record: the process or the machine died while it was written
    DAMAGED = "damaged"  # there was more, but it cannot be read


@dataclass(frozen=True, slots=True)
class LogFile:
    """What a log has.

    Attributes:
        path: The file.
        state: How it ends.
        schema: The table's columns; None if not even they can be read.
        records: Each readable record, those behind damage included.
        readable: How many bytes can be read from the beginning.
        size: How many bytes it has.
    """

    path: Path
    state: LogState
    schema: pa.Schema | None
    records: list[pa.RecordBatch]
    readable: int
    size: int

    def rows(self, key: str) -> Iterator[tuple[object, int]]:
        """Yield the id, in column `key`, and the sequence number of each row."""
        for record in self.records:
            ids, numbers = record.column(key).to_pylist(), record.column("_seq").to_pylist()
            yield from zip(ids, numbers, strict=True)


def read_log(path: Path) -> LogFile:
    """Read a whole log. Raise OSError if the file system fails."""
    size = path.stat().st_size
    if not size:
        return LogFile(path, LogState.WHOLE, None, [], 0, 0)
    with pa.memory_map(str(path)) as file:
        data = file.read_buffer()
    try:
        schema, position = _schema(data)
    except _UNREADABLE:
        is_first = bytes(memoryview(data)).find(_MARK, 1) < 0  # and nothing comes behind it
        state = LogState.TORN if is_first and _is_cut(data, 0) else LogState.DAMAGED
        return LogFile(path, state, None, [], 0, size)
    records: list[pa.RecordBatch] = []
    position = _read_on(data, position, schema, records)
    readable = position
    if _is_end(data, position):
        return LogFile(path, LogState.WHOLE, schema, records, size, size)
    state = LogState.TORN if _is_cut(data, position) else LogState.DAMAGED
    while (found := _next_record(data, position, schema)) is not None:
        state = LogState.DAMAGED
        position = _read_on(data, found, schema, records)
    return LogFile(path, state, schema, records, readable, size)


def rewrite(log: LogFile) -> None:
    """Replace a log by its readable records, in one step; delete it if there are none."""
    if log.schema is None or not log.records:
        log.path.unlink()
    else:
        draft = log.path.with_suffix(".draft")
        with draft.open("wb") as file:
            with pa.ipc.new_stream(file, log.schema) as stream:
                for record in log.records:
                    stream.write_batch(record)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(log.path)
    sync_folder(log.path.parent)


def sync_log(path: Path) -> None:
    """Force a log to disk: a write may have failed because that failed."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    sync_folder(path.parent)


def _schema(data: pa.Buffer) -> tuple[pa.Schema, int]:
    reader = pa.BufferReader(data)
    return pa.ipc.read_schema(pa.ipc.read_message(reader)), reader.tell()


def _record(data: pa.Buffer, position: int, schema: pa.Schema) -> tuple[pa.RecordBatch, int]:
    """Return the record at a position and where it ends."""
    reader = pa.BufferReader(data)
    reader.seek(position)
    record = pa.ipc.read_record_batch(pa.ipc.read_message(reader), schema)
    record.validate(full=True)
    return record, reader.tell()


def _read_on(data: pa.Buffer, position: int, schema: pa.Schema, into: list[pa.RecordBatch]) -> int:
    """Read records until there is none; return where the last one ends."""
    while True:
        try:
            record, position = _record(data, position, schema)
        except _UNREADABLE:
            return position
        into.append(record)


def _next_record(data: pa.Buffer, position: int, schema: pa.Schema) -> int | None:
    """Return where the next readable record begins, behind something unreadable."""
    rest = bytes(memoryview(data)[position:])
    begin = rest.find(_MARK, 1)
    while begin >= 0:
        candidate = position + begin
        if candidate % _ALIGNMENT == 0:
            try:
                _record(data, candidate, schema)
            except _UNREADABLE:
                pass
            else:
                return candidate
        begin = rest.find(_MARK, begin + 1)
    return None


def _is_end(data: pa.Buffer, position: int) -> bool:
    """Tell whether nothing follows but the mark with which a closed log ends."""
    return bytes(memoryview(data)[position:]) in (b"", _MARK + bytes(4))


def _is_cut(data: pa.Buffer, position: int) -> bool:
    """Tell whether what follows is the beginning of a message, or zeros in place of its end."""
    view = memoryview(data)[position:]
    mark, length = bytes(view[:4]), int.from_bytes(view[4:8], "little", signed=True)
    if not any(view[-_BLOCK:]):
        return True
    if mark != _MARK or len(view) < _PREFIX:
        return len(view) < _PREFIX and _MARK.startswith(mark)
    if not 0 <= length <= len(view) - _PREFIX:
        return length > 0
    reader = pa.BufferReader(data)
    reader.seek(position)
    try:
        pa.ipc.read_message(reader)
    except OSError:
        return True  # its body is longer than what is left
    except _UNREADABLE:
        pass
    return False
