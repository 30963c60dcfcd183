"""Originals: only the file with the right SHA-256 is read, and nothing is learned about others."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search_server.image_uris import originals as module
from search_server.image_uris import readers
from search_server.image_uris.originals import Originals, parse_file_uri
from sentinel_core.errors import InvalidArgument, NotFound, PermissionDenied, Unavailable

DATA = b"the bytes of a photo"
DIGEST = hashlib.sha256(DATA).hexdigest()
LARGEST = 1_000


class System:
    """The module `os` as the reader of files sees it, with some of its functions replaced."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **functions: Callable[..., Any]) -> None:
        self.__dict__.update(functions)
        monkeypatch.setattr(readers, "os", self)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


def originals(*places: Path | str, timeout_s: float = 30.0) -> Originals:
    uris = [place if isinstance(place, str) else place.as_uri() for place in places]
    return Originals(uris, max_bytes=LARGEST, timeout_s=timeout_s)


@pytest.mark.parametrize(
    "name",
    [
        b"a b.jpg", b"50% off.jpg", b"a%20b.jpg", b"a%2Fb.jpg", b"a\\b.jpg", b"#?&;=.jpg",
        b"\xc3\xbc\xf0\x9f\x90\xb1.jpg", b"\xff\xfe.jpg", b"line\nbreak.jpg", b"no suffix", b"...",
    ],
)  # fmt: skip
async def test_a_file_is_found_whatever_its_name(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(DATA)
    assert await originals(tmp_path).read(path.as_uri(), DIGEST) == DATA
    assert await originals("file:///").read(path.as_uri(), DIGEST) == DATA
    path.unlink()
    with pytest.raises(NotFound) as caught:
        await originals(tmp_path).read(path.as_uri(), DIGEST)
    caught.value.message.encode()  # gRPC sends UTF-8


@pytest.mark.parametrize(
    "uri",
    [
        "", "x.jpg", "/x.jpg", "file:", "file://", "file:///", "file:/x.jpg", "file:///folder/",
        "https://host/x.jpg", "s3://bucket/x.jpg", "file://host/x.jpg", "file:///C:\\x.jpg",
        "file:///a/../x.jpg", "file:///a/%2e%2E/x.jpg", "file:///./x.jpg", "file:///a//x.jpg",
        "file:///a%2Fx.jpg", "file:///a%00.jpg", "file:///x.jpg?size=9", "file:///x.jpg#part",
        "file:///" + "x" * 20_000,
    ],
)  # fmt: skip
def test_what_is_no_file_uri_is_refused(uri: str) -> None:
    with pytest.raises(InvalidArgument, match="file:///folder"):
        parse_file_uri(uri)


@pytest.mark.parametrize("place", ["https://host/x/", "s3://bucket/", "/photos", "file:///a/../b"])
def test_places_are_folders_of_this_machine(place: str) -> None:
    with pytest.raises(InvalidArgument, match="--reference-places"):
        originals(place)


async def test_a_file_outside_of_the_places_is_forbidden_whether_it_is_there_or_not(
    tmp_path: Path,
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in2").mkdir()
    (tmp_path / "in2" / "x.jpg").write_bytes(DATA)
    messages = set()
    for name in ("x.jpg", "missing.jpg"):
        uri = (tmp_path / "in2" / name).as_uri()
        with pytest.raises(PermissionDenied) as caught:
            await originals(tmp_path / "in").read(uri, DIGEST)
        assert caught.value.reason == "URI_FORBIDDEN"
        messages.add(caught.value.message.replace(name, ""))
    assert len(messages) == 1


def other_content(path: Path) -> None:
    path.write_bytes(DATA + b"!")


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def linked(path: Path) -> None:
    (path.parent / "target.jpg").write_bytes(DATA)
    path.symlink_to("target.jpg")


SPOILT: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "other content": other_content,
    "empty": lambda path: path.write_bytes(b""),
    "too large": lambda path: path.write_bytes(b"x" * (LARGEST + 1)),
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a socket": unix_socket,
    "a link": linked,
    "not readable": lambda path: path.write_bytes(DATA),
}


@pytest.mark.parametrize("why", SPOILT)
async def test_whatever_is_wrong_the_answer_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.chdir(tmp_path)  # the names of sockets are short
    path = tmp_path / "x.jpg"
    SPOILT[why](Path("x.jpg") if why == "a socket" else path)

    def refusing(name: str, *arguments: Any, **options: Any) -> int:  # as root can read everything
        if why == "not readable" and name == path.name:
            raise PermissionError(13, "Permission denied")
        return os.open(name, *arguments, **options)

    System(monkeypatch, open=refusing)
    with pytest.raises(NotFound) as caught:
        await originals(tmp_path).read(path.as_uri(), DIGEST)
    error = caught.value
    assert (error.reason, error.metadata) == ("ORIGINAL_GONE", {"uri": path.as_uri()})
    assert error.message == (
        f"the original of the image is gone: {path} is not there, cannot be read, or has other "
        "content than the item; index its folder again, or delete the item"
    )


@pytest.mark.parametrize(
    "name", ["folder/link/x.jpg", "file.jpg/x.jpg", "x" * 300, "/".join(["y" * 200] * 30)]
)
async def test_so_is_it_for_paths_that_lead_nowhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.jpg").write_bytes(DATA)
    (tmp_path / "folder").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.jpg").write_bytes(DATA)
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotFound, match="the original of the image is gone"):
        await originals(tmp_path).read((tmp_path / name).as_uri(), DIGEST)


