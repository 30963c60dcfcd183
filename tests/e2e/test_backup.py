"""A backup of a running gateway comes back the same in another one, or is refused as a whole."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from sentinel.search.v1 import item_service_pb2 as pb
from sentinel.search.v1 import item_service_pb2_grpc
from sentinel_client import FieldSchema, FieldType, Item, SentinelClient
from sentinel_client.cli import _backup_file, main
from sentinel_client.cli._console import Failure
from tests import photos, processes, secure

FIELDS = [
    FieldSchema("path", FieldType.STRING, indexed=True),
    FieldSchema("caption", FieldType.STRING, full_text=True),
    FieldSchema("year", FieldType.INT64),
    FieldSchema("ratio", FieldType.DOUBLE),
    FieldSchema("raw", FieldType.BOOL),
    FieldSchema("tags", FieldType.STRING_LIST),
]
ODD = {
    "caption": "Zürich\n\x1b東京 \U0001f600",
    "year": 2**62 + 1,
    "ratio": 0.1 + 0.2,
    "raw": False,
    "tags": ["a", ""],
}


@pytest.fixture(scope="module")
def worker(default_worker: processes.Server) -> processes.Server:
    return default_worker


@pytest.fixture(scope="module")
def gateways(
    worker: processes.Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[processes.Server, processes.Server]]:
    """Two gateways with stores of their own; both may refer to files of this machine."""
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "other")]
    flags = [
        [*processes.gateway_flags(one, str(one / "milvus.db"), worker.address),
         "--reference-places", "file:///"]
        for one in folders
    ]  # fmt: skip
    with (
        processes.running(folders[0], "search_server", *flags[0]) as one,
        processes.running(folders[1], "search_server", *flags[1]) as other,
    ):
        yield one, other


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A collection of this test's own."""
    return f"t_{hashlib.sha256(request.node.name.encode()).hexdigest()[:8]}"


def sentinel(server: processes.Server, *arguments: object) -> Result:
    return CliRunner().invoke(main, ["--address", server.address, *map(str, arguments)])


def done(server: processes.Server, *arguments: object) -> dict[str, Any]:
    result = sentinel(server, *arguments, "--json")
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def stored(server: processes.Server, collection: str) -> dict[str, pb.Item]:
    """Return all items of a collection, with vectors, as the gateway sends them."""
    with secure.channel(server.address) as channel:
        request = pb.ListItemsRequest(
            collection=collection, page_size=1000, include_vectors=True, include_thumbnails=True
        )
        answer = item_service_pb2_grpc.ItemServiceStub(channel).ListItems(request)
    for item in answer.items:
        if not item.by_reference:
            item.image_uri = "stored" if item.image_uri else ""  # each has a store of its own
    return {item.id: item for item in answer.items}


def store_by_reference(server: processes.Server, collection: str, *files: Path) -> None:
    with secure.channel(server.address) as channel:
        request = pb.UpsertItemsRequest(collection=collection)
        for file in files:
            item = request.items.add(id=f"ref-{file.name}", by_reference=True)
            item.content.image.uri = file.as_uri()
            item.digest = hashlib.sha256(file.read_bytes()).hexdigest()
        answer = item_service_pb2_grpc.ItemServiceStub(channel).UpsertItems(request)
    assert {one.outcome for one in answer.results} == {pb.ItemResult.OUTCOME_STORED}, answer


def fill(server: processes.Server, collection: str) -> None:
    """Store one item of each kind."""
    rng = np.random.default_rng(7)
    with SentinelClient(server.address) as client:
        made = client.create_collection(collection, FIELDS, expected_item_count=50)
        own = rng.normal(size=made.dimensions).astype(np.float32)
        items = [
            *(Item(image=one, fields={"path": str(one)}) for one in photos.all_photos()[:6]),
            *(Item(id=f"text-{n}", text=f"text {n} é", fields=ODD) for n in range(80)),
            Item(id="own", text="with a vector of its own", vector=own),
            Item(id="own-image", image=photos.photo("coffee"), vector=own[::-1].copy()),
            Item(id="bare \u2028 \U0001f600", vector=-own),
        ]
        results = client.upsert(items, collection=collection)
        assert not [one.error for one in results if one.error], results
        client.set_alias(f"{collection}_alias", collection)


