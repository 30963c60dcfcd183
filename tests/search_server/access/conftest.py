"""One secured system for the tests that leave it as it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.search_server.access import secured
from tests.search_server.access.secured import Secured


@pytest.fixture(scope="package")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with secured.running(tmp_path_factory.mktemp("secured")) as running:
        yield running


@pytest.fixture(scope="package")
def owner(system: Secured) -> str:
    return system.key("owner")
