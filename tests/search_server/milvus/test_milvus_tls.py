"""TLS with a real Milvus server, which asks for a client certificate."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from search_server.milvus.search_store import SearchStore
from sentinel_core.calls import Deadline
from sentinel_core.errors import SentinelError, Unavailable
from sentinel_core.tls import TlsFiles
from sentinel_store.collections import CollectionInfo
from sentinel_store.items import Row
from sentinel_store.values import ModelRef
from tests import milvus_server
from tests.search_server.access.secured import Pki

pytestmark = [pytest.mark.milvus, pytest.mark.slow]


def deadline(seconds: float = 30.0) -> Deadline:
    return Deadline.within(seconds)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki.create(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def uri(pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    files = (pki.file("server.pem"), pki.file("server-key.pem"), pki.file("ca.pem"))
    process, port = milvus_server.start(tmp_path_factory.mktemp("milvus") / "m", tls=files)
    yield f"https://localhost:{port}"
    process.kill()
    process.wait()


def files(pki: Pki) -> TlsFiles:
    names = ("client.pem", "client-key.pem", "ca.pem")
    return TlsFiles(*(Path(pki.file(name)) for name in names))


async def test_rows_are_written_and_read_over_tls(uri: str, pki: Pki) -> None:
    store = SearchStore(uri, "", 4, tls=files(pki))
    info = CollectionInfo("over_tls", ModelRef("m", "r", "f"), 4, {})
    await store.create_collection(info, deadline())
    await store.upsert(info, [Row("a", "d" * 64, "", "", {}, np.ones(4, np.float32))], deadline())
    assert [row.id for row in await store.get(info, ["a"], deadline())] == ["a"]
    await store.close()


@pytest.mark.parametrize("what", ["no certificate", "another CA", "no TLS"])
async def test_without_the_right_files_it_is_unavailable(
    uri: str, pki: Pki, tmp_path: Path, what: str
) -> None:
    tls = files(pki)
    if what == "no certificate":
        tls = dataclasses.replace(tls, cert=None, key=None)
    elif what == "another CA":
        tls = files(Pki.create(tmp_path / "other"))
    else:
        uri = uri.replace("https", "http")
    store = SearchStore(uri, "", 4, tls=None if what == "no TLS" else tls)
    with pytest.raises(SentinelError) as caught:
        await store.list_collections(deadline(15.0))
    assert isinstance(caught.value, Unavailable)
    await store.close()
