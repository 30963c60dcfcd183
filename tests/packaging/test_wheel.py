"""The built wheel in a clean environment: the base install is the client, and only that."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.contract import clone

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.packaging, pytest.mark.timeout(300)]


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, cwd="/"
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    # --no-isolation: hatchling is in the development environment already.
    built = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", folder, ROOT)
    assert built.returncode == 0, built.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clean") / "venv"
    assert run(sys.executable, "-m", "venv", folder).returncode == 0
    constraints = ROOT / "constraints.txt"
    installed = run(folder / "bin/pip", "install", "--quiet", "-c", constraints, wheel)
    assert installed.returncode == 0, installed.stderr
    return folder / "bin"


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {
        "bulk_indexer",
        "embedder_server",
        "search_server",
        "sentinel",
        "sentinel_app",
        "sentinel_client",
        "sentinel_core",
        "sentinel_store",
    }
    assert "sentinel_client/py.typed" in names
    assert "embedder_server/models/builtin/conse_data/class_matrix.npy" in names


def test_the_wheel_holds_the_contract_for_other_languages(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path)
    contract = tmp_path / "sentinel" / "protos"
    version = wheel.name.split("-")[1]
    source = "sentinel/search/v1/search_service.proto"
    descriptors = contract / f"sentinel-{version}.binpb"
    for place in (f"-I{contract}", f"--descriptor_set_in={descriptors}"):
        built = run(clone.tool("protoc"), place, f"--cpp_out={tmp_path}", source)
        assert built.returncode == 0, built.stderr
    assert (contract / "NOTICE.md").exists()


def test_the_base_install_is_the_client(clean: Path) -> None:
    listed = run(clean / "pip", "list", "--format=freeze").stdout.lower()
    packages = {line.split("==")[0] for line in listed.splitlines()}
    assert not packages & {"torch", "onnxruntime", "pymilvus", "pillow", "pydantic", "pandas"}
    imported = run(clean / "python", "-c", "import sentinel_client; sentinel_client.SentinelClient")
    assert imported.returncode == 0, imported.stderr
    assert "search" in run(clean / "sentinel", "--help").stdout


@pytest.mark.parametrize(
    ("script", "extra"),
    [("sentinel-gateway", "gateway"), ("sentinel-embedder", "embedder"), ("sentinel-app", "app")],
)
def test_a_script_without_its_extra_says_what_to_install(
    clean: Path, script: str, extra: str
) -> None:
    result = run(clean / script)
    assert result.returncode == 1
    assert f"pip install '.[{extra}]' in Sentinel's folder" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_bulk_index_without_its_extra_says_what_to_install(clean: Path) -> None:
    for command in ([clean / "sentinel", "bulk-index", "x"], [clean / "sentinel-bulk-index", "x"]):
        result = run(*command)
        assert result.returncode != 0
        assert "pip install '.[bulk]' in Sentinel's folder" in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1


def test_up_without_the_servers_says_what_to_install(clean: Path, tmp_path: Path) -> None:
    result = run(clean / "sentinel", "up", "--data", tmp_path)
    assert result.returncode != 0
    assert "pip install '.[all]'" in result.stderr
