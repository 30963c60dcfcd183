"""A gateway on Milvus Lite with the real model, for tests that keep to collections of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import processes


@pytest.fixture(scope="session")
def lite_address(
    default_worker: processes.Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("gateway")
    flags = processes.gateway_flags(folder, str(folder / "milvus.db"), default_worker.address)
    with processes.running(folder, "search_server", *flags) as server:
        yield server.address
