"""The two wheels: what each holds, that they agree, and the servers without their extras."""

from __future__ import annotations

import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from tests.contract import clone
from tests.packaging import installs

pytestmark = [pytest.mark.slow, pytest.mark.packaging, pytest.mark.timeout(300)]

PACKAGES = {
    "client": {"sentinel", "sentinel_client"},
    "servers": {
        *("bulk_indexer", "embedder_server", "search_server"),
        *("sentinel_app", "sentinel_core", "sentinel_store"),
    },
}


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as packed:
        (name,) = (name for name in packed.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(packed.read(name).decode())


@pytest.mark.parametrize("which", PACKAGES)
def test_a_wheel_holds_its_packages_and_nothing_else(which: str) -> None:
    names = zipfile.ZipFile(installs.wheels()[which]).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == PACKAGES[which]
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_wheels_hold_their_data() -> None:
    held = {
        name for wheel in installs.wheels().values() for name in zipfile.ZipFile(wheel).namelist()
    }
    assert held >= {
        "embedder_server/models/builtin/conse_data/class_matrix.npy",
        "sentinel/py.typed",
        "sentinel_app/static/index.html",
        "sentinel_app/static/main.js",
        "sentinel_app/streamlit_page/components/crop.js",
        "sentinel_client/py.typed",
    }


def test_one_version_binds_both() -> None:
    client, servers = (metadata_of(installs.wheels()[name]) for name in ("client", "servers"))
    assert client["Version"] == servers["Version"] == installs.VERSION
    needed = [line for line in servers.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert needed == [f"{client['Name']}=={installs.VERSION}"]


def test_both_name_the_pythons_that_are_tested() -> None:
    for wheel in installs.wheels().values():
        named = metadata_of(wheel).get_all("Classifier", [])
        pythons = [one.split(" :: ")[-1] for one in named if one.startswith("Programming")]
        assert pythons == list(installs.PYTHONS)
        assert metadata_of(wheel)["Requires-Python"] == f">={installs.PYTHONS[0]}"


def test_the_licence_of_the_client_is_ours() -> None:
    """A distribution takes files of its own folder only, so there are two."""
    ours, clients = (installs.ROOT / folder / "LICENSE" for folder in ("", "clients/python"))
    assert clients.read_bytes() == ours.read_bytes()


def test_a_source_archive_builds_the_same_wheel(tmp_path: Path) -> None:
    installs.build(tmp_path, installs.ROOT / "clients" / "python")
    (built,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(built) as other, zipfile.ZipFile(installs.wheels()["client"]) as wheel:
        assert {entry.filename: entry.CRC for entry in other.infolist()} == {
            entry.filename: entry.CRC for entry in wheel.infolist()
        }


def test_the_client_holds_the_contract_for_other_languages(tmp_path: Path) -> None:
    with zipfile.ZipFile(installs.wheels()["client"]) as packed:
        packed.extractall(tmp_path)
    contract = tmp_path / "sentinel" / "protos"
    source = "sentinel/search/v1/search_service.proto"
    descriptors = contract / f"sentinel-{installs.VERSION}.binpb"
    for place in (f"-I{contract}", f"--descriptor_set_in={descriptors}"):
        built = installs.run(clone.tool("protoc"), place, f"--cpp_out={tmp_path}", source)
        assert built.returncode == 0, built.stderr
    assert (contract / "NOTICE.md").exists()


@pytest.fixture(scope="module")
def servers_without_extras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the servers' wheel, for PYTHONPATH in an environment with the client."""
    folder = tmp_path_factory.mktemp("servers")
    words = ("install", "--no-deps", "--no-compile", "--target", folder)
    installs.pip(installs.client_only(), *words, installs.wheels()["servers"])
    return folder


@pytest.mark.parametrize(
    ("script", "extra"),
    [
        ("sentinel-gateway", "gateway"),
        ("sentinel-embedder", "embedder"),
        ("sentinel-app", "app"),
        ("sentinel-bulk-index", "bulk"),
    ],
)
def test_a_script_without_its_extra_says_what_to_install(
    servers_without_extras: Path, script: str, extra: str
) -> None:
    program = servers_without_extras / "bin" / script
    result = installs.run(program, PYTHONPATH=str(servers_without_extras))
    assert result.returncode == 1
    assert f"pip install '.[{extra}]' in Sentinel's folder" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
