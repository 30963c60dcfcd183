"""Run every command block of README.md and docs/queries.md, in order, as a newcomer would.

The blocks run as written, in a folder that looks like a clone after `make demo` has set up `.venv`.
Four commands in it are stand-ins: `pip` checks that an extra exists and installs nothing,
`sentinel up` and `sentinel-app` add a free port, and `grpcurl` calls `buf curl`.
Blocks that cannot run here are listed in `NOT_RUN` with the reason; what can be checked of them is.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format

from embedder_server.models.catalog import catalog
from sentinel.search.v1 import search_service_pb2
from tests import processes
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
UP, APP = ".venv/bin/sentinel up", ".venv/bin/sentinel-app"

# Blocks that run until they are stopped, by a command in them.
SERVERS = (UP, APP)

# Blocks that cannot run here, by a part of their text, and why.
NOT_RUN = {
    "'.[hub]'": "downloads a model from the hub",
    "docker compose up": "needs Docker and a registry; deploy/verify.sh runs it",
    "sentinel-gateway --image-uri-places": "names places that do not exist",
    '"composite"': "needs the id of a hit",
}

# What a block prints, by a part of its text.
PRINTS = {
    "make demo": "Done in",
    "sentinel index demo-out/photos": "coffee.png",
    "grpcurl -plaintext 127.0.0.1:50050 list": '"fields"',
}


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a document."""

    document: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks_of(document: str) -> list[Block]:
    text = (ROOT / document).read_text()
    fences = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(document, text[: m.start()].count("\n") + 1, m[1], m[2]) for m in fences]


BLOCKS = [*blocks_of("README.md"), *blocks_of("docs/queries.md")]
RUN = [block for block in BLOCKS if not any(part in block.text for part in NOT_RUN)]
every_block_that_runs = pytest.mark.parametrize("block", RUN, ids=str)


def not_run(part: str) -> Block:
    """Return the block of `NOT_RUN` that contains `part`."""
    assert part in NOT_RUN
    (block,) = (block for block in BLOCKS if part in block.text)
    return block


def is_server(block: Block) -> bool:
    return block.text.splitlines()[-1].split(" #")[0].strip() in SERVERS


def test_every_block_is_a_shell_or_a_python_block() -> None:
    assert {block.language for block in BLOCKS} == {"sh", "python"}


def test_what_is_not_run_is_in_the_documents_and_valid_shell() -> None:
    assert all(not_run(part) for part in NOT_RUN)
    for block in BLOCKS:
        if block.language == "sh":
            subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)


def test_the_readme_keeps_its_length_and_the_order_of_its_sections() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 200
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
        "Try it in 60 seconds",
        "The app",
        "A real model",
        "Python",
        "Other languages",
        "Containers",
        "Compared with others",
        "Benchmarks",
        "Where your data is stored",
        "Troubleshooting",
        "Links",
    ]


