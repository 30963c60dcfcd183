"""Fixtures that every kind of test shares: a Milvus to talk to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests import milvus_server, s3_server

# How long one example takes says nothing on a machine with other work.
settings.register_profile("sentinel", deadline=None)
settings.load_profile("sentinel")


@pytest.fixture(scope="session")
def milvus_server_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of a real Milvus server, started on first use."""
    with milvus_server.running(tmp_path_factory.mktemp("milvus")) as uri:
        yield uri


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3_server.S3Server]:
    """A real S3 store, started on first use; tests that ask for it are marked `s3`."""
    with s3_server.running(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session", params=["lite", pytest.param("server", marks=pytest.mark.milvus)])
def milvus_uri(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Milvus Lite, and with `-m milvus` a real server: each test that asks runs on both."""
    if request.param == "server":
        uri: str = request.getfixturevalue("milvus_server_uri")
        return uri
    folder: Path = tmp_path_factory.mktemp("lite")
    return str(folder / "milvus.db")