def test_everything_comes_back_the_same(
    gateways: tuple[processes.Server, processes.Server], name: str, tmp_path: Path
) -> None:
    one, other = gateways
    fill(one, name)
    original = Path(shutil.copy(photos.photo("chelsea"), tmp_path / "cat.png"))
    store_by_reference(one, name, original)
    file = tmp_path / "library.backup"
    made = done(one, "backup", file, "-c", name)
    assert made["collections"] == {name: {"items": 90, "images": 8, "gone": 0}}
    before = stored(one, name)
    restored = done(other, "restore", file)
    assert restored["collections"][name] == {"items": 90, "stored": 90, "wrong": 0}
    assert stored(other, name) == before
    with SentinelClient(one.address) as old, SentinelClient(other.address) as new:
        was, now = old.get_collection(name), new.get_collection(name)
        assert now == was
        assert now.aliases == (f"{name}_alias",)
        for item_id, item in before.items():
            if item.image_uri:
                images = [one.download_image(item_id, collection=name) for one in (old, new)]
                assert images[0] == images[1]
        # As if the model had made the vectors there: nothing is embedded again.
        again = [Item(image=one, fields={"path": str(one)}) for one in photos.all_photos()[:6]]
        again += [Item(id=f"text-{n}", text=f"text {n} é", fields=ODD) for n in range(80)]
        results = new.upsert(again, collection=name)
        assert {result.outcome.value for result in results} == {"unchanged"}
    with tarfile.open(file) as archive:  # any tar program reads it
        assert f"{name}/000001/items.jsonl" in archive.getnames()


def test_an_interrupted_restore_continues(
    gateways: tuple[processes.Server, processes.Server], name: str, tmp_path: Path
) -> None:
    one, other = gateways
    fill(one, name)
    file = tmp_path / "library.backup"
    done(one, "backup", file, "-c", name)
    done(other, "restore", file)
    with SentinelClient(other.address) as client:
        client.delete_items([f"text-{n}" for n in range(30)], collection=name)
        client.upsert(
            [Item(id="text-40", text="other"), Item(id="new", text="stays")], collection=name
        )
        refused = sentinel(other, "restore", file, "--json")
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert f"Replace items of the same ids in {name} (60)?" in refused.stderr
        again = done(other, "restore", file, "--yes")
        assert again["collections"][name] == {"items": 89, "stored": 31, "wrong": 0}
        assert client.get_items(["new"], collection=name).items
    kept = stored(other, name)
    del kept["new"]
    assert kept == stored(one, name)


