"""Gateways that the clients of other languages share, each language with a pair of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import milvus_server, processes
from tests.clients import live


@pytest.fixture(scope="module")
def variables(
    tmp_path_factory: pytest.TempPathFactory,
    milvus_server_uri: str,
    default_worker: processes.Server,
) -> Iterator[dict[str, str]]:
    """The environment of a client's tests: see `live`."""
    folder = tmp_path_factory.mktemp("live")
    database = milvus_server.new_database(milvus_server_uri)
    with live.gateways(folder, database, default_worker.address) as found:
        yield live.environment(found)
