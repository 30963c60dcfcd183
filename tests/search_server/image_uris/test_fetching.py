"""Images by URI: nothing but what the operator lists is asked for, and never too much of it."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import fsspec
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from fsspec.implementations.memory import MemoryFileSystem
from prometheus_client import CollectorRegistry

from search_server.image_uris.allowlist import Allowlist
from search_server.image_uris.fetcher import Fetcher
from search_server.image_uris.ssrf_guard import is_allowed
from search_server.settings import GatewaySettings
from sentinel_core.calls import Deadline
from sentinel_core.errors import InvalidArgument, SentinelError
from sentinel_core.metrics import ServerMetrics
from sentinel_store.items import Content, Kind
from tests.search_server.image_uris import image_host
from tests.search_server.image_uris.image_host import Answer, ImageHost

NAME = "images.example.com"


class Names(AbstractResolver):
    """Resolves from a table; a name's answers follow one another, the last one stays."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = {name.replace("_", "."): list(lists) for name, lists in answers.items()}
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        answers = self.answers[host.lower()]
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [
            ResolveResult(
                hostname=host, host=address, port=port, proto=0, flags=0,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
            )
            for address in addresses
        ]  # fmt: skip

    async def close(self) -> None:
        pass


def here(**more: list[list[str]]) -> Names:
    return Names(images_example_com=[["127.0.0.1"]], **more)


@asynccontextmanager
async def fetching(
    *places: str, resolver: AbstractResolver | None = None, **limits: Any
) -> AsyncIterator[Fetcher]:
    defaults: dict[str, Any] = {
        "image_uri_private": True,
        "max_image_bytes": 100_000,
        "max_message_bytes": 1_000_000,
        "image_uri_timeout_seconds": 10.0,
        "image_uri_redirects": 2,
        "image_uri_fetches": 4,
    }
    fetcher = Fetcher(
        GatewaySettings.model_construct(image_uri_places=",".join(places), **(defaults | limits)),
        ServerMetrics("gateway", CollectorRegistry()),
        resolver,
    )
    try:
        yield fetcher
    finally:
        await fetcher.close()


async def fetch(fetcher: Fetcher, *uris: str) -> list[bytes | str]:
    """Return the bytes at each URI, or the reason why there are none."""
    contents = [Content(Kind.IMAGE, b"", uri=uri) for uri in uris]
    answers = await fetcher.fetch(contents, Deadline.after(None, default_s=30.0))
    for answer in answers:
        assert not isinstance(answer, SentinelError) or len(answer.message) > 10
    return [
        answer.reason if isinstance(answer, SentinelError) else answer.data for answer in answers
    ]


@pytest.fixture
def host() -> Iterator[ImageHost]:
    with image_host.running() as running:
        running.answers["/photos/cat.jpg"] = Answer(b"cat")
        running.answers["/secret.jpg"] = Answer(b"secret")
        yield running


def photos_of(host: ImageHost) -> str:
    return f"http://{NAME}:{host.port}/photos/"


async def test_what_lies_in_a_listed_place_is_fetched(host: ImageHost) -> None:
    host.answers["/photos/a%20b/c.jpg?signature=x%2Fy"] = Answer(b"signed")
    names = here()
    async with fetching(photos_of(host), resolver=names) as fetcher:
        cat, signed = (f"{photos_of(host)}{path}" for path in
                       ("cat.jpg", "a%20b/c.jpg?signature=x%2Fy#top"))  # fmt: skip
        assert await fetch(fetcher, cat, signed, cat) == [b"cat", b"signed", b"cat"]
    # Under its name, and once although it was named twice.
    assert sorted(host.asked) == [
        (f"{NAME}:{host.port}", "/photos/a%20b/c.jpg?signature=x%2Fy"),
        (f"{NAME}:{host.port}", "/photos/cat.jpg"),
    ]