def test_originals_by_reference_are_saved_and_one_that_is_gone_is_named(
    gateways: tuple[processes.Server, processes.Server], name: str, tmp_path: Path
) -> None:
    one, other = gateways
    files = [
        Path(shutil.copy(photos.photo(stem), tmp_path / f"{stem}.png"))
        for stem in ("chelsea", "coffee", "coins")
    ]
    with SentinelClient(one.address) as client:
        client.create_collection(name, FIELDS)
    store_by_reference(one, name, *files)
    before = stored(one, name)
    files[2].unlink()
    whole, small = tmp_path / "whole", tmp_path / "small"
    result = sentinel(one, "backup", whole, "-c", name, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["collections"][name] == {"items": 3, "images": 2, "gone": 1}
    assert json.loads(result.stderr.splitlines()[0])["error"]["reason"] == "ORIGINAL_GONE"
    assert (
        done(one, "backup", small, "-c", name, "--no-originals")["bytes"] < whole.stat().st_size / 5
    )
    # An original that is there is referred to; one that is not is stored from the backup.
    files[1].unlink()
    kept = whole.read_bytes()
    again = sentinel(one, "backup", whole, "-c", name)
    assert (again.exit_code, whole.read_bytes() == kept) == (1, True)
    assert "2 originals are gone" in again.stderr
    partly = sentinel(other, "restore", whole, "--json")
    assert partly.exit_code == 1
    assert json.loads(partly.stdout)["collections"][name] == {"items": 3, "stored": 2, "wrong": 1}
    assert "ref-coins.png" in partly.stderr
    after = stored(other, name)
    assert after["ref-chelsea.png"] == before["ref-chelsea.png"]
    copy = after["ref-coffee.png"]
    assert not copy.by_reference
    assert copy.vector == before["ref-coffee.png"].vector
    with SentinelClient(other.address) as client:
        image = client.download_image("ref-coffee.png", collection=name)
    assert image.data == photos.photo("coffee").read_bytes()


@pytest.fixture
def small_backup(
    gateways: tuple[processes.Server, processes.Server], name: str, tmp_path: Path
) -> Path:
    with SentinelClient(gateways[0].address) as client:
        client.create_collection(name, FIELDS)
        client.upsert(
            [Item(image=photos.photo("page")), Item(id="t", text="t", fields=ODD)], collection=name
        )
    done(gateways[0], "backup", tmp_path / "small.backup", "-c", name)
    return tmp_path / "small.backup"


def test_a_damaged_or_cut_file_changes_nothing(
    gateways: tuple[processes.Server, processes.Server],
    small_backup: Path,
    name: str,
    tmp_path: Path,
) -> None:
    data = small_backup.read_bytes()
    bad = tmp_path / "bad.backup"
    manifest = data.rindex(b"manifest.json")
    cuts = [0, 1, 511, 512, len(data) // 2, manifest, manifest + 600]
    flips = [*range(0, manifest, manifest // 12), manifest + 520]
    cases = [data[:cut] for cut in cuts]
    cases += [data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :] for at in flips]
    for case in cases:
        bad.write_bytes(case)
        refused = sentinel(gateways[1], "restore", bad)
        assert refused.exit_code == 2, len(case)
        assert f"{bad} is no whole backup" in refused.stderr
        assert "Nothing was changed" in refused.stderr
    assert sentinel(gateways[1], "collections", "show", name).exit_code == 2
    whole = done(gateways[1], "restore", small_backup, "--dry-run")
    assert whole["collections"] == {name: 2}
    assert sentinel(gateways[1], "collections", "show", name).exit_code == 2


def rewritten(file: Path, change: Any) -> None:
    """Write a backup again with a changed header, and a manifest that is right for it."""
    header, manifest = _backup_file.read_manifest(file)
    entries = list(_backup_file.read_entries(file, lambda _: True))
    with _backup_file.writing(file) as writer:
        writer.add(_backup_file.HEADER, json.dumps(change(header)).encode())
        for entry in entries:
            writer.add(entry.name, entry.data)
        writer.finish({"collections": manifest["collections"]})


def test_vectors_of_another_model_are_refused_with_what_to_do(
    gateways: tuple[processes.Server, processes.Server],
    small_backup: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def of_another_model(header: dict[str, Any]) -> dict[str, Any]:
        header["collections"][0]["model_version"] = {"model": "owner/clip", "fingerprint": "f" * 64}
        return header

    rewritten(small_backup, of_another_model)
    for server in gateways:  # one has the collection, one does not
        refused = sentinel(server, "restore", small_backup, "--yes")
        assert refused.exit_code == 2
        assert "owner/clip" in refused.stderr
        assert "MODEL_MISMATCH" in refused.stderr
    assert "--model owner/clip" in refused.stderr
    assert sentinel(gateways[1], "collections", "show", name).exit_code == 2
    monkeypatch.setattr(_backup_file, "FORMAT", 2)
    rewritten(small_backup, lambda header: {**header, "format": 2})
    monkeypatch.undo()
    assert "install a newer one" in sentinel(gateways[1], "restore", small_backup).stderr


def test_a_hostile_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "evil.backup"

    def refused(*entries: tuple[tarfile.TarInfo, bytes]) -> str:
        with tarfile.open(file, "w") as archive:
            for info, data in entries:
                info.size = info.size or len(data)
                archive.addfile(info, io.BytesIO(data))
        result = CliRunner().invoke(main, ["--address", "127.0.0.1:1", "restore", str(file)])
        assert result.exit_code == 2
        assert not isinstance(result.exception, MemoryError | RecursionError)
        return result.stderr

    header = (tarfile.TarInfo("backup.json"), b'{"format": 1, "collections": []}')
    link = tarfile.TarInfo("photos/000001/0001.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    assert "no backup has" in refused(header, (link, b""))
    assert "no backup has" in refused((tarfile.TarInfo("x" * 300), b""))  # an extended header
    assert "does not begin as one" in refused((tarfile.TarInfo("../../x"), b"{}"))
    assert "cannot be read" in refused((tarfile.TarInfo("backup.json"), b"[" * 100_000))
    assert "does not begin as one" in refused((tarfile.TarInfo("backup.json"), b"{}"))
    file.write_bytes(_backup_file._header("backup.json", 10**9) + b"{}")
    result = CliRunner().invoke(main, ["--address", "127.0.0.1:1", "restore", str(file)])
    assert "no backup has" in result.stderr
    assert not list(tmp_path.glob("**/passwd"))


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "large.backup"
    image = bytes(10_000_000)
    tracemalloc.start()
    try:
        with _backup_file.writing(file) as writer:
            writer.add("backup.json", b'{"format": 1, "collections": []}')
            for number in range(20):
                writer.add(f"photos/000001/{number:04}.jpg", image)
            writer.finish({"collections": {}})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert file.stat().st_size > 200_000_000
    assert peak < 20_000_000


def test_a_failed_backup_leaves_the_one_before(
    gateways: tuple[processes.Server, processes.Server], tmp_path: Path
) -> None:
    file = tmp_path / "library.backup"
    file.write_bytes(b"the one before")
    assert sentinel(gateways[0], "backup", file, "-c", "no_such").exit_code == 2
    assert file.read_bytes() == b"the one before"
    assert [one.name for one in tmp_path.iterdir()] == ["library.backup"]
    missing = sentinel(gateways[0], "backup", tmp_path / "no" / "x")
    assert "cannot write" in missing.stderr


def test_a_device_is_refused_and_a_link_stays_one(tmp_path: Path) -> None:
    pipe, link, file = tmp_path / "pipe", tmp_path / "link", tmp_path / "disk" / "file"
    os.mkfifo(pipe)
    with pytest.raises(Failure, match="no ordinary file"), _backup_file.writing(pipe):
        pass
    assert pipe.is_fifo()
    file.parent.mkdir()
    link.symlink_to(file)
    with _backup_file.writing(link) as writer:
        writer.add("backup.json", b'{"format": 1}')
        writer.finish({})
    assert link.is_symlink()
    assert file.is_file()
    assert sorted(tmp_path.rglob("*")) == sorted([file.parent, file, link, pipe])


def test_each_item_is_whole_while_others_write(
    gateways: tuple[processes.Server, processes.Server], name: str, tmp_path: Path
) -> None:
    one, other = gateways
    images = [path.read_bytes() for path in photos.all_photos()[:4]]
    with SentinelClient(one.address) as client:
        client.create_collection(name, FIELDS)
        ids = [f"{number:03}" for number in range(120)]
        vector = np.ones(client.get_collection(name).dimensions, np.float32)

        def write(turn: int) -> None:
            items = [
                Item(id=one, image=images[(n + turn) % 4], vector=vector, fields={"year": turn})
                for n, one in enumerate(ids)
            ]
            client.upsert(items, collection=name)

        write(0)
        stop = threading.Event()

        def go_on() -> None:
            turn = 1
            while not stop.is_set():
                write(turn)
                client.delete_items(["119"], collection=name)
                turn += 1

        writing = threading.Thread(target=go_on)
        writing.start()
        try:
            made = done(one, "backup", tmp_path / "b", "-c", name)
        finally:
            stop.set()
            writing.join()
    assert 119 <= made["collections"][name]["items"] <= 120
    # The restore compares the digests of contents and vectors of what is in the file.
    assert done(other, "restore", tmp_path / "b")["collections"][name]["wrong"] == 0
    for item in stored(other, name).values():
        place = (int(item.id) + item.fields["year"].int_value) % 4
        digest = hashlib.sha256(images[place] + item.vector.data).hexdigest()
        assert item.digest == digest, "the image of one turn, the fields of another"
