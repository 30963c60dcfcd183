"""`sentinel index` with files that stay where they are, on a real gateway and model."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sentinel_client import Item, SentinelClient
from sentinel_client.cli import main
from tests import processes
from tests.e2e.test_index import picture, sha


class Library:
    """A gateway that may read a disk, and a folder on it; the user knows it by a link."""

    def __init__(self, base: Path, address: str) -> None:
        self.address = address
        self.objects = base / "objects"
        self.disk = base / "disk" / uuid.uuid4().hex
        self.disk.mkdir(parents=True)
        self.folder = self.disk.with_name(f"{self.disk.name} photos")
        self.folder.symlink_to(self.disk)
        self.collection = f"c_{uuid.uuid4().hex}"
        self.numbers = range(uuid.uuid4().int % 2**30, 2**31)
        for number in self.numbers[:6]:
            (self.disk / f"{number}.jpg").write_bytes(picture(number))

    def run(self, *words: object, address: str = "") -> Result:
        return CliRunner().invoke(main, ["--address", address or self.address, *map(str, words)])

    def index(self, *words: object, address: str = "") -> Result:
        return self.run("index", self.folder, "-c", self.collection, *words, address=address)

    def items(self, address: str = "") -> dict[str, Item]:
        with SentinelClient(address or self.address) as client:
            return {item.id: item for item in client.list_items(collection=self.collection)}

    def copies(self) -> set[str]:
        """Return the digests of this library's files of which the gateway has a copy."""
        digests = {sha(picture(number)) for number in self.numbers[:8]}
        return {one.name for one in self.objects.glob("images/*/*")} & digests


@pytest.fixture(scope="module")
def running(
    default_worker: processes.Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, str]]:
    base = tmp_path_factory.mktemp("by_reference")
    flags = processes.gateway_flags(base, str(base / "milvus.db"), default_worker.address)
    flags += ["--reference-places", (base / "disk").as_uri()]
    with processes.running(base, "search_server", *flags) as server:
        yield base, server.address


@pytest.fixture
def library(running: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Library(*running)


def test_files_stay_where_they_are_and_are_read_from_there(library: Library) -> None:
    first = library.index()
    assert (first.exit_code, "6 stored, 0 unchanged" in first.stdout) == (0, True)
    assert "as copies" not in first.stderr
    assert library.copies() == set()
    items = library.items()
    assert all(item.by_reference for item in items.values())
    file = library.disk / f"{library.numbers[0]}.jpg"
    stored = items[sha(picture(library.numbers[0]))]
    assert stored.image_uri == file.as_uri()
    assert stored.fields["path"] == str(library.folder / file.name)  # as the user knows it
    assert "6 unchanged" in library.index().stdout

    target = library.disk / "out.bin"
    download = ("items", "download", stored.id, "-c", library.collection, "-o", target)
    done = library.run(*download)
    assert done.exit_code == 0, done.output
    assert target.read_bytes() == picture(library.numbers[0])
    target.unlink()
    file.unlink()
    gone = library.run(*download)
    assert gone.exit_code != 0
    assert str(file)[:150] in gone.output.replace("\n", "")
    assert "ORIGINAL_GONE" in gone.output
    searched = library.run("search", "a photo", "-c", library.collection, "--json")
    assert len([line for line in searched.stdout.splitlines() if line]) >= 1


def test_a_moved_file_and_a_moved_disk_are_found_again(library: Library) -> None:
    library.index()
    before = library.items()
    (library.disk / "sub").mkdir()
    name = f"{library.numbers[1]}.jpg"
    (library.disk / name).rename(library.disk / "sub" / name)
    assert "0 stored, 5 unchanged, 1 moved" in library.index().stdout
    moved = library.items()
    assert moved.keys() == before.keys()
    assert moved[sha(picture(library.numbers[1]))].image_uri.endswith(f"/sub/{name}")

    other = library.disk.with_name(f"{library.disk.name} other")
    library.disk.rename(other)
    library.folder.unlink()
    library.folder.symlink_to(other)  # all paths are as before
    assert "6 stored, 0 unchanged" in library.index().stdout
    assert all(item.image_uri.startswith(other.as_uri()) for item in library.items().values())
    assert library.copies() == set()


def test_copies_are_made_on_request_also_of_what_is_stored(library: Library) -> None:
    library.index()
    (library.disk / "new.jpg").write_bytes(picture(library.numbers[6]))
    copied = library.index("--copy", "--json")
    assert {"stored": 7, "unchanged": 0, "copied": 0}.items() <= json.loads(copied.stdout).items()
    assert len(library.copies()) == 7
    assert not any(item.by_reference for item in library.items().values())
    assert "7 unchanged" in library.index("--by-reference").stdout  # copies stay
    assert not any(item.by_reference for item in library.items().values())


def test_a_gateway_that_may_not_read_the_files_gets_copies(
    library: Library, lite_address: str
) -> None:
    result = library.index(address=lite_address)
    assert (result.exit_code, "6 stored, 0 unchanged" in result.stdout) == (0, True)
    assert "as copies" in result.stderr
    assert not any(item.by_reference for item in library.items(lite_address).values())
    assert "6 unchanged" in library.index(address=lite_address).stdout