async def test_by_default_nothing_is_fetched(host: ImageHost, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    async with fetching(resolver=here()) as fetcher:
        answers = await fetch(
            fetcher, f"{photos_of(host)}cat.jpg", (tmp_path / "a.jpg").as_uri(), "memory://x/a"
        )
    assert answers == ["URI_FORBIDDEN"] * 3
    assert host.asked == []


ESCAPES = [
    "http://{name}:{port}/secret.jpg",
    "http://{name}:{port}/photos/../secret.jpg",
    "http://{name}:{port}/x/../photos/cat.jpg",
    "http://{name}:{port}/photos/%2e%2e/secret.jpg",
    "http://{name}:{port}/photos/.%2E/secret.jpg",
    "http://{name}:{port}/photos/..%2fsecret.jpg",
    "http://{name}:{port}/photos%2f..%2fsecret.jpg",
    "http://{name}:{port}/photos/%252e%252e/secret.jpg",
    "http://{name}:{port}/photos/x%252f..%252fsecret.jpg",
    "http://{name}:{port}/photos\\..\\secret.jpg",
    "http://{name}:{port}/photos/..%5csecret.jpg",
    "http://{name}:{port}/photos/\ncat.jpg",
    "http://{name}:{port}/photos/%00cat.jpg",
    "http://{name}:{port}/photos-of-others/cat.jpg",
    "http://{name}:{port}/PHOTOS/cat.jpg",
    "http://{name}:1/photos/cat.jpg",
    "http://{name}/photos/cat.jpg",
    "https://{name}:{port}/photos/cat.jpg",
    "ftp://{name}:{port}/photos/cat.jpg",
    "http://{name}.:{port}/photos/cat.jpg",
    "http://{name}.evil.example:{port}/photos/cat.jpg",
    "http://evil.example:{port}/photos/cat.jpg",
    "http://user@{name}:{port}/photos/cat.jpg",
    "http://user:password@{name}:{port}/photos/cat.jpg",
    "http://{name}:{port}@evil.example/photos/cat.jpg",
    "http://evil.example#@{name}:{port}/photos/cat.jpg",
    "http://evil.example\\@{name}:{port}/photos/cat.jpg",
    "http://127.0.0.1:{port}/photos/cat.jpg",
    "http://{name}:port/photos/cat.jpg",
    "http:///photos/cat.jpg",
    "http:{name}:{port}/photos/cat.jpg",
    "//{name}:{port}/photos/cat.jpg",
    "/photos/cat.jpg",
    "file:///etc/passwd",
    "simplecache::http://{name}:{port}/photos/cat.jpg",
    "http://[::1]:{port}/photos/cat.jpg",
    "http://{name}:{port}/photos/" + "a" * 9_000,
]


@pytest.mark.parametrize("uri", ESCAPES)
async def test_no_spelling_leads_out_of_a_place(host: ImageHost, uri: str) -> None:
    uri = uri.format(name=NAME, port=host.port)
    names = Names(images_example_com=[["127.0.0.1"]])
    async with fetching(photos_of(host), resolver=names) as fetcher:
        assert await fetch(fetcher, uri) == ["URI_FORBIDDEN"]
    assert host.asked == []
    assert names.asked == []


async def test_what_only_looks_odd_is_asked_for_as_it_is(host: ImageHost) -> None:
    host.answers["/photos/%63at.jpg"] = Answer(b"encoded")
    host.answers["/photos/%D0%BA%D1%96%D1%82.jpg"] = Answer(b"unicode")
    upper = f"HTTP://IMAGES.Example.com:{host.port}"
    async with fetching(photos_of(host), resolver=here()) as fetcher:
        answers = await fetch(fetcher, f"{upper}/photos/%63at.jpg", f"{upper}/photos/кіт.jpg")
    assert answers == [b"encoded", b"unicode"]


PUBLIC = ["8.8.8.8", "151.101.1.1", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]
PRIVATE = [
    "127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "::1",
    "fd00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "2002:a00:1::",
    "64:ff9b::a00:1", "64:ff9b::7f00:1", "fec0::1", "192.0.2.1",
]  # fmt: skip
NEVER = [
    "0.0.0.0", "169.254.169.254", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "::",
    "fe80::1", "fe80::1%1", "ff02::1", "::ffff:169.254.169.254", "2002:a9fe:a9fe::",
    "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808", "::127.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize(
    ("address", "in_public", "in_private"),
    [
        *((address, True, True) for address in PUBLIC),
        *((address, False, True) for address in PRIVATE),
        *((address, False, False) for address in NEVER),
    ],
)
def test_addresses_are_known_for_what_they_reach(
    address: str, in_public: bool, in_private: bool
) -> None:
    assert is_allowed(address, allow_private=False) == in_public
    assert is_allowed(address, allow_private=True) == in_private


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["::ffff:127.0.0.1"], ["not an address"]]
)
async def test_a_name_with_a_private_address_is_not_connected_to(
    host: ImageHost, addresses: list[str]
) -> None:
    names = Names(images_example_com=[addresses])
    async with fetching(photos_of(host), resolver=names, image_uri_private=False) as fetcher:
        assert await fetch(fetcher, f"{photos_of(host)}cat.jpg") == ["URI_FORBIDDEN"]
    assert names.asked == [NAME]
    assert host.asked == []


