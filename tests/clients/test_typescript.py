"""The TypeScript client, built and tested as its README says, against live gateways.

Its own tests run once; each is a test here, so that a report names what failed.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from scripts import protos

# A machine with other work takes many minutes to install, compile and run all of them.
pytestmark = [pytest.mark.slow, pytest.mark.milvus, pytest.mark.timeout(1800)]

CLIENT = protos.ROOT / "clients/typescript"
OLDEST_NODE = 20
TESTS = {
    file.name: re.findall(r'^test\("(.+?)", ', file.read_text(), re.MULTILINE)
    for file in sorted((CLIENT / "test").glob("*.test.ts"))
}
# What `node --test --test-reporter=tap` prints for a test of a file.
RESULT = re.compile(r"^(ok|not ok) \d+ - (.+?)$\n((?: .*\n)*)", re.MULTILINE)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client's folder in a clone of its own, installed and compiled."""
    needs_node()
    clone = tmp_path_factory.mktemp("typescript")
    made = ("node_modules", "dist", "gen")
    shutil.copytree(CLIENT, clone / "clients/typescript", ignore=shutil.ignore_patterns(*made))
    shutil.copytree(protos.PROTOS, clone / "protos")
    shutil.copy(protos.ROOT / "buf.yaml", clone)
    folder = clone / "clients/typescript"
    installed = run("npm", "ci", "--no-audit", "--no-fund", cwd=folder)
    if installed.returncode and not has_registry():
        pytest.skip("npm reaches no registry: run it where it does, or with a mirror")
    assert installed.returncode == 0, installed.stdout + installed.stderr
    built = run("npm", "run", "build", cwd=folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def results(client: Path, variables: dict[str, str]) -> dict[str, str]:
    """What each test of the client said, by name; "" if it passed."""
    command = ("node", "--test", "--test-concurrency=1", "--test-reporter=tap")
    files = sorted(str(file) for file in (client / "dist/test").glob("*.test.js"))
    done = run(*command, *files, cwd=client, environment=variables)
    said = {
        name: "" if word == "ok" else details for word, name, details in RESULT.findall(done.stdout)
    }
    assert said, done.stdout + done.stderr
    return said


@pytest.mark.parametrize("name", [name for names in TESTS.values() for name in names])
def test_client(results: dict[str, str], name: str) -> None:
    assert name in results, f"it did not run; these did: {sorted(results)}"
    if results[name]:
        pytest.fail(results[name], pytrace=False)


def test_the_example_continues_where_it_ended(client: Path, variables: dict[str, str]) -> None:
    photos = Path(variables["SENTINEL_TEST_PHOTOS"])
    count = len(list(photos.iterdir()))
    environment = {**variables, "SENTINEL_ADDRESS": variables["SENTINEL_TEST_ADDRESS"]}
    command = ("node", "dist/examples/photos.js", photos, "a cat")
    first = run(*command, cwd=client, environment=environment)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith(f"{count} stored, 0 stored before, 0 failed\n1 0.")
    assert "chelsea.png" in first.stdout.splitlines()[1]
    second = run(*command, cwd=client, environment=environment)
    assert second.stdout.startswith(f"0 stored, {count} stored before, 0 failed\n")
    nowhere = run("node", command[1], photos / "nowhere", cwd=client, environment=environment)
    assert nowhere.returncode == 1
    assert nowhere.stderr.startswith("ENOENT: no such file or directory")
    assert nowhere.stderr.count("\n") == 1


def test_the_package_serves_a_project_of_its_own(
    client: Path, variables: dict[str, str], tmp_path: Path
) -> None:
    packed = run("npm", "pack", "--json", "--pack-destination", tmp_path, cwd=client)
    assert packed.returncode == 0, packed.stderr
    (package,) = json.loads(packed.stdout)
    assert all(
        file["path"].startswith(("dist/src/", "package.json", "README"))
        for file in package["files"]
    )
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    install = ("npm", "install", "--no-audit", "--no-fund", tmp_path / package["filename"])
    installed = run(*install, cwd=tmp_path)
    assert installed.returncode == 0, installed.stderr
    (tmp_path / "main.js").write_text(
        """
        import { SentinelClient } from "sentinel-client";
        import { CollectionService } from
          "sentinel-client/stubs/sentinel/search/v1/collection_service_pb.js";
        const client = new SentinelClient();
        const { collections } = await client.call(CollectionService.method.listCollections, {});
        console.log(Array.isArray(collections));
        client.close();
        """
    )
    environment = {**variables, "SENTINEL_ADDRESS": variables["SENTINEL_TEST_ADDRESS"]}
    done = run("node", "main.js", cwd=tmp_path, environment=environment)
    assert (done.stdout, done.stderr) == ("true\n", "")


def test_the_lock_file_names_no_registry() -> None:
    packages = json.loads((CLIENT / "package-lock.json").read_text())["packages"]
    assert not [name for name, package in packages.items() if "resolved" in package]


def needs_node() -> None:
    """Skip the test, and say what to install, unless Node.js and npm are there."""
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; install Node.js {OLDEST_NODE} or newer")
    version = run("node", "--version", cwd=CLIENT).stdout.strip()
    if int(version.removeprefix("v").split(".")[0]) < OLDEST_NODE:
        pytest.skip(f"Node.js is {version}; install {OLDEST_NODE} or newer")


def has_registry() -> bool:
    """Ask npm whether it reaches its registry."""
    return run("npm", "ping", cwd=CLIENT).returncode == 0


def run(
    *command: object, cwd: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    words = [str(word) for word in command]
    return subprocess.run(
        words, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
