"""The client's wheel in a clean environment: what arrives, what works, what else to install.

Each Python that the client says it supports runs the same program against a gateway of ours; those
that this machine lacks are skipped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests import photos, processes
from tests.packaging import installs
from tests.packaging.client_program import NAMES

pytestmark = [pytest.mark.slow, pytest.mark.packaging, pytest.mark.timeout(300)]

# What the client needs, and what that needs.
PACKAGES = {
    *("sentinel-retrieval-client", "click", "googleapis-common-protos", "grpcio", "numpy"),
    *("platformdirs", "protobuf", "rich"),
    *("markdown-it-py", "mdurl", "pygments", "typing-extensions"),
}
every_python = pytest.mark.parametrize("python", installs.PYTHONS)


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, default_worker: processes.Server
) -> Iterator[processes.Server]:
    folder = tmp_path_factory.mktemp("gateway")
    flags = processes.gateway_flags(folder, str(folder / "milvus.db"), default_worker.address)
    with processes.running(folder, "search_server", *flags) as server:
        yield server


@pytest.fixture
def four_photos(tmp_path: Path) -> Path:
    for name in NAMES:
        shutil.copy(photos.photo(Path(name).stem), tmp_path)
    return tmp_path


@every_python
def test_the_client_works_alone(python: str, gateway: processes.Server, four_photos: Path) -> None:
    bin = installs.client_only(python)
    program = Path(__file__).with_name("client_program.py")
    mark = python.replace(".", "_")
    # -P: the folder of the program is no place to import from.
    done = installs.run(bin / "python", "-P", program, gateway.address, four_photos, mark)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
    address = {"SENTINEL_ADDRESS": gateway.address, "XDG_CACHE_HOME": str(four_photos / "cache")}
    command, collection = bin / "sentinel", ("--collection", f"command_{mark}")
    index = installs.run(command, "index", four_photos, *collection, **address)
    assert index.returncode == 0, index.stderr
    assert "Without dates, places and cameras: PIL, defusedxml missing" in index.stderr
    found = installs.run(command, "search", "a rocket", *collection, "--json", **address)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout.splitlines()[0])["fields"]["path"].endswith("rocket.jpg")
    # From 3.13 on, Python itself complains of a file that is collected and cannot be written.
    (four_photos / "bad.jpg").write_bytes(b"BAD")
    full = installs.run(
        command, "index", four_photos, "--report", "/dev/full", *collection, **address
    )
    assert "cannot write /dev/full" in full.stderr
    assert "Traceback" not in full.stderr


def test_nothing_arrives_but_what_the_client_needs() -> None:
    listed = installs.pip(installs.client_only(), "list", "--format=json")
    arrived = {canonicalize_name(package["name"]) for package in json.loads(listed)}
    assert arrived == PACKAGES


def test_keys_need_no_server(tmp_path: Path) -> None:
    command = (installs.client_only() / "sentinel", "keys", "create", "--file", tmp_path / "k.json")
    made = installs.run(*command, "--grant", "reader")
    assert made.stdout.startswith("sen_"), made.stderr


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["up"], "pip install ./clients/python '.[all]' in Sentinel's folder"),
        (["models"], "pip install ./clients/python '.[embedder]' in Sentinel's folder"),
        (["bulk-index", "x"], "pip install ./clients/python '.[bulk]' in Sentinel's folder"),
        (["certs", "pki"], "pip install 'sentinel-retrieval-client[certs]'"),
        (["index", "/", "--watch"], "pip install 'sentinel-retrieval-client[photos]'"),
        (
            ["import", "parquet", __file__, "-c", "x", "--image", "y"],
            "pip install 'sentinel-retrieval-client[import]'",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_command_that_needs_more_says_what_to_install(
    words: list[str], advice: str, gateway: processes.Server
) -> None:
    address = {"SENTINEL_ADDRESS": gateway.address}  # an import looks for its gateway first
    result = installs.run(installs.client_only() / "sentinel", *words, **address)
    assert result.returncode != 0
    assert advice in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_an_extra_of_the_client_adds_to_the_installed_client(tmp_path: Path) -> None:
    """What the advice names must not look for the client elsewhere."""
    report = tmp_path / "report.json"
    asked = ("sentinel-retrieval-client[certs]", "--dry-run", "--report", report)
    installs.pip(installs.client_only(), "install", *asked)
    added = {one["metadata"]["name"].lower() for one in json.loads(report.read_text())["install"]}
    assert "cryptography" in added
    assert "sentinel-retrieval-client" not in added
