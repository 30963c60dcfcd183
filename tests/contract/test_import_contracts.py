"""Every import contract of `.importlinter` fails when a file breaks it."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "bulk_indexer",
    "embedder_server",
    "search_server",
    "sentinel_core",
    "sentinel_store",
    "clients/python/sentinel_client",
    "clients/app/sentinel_app",
    "protos/gen/python/sentinel",
)

# Contracts, and a file and an import that each must find.
BREACHES = (
    ("packages", "sentinel_store/values.py", "import search_server.types"),
    ("packages", "search_server/search/searcher.py", "import embedder_server.types"),
    ("client", "clients/python/sentinel_client/_client.py", "import sentinel_core.errors"),
    (
        "importers",
        "clients/python/sentinel_client/importers/folders.py",
        "import sentinel_client._client",
    ),
    ("embedder", "embedder_server/images/decoder.py", "import embedder_server.engine.engine"),
    ("gateway", "search_server/collections/catalog.py", "import search_server.items.writer"),
    ("edges", "search_server/items/writer.py", "import sentinel.search.v1.filter_pb2"),
    ("edges", "search_server/search/searcher.py", "import pymilvus"),
    ("edges", "embedder_server/engine/engine.py", "import ray"),
    ("bulk", "bulk_indexer/settings.py", "import search_server.settings"),
    ("bulk", "bulk_indexer/settings.py", "import embedder_server.engine.engine"),
)


def lint(folder: Path) -> str:
    paths = [".", "clients/python", "clients/app", "protos/gen/python"]
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=folder,
        env={"PYTHONPATH": ":".join(str(folder / path) for path in paths), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout + result.stderr


def contracts() -> dict[str, str]:
    config = configparser.ConfigParser()
    config.read(ROOT / ".importlinter")
    prefix = "importlinter:contract:"
    return {
        section.removeprefix(prefix): config[section]["name"]
        for section in config.sections()
        if section.startswith(prefix)
    }


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report on a copy of the code in which every contract is broken once."""
    copy = tmp_path_factory.mktemp("code")
    shutil.copy(ROOT / ".importlinter", copy)
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, copy / package, ignore=ignored)
    for _, file, line in BREACHES:
        with (copy / file).open("a") as text:
            text.write(f"\n{line}\n")
    return lint(copy)


def test_there_is_a_breach_for_every_contract() -> None:
    assert {contract for contract, _, _ in BREACHES} == set(contracts())


@pytest.mark.parametrize(("contract", "file", "line"), BREACHES)
def test_a_file_that_breaks_a_contract_is_found(
    broken: str, contract: str, file: str, line: str
) -> None:
    importer = file.removeprefix("clients/python/").removesuffix(".py").replace("/", ".")
    heading = contracts()[contract]
    _, _, details = broken.partition("Broken contracts")
    _, found, report = details.partition(f"{heading}\n{'-' * len(heading)}\n")
    assert found, broken
    report = report.partition("\n---")[0]
    assert f"{importer} -> {line.removeprefix('import ')}" in report, report
