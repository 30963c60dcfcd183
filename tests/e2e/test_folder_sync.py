"""A library of photos that changes at random between runs of `sentinel index --prune`.

After each run the collection equals the folder: the same contents, each at a path that has it, with
the metadata that was written into the file and its sidecar. Real gateway, real model, Milvus Lite.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from sentinel_client import Item, SentinelClient
from sentinel_client.cli import _journal, main

pytestmark = pytest.mark.timeout(180)

_RUNS, _CHANGES = 9, 5
_FOLDERS = ("", "2019", "2019/sea", "2020 Ümläut", "2020 Ümläut/a.b.c")
_XMP = (
    "<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF"
    " xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'><rdf:Description rdf:about=''"
    " xmlns:xmp='http://ns.adobe.com/xap/1.0/' xmp:Rating='{}'/></rdf:RDF></x:xmpmeta>"
)


class Library:
    """A folder of photos, and what a person does to it."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.random = random.Random(seed)
        self.written: dict[str, dict[str, Any]] = {}  # metadata by content
        self._number = seed * 1_000_000
        for name in _FOLDERS:
            (root / name).mkdir(parents=True, exist_ok=True)
        (root / "@eaDir").mkdir()
        (root / "@eaDir" / "thumb.jpg").write_bytes(self.content(".jpg"))
        for _ in range(6):
            self.create()

    def content(self, ending: str) -> bytes:
        """Return a new picture with metadata; all of one format and year have the same size."""
        self._number += 1
        side = (16, 24) if self._number % 2 else (24, 16)
        color = tuple(self._number * step % 256 for step in (37, 101, 211))
        image = Image.new("RGB", side, color)
        taken = datetime(2000, 1, 1, tzinfo=UTC) + timedelta(seconds=self._number)
        facts: dict[str, Any] = {"width": side[0], "height": side[1]}
        exif = Image.Exif()
        if ending != ".bmp":
            exif[0x0110] = f"Camera {self._number % 3}"
            exif.get_ifd(0x8769)[0x9003] = taken.strftime("%Y:%m:%d %H:%M:%S")
            facts |= {"camera": exif[0x0110], "taken_at": taken}
        data = BytesIO()
        kind = {".jpg": "JPEG", ".PNG": "PNG", ".webp": "WEBP", ".bmp": "BMP"}[ending]
        image.save(data, kind, **({} if ending == ".bmp" else {"exif": exif}))
        self.written[hashlib.sha256(data.getvalue()).hexdigest()] = facts
        return data.getvalue()

    def files(self) -> list[Path]:
        """Return the photos that should be indexed, sorted."""
        return sorted(
            path
            for path in self.root.rglob("*")
            if path.is_file()
            and path.suffix.lower() in (".jpg", ".png", ".webp", ".bmp")
            and not any(part.startswith((".", "@")) for part in path.relative_to(self.root).parts)
        )

    def one(self) -> Path:
        return self.random.choice(self.files())

    def new_path(self, ending: str) -> Path:
        folder = self.root / self.random.choice(_FOLDERS)
        folder.mkdir(parents=True, exist_ok=True)
        self._number += 1
        return folder / f"{self.random.choice(['a', 'B.c', 'ü', 'no. 1'])}{self._number}{ending}"

    def change(self) -> None:
        real = [path for path in self.files() if path.stat().st_size and not path.is_symlink()]
        few = len(real) < 4
        changes: list[Callable[[], object]] = [
            self.create, self.duplicate, self.edit, self.edit_with_old_time,
            self.edit_with_old_time, self.rename, self.change_case, self.swap, self.rotate,
            self.touch, self.rate, self.link,
            self.hide, self.truncate, self.delete, self.delete, self.move_folder,
        ]  # fmt: skip
        self.random.choice(changes[:12] if few else changes)()
        for path in self.root.rglob("*"):
            if path.is_symlink() and not path.exists():  # it would be reported
                path.unlink()

    def create(self) -> None:
        ending = self.random.choice([".jpg", ".PNG", ".webp", ".bmp"])
        self.new_path(ending).write_bytes(self.content(ending))

    def duplicate(self) -> None:
        path = self.one()
        shutil.copy2(path, self.new_path(path.suffix))

    def edit(self) -> None:
        path = self.one()
        path.write_bytes(self.content(path.suffix))

    def edit_with_old_time(self) -> None:
        """Change only the content, if there is a BMP: neither the size nor the time."""
        bitmaps = [path for path in self.files() if path.suffix == ".bmp" and path.stat().st_size]
        path = self.random.choice(bitmaps or self.files())
        status = path.stat()
        data = self.content(path.suffix)
        while bitmaps and len(data) != status.st_size:
            data = self.content(path.suffix)
        path.write_bytes(data)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def rename(self) -> None:
        path = self.one()
        path.rename(self.new_path(path.suffix))

    def change_case(self) -> None:
        path = self.one()
        path.rename(
            path.with_name(path.name.swapcase().replace(path.suffix.swapcase(), path.suffix))
        )

    def swap(self) -> None:
        first = self.one()
        same = [path for path in self.files() if path.suffix == first.suffix]
        second, aside = self.random.choice(same), self.root / ".aside"
        first.rename(aside)
        if second != first:
            second.rename(first)
        aside.rename(second)

    def rotate(self) -> None:
        """Swap in a circle, as programs do that number files anew."""
        ending = self.one().suffix
        paths = [path for path in self.files() if path.suffix == ending and not path.is_symlink()]
        contents = [path.read_bytes() for path in paths]
        for path, content in zip(paths, contents[1:] + contents[:1], strict=True):
            path.write_bytes(content)

    def touch(self) -> None:
        os.utime(self.one(), (1_600_000_000 + self._number, 1_600_000_000 + self._number))

    def rate(self) -> None:
        path = self.one()
        name = self.random.choice([path.name, path.stem])
        sidecar = path.with_name(f"{name}.xmp")
        sidecar.write_text(_XMP.format(self.random.randint(1, 5)))
        if self.random.random() < 0.3:
            sidecar.unlink()

    def link(self) -> None:
        path = self.one()
        other = self.new_path(path.suffix)
        if self.random.random() < 0.5:
            os.link(path, other)
        else:
            other.symlink_to(path.resolve())

    def hide(self) -> None:
        path = self.one()
        path.rename(path.with_name(f".{path.name}"))

    def truncate(self) -> None:
        self.one().write_bytes(b"")

    def delete(self) -> None:
        self.one().unlink()

    def move_folder(self) -> None:
        old, new = self.root / "2019/sea", self.root / f"moved {self._number}"
        if old.is_dir() and any(old.iterdir()):
            old.rename(new)

    def rating(self, path: Path) -> int | None:
        sidecars = {one.stem.lower(): one for one in path.parent.glob("*.xmp")}
        for name in (path.name.lower(), path.stem.lower()):
            if name in sidecars:
                return int(sidecars[name].read_text().split("Rating='")[1][0])
        return None


