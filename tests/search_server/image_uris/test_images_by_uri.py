"""Items and queries whose pictures the gateway fetches itself, over gRPC."""

from __future__ import annotations

import hashlib
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import item_service_pb2, search_service_pb2
from tests import photos, processes
from tests.s3_server import S3Server
from tests.search_server.conftest import Gateway, connect, error_info, photo_item, reason_of
from tests.search_server.embedders.test_faults import FAKE, caption
from tests.search_server.image_uris import image_host
from tests.search_server.image_uris.image_host import Answer, ImageHost
from tests.search_server.search.test_queries import field_of

Item = item_service_pb2.Item
Result = item_service_pb2.ItemResult
CAT = photos.photo("chelsea").read_bytes()
ROCKET = photos.photo("rocket").read_bytes()


@dataclass(slots=True)
class Setting:
    """A gateway that may fetch from a host and a folder."""

    gateway: Gateway
    host: ImageHost
    folder: Path
    metrics_address: str

    def uri(self, name: str) -> str:
        return f"http://127.0.0.1:{self.host.port}/photos/{name}"


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    base = tmp_path_factory.mktemp("by_uri")
    folder = base / "photos"
    folder.mkdir()
    with image_host.running() as host, processes.running(base / "w", FAKE) as worker:
        places = f"http://127.0.0.1:{host.port}/photos/, {folder.as_uri()}"
        flags = [
            *processes.gateway_flags(base, str(base / "milvus.db"), worker.address),
            *("--image-uri-places", places, "--image-uri-private"),
            *("--image-uri-timeout-seconds", "3"),
        ]
        with processes.running(base, "search_server", *flags) as server:
            yield Setting(connect(server.address), host, folder, server.metrics_address)


def by_uri(uri: str) -> content_pb2.Content:
    return content_pb2.Content(image=content_pb2.Image(uri=uri))


def test_items_are_fetched_and_each_bad_one_fails_alone(setting: Setting) -> None:
    name = setting.gateway.create()
    setting.host.answers |= {
        "/photos/cat.png": Answer(CAT),
        "/photos/page.jpg": Answer(b"<html>not found, with status 200</html>"),
        "/photos/huge.jpg": Answer(b"x", length=49 * 1024 * 1024, stalls=True),
        "/photos/stalls.jpg": Answer(b"x", length=9, stalls=True),
        "/photos/broken.jpg": Answer(status=500),
        "/photos/away.jpg": Answer(status=302, headers={"Location": "http://169.254.169.254/"}),
    }
    (setting.folder / "rocket.jpg").write_bytes(ROCKET)
    bad = {
        setting.uri("missing.jpg"): "URI_NOT_FOUND",
        setting.uri("page.jpg"): "IMAGE_FORMAT_UNSUPPORTED",
        setting.uri("huge.jpg"): "IMAGE_TOO_LARGE",
        setting.uri("stalls.jpg"): "URI_UNAVAILABLE",
        setting.uri("broken.jpg"): "URI_UNAVAILABLE",
        setting.uri("away.jpg"): "URI_FORBIDDEN",
        setting.uri("%2e%2e/secret.jpg"): "URI_FORBIDDEN",
        "https://example.com/cat.jpg": "URI_FORBIDDEN",
        (setting.folder / "missing.jpg").as_uri(): "URI_NOT_FOUND",
    }
    good = [
        Item(content=by_uri(setting.uri("cat.png"))),
        Item(content=by_uri((setting.folder / "rocket.jpg").as_uri()), id="rocket"),
        photo_item("coffee"),
        caption("red"),
    ]
    results = setting.gateway.upsert(
        name, *good, *(Item(content=by_uri(uri), id=uri[:50]) for uri in bad)
    )
    assert {result.outcome for result in results[:4]} == {Result.OUTCOME_STORED}
    assert results[0].id == hashlib.sha256(CAT).hexdigest()
    assert {uri: reason_of(result.error) for uri, result in zip(bad, results[4:], strict=True)} == (
        bad
    )
    assert [result.id for result in results[4:]] == [uri[:50] for uri in bad]
    assert setting.gateway.count(name) == 4


def test_an_unchanged_file_is_unchanged_whichever_way_it_comes(setting: Setting) -> None:
    name = setting.gateway.create()
    setting.host.answers["/photos/one.png"] = Answer(CAT)
    item = Item(content=by_uri(setting.uri("one.png")), id="one")
    assert outcome(setting, name, item) == Result.OUTCOME_STORED
    assert outcome(setting, name, item) == Result.OUTCOME_UNCHANGED
    inline = Item(content=content_pb2.Content(image=content_pb2.Image(data=CAT)), id="one")
    assert outcome(setting, name, inline) == Result.OUTCOME_UNCHANGED
    setting.host.answers["/photos/one.png"] = Answer(ROCKET)
    assert outcome(setting, name, item) == Result.OUTCOME_STORED
    [stored] = setting.gateway.get(name, "one").items
    assert stored.image_uri.endswith(hashlib.sha256(ROCKET).hexdigest())


def outcome(setting: Setting, name: str, item: Item) -> int:
    return setting.gateway.upsert(name, item)[0].outcome


def test_a_query_may_name_its_picture(setting: Setting) -> None:
    name = setting.gateway.create()
    setting.gateway.upsert(name, photo_item("chelsea"), photo_item("rocket"))
    setting.host.answers["/photos/query.jpg"] = Answer(ROCKET)
    query = search_service_pb2.Query(content=by_uri(setting.uri("query.jpg")))
    hits = setting.gateway.hits(name, query)
    assert hits[0].fields["path"].string_value == "rocket.jpg"
    assert hits[0].score == pytest.approx(1.0, abs=1e-5)