@pytest.mark.parametrize(
    "literal", ["127.0.0.1", "2130706433", "127.1", "0177.0.0.1", "[::1]", "[::ffff:127.0.0.1]"]
)
async def test_a_private_address_in_any_spelling_is_not_connected_to(
    host: ImageHost, literal: str
) -> None:
    """Even where the operator lists it: it takes the other setting as well."""
    place = f"http://{literal}:{host.port}/photos/"
    async with fetching(place, image_uri_private=False) as fetcher:
        assert await fetch(fetcher, f"{place}cat.jpg") == ["URI_FORBIDDEN"]
    assert host.asked == []


async def test_a_name_is_resolved_once_and_that_address_is_used(host: ImageHost) -> None:
    """A second look-up, which an attacker could answer otherwise, does not happen."""
    names = Names(images_example_com=[["127.0.0.1"], ["169.254.169.254"]])
    async with fetching(photos_of(host), resolver=names) as fetcher:
        assert await fetch(fetcher, f"{photos_of(host)}cat.jpg") == [b"cat"]
        assert names.asked == [NAME]
        # And its answer is not trusted for the next connection.
        assert await fetch(fetcher, f"{photos_of(host)}cat.jpg") == ["URI_FORBIDDEN"]


async def test_redirects_are_followed_within_the_list(host: ImageHost) -> None:
    host.answers["/photos/moved.jpg"] = Answer(status=302, headers={"Location": "cat.jpg"})
    host.answers["/photos/twice.jpg"] = Answer(
        status=308, headers={"Location": f"http://cdn.example.com:{host.port}/a/moved.jpg"}
    )
    host.answers["/a/moved.jpg"] = Answer(
        status=301, headers={"Location": f"{photos_of(host)}cat.jpg"}
    )
    places = (photos_of(host), f"http://cdn.example.com:{host.port}/a")
    async with fetching(*places, resolver=here(cdn_example_com=[["127.0.0.1"]])) as fetcher:
        uris = (f"{photos_of(host)}moved.jpg", f"{photos_of(host)}twice.jpg")
        assert await fetch(fetcher, *uris) == [b"cat", b"cat"]


@pytest.mark.parametrize(
    "location",
    [
        "/secret.jpg",
        "../secret.jpg",
        "http://169.254.169.254/latest/meta-data/",
        "http://localhost/",
        "http://metadata.example.com/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http://user:password@images.example.com/photos/cat.jpg",
        "/photos/loop.jpg",
    ],
)
async def test_a_redirect_out_of_the_list_is_not_followed(host: ImageHost, location: str) -> None:
    host.answers["/photos/loop.jpg"] = Answer(status=302, headers={"Location": location})
    names = here(metadata_example_com=[["169.254.169.254"]])
    places = (photos_of(host), "http://metadata.example.com/")
    async with fetching(*places, resolver=names) as fetcher:
        assert await fetch(fetcher, f"{photos_of(host)}loop.jpg") == ["URI_FORBIDDEN"]
    assert "/secret.jpg" not in {path for _, path in host.asked}
    assert len(host.asked) <= 3


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(status=404), "URI_NOT_FOUND"),
        (Answer(status=410), "URI_NOT_FOUND"),
        (Answer(status=400), "URI_NOT_FOUND"),
        (Answer(status=204), "URI_NOT_FOUND"),
        (Answer(status=401), "URI_FORBIDDEN"),
        (Answer(status=403), "URI_FORBIDDEN"),
        (Answer(status=429), "URI_UNAVAILABLE"),
        (Answer(status=500), "URI_UNAVAILABLE"),
        (Answer(status=503), "URI_UNAVAILABLE"),
        (Answer(status=302), "URI_FORBIDDEN"),  # to itself, for ever
        (Answer(b"cut short", length=100), "URI_UNAVAILABLE"),
        (Answer(b"", length=100, stalls=True), "URI_UNAVAILABLE"),
        (Answer(b"half of it", length=100, stalls=True), "URI_UNAVAILABLE"),
        (Answer(b""), "IMAGE_EMPTY"),
        (Answer(bytes(100_001)), "IMAGE_TOO_LARGE"),
        (Answer(bytes(10), length=10**12, stalls=True), "IMAGE_TOO_LARGE"),
        (Answer(bytes(10_000), length=0, endless=True), "IMAGE_TOO_LARGE"),
    ],
)
async def test_what_goes_wrong_has_its_reason_and_disturbs_no_neighbour(
    host: ImageHost, answer: Answer, reason: str
) -> None:
    host.answers["/photos/bad.jpg"] = answer
    async with fetching(photos_of(host), resolver=here(), image_uri_timeout_seconds=1.0) as fetcher:
        bad, good = f"{photos_of(host)}bad.jpg", f"{photos_of(host)}cat.jpg"
        assert await fetch(fetcher, good, bad) == [b"cat", reason]
    assert host.sent_bytes < 20_000_000


