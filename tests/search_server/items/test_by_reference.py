"""Images that stay where they are: stored, searched, moved, replaced, deleted, over gRPC."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from search_server.maintenance import check
from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import item_service_pb2 as pb
from sentinel.search.v1 import search_service_pb2
from tests import processes
from tests.search_server.conftest import Gateway, connect, error_info, image, reason_of, string
from tests.search_server.embedders.test_faults import FAKE, caption, gateway_at
from tests.search_server.items.ingesting import Stream, picture

STORED, UNCHANGED = pb.ItemResult.OUTCOME_STORED, pb.ItemResult.OUTCOME_UNCHANGED


@dataclass(frozen=True, slots=True)
class Library:
    """A gateway, a folder of photos whose images may stay there, and what the gateway stores."""

    gateway: Gateway
    photos: Path
    objects: Path

    def photo(self, name: str, number: int) -> Path:
        path = self.photos / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
        return path

    def copy_of(self, number: int) -> Path:
        digest = hashlib.sha256(picture(number)).hexdigest()
        return self.objects / "images" / digest[:2] / digest

    def thumbnail_of(self, number: int) -> Path:
        digest = hashlib.sha256(picture(number)).hexdigest()
        return self.objects / "thumbnails" / digest[:2] / f"{digest}.webp"

    def store(self, collection: str, *items: pb.Item) -> list[int]:
        return [result.outcome for result in self.gateway.upsert(collection, *items)]

    def get(self, collection: str, item_id: str) -> pb.Item:
        options = {"include_thumbnails": True, "include_vectors": True}
        [item] = self.gateway.get(collection, item_id, **options).items
        return item

    def download(self, collection: str, item_id: str) -> bytes:
        request = pb.DownloadImageRequest(collection=collection, id=item_id)
        return b"".join(part.data for part in self.gateway.items.DownloadImage(request, timeout=20))

    def gone(self, collection: str, item_id: str) -> dict[str, str]:
        """Return the metadata of the error of a download whose original is gone."""
        with pytest.raises(grpc.RpcError) as caught:
            self.download(collection, item_id)
        assert error_info(caught.value) == ("NOT_FOUND", "ORIGINAL_GONE")
        return metadata(caught.value)


def metadata(error: grpc.RpcError) -> dict[str, str]:
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    info = error_details_pb2.ErrorInfo()
    status_pb2.Status.FromString(details).details[0].Unpack(info)
    return dict(info.metadata)


def reference(file: Path, number: int, item_id: str = "x", **fields: str) -> pb.Item:
    return pb.Item(
        id=item_id,
        content=content_pb2.Content(image=content_pb2.Image(uri=file.as_uri())),
        fields={name: string(value) for name, value in fields.items()},
        by_reference=True,
        digest=hashlib.sha256(picture(number)).hexdigest(),
    )


def copy(number: int, item_id: str = "x", **fields: str) -> pb.Item:
    values = {name: string(value) for name, value in fields.items()}
    return pb.Item(id=item_id, content=image(picture(number)), fields=values)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with processes.running(tmp_path_factory.mktemp("worker"), FAKE) as server:
        yield server.address


@pytest.fixture(scope="module")
def running(worker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    base = tmp_path_factory.mktemp("by_reference")
    (base / "photos").mkdir()
    flags = [
        *processes.gateway_flags(base, str(base / "milvus.db"), worker),
        *("--reference-places", (base / "photos").as_uri()),
    ]
    with processes.running(base, "search_server", *flags) as server:
        yield base, server.address


@pytest.fixture
def library(running: tuple[Path, str], request: pytest.FixtureRequest) -> Library:
    base, address = running
    return Library(connect(address), base / "photos" / request.node.name, base / "objects")


def test_the_image_stays_where_it_is_and_everything_that_reads_it_finds_it(
    library: Library,
) -> None:
    name, path = library.gateway.create(), library.photo("my photo 100%.png", 1)
    item = reference(path, 1, path="a")
    assert library.store(name, item, caption("red")) == [STORED, STORED]
    assert not library.copy_of(1).exists()
    assert library.thumbnail_of(1).exists()

    found = library.get(name, "x")
    assert (found.by_reference, found.image_uri) == (True, path.as_uri())
    assert found.digest == item.digest
    assert found.thumbnail == library.thumbnail_of(1).read_bytes()
    assert not found.HasField("content")  # the URI is no text
    listed = library.gateway.items.ListItems(pb.ListItemsRequest(collection=name), timeout=20)
    assert sorted(one.by_reference for one in listed.items) == [False, True]
    query = search_service_pb2.Query(item_id=found.id)
    [hit] = library.gateway.hits(name, query)
    assert (hit.text, hit.image_uri) == ("red", "")
    query = search_service_pb2.Query(content=image(picture(1)))
    hit = library.gateway.hits(name, query, include_thumbnails=True)[0]
    assert (hit.id, hit.text, hit.image_uri) == ("x", "", path.as_uri())
    assert hit.score == pytest.approx(1.0, abs=1e-5)
    assert hit.thumbnail == found.thumbnail
    request = pb.DownloadImageRequest(collection=name, id="x")
    [part] = library.gateway.items.DownloadImage(request, timeout=20)
    assert (part.data, part.total_bytes) == (picture(1), len(picture(1)))
    assert part.media_type == "image/jpeg"
    assert library.store(name, item) == [UNCHANGED]


def test_an_original_that_is_gone_or_replaced_is_told_and_the_item_stays_searchable(
    library: Library,
) -> None:
    name, path = library.gateway.create(), library.photo("a.png", 2)
    library.store(name, reference(path, 2))
    before = library.get(name, "x")
    for spoil in (path.unlink, lambda: path.write_bytes(picture(3)), lambda: path.write_bytes(b"")):
        spoil()
        assert library.gone(name, "x") == {"uri": path.as_uri()}
        assert library.get(name, "x") == before
        query = search_service_pb2.Query(content=image(picture(2)))
        assert library.gateway.hits(name, query)[0].id == "x"
    path.write_bytes(picture(2))
    assert library.download(name, "x") == picture(2)


def test_of_a_bad_reference_each_item_fails_alone(library: Library) -> None:
    name, path = library.gateway.create(), library.photo("a.png", 4)
    outside = library.objects.parent / "outside.png"
    outside.write_bytes(picture(4))
    text = library.photo("text.png", 4)
    text.write_bytes(b"no image")
    good = reference(path, 4, "good")
    bad: dict[str, pb.Item] = {}

    def add(reason: str, item: pb.Item, **changes: object) -> None:
        item.id = f"{reason} {len(bad)}"
        for field, value in changes.items():
            setattr(item, field, value)
        bad[item.id] = item

    wrong = "PARAMETER_OUT_OF_RANGE"
    for digest in ("", "x" * 64, good.digest.upper(), good.digest[1:], good.digest + "0"):
        add(wrong, reference(path, 4), digest=digest)
    add(wrong, copy(4), by_reference=True, digest=good.digest)
    add(wrong, caption("words"), by_reference=True, digest=good.digest)
    for uri in ("https://localhost/a.png", "a.png", "file:///a/%2e%2e/b", "file://host/a.png"):
        item = reference(path, 4)
        item.content.image.uri = uri
        add(wrong, item)
    add("URI_FORBIDDEN", reference(outside, 4))
    add("URI_FORBIDDEN", reference(library.objects.parent / "nothing.png", 4))
    add("ORIGINAL_GONE", reference(library.photos / "nothing.png", 4))
    add("ORIGINAL_GONE", reference(path, 5))
    add("ORIGINAL_GONE", reference(library.photos, 4))
    digest = hashlib.sha256(b"no image").hexdigest()
    add("IMAGE_FORMAT_UNSUPPORTED", reference(text, 4), digest=digest)

    results = library.gateway.upsert(name, *bad.values(), good)
    assert {one.id: reason_of(one.error) for one in results[:-1]} == {
        item_id: item_id.rpartition(" ")[0] for item_id in bad
    }
    assert results[-1].outcome == STORED
    assert library.gateway.count(name) == 1


def test_a_gateway_without_the_setting_forbids_it(worker: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(picture(1))
    with gateway_at(tmp_path / "g", worker) as server:
        gateway = connect(server.address)
        [result] = gateway.upsert(gateway.create(), reference(path, 1))
    assert reason_of(result.error) == "URI_FORBIDDEN"
    assert "--reference-places" in result.error.message


def test_a_file_that_has_moved_is_found_at_its_new_place_without_embedding_it_again(
    library: Library,
) -> None:
    name, path = library.gateway.create(), library.photo("a.png", 6)
    library.store(name, reference(path, 6))
    before = library.get(name, "x")
    library.thumbnail_of(6).unlink()  # it would be written again
    moved = library.photos / "b" / "c.png"
    moved.parent.mkdir()
    path.rename(moved)
    assert library.store(name, reference(moved, 6)) == [STORED]
    assert not library.thumbnail_of(6).exists()
    after = library.get(name, "x")
    assert (after.image_uri, after.vector) == (moved.as_uri(), before.vector)
    assert library.download(name, "x") == picture(6)


def test_equal_files_have_a_place_each(library: Library) -> None:
    name = library.gateway.create()
    paths = [library.photo(f"{one}.png", 7) for one in "ab"]
    library.store(name, *(reference(path, 7, path.name) for path in paths))
    for path in paths:
        assert library.get(name, path.name).image_uri == path.as_uri()
    paths[1].unlink()
    library.gone(name, "b.png")
    assert library.download(name, "a.png") == picture(7)


def test_an_item_that_is_sent_again_with_its_bytes_has_a_copy_from_then_on(
    library: Library,
) -> None:
    name, path = library.gateway.create(), library.photo("a.png", 8)
    library.store(name, reference(path, 8))
    before = library.get(name, "x")
    assert library.store(name, copy(8)) == [STORED]
    assert library.copy_of(8).read_bytes() == picture(8)
    after = library.get(name, "x")
    assert (after.by_reference, after.vector) == (False, before.vector)
    assert after.image_uri == library.copy_of(8).as_uri()
    path.unlink()
    assert library.download(name, "x") == picture(8)


def test_an_item_with_a_copy_keeps_it(library: Library) -> None:
    name, path = library.gateway.create(), library.photo("a.png", 9)
    library.store(name, copy(9))
    assert library.store(name, reference(path, 9)) == [UNCHANGED]
    assert library.store(name, reference(path, 9, path="new")) == [STORED]
    found = library.get(name, "x")
    assert (found.by_reference, found.fields["path"].string_value) == (False, "new")
    path.unlink()
    assert library.download(name, "x") == picture(9)


def test_other_content_of_an_item_with_a_copy_is_by_reference(library: Library) -> None:
    name, path = library.gateway.create(), library.photo("a.png", 10)
    library.store(name, copy(11))
    assert library.store(name, reference(path, 10)) == [STORED]
    assert library.get(name, "x").by_reference
    assert not library.copy_of(10).exists()


def test_the_callers_vector_is_kept_with_a_reference(library: Library) -> None:
    name, path = library.gateway.create(), library.photo("a.png", 12)
    library.store(name, copy(12, "model"))
    vector = library.get(name, "model").vector
    item = reference(path, 12)
    item.vector.CopyFrom(vector)
    item.vector.data = vector.data[::-1] if vector.data[3] < 64 else vector.data
    assert library.store(name, item) == [STORED]
    assert library.store(name, item) == [UNCHANGED]
    found = library.get(name, "x")
    assert found.by_reference
    assert found.digest not in ("", item.digest)
    assert library.download(name, "x") == picture(12)


def test_a_stream_takes_references_and_reports_their_digests(library: Library) -> None:
    name, path = library.gateway.create(), library.photo("a.png", 13)
    missing = reference(library.photos / "missing.png", 13, "y")
    with Stream(library.gateway, name) as stream:
        stream.send(1, reference(path, 13), missing)
        ack = stream.ack()
        stream.half_close()
    assert (ack.stored_count, list(ack.failure_places)) == (1, [1])
    assert list(ack.digests) == [hashlib.sha256(picture(13)).hexdigest(), ""]
    assert reason_of(ack.failures[0].error) == "ORIGINAL_GONE"


def test_the_check_names_originals_that_are_gone(
    worker: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / "photos" / f"{number}.png" for number in range(3)]
    paths[0].parent.mkdir()
    flags = processes.gateway_flags(tmp_path, str(tmp_path / "milvus.db"), worker)
    with processes.running(tmp_path, "search_server", *flags, "--reference-places", "file:///") as (
        server
    ):
        gateway = connect(server.address)
        gateway.create("photos")
        for number, path in enumerate(paths):
            path.write_bytes(picture(number))
            gateway.upsert("photos", reference(path, number, path.name))
    stores = ["--milvus-uri", str(tmp_path / "milvus.db")]
    stores += ["--object-store-uri", str(tmp_path / "objects")]
    assert check.run(stores) == 0
    assert capsys.readouterr().out == "0 problems, 0 repaired\n"
    paths[0].unlink()
    paths[1].write_bytes(picture(9))
    for more in ([], ["--repair"]):  # which cannot bring them back, and changes nothing
        assert check.run([*stores, *more]) == 1
        told = capsys.readouterr().out
        assert f"item '0.png' of 'photos': the original of the image is gone: {paths[0]}" in told
        assert "item '1.png' of 'photos'" in told
        assert "2 problems, 0 repaired" in told
    assert check.run([*stores, "--quick"]) == 0


def test_an_item_with_a_vector_and_a_copy_keeps_the_copy(library: Library) -> None:
    name, path = library.gateway.create(), library.photo("a.png", 14)
    library.store(name, copy(14, "model"))
    items = copy(14), reference(path, 14)
    for item in items:
        item.vector.CopyFrom(library.get(name, "model").vector)
    for item in items:
        assert library.store(name, item) == [STORED]
    assert not library.get(name, "x").by_reference
    assert library.download(name, "x") == picture(14)


def test_an_unchanged_item_is_not_read_again(library: Library) -> None:
    name, path = library.gateway.create(), library.photo("a.png", 15)
    item = reference(path, 15)
    library.store(name, item)
    path.unlink()
    assert library.store(name, item) == [UNCHANGED]
    item.fields["path"].string_value = "new"
    assert library.store(name, item) == [STORED]
    elsewhere = reference(library.photos / "elsewhere.png", 15)
    [result] = library.gateway.upsert(name, elsewhere)
    assert reason_of(result.error) == "ORIGINAL_GONE"
    assert library.get(name, "x").image_uri == path.as_uri()


def test_a_batch_of_more_bytes_than_a_request_may_have_is_stored(library: Library) -> None:
    """Read a few at a time."""
    name, items = library.gateway.create(), []
    for number in range(100):
        path = library.photo(f"{number}.jpg", number)
        data = picture(number) + bytes(2**20)  # which viewers ignore, too
        path.write_bytes(data)
        items.append(reference(path, number, str(number)))
        items[-1].digest = hashlib.sha256(data).hexdigest()
    assert set(library.store(name, *items)) == {STORED}
    assert library.gateway.count(name) == 100


def test_a_gateway_with_little_memory_stores_references(worker: str, tmp_path: Path) -> None:
    """Its largest share has no room for several of the largest images beside the request."""
    flags = processes.gateway_flags(tmp_path, str(tmp_path / "milvus.db"), worker)
    flags += ["--reference-places", tmp_path.as_uri(), "--memory-bytes", str(2**29)]
    with processes.running(tmp_path, "search_server", *flags) as server:
        library = Library(connect(server.address), tmp_path, tmp_path / "objects")
        collection = library.gateway.create()
        numbers = range(16)
        items = [
            reference(library.photo(f"{n}.png", n), n, f"i{n}", path="x" * 50_000) for n in numbers
        ]
        assert library.store(collection, *items) == [STORED for _ in numbers]
        assert library.download(collection, "i3") == picture(3)