async def test_no_device_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def noting(name: str, *arguments: Any, **options: Any) -> int:
        opened.append(name)
        return os.open(name, *arguments, **options)

    System(monkeypatch, open=noting)
    with pytest.raises(NotFound):
        await originals("file:///").read("file:///dev/zero", DIGEST)
    assert opened == ["/", "dev"]


def to_a_link(path: Path) -> None:
    (path.parent / "target.jpg").write_bytes(DATA)
    path.symlink_to("target.jpg")


@pytest.mark.parametrize("swap", [to_a_link, os.mkfifo, lambda path: path.mkdir(), other_content])
async def test_a_file_that_is_swapped_between_the_check_and_the_opening_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swap: Callable[[Path], object]
) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(DATA)
    check = readers._refuse_link

    def check_then_swap(name: str, *arguments: object) -> int:
        mode = check(name, *arguments)  # type: ignore[arg-type]
        if name == path.name:
            path.unlink()
            swap(path)
        return mode

    monkeypatch.setattr(readers, "_refuse_link", check_then_swap)
    with pytest.raises(NotFound, match="the original of the image is gone"):
        await originals(tmp_path).read(path.as_uri(), DIGEST)


@pytest.mark.parametrize("more", [1, 10 * LARGEST])
async def test_a_file_that_grows_while_it_is_read_has_other_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(DATA)

    def stat_then_grow(descriptor: int) -> os.stat_result:
        found = os.fstat(descriptor)
        with path.open("ab") as file:
            file.write(b"!" * more)
        return found

    System(monkeypatch, fstat=stat_then_grow)
    with pytest.raises(NotFound, match="the original of the image is gone"):
        await originals(tmp_path).read(path.as_uri(), DIGEST)


async def test_a_disk_that_fails_is_another_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(DATA)

    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    System(monkeypatch, fstat=fail)
    with pytest.raises(Unavailable, match="Input/output error"):
        await originals(tmp_path).read(path.as_uri(), DIGEST)


async def test_reads_that_never_end_hold_up_no_others_and_no_shutdown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a network drive that is gone."""
    monkeypatch.setattr(module, "_MOST_STUCK", 3)
    path = tmp_path / "x.jpg"
    path.write_bytes(DATA)
    answering = threading.Event()
    read = readers.FolderReader.read

    def stuck(self: readers.FolderReader, *arguments: object) -> bytes:
        if arguments[0].path[-1] == "stuck.jpg":  # type: ignore[attr-defined]
            answering.wait()
        return read(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(readers.FolderReader, "read", stuck)
    reader = originals(tmp_path, timeout_s=0.05)
    for _ in range(3):
        reader._timeout_s = 0.05
        with pytest.raises(Unavailable, match="took too long"):
            await reader.read((tmp_path / "stuck.jpg").as_uri(), DIGEST)
        reader._timeout_s = 30.0
        if reader._stuck < 3:
            assert await reader.read(path.as_uri(), DIGEST) == DATA
    waiting = [thread for thread in threading.enumerate() if thread.name == "original"]
    assert len(waiting) == 3
    assert all(thread.daemon for thread in waiting)
    with pytest.raises(Unavailable, match="too many other files"):
        await reader.read(path.as_uri(), DIGEST)
    answering.set()
    for thread in waiting:
        await asyncio.to_thread(thread.join)
    assert await reader.read(path.as_uri(), DIGEST) == DATA