async def test_a_host_that_is_not_there_is_said(host: ImageHost) -> None:
    async with fetching("http://127.0.0.1:1/", "http://nowhere.invalid/") as fetcher:
        answers = await fetch(fetcher, "http://127.0.0.1:1/a.jpg", "http://nowhere.invalid/a.jpg")
    assert answers == ["URI_UNAVAILABLE"] * 2


async def test_nothing_is_decompressed(host: ImageHost) -> None:
    host.answers["/photos/bomb.jpg"] = Answer(
        b"\x1f\x8b bomb", headers={"Content-Encoding": "gzip"}
    )
    async with fetching(photos_of(host), resolver=here()) as fetcher:
        assert await fetch(fetcher, f"{photos_of(host)}bomb.jpg") == [b"\x1f\x8b bomb"]


async def test_a_place_that_stalls_leaves_half_of_the_time_for_the_rest(host: ImageHost) -> None:
    host.answers["/photos/slow.jpg"] = Answer(b"x", length=9, stalls=True)
    async with fetching(photos_of(host), resolver=here(), image_uri_fetches=1) as fetcher:
        slow, cat = f"{photos_of(host)}slow.jpg", f"{photos_of(host)}cat.jpg"
        deadline = Deadline.after(None, default_s=2.0)
        contents = [Content(Kind.IMAGE, b"", uri=uri) for uri in (slow, cat)]
        answers = await fetcher.fetch(contents, deadline)
        # The second one had to wait for the only slot, and ran out of time in the queue.
        assert [getattr(answer, "reason", "") for answer in answers] == ["URI_UNAVAILABLE"] * 2
        deadline.for_next_hop("embed")
        assert await fetch(fetcher, cat) == [b"cat"]


async def test_one_request_is_given_so_many_bytes_and_no_more(host: ImageHost) -> None:
    for number in range(4):
        host.answers[f"/photos/{number}.jpg"] = Answer(bytes(400))
    uris = [f"{photos_of(host)}{number}.jpg" for number in range(4)]
    limits = {"max_message_bytes": 1_000, "image_uri_fetches": 1}
    async with fetching(photos_of(host), resolver=here(), **limits) as fetcher:
        answers = await fetch(fetcher, *uris)
        assert answers == [bytes(400), bytes(400), "BATCH_TOO_LARGE", "BATCH_TOO_LARGE"]
        assert await fetch(fetcher, *uris[2:]) == [bytes(400)] * 2
    # What came after the limit was reached was not even asked for.
    assert [path for _, path in host.asked[:4]] == [
        "/photos/0.jpg", "/photos/1.jpg", "/photos/2.jpg", "/photos/2.jpg",
    ]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    photos = tmp_path / "photos"
    (photos / "sub folder").mkdir(parents=True)
    (photos / "sub folder" / "cat & 50%.jpg").write_bytes(b"cat")
    (photos / "large.jpg").write_bytes(bytes(100_001))
    (photos / "empty.jpg").write_bytes(b"")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (photos / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (photos / "inner.jpg").symlink_to(photos / "large.jpg")
    (photos / "out").symlink_to(tmp_path)
    (photos / "dangling.jpg").symlink_to(tmp_path / "nothing")
    os.mkfifo(photos / "pipe.jpg")
    return photos


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("sub%20folder/cat%20&%2050%25.jpg", b"cat"),
        ("sub folder//cat & 50%.jpg", b"cat"),
        ("missing.jpg", "URI_NOT_FOUND"),
        ("missing/cat.jpg", "URI_NOT_FOUND"),
        ("large.jpg/cat.jpg", "URI_NOT_FOUND"),
        ("sub folder", "URI_NOT_FOUND"),
        ("", "URI_NOT_FOUND"),
        ("pipe.jpg", "URI_NOT_FOUND"),
        ("a" * 300, "URI_UNAVAILABLE"),
        ("large.jpg", "IMAGE_TOO_LARGE"),
        ("empty.jpg", "IMAGE_EMPTY"),
        ("link.jpg", "URI_FORBIDDEN"),
        ("inner.jpg", "URI_FORBIDDEN"),
        ("dangling.jpg", "URI_FORBIDDEN"),
        ("out/secret.jpg", "URI_FORBIDDEN"),
        ("../secret.jpg", "URI_FORBIDDEN"),
        ("%2e%2e/secret.jpg", "URI_FORBIDDEN"),
        ("..%2fsecret.jpg", "URI_FORBIDDEN"),
        ("%2fetc/passwd", "URI_FORBIDDEN"),
    ],
)
async def test_files_are_read_below_their_folder_only(
    folder: Path, path: str, answer: bytes | str
) -> None:
    async with fetching(f"file://{folder}/") as fetcher:
        assert await fetch(fetcher, f"file://{folder}/{path}") == [answer]