def test_a_query_whose_picture_is_not_there_is_told_by_its_path(setting: Setting) -> None:
    name = setting.gateway.create()
    terms = [
        search_service_pb2.WeightedTerm(content=content_pb2.Content(text="red")),
        search_service_pb2.WeightedTerm(content=by_uri(setting.uri("missing.jpg"))),
    ]
    composite = search_service_pb2.CompositeQuery(terms=terms)
    for query, path in (
        (search_service_pb2.Query(content=by_uri(setting.uri("missing.jpg"))), ""),
        (search_service_pb2.Query(composite=composite), ".composite.terms[1]"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            setting.gateway.hits(name, query)
        assert error_info(caught.value) == ("NOT_FOUND", "URI_NOT_FOUND")
        assert field_of(caught.value) == f"params.query{path}.content.image.uri"


@pytest.mark.s3
def test_objects_are_fetched_from_a_bucket(s3: S3Server, tmp_path: Path) -> None:
    store, bucket = s3.file_system(), s3.bucket()
    store.pipe_file(f"{bucket}/photos/cat & 50%25.png", CAT)
    store.pipe_file(f"{bucket}/photos/empty.png", b"")
    store.pipe_file(f"{bucket}/private/cat.png", CAT)
    flags = ["--image-uri-places", f"s3://{bucket}/photos/"]
    place = f"s3://{bucket}/photos"
    with processes.running(tmp_path / "w", FAKE) as worker:
        flags += processes.gateway_flags(tmp_path, str(tmp_path / "milvus.db"), worker.address)
        with processes.running(
            tmp_path, "search_server", *flags, environment=s3.environment()
        ) as server:
            gateway = connect(server.address)
            name = gateway.create()
            uris = {
                f"{place}/cat & 50%25.png": "",
                f"{place}/missing.png": "URI_NOT_FOUND",
                f"{place}/empty.png": "IMAGE_EMPTY",
                f"s3://{bucket}/private/cat.png": "URI_FORBIDDEN",
                f"{place}/../private/cat.png": "URI_FORBIDDEN",
            }
            items = [Item(content=by_uri(uri), id=str(n)) for n, uri in enumerate(uris)]
            results = gateway.upsert(name, *items)
            assert [reason_of(result.error) for result in results[1:]] == list(uris.values())[1:]
            assert results[0].outcome == Result.OUTCOME_STORED
            assert gateway.upsert(name, items[0])[0].outcome == Result.OUTCOME_UNCHANGED
            # Another object under the key is another picture, and none is none.
            store.pipe_file(f"{bucket}/photos/cat & 50%25.png", ROCKET)
            assert gateway.upsert(name, items[0])[0].outcome == Result.OUTCOME_STORED
            store.rm_file(f"{bucket}/photos/cat & 50%25.png")
            assert reason_of(gateway.upsert(name, items[0])[0].error) == "URI_NOT_FOUND"
        with processes.running(
            tmp_path, "search_server", *flags, environment=s3.environment("another secret")
        ) as server:
            [refused] = connect(server.address).upsert(name, items[0])
            assert reason_of(refused.error) == "URI_FORBIDDEN"


def certificate(folder: Path, name: str) -> Path:
    """Make a certificate for `name` that signs itself, and its key, in one file."""
    path = folder / f"{name}.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"),
            *("-keyout", str(path), "-out", f"{path}.crt"),
        ],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates with openssl")
def test_https_hosts_have_to_prove_the_name_they_are_asked_by(tmp_path: Path) -> None:
    """The connection goes to an address that was checked; the name is still what is verified."""
    files = {name: certificate(tmp_path, name) for name in ("localhost", "other.example")}
    trusted = tmp_path / "trusted.pem"
    trusted.write_text("".join(Path(f"{path}.crt").read_text() for path in files.values()))
    asked: list[str | None] = []
    contexts = {}
    for name, path in files.items():
        contexts[name] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        contexts[name].load_cert_chain(path)
        contexts[name].sni_callback = lambda _, server_name, __: asked.append(server_name)
    with (
        image_host.running(contexts["localhost"]) as right,
        image_host.running(contexts["other.example"]) as wrong,
        processes.running(tmp_path / "w", FAKE) as worker,
    ):
        places = [f"https://localhost:{host.port}/" for host in (right, wrong)]
        flags = processes.gateway_flags(tmp_path, str(tmp_path / "milvus.db"), worker.address)
        flags += ["--image-uri-places", ",".join(places), "--image-uri-private"]
        environment = {"SSL_CERT_FILE": str(trusted)}
        with processes.running(
            tmp_path, "search_server", *flags, environment=environment
        ) as server:
            gateway = connect(server.address)
            right.answers["/cat.png"] = wrong.answers["/cat.png"] = Answer(CAT)
            items = [Item(content=by_uri(f"{place}cat.png")) for place in places]
            good, bad = gateway.upsert(gateway.create(), *items)
    assert good.outcome == Result.OUTCOME_STORED
    assert right.asked == [(f"localhost:{right.port}", "/cat.png")]
    assert reason_of(bad.error) == "URI_UNAVAILABLE"
    assert wrong.asked == []
    assert asked == ["localhost", "localhost"]


def test_a_list_that_cannot_be_meant_ends_the_gateway_with_a_clear_line(tmp_path: Path) -> None:
    flags = processes.gateway_flags(tmp_path, str(tmp_path / "milvus.db"), "127.0.0.1:1")
    with pytest.raises(RuntimeError, match=r"sentinel-gateway: --image-uri-places: 'example\.com'"):
        processes.start(tmp_path, "search_server", *flags, "--image-uri-places", "example.com")