def check(library: Library, items: list[Item]) -> None:
    """Check that the items are the photos of the library, no more and no less."""
    by_content: dict[str, list[Path]] = {}
    for path in library.files():
        if path.exists() and path.stat().st_size:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            by_content.setdefault(content, []).append(path)
    assert {item.id for item in items} == set(by_content)
    for item in items:
        fields = dict(item.fields)
        path = Path(str(fields.pop("path")))
        assert path in by_content[item.id]
        assert fields.pop("file_name") == path.name
        assert fields.pop("folder") == str(path.parent)
        assert fields.pop("size_bytes") == path.stat().st_size
        assert fields.pop("modified_at") == int(path.stat().st_mtime)
        assert fields.pop("rating", None) == library.rating(path)
        assert fields == library.written[item.id]


@pytest.mark.parametrize("seed", range(3))
def test_after_each_run_the_collection_equals_the_folder(
    lite_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(_journal, "_SETTLED_S", 0.02)  # so that the journal knows these files, too
    library = Library(tmp_path / "photos", seed)
    collection = f"seed{seed}"
    with SentinelClient(lite_address) as client:
        for number in range(_RUNS):
            command = ["index", str(library.root), "-c", collection, "--prune", "--yes"]
            result = CliRunner().invoke(main, ["--address", lite_address, *command])
            assert result.exit_code == 0, result.output
            check(library, list(client.list_items(collection=collection)))
            for _ in range(_CHANGES):
                library.change()
            if number % 4 == 3:
                shutil.rmtree(cache)