def test_the_real_model_is_pinned_and_its_flags_and_extra_exist() -> None:
    pip, models, up = (shlex.split(line) for line in not_run("'.[hub]'").text.splitlines())
    assert_extra_exists(pip[-1])
    assert up[:2] == UP.split()
    assert models == [up[0], "models"]
    usage = subprocess.run(
        [BIN / "sentinel", "up", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert all(flag in usage for flag in up if flag.startswith("--"))
    pinned = catalog()[up[up.index("--model") + 1]].revision
    assert f"commit `{pinned[:8]}`" in (ROOT / "README.md").read_text()


def test_the_containers_of_the_readme_are_in_the_compose_file() -> None:
    text = (ROOT / "README.md").read_text()
    services = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())["services"]
    scaled = re.findall(r"--scale ([\w-]+)=", text)
    profiles = re.findall(r"--profile (\w+)", text)
    assert scaled
    assert profiles
    assert set(scaled) <= set(services)
    assert set(profiles) <= {
        profile for service in services.values() for profile in service.get("profiles", [])
    }
    for name, port in (("app", 8501), ("grafana", 3000), ("gateway", 50050)):
        assert f"localhost:{port}" in text
        assert any(str(port) in published for published in services[name]["ports"])


def test_the_composite_query_is_a_message_of_the_contract() -> None:
    words = shlex.split(not_run('"composite"').text)
    message = json.loads(words[words.index("-d") + 1])
    request = json_format.ParseDict(message, search_service_pb2.SearchRequest())
    assert len(request.params.query.composite.terms) == 3


def test_the_gateways_flag_for_places_exists() -> None:
    command = shlex.split(not_run("sentinel-gateway --image-uri-places").text)
    usage = subprocess.run(
        [BIN / "sentinel-gateway", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert f"{command[1]} " in usage


def assert_extra_exists(requirement: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert re.fullmatch(r"\.\[(\w+)\]", requirement)
    assert requirement[2:-1] in extras


# Stand-ins for programs; @…@ is filled in.
STAND_INS = {
    ".venv/bin/pip": """\
#!@python@
import sys
from tests.e2e.test_readme import assert_extra_exists
assert sys.argv[1:3] == ["install", "-e"]
assert_extra_exists(sys.argv[3])
""",
    ".venv/bin/sentinel": """\
#!/bin/sh
[ "$1" = up ] && exec @bin@/sentinel "$@" --port @up@
exec @bin@/sentinel "$@"
""",
    ".venv/bin/sentinel-app": """\
#!/bin/sh
exec @bin@/sentinel-app "$@" --port @app@
""",
    "path/grpcurl": """\
#!@python@
import os, sys
words = [word for word in sys.argv[1:] if word != "-plaintext"]
buf = ["@bin@/buf", "curl", "--protocol", "grpc", "--http2-prior-knowledge"]
assert words[-2] == "127.0.0.1:50050", words
url = "http://127.0.0.1:@up@"
if words[-1] == "list":
    os.execv(buf[0], [*buf, "--list-methods", url])
os.execv(buf[0], [*buf, *words[:-2], f"{url}/{words[-1]}"])
""",
}


class Clone:
    """A folder like a fresh clone, with a `.venv` that is set up."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "clone"
        self._log = folder / "servers.log"
        self._ports = {"up": processes.free_port(), "app": processes.free_port()}
        self._servers = ExitStack()
        (self._folder / "scripts").mkdir(parents=True)
        shutil.copy(ROOT / "scripts" / "demo.py", self._folder / "scripts")
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            (self._folder / name).symlink_to(ROOT / name)
        (self._folder / "clients").symlink_to(ROOT / "clients")
        (self._folder / ".venv" / "bin").mkdir(parents=True)
        (self._folder / "path").mkdir()
        for path in (*BIN.parent.iterdir(), *BIN.iterdir()):
            link = self._folder / ".venv" / path.relative_to(BIN.parent)
            if not link.exists() and str(link.relative_to(self._folder)) not in STAND_INS:
                link.symlink_to(path)
        words = {"python": sys.executable, "bin": str(BIN), **self._ports}
        for name, script in STAND_INS.items():
            file = self._folder / name
            file.write_text(re.sub(r"@(\w+)@", lambda m: str(words[m[1]]), script))
            file.chmod(file.stat().st_mode | stat.S_IXUSR)
        for stamp in (".created", ".demo"):  # as `make` leaves them when it has set up .venv
            (self._folder / ".venv" / stamp).unlink(missing_ok=True)
            (self._folder / ".venv" / stamp).touch()
        self._environment = {
            **os.environ,
            "PATH": f"{self._folder / 'path'}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "SENTINEL_ADDRESS": f"127.0.0.1:{self._ports['up']}",
            "XDG_CACHE_HOME": str(folder / "cache"),
            "XDG_DATA_HOME": str(folder / "home"),
        }

    def run(self, block: Block) -> subprocess.CompletedProcess[str]:
        """Run a block to its end; start a block with a server and wait until it serves."""
        if is_server(block):
            output = self._servers.enter_context(self._serving(block))
            return subprocess.CompletedProcess(block.text, 0, output, "")
        program = [".venv/bin/python", "-c"] if block.language == "python" else ["bash", "-ec"]
        return subprocess.run(
            [*program, block.text],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    @contextmanager
    def _serving(self, block: Block) -> Iterator[str]:
        with self._log.open("a") as log:
            process = subprocess.Popen(
                ["bash", "-ec", block.text],
                cwd=self._folder,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            until(lambda: process.poll() is not None or self._serves(block), within_s=90)
            assert process.poll() is None, self._log.read_text()
            yield self._log.read_text()
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)

    def _serves(self, block: Block) -> bool:
        if UP in block.text:
            return processes.is_serving(self._environment["SENTINEL_ADDRESS"])
        try:
            url = f"http://127.0.0.1:{self._ports['app']}/health"
            with urllib.request.urlopen(url, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        self._servers.close()


@pytest.fixture(scope="module")
def results(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[Block, subprocess.CompletedProcess[str]]]:
    """Every block that runs, with its result, one after the other in one clone."""
    clone = Clone(tmp_path_factory.mktemp("readme"))
    try:
        yield {block: clone.run(block) for block in RUN}
    finally:
        clone.stop()


@pytest.mark.slow
@pytest.mark.timeout(300)
@every_block_that_runs
def test_a_block_works_as_written(
    block: Block, results: dict[Block, subprocess.CompletedProcess[str]]
) -> None:
    result = results[block]
    assert result.returncode == 0, result.stdout + result.stderr
    assert all(out in result.stdout for part, out in PRINTS.items() if part in block.text)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_python_examples_find_the_right_photos(
    results: dict[Block, subprocess.CompletedProcess[str]],
) -> None:
    python = [result for block, result in results.items() if block.language == "python"]
    assert [result.returncode for result in python] == [0, 0, 0], [one.stderr for one in python]
    assert python[0].stdout.splitlines()[0].endswith("flower.jpg")
    assert "china.jpg" in python[1].stdout.splitlines()[-3]  # first of three pages