async def test_the_folder_itself_may_be_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(folder)
    async with fetching(f"file://{tmp_path}/current") as fetcher:
        uri = f"file://localhost{tmp_path}/current/sub%20folder/cat%20&%2050%25.jpg"
        assert await fetch(fetcher, uri) == [b"cat"]
        assert await fetch(fetcher, f"file://elsewhere{tmp_path}/current/a") == ["URI_FORBIDDEN"]


class VanishingFileSystem(MemoryFileSystem):
    """An object store whose objects go between being looked at and being read."""

    protocol = "vanishing"
    store: dict[str, Any] = {}  # noqa: RUF012 - as in the class it is made from

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        stripped: str = super()._strip_protocol(path.removeprefix("vanishing://"))
        return stripped

    def cat_file(self, path: str, *args: Any, **options: Any) -> bytes:
        if "vanish" in path:
            self.rm_file(path)
        if "grow" in path:
            self.pipe_file(path, bytes(200_000))
        if "broken" in path:
            raise RuntimeError("some error of this store's own")
        data: bytes = super().cat_file(path, *args, **options)
        return data


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("photos/cat.jpg", b"cat"),
        ("photos/100%25.jpg", b"percent"),  # keys are not encoded
        ("photos/missing.jpg", "URI_NOT_FOUND"),
        ("photos/vanish.jpg", "URI_NOT_FOUND"),
        ("photos/sub", "URI_NOT_FOUND"),
        ("photos/grow.jpg", bytes(3)),
        ("photos/broken.jpg", "URI_UNAVAILABLE"),
        ("photos/large.jpg", "IMAGE_TOO_LARGE"),
        ("photos/empty.jpg", "IMAGE_EMPTY"),
        ("private/cat.jpg", "URI_FORBIDDEN"),
        ("photos/../private/cat.jpg", "URI_FORBIDDEN"),
        ("photos-2/cat.jpg", "URI_FORBIDDEN"),
        ("photos/cat.jpg::file:///etc/passwd", "URI_NOT_FOUND"),
    ],
)
async def test_object_stores_are_read_below_their_prefix_only(
    path: str, answer: bytes | str
) -> None:
    fsspec.register_implementation("vanishing", VanishingFileSystem, clobber=True)
    store = fsspec.filesystem("vanishing")
    for key, data in {
        "photos/cat.jpg": b"cat", "photos/100%25.jpg": b"percent", "photos/vanish.jpg": b"gone",
        "photos/sub/cat.jpg": b"cat", "photos/grow.jpg": bytes(3), "photos/broken.jpg": b"x",
        "photos/large.jpg": bytes(100_001), "photos/empty.jpg": b"", "private/cat.jpg": b"cat",
        "photos-2/cat.jpg": b"cat",
    }.items():  # fmt: skip
        store.pipe_file(f"/bucket/{key}", data)
    async with fetching("vanishing://bucket/photos/") as fetcher:
        assert await fetch(fetcher, f"vanishing://bucket/{path}") == [answer]


@pytest.mark.parametrize(
    "place",
    [
        "images.example.com", "https://", "https:///photos/", "https://user:pw@host/photos/",
        "https://host/photos/?x=1", "file://host/photos/", "s3:///photos/", "https://host/../",
        "/data/photos",
    ],
)  # fmt: skip
def test_a_list_that_cannot_be_meant_is_refused_at_the_start(place: str) -> None:
    with pytest.raises(InvalidArgument, match="image-uri-places"):
        Allowlist([place])


async def test_a_scheme_that_nobody_knows_is_refused_at_the_start() -> None:
    with pytest.raises(SentinelError, match="cannot fetch from"):
        async with fetching("nonesuch://bucket/"):
            pass
