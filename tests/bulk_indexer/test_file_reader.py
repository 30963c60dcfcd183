"""A file's bytes, or the reason why there are none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from bulk_indexer.file_reader import FileReader
from sentinel_core.errors import SentinelError


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def reader(pauses: list[float]) -> Iterator[FileReader]:
    reader = FileReader(max_bytes=10, pause=pauses.append)
    yield reader
    reader.close()


async def reason(reader: FileReader, uri: str) -> str:
    with pytest.raises(SentinelError) as caught:
        await reader.read(uri)
    return caught.value.reason


async def test_a_local_file_comes_with_its_time(reader: FileReader, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    os.utime(tmp_path / "f", (1_000, 2_000))
    read = await reader.read(str(tmp_path / "f"))
    assert (read.data, read.modified_at) == (b"0123456789", 2_000)


async def test_an_object_is_read_up_to_the_limit(reader: FileReader) -> None:
    fsspec.filesystem("memory").pipe({"/r/f": b"0123456789", "/r/big": b"x" * 11, "/r/none": b""})
    assert (await reader.read("memory://r/f")).data == b"0123456789"
    assert (await reader.read("memory://r/none")).data == b""
    assert await reason(reader, "memory://r/big") == "IMAGE_TOO_LARGE"


async def test_what_will_not_change_is_not_tried_again(
    reader: FileReader, pauses: list[float], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "big").write_bytes(b"x" * 11)
    assert await reason(reader, str(tmp_path / "gone")) == "URI_NOT_FOUND"
    assert await reason(reader, str(tmp_path)) == "URI_UNAVAILABLE"
    assert await reason(reader, "memory://r/gone") == "URI_NOT_FOUND"
    assert await reason(reader, str(tmp_path / "pipe")) == "URI_UNAVAILABLE"
    assert await reason(reader, "nope://x") == "URI_UNAVAILABLE"
    assert await reason(reader, str(tmp_path / "big")) == "IMAGE_TOO_LARGE"
    assert not pauses


async def test_a_passing_fault_is_waited_out_and_a_lasting_one_told(
    reader: FileReader, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.filesystem("memory").pipe("/r/f", b"there")
    whole, faults = MemoryFileSystem.cat_file, [OSError("reset"), OSError("reset")]

    def faulty(self: MemoryFileSystem, path: str, **options: object) -> bytes:
        if faults:
            raise faults.pop()
        return bytes(whole(self, path, **options))

    monkeypatch.setattr(MemoryFileSystem, "cat_file", faulty)
    assert (await reader.read("memory://r/f")).data == b"there"
    assert len(pauses) == 2
    faults.extend(OSError("reset") for _ in range(9))
    assert await reason(reader, "memory://r/f") == "URI_UNAVAILABLE"
