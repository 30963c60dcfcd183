"""Where pictures lie: a folder, and a real S3 store."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

from sentinel_core.calls import Deadline
from sentinel_core.errors import Unavailable
from sentinel_store.images.image_store import ImageStore
from sentinel_store.images.local_files import LocalFiles, StoredFile
from tests.power_cut import PowerCut
from tests.s3_server import S3Server

CAT, DOG = b"a picture of a cat" * 1_000, b"a picture of a dog"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def file_at(uri: str) -> bytes:
    return Path(unquote(urlparse(uri).path)).read_bytes()


def http_get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        data: bytes = answer.read()
        return data


def deadline() -> Deadline:
    return Deadline.after(None, default_s=30.0)


async def put(store: ImageStore, *pictures: bytes, thumbnail: bytes = b"small") -> None:
    await store.put_images([(digest(data), data, thumbnail) for data in pictures], deadline())


async def read(store: ImageStore, data: bytes) -> bytes | None:
    found = await store.find_image(digest(data))
    return None if found is None else await store.read_image(found, 0, found.size)


async def files_of(store: ImageStore, data: bytes) -> list[StoredFile]:
    """Return the files in the two folders that a picture and its thumbnail belong into."""
    return await store.list_shard(digest(data)[:2])


async def test_a_power_cut_leaves_every_picture_that_was_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    disk = PowerCut(tmp_path / "data", monkeypatch)
    pictures = [b"picture %d" % number for number in range(40)]
    store = ImageStore(str(tmp_path / "data" / "objects"))
    await asyncio.gather(*(put(store, data) for data in pictures))
    await put(store, pictures[0])  # again: only its time changes
    store.close()
    disk.rebuild(tmp_path / "copy")
    disk.close()
    store = ImageStore(str(tmp_path / "copy" / "objects"))
    for data in pictures:
        assert await read(store, data) == data
    assert await store.get_thumbnails([digest(data) for data in pictures]) == [b"small"] * 40
    store.close()


def made_old(root: str, name: str) -> datetime:
    """Let a file look as old as nobody can wait for; return when it claims to be from."""
    path = Path(root, name)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.s3)])
def uri(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "folder":
        return str(tmp_path / "ob jécts #1")
    server: S3Server = request.getfixturevalue("s3")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://{server.bucket()}/some/prefix"


@pytest.fixture
def store(uri: str) -> Iterator[ImageStore]:
    opened = ImageStore(uri)
    yield opened
    opened.close()


async def test_what_was_put_comes_back(store: ImageStore) -> None:
    await put(store, CAT, DOG)
    assert await read(store, CAT) == CAT
    found = await store.find_image(digest(CAT))
    assert found is not None
    assert found.size == len(CAT)
    assert await store.read_image(found, 5, 9) == CAT[5:9]
    absent = digest(b"absent")
    assert await store.get_thumbnails([digest(CAT), absent, digest(CAT)]) == [
        b"small", b"", b"small",
    ]  # fmt: skip
    assert await store.find_image(absent) is None
    assert await store.get_thumbnails([]) == []
    assert await store.image_uris([]) == []


async def test_a_picture_that_vanishes_between_finding_and_reading_is_none(
    store: ImageStore,
) -> None:
    await put(store, CAT)
    found = await store.find_image(digest(CAT))
    assert found is not None
    await store.remove([found.name])
    assert await store.read_image(found, 0, 10) is None
    await store.remove([found.name])


async def test_the_uri_of_a_picture_can_be_read(store: ImageStore) -> None:
    await put(store, CAT)
    [uri] = await store.image_uris([digest(CAT)])
    if urlparse(uri).scheme == "file":
        assert file_at(uri) == CAT
        return
    assert http_get(uri) == CAT
    with pytest.raises(urllib.error.HTTPError, match="403"):
        http_get(uri.partition("?")[0])  # unsigned


@pytest.mark.s3
async def test_presigned_urls_end_and_can_be_turned_off(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    place = f"s3://{s3.bucket()}"
    short, plain = ImageStore(place, presign_seconds=1), ImageStore(place, presign_seconds=0)
    await put(short, CAT)
    [uri] = await short.image_uris([digest(CAT)])
    assert http_get(uri) == CAT
    await asyncio.sleep(2.5)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        http_get(uri)
    assert await plain.image_uris([digest(CAT)]) == [
        f"{place}/images/{digest(CAT)[:2]}/{digest(CAT)}"
    ]
    short.close()
    plain.close()


async def test_putting_again_makes_young(store: ImageStore, uri: str) -> None:
    await put(store, CAT)
    before = {file.name: file.changed for file in await files_of(store, CAT)}
    assert len(before) == 2
    assert all(abs(datetime.now(UTC) - changed).total_seconds() < 60 for changed in before.values())
    if not uri.startswith("s3"):
        before = {name: made_old(uri, name) for name in before}
    else:
        await asyncio.sleep(1.1)  # S3 tells whole seconds
    await put(store, CAT)
    after = {file.name: file.changed for file in await files_of(store, CAT)}
    assert after.keys() == before.keys()
    assert all(after[name] > before[name] for name in after)


async def test_what_is_set_aside_is_still_found_and_comes_back(store: ImageStore) -> None:
    await put(store, CAT)
    names = [file.name for file in await files_of(store, CAT)]
    assert [await store.set_aside(name) for name in names] == [True, True]
    assert await files_of(store, CAT) == []
    assert await store.set_aside(names[0]) is False
    assert await read(store, CAT) == CAT
    assert await store.get_thumbnails([digest(CAT)]) == [b"small"]
    aside = [f.name for f in await store.list_shard(digest(CAT)[:2], aside=True)]
    assert len(aside) == 2
    for name in aside:
        await store.bring_back(name)
    assert sorted(file.name for file in await files_of(store, CAT)) == sorted(names)
    assert await read(store, CAT) == CAT


# --- a store that fails


@pytest.mark.s3
@pytest.mark.parametrize(
    ("bucket", "secret"), [("gone", None), (None, "wrong")], ids=["no bucket", "a wrong key"]
)
async def test_a_bucket_that_is_missing_and_a_wrong_key_are_told(
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    bucket: str | None,
    secret: str | None,
) -> None:
    for name, value in s3.environment(secret).items():
        monkeypatch.setenv(name, value)
    store = ImageStore(f"s3://{bucket or s3.bucket()}/x")
    for call in (
        lambda: put(store, CAT),
        lambda: store.find_image(digest(CAT)),
    ):
        with pytest.raises(Unavailable, match=r"access is denied|does not exist") as caught:
            await call()
        assert caught.value.reason == "OBJECT_STORE_UNAVAILABLE"
    store.close()


async def test_a_store_that_is_not_there_any_more_is_not_an_image_that_is_missing(
    tmp_path: Path,
) -> None:
    store = ImageStore(str(tmp_path / "o"))
    await put(store, CAT)
    (tmp_path / "o").rename(tmp_path / "away")
    with pytest.raises(Unavailable, match="does not exist"):
        await store.find_image(digest(CAT))
    store.close()


async def test_a_kind_of_store_that_is_not_installed_or_known_is_told() -> None:
    with pytest.raises(Unavailable, match="cannot be opened"):
        ImageStore("nosuchstore://bucket/x")


@pytest.mark.parametrize(
    ("number", "told"), [(errno.EROFS, "read-only"), (errno.ENOSPC, "full"), (errno.EIO, None)]
)
async def test_a_disk_that_takes_no_files_now_still_gives_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, told: str | None
) -> None:
    """A gateway that starts again meanwhile must serve searches."""
    store = ImageStore(str(tmp_path / "o"))
    await put(store, CAT)
    store.close()

    def fail(self: LocalFiles) -> None:
        raise OSError(number, "")

    monkeypatch.setattr(LocalFiles, "probe", fail)
    if told is None:
        with pytest.raises(Unavailable, match="cannot be opened"):
            ImageStore(str(tmp_path / "o"))
        return
    store = ImageStore(str(tmp_path / "o"))
    assert store.problem is not None and told in store.problem.message
    assert await store.find_image(digest(CAT)) is not None
    store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def all_whole(root: Path) -> bool:
    """Tell whether each file has the content that its name says."""
    files = [path for path in root.rglob("*") if path.is_file()]
    assert files
    return all(
        path.read_bytes() == b"small" or digest(path.read_bytes()) == path.name for path in files
    )


async def test_a_full_disk_takes_nothing_and_shows_no_half_files(small_disk: Path) -> None:
    store = ImageStore(str(small_disk))
    fits = os.urandom(20_000)
    await put(store, fits)
    with pytest.raises(Unavailable, match="full"):
        await put(store, *(os.urandom(60_000) for _ in range(8)))
    assert all_whole(small_disk)
    assert await store.list_unfinished() == []
    assert await read(store, fits) == fits
    await put(store, fits)  # there already: needs no room
    store.close()


async def test_a_file_is_synced_before_it_is_seen_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ImageStore(str(tmp_path))
    steps: list[str] = []
    sync, replace = os.fsync, Path.replace

    def noted_sync(descriptor: int) -> None:
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        sync(descriptor)

    def noted_replace(path: Path, target: Path) -> Path:
        steps.append("seen")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    await put(store, CAT, thumbnail=b"")
    # First the folders above a new folder, last the file's own: each has a new name.
    assert steps == ["folder"] * 3 + ["file", "seen", "folder"]

    def failing(descriptor: int) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(Unavailable, match="OSError"):
        await put(store, DOG)
    monkeypatch.undo()
    assert await store.find_image(digest(DOG)) is None
    assert await store.list_unfinished() == []
    store.close()
