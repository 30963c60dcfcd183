"""What every kind of test shares: the end of all processes, a Milvus, an S3 store, a worker."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests import milvus_server, processes, s3_server, secure, shared

# How long one example takes says nothing on a machine with other work.
settings.register_profile("sentinel", deadline=None)
settings.load_profile("sentinel")

_REAPER = pytest.StashKey[shared.Reaper]()


def pytest_configure(config: pytest.Config) -> None:
    """Prepare this process, and in the main process the end of all others."""
    shared.let_children_hear_sigint()
    keep_away_from_the_users_library(config)
    if not hasattr(config, "workerinput"):
        config.stash[_REAPER] = shared.Reaper()
    secure.set_up_clients()


def keep_away_from_the_users_library(config: pytest.Config) -> None:
    """Have `sentinel up` without --data use a folder of this run; its workers inherit it."""
    if not hasattr(config, "workerinput"):
        home = tempfile.TemporaryDirectory(prefix="sentinel-home-")
        config.add_cleanup(home.cleanup)
        os.environ["XDG_DATA_HOME"] = home.name
        os.environ.pop("SENTINEL_DATA", None)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End every process of this run."""
    if _REAPER in config.stash:
        config.stash[_REAPER].finish()


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what needs a real Milvus server, and skip what the secure mode leaves out."""
    for item in items:
        if secure.is_on() and (mark := item.get_closest_marker("plaintext")):
            item.add_marker(pytest.mark.skip(reason=f"plaintext: {mark.args[0]}"))
        # The server takes a fifth of two cores, and Milvus Lite shows nearly all that it does.
        if item.get_closest_marker("milvus"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def milvus_server_uri() -> str:
    """The URI of a real Milvus server, started on first use, one for the whole run."""

    def start(base: Path) -> str:
        return f"http://127.0.0.1:{milvus_server.start(base)[1]}"

    uri: str = shared.once("milvus", start)
    return uri


@pytest.fixture(scope="session")
def s3() -> s3_server.S3Server:
    """A real S3 store, one for the whole run; tests that ask for it are marked `s3`."""
    found = shared.once("s3", lambda base: dataclasses.asdict(s3_server.start(base)[1]))
    return s3_server.S3Server(**found)


@pytest.fixture(scope="session")
def lite_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of Milvus Lite, which only one gateway can open."""
    return str(tmp_path_factory.mktemp("lite") / "milvus.db")


@pytest.fixture(scope="session", params=["lite", pytest.param("server", marks=pytest.mark.milvus)])
def milvus_uri(request: pytest.FixtureRequest) -> str:
    """Milvus Lite, and with `-m milvus` a real server: each test that asks runs on both."""
    name = "milvus_server_uri" if request.param == "server" else "lite_uri"
    uri: str = request.getfixturevalue(name)
    return uri


@pytest.fixture(scope="session")
def default_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[processes.Server]:
    """A worker with the default model, one for each pytest worker: some tests read its metrics."""
    with processes.running(tmp_path_factory.mktemp("worker"), "embedder_server") as server:
        yield server
