"""The Go client: its own tests and its example, against live gateways."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests import processes
from tests.clients import go_toolchain
from tests.clients.go_toolchain import CLIENT

pytestmark = [pytest.mark.slow, pytest.mark.milvus, pytest.mark.timeout(1800)]

TESTS = sorted(
    name
    for path in CLIENT.glob("*_test.go")
    for name in re.findall(r"^func (Test\w+)\(", path.read_text(), re.MULTILINE)
)


@dataclass(frozen=True, slots=True)
class Module:
    """A copy of the client with its stubs."""

    folder: Path
    environment: dict[str, str]

    def run(self, *command: object, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(word) for word in command],
            cwd=self.folder,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            check=False,
        )

    def must(self, *command: object, **variables: str) -> str:
        """Run a command that has to succeed; return what it prints."""
        done = self.run(*command, **variables)
        assert done.returncode == 0, done.stdout[-5_000:] + done.stderr[-5_000:]
        return done.stdout


@dataclass
class Outcome:
    """What a test of Go said."""

    action: str = "not run"
    output: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Module]:
    """Build the client as its README says, but with the libraries of the toolchain."""
    toolchain = go_toolchain.find()
    if toolchain is None:
        pytest.skip("not installed: Go and gRPC for it; run python -m tests.clients.go_toolchain")
    clone = tmp_path_factory.mktemp("go")
    yield Module(toolchain.checkout(clone), toolchain.environment())
    shutil.rmtree(clone)


@pytest.fixture(scope="module")
def unequal_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two workers, `fast,slow`; one needs 25 times as long for a forward pass."""
    folder = tmp_path_factory.mktemp("unequal")

    def worker(name: str, seconds: str) -> AbstractContextManager[processes.Server]:
        environment = {"FAKE_SECONDS_PER_BATCH": seconds}
        return processes.running(folder / name, "tests.fakes.worker", environment=environment)

    with worker("fast", "0.02") as fast, worker("slow", "0.5") as slow:
        yield f"{fast.address},{slow.address}"


@pytest.fixture(scope="module")
def outcomes(module: Module, variables: dict[str, str], unequal_workers: str) -> dict[str, Outcome]:
    """Run all tests of the client; return what became of each."""
    ours = {name: value for name, value in variables.items() if name.startswith("SENTINEL_TEST_")}
    ours["SENTINEL_TEST_UNEQUAL_WORKERS"] = unequal_workers
    done = module.run("go", "test", "-json", "-count=1", "-timeout=9m", ".", **ours)
    found: dict[str, Outcome] = {}
    for line in done.stdout.splitlines():
        event = json.loads(line)
        # Parts of a test count as the test; what belongs to none is about the build.
        name = event.get("Test", "").partition("/")[0]
        outcome = found.setdefault(name, Outcome())
        outcome.output.append(event.get("Output", ""))
        if event.get("Test") == name and event["Action"] in ("pass", "fail", "skip"):
            outcome.action = event["Action"]
    assert any(found), done.stdout[-5_000:] + done.stderr[-5_000:]
    return found


def test_the_code_is_formatted_and_vetted(module: Module) -> None:
    sources = [path.relative_to(CLIENT) for path in CLIENT.rglob("*.go")]
    ours = [path for path in sources if path.parts[0] != "sentinel"]
    assert module.must("gofmt", "-l", *ours) == ""
    module.must("go", "vet", "./...")


@pytest.mark.parametrize("name", TESTS)
def test_on_live_gateways(name: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes.get(name, Outcome())
    assert outcome.action == "pass", "".join(outcome.output)


@pytest.fixture(scope="module")
def example(module: Module) -> Path:
    """The program of examples/folder."""
    program = module.folder / "folder"
    module.must("go", "build", "-o", program, "./examples/folder")
    return program


def test_the_example_resumes_where_it_was_killed(
    module: Module, example: Path, variables: dict[str, str]
) -> None:
    photos = variables["SENTINEL_TEST_PHOTOS"]
    address = {"SENTINEL_ADDRESS": variables["SENTINEL_TEST_ADDRESS"]}
    with subprocess.Popen(
        [example, "-ingest", photos], env=module.environment | address, stdout=subprocess.PIPE
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline()  # one picture is stored
        first.kill()
    second, third = (
        re.findall(r"stored (\d+), failed 0, there before (\d+)", output)[0]
        for output in (module.must(example, "-ingest", photos, **address) for _ in range(2))
    )
    pictures = len(list(Path(photos).iterdir()))
    assert int(second[1]) > 0
    assert int(second[0]) + int(second[1]) == pictures
    assert third == ("0", str(pictures))


def test_the_example_searches_over_tls_with_a_key(
    module: Module, example: Path, variables: dict[str, str]
) -> None:
    secure = {
        "SENTINEL_ADDRESS": variables["SENTINEL_TEST_SECURE_ADDRESS"],
        "SENTINEL_TLS_CA": variables["SENTINEL_TEST_CA"],
        "SENTINEL_API_KEY": variables["SENTINEL_TEST_API_KEY"],
    }
    photos = variables["SENTINEL_TEST_PHOTOS"]
    output = module.must(example, "-ingest", photos, "-search", "a cat", **secure)
    assert output.splitlines()[-5].startswith("1  ")
