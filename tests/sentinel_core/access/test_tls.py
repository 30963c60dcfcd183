"""Certificates that are replaced file by file: never a mixed pair, and never too early."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sentinel_core import tls
from sentinel_core.tls import FileTls, TlsFiles
from tests.search_server.access.secured import Pki
from tests.waiting import eventually


@pytest.fixture
async def followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[FileTls, Pki, Pki]]:
    """Credentials that follow the first files; the second ones are to replace them."""
    monkeypatch.setattr(tls, "_LOOK_EVERY_S", 0.01)
    pki, other = Pki.create(tmp_path / "pki"), Pki.create(tmp_path / "other")
    cert, key = Path(pki.file("server.pem")), Path(pki.file("server-key.pem"))
    following = FileTls(TlsFiles(cert, key))

    async def follow() -> None:
        async for _ in following.changes():
            pass

    task = asyncio.create_task(follow())
    yield following, pki, other
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def replace(pki: Pki, other: Pki, name: str) -> None:
    Path(pki.file(name)).write_bytes(Path(other.file(name)).read_bytes())


async def test_a_pair_is_used_once_it_is_whole(followed: tuple[FileTls, Pki, Pki]) -> None:
    following, pki, other = followed
    for name in ("server-key.pem", "server.pem"):
        await asyncio.sleep(0.1)
        assert following.version == 0
        replace(pki, other, name)
    await eventually(lambda: following.version == 1)
    assert following._bytes == following._files.read()


def test_a_private_key_is_not_shown(tmp_path: Path) -> None:
    pki = Pki.create(tmp_path)
    files = TlsFiles(Path(pki.file("server.pem")), Path(pki.file("server-key.pem")))
    assert "PRIVATE" not in repr(files.read()) + repr(vars(FileTls(files)))


async def test_a_file_that_cannot_be_read_for_a_moment_is_used_later(
    followed: tuple[FileTls, Pki, Pki], monkeypatch: pytest.MonkeyPatch
) -> None:
    following, pki, other = followed
    failures = 0

    def failing(files: TlsFiles) -> object:
        nonlocal failures
        failures += 1
        raise OSError(24, "Too many open files", str(files.cert))

    really = tls._server_context
    monkeypatch.setattr(tls, "_server_context", failing)
    for name in ("server-key.pem", "server.pem"):
        replace(pki, other, name)
    await eventually(lambda: failures > 2)
    assert following.version == 0
    monkeypatch.setattr(tls, "_server_context", really)
    await eventually(lambda: following.version == 1)
