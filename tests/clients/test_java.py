"""The Java client against live gateways: its JUnit tests one by one, and its example.

Built with Debian's compilers and libraries by clients/java/debian.sh, which users have, too.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from sentinel_client import SentinelClient

pytestmark = [pytest.mark.slow, pytest.mark.milvus, pytest.mark.timeout(1500)]

CLIENT = Path(__file__).resolve().parents[2] / "clients/java"
JUNIT = (
    *("apiguardian-api", "junit-jupiter-api", "junit-jupiter-engine", "junit-platform-commons"),
    *("junit-platform-console", "junit-platform-engine", "junit-platform-launcher"),
    *("junit-platform-reporting", "opentest4j", "opentest4j-reporting-events", "picocli"),
)
JARS = Path("/usr/share/java")
PACKAGES = (
    "default-jdk-headless liberror-prone-java libgeronimo-annotation-1.3-spec-java junit5 "
    "libgoogle-gson-java libgrpc-java libguava-java libnetty-java libnetty-tcnative-java "
    "libperfmark-java libprotobuf-java protobuf-compiler protobuf-compiler-grpc-java-plugin"
)
NEEDED = (
    *("/usr/bin/javac", "/usr/bin/protoc", "/usr/bin/grpc_java_plugin"),
    *(str(JARS / f"{name}.jar") for name in ("grpc-netty", "netty-tcnative", "protobuf")),
    *(str(JARS / f"{name}.jar") for name in ("gson", "guava", "netty-buffer", "perfmark-api")),
    str(JARS / "junit-platform-console.jar"),
)
# The names of all tests, so that each is one of pytest's.
TESTS = sorted(
    f"{path.stem}.{name}"
    for path in (CLIENT / "src/test/java/sentinel/client").glob("*Test.java")
    for name in re.findall(r"@Test\n(?:\s*@.*\n)*\s*void (\w+)\(", path.read_text())
)


def _run(*command: object, timeout: float, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


class Java:
    """The client, built into a folder."""

    def __init__(self, target: Path) -> None:
        self.class_path = f"{target / 'classes'}:{(target / 'classpath').read_text().strip()}"
        self._library_path = f"-Djava.library.path={target / 'native'}"

    def run(
        self, class_path: str, *arguments: object, timeout: float, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program."""
        command = ("java", self._library_path, "-cp", class_path, *arguments)
        return _run(*command, timeout=timeout, **environment)


@pytest.fixture(scope="module")
def java(tmp_path_factory: pytest.TempPathFactory) -> Java:
    """Build the client."""
    if missing := [one for one in NEEDED if not Path(one).exists()]:
        pytest.skip(f"not installed: {', '.join(missing)}; on Debian: apt-get install {PACKAGES}")
    target = tmp_path_factory.mktemp("java")
    # It must not take the protoc of our development tools: code must be as old as its library.
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    built = _run(CLIENT / "debian.sh", target, timeout=600, PATH=path)
    assert built.returncode == 0, built.stdout + built.stderr
    return Java(target)


@pytest.fixture(scope="module")
def results(
    java: Java, variables: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Run all tests in one JVM; return what is wrong with each, or ""."""
    folder = tmp_path_factory.mktemp("junit")
    path = ":".join([str(folder), java.class_path, *(str(JARS / f"{jar}.jar") for jar in JUNIT)])
    sources = sorted((CLIENT / "src/test/java").rglob("*.java"))
    lint = ("-proc:none", "-Xlint:all,-path,-classfile", "-Werror")
    compiled = _run("javac", *lint, "-cp", path, "-d", folder, *sources, timeout=300)
    assert compiled.returncode == 0, compiled.stdout + compiled.stderr
    launcher = "org.junit.platform.console.ConsoleLauncher"
    report = folder / "TEST-junit-jupiter.xml"
    options = (f"--scan-classpath={folder}", f"--reports-dir={folder}", "--details=tree")
    ran = java.run(path, launcher, *options, timeout=600, **variables)
    assert report.exists(), ran.stdout + ran.stderr
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.attrib['classname'].rpartition('.')[2]}.{case.attrib['name'].rstrip('()')}"
        wrong = [one for one in case if one.tag in ("failure", "error", "skipped")]
        found[name] = "\n".join(one.text or one.tag for one in wrong)
    return found


@pytest.mark.parametrize("name", TESTS)
def test_client(name: str, results: dict[str, str]) -> None:
    assert name in results, f"did not run; these did: {sorted(results)}"
    assert not results[name], results[name]


def test_the_example_searches_ingests_and_resumes(
    java: Java, variables: dict[str, str], tmp_path: Path
) -> None:
    environment = {**variables, "SENTINEL_ADDRESS": variables["SENTINEL_TEST_ADDRESS"]}

    def example(*arguments: object) -> subprocess.CompletedProcess[str]:
        program = CLIENT / "example/PhotoFolder.java"
        return java.run(java.class_path, program, *arguments, timeout=120, **environment)

    photos = tmp_path / "photos"
    shutil.copytree(variables["SENTINEL_TEST_PHOTOS"], photos)
    count = len(list(photos.iterdir()))
    assert count > 3
    later = photos / "chelsea.png"
    content = later.read_bytes()
    later.unlink()
    first = example("ingest", photos)
    assert first.stdout == f"{count - 1} stored, 0 already there, 0 failed\n", first.stderr
    # The second run continues: it sends what is new, and names what cannot be stored.
    later.write_bytes(content)
    (photos / "broken.png").write_bytes(b"no picture")
    second = example("ingest", photos)
    assert second.stdout == f"1 stored, {count - 1} already there, 1 failed\n", second.stderr
    assert second.returncode == 1
    assert "broken.png: " in second.stderr
    assert "IMAGE_FORMAT_UNSUPPORTED" in second.stderr
    for query in ("a cat", later):
        found = example("search", query)
        assert found.returncode == 0, found.stderr
        assert "chelsea.png" in found.stdout.splitlines()[0]
    with SentinelClient(variables["SENTINEL_TEST_ADDRESS"]) as client:
        assert client.get_collection("java_photos").item_count == count
    nowhere = example("ingest", tmp_path / "nowhere")
    assert nowhere.returncode == 1
    assert nowhere.stderr == f"cannot be read: {tmp_path / 'nowhere'}\n"


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="not Debian")
def test_what_the_documents_install_has_every_library(java: Java) -> None:
    """Debian's packages of gRPC do not depend on all that gRPC needs."""
    script = (CLIENT / "debian.sh").read_text()
    (names,) = re.findall(r"^for jar in (.*?); do$", script, re.MULTILINE | re.DOTALL)
    jars = [JARS / f"{name}.jar" for name in names.replace("\\", "").split()]
    assert len(jars) > 20
    found = _run("dpkg", "-S", *jars, timeout=60).stdout.splitlines()
    owners = {line.split(":")[0] for line in found}
    guide = (CLIENT.parents[1] / "docs/clients.md").read_text()
    java_part = guide[guide.index("\n## Java\n") : guide.index("\n## Kotlin\n")]
    for text in (script, (CLIENT / "README.md").read_text(), java_part, PACKAGES):
        assert owners <= set(re.findall(r"[\w.+-]+", text)), owners
