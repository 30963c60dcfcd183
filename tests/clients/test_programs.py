"""Build the programs of docs/clients.md and search gateways with them, as the document says.

The document is the only source: its files are saved under the names above them, its commands run as
written, except those that install packages. C# and Swift have no compiler here. Their syntax is
checked, and the names of messages and fields that they use.

Crates of tonic come from Debian 13's packages. Elsewhere, SENTINEL_TEST_CRATES names a folder with
them (docs/testing.md).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from scripts import protos
from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import search_service_pb2
from sentinel_client import ClientConfig, Hit, Item, SentinelClient, Tls
from tests.contract.clone import BIN, unpacked

pytestmark = [pytest.mark.slow, pytest.mark.milvus, pytest.mark.timeout(1_200)]

CRATES = Path(os.environ.get("SENTINEL_TEST_CRATES", "/usr/share/cargo/registry"))
TEXT = "a cat"
PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png")


@dataclass(frozen=True, slots=True)
class Section:
    """What the document has under the heading of a language.

    Attributes:
        files: The content of each file, by name.
        commands: The blocks of shell commands, without those that install packages. The last one
            runs the program.
    """

    files: dict[str, str]
    commands: list[str]


def section(heading: str) -> Section:
    text = (protos.ROOT / "docs/clients.md").read_text()
    (body,) = re.findall(rf"^## {re.escape(heading)}$(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    files = re.findall(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```$", body, re.MULTILINE | re.DOTALL)
    commands = re.findall(r"^```sh\n(.*?)^```$", body, re.MULTILINE | re.DOTALL)
    return Section(dict(files), [one for one in commands if not one.startswith("apt-get ")])


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway with photos.

    Attributes:
        settings: The variables that the programs read.
        hits: What the Python client finds.
    """

    settings: dict[str, str]
    hits: list[Hit]


@pytest.fixture(scope="module")
def gateways(variables: dict[str, str]) -> list[Gateway]:
    """Return a gateway without TLS and keys, and one with both."""
    plain = {"SENTINEL_ADDRESS": variables["SENTINEL_TEST_ADDRESS"]}
    secure = {
        "SENTINEL_ADDRESS": variables["SENTINEL_TEST_SECURE_ADDRESS"],
        "SENTINEL_TLS_CA": variables["SENTINEL_TEST_CA"],
        "SENTINEL_API_KEY": variables["SENTINEL_TEST_API_KEY"],
    }
    folder = Path(variables["SENTINEL_TEST_PHOTOS"])
    return [Gateway(settings, _stored(folder, settings)) for settings in (plain, secure)]


def _stored(folder: Path, settings: dict[str, str]) -> list[Hit]:
    """Store photos in a collection `photos`; return the hits that the programs should find."""
    config = None
    if "SENTINEL_TLS_CA" in settings:
        tls = Tls(ca=Path(settings["SENTINEL_TLS_CA"]))
        config = ClientConfig(tls=tls, api_key=settings["SENTINEL_API_KEY"])
    with SentinelClient(settings["SENTINEL_ADDRESS"], config=config) as client:
        client.create_collection("photos", {})
        client.upsert([Item(id=name, image=folder / name) for name in PHOTOS], collection="photos")
        return list(client.search(TEXT, collection="photos", limit=5))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The unpacked archive of the contract; what was built there is removed at the end."""
    yield unpacked(tmp_path)
    shutil.rmtree(tmp_path)


def needs(*programs_and_files: str | Path) -> None:
    """Skip the test, and say what is missing, unless everything is installed."""
    missing = [
        str(one)
        for one in programs_and_files
        if not (one.exists() if isinstance(one, Path) else shutil.which(one))
    ]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def shell(command: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run commands with the tools of the system, and buf from our development tools."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    if not (tools / "buf").exists():
        (tools / "buf").symlink_to(Path(BIN) / "buf")
    # Not our protoc: code must be as old as the library it runs on.
    others = [part for part in os.environ["PATH"].split(os.pathsep) if part != BIN]
    return subprocess.run(
        ["bash", "-ec", command],
        cwd=folder,
        env={**os.environ, "PATH": os.pathsep.join([str(tools), *others]), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def build_and_search(heading: str, folder: Path, gateways: list[Gateway]) -> None:
    """Follow the document to its first hit at each gateway, then cause an error."""
    language = section(heading)
    for name, text in language.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    *build, search = language.commands
    for command in build:
        done = shell(command, folder)
        assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-5_000:]
    assert f'photos "{TEXT}"' in search
    for gateway in gateways:
        done = shell(search, folder, **gateway.settings)
        assert done.returncode == 0, done.stderr
        found = [line.split() for line in done.stdout.splitlines()]
        assert [name for name, _ in found] == [hit.id for hit in gateway.hits]
        scores = [float(score) for _, score in found]
        assert scores == pytest.approx([hit.score for hit in gateway.hits], abs=1e-4)
        failed = shell(search.replace("photos", "holidays"), folder, **gateway.settings)
        assert failed.returncode == 1
        assert failed.stderr.splitlines()[-2:] == [
            "no collection 'holidays'",
            "reason: COLLECTION_NOT_FOUND",
        ]
    # What was refused was sent: the key of before was right.
    refused = shell(search, folder, **{**gateways[-1].settings, "SENTINEL_API_KEY": "none"})
    assert refused.returncode == 1
    assert "reason: CREDENTIALS_INVALID" in refused.stderr


def test_the_gateways_find_the_cat_first(gateways: list[Gateway]) -> None:
    assert [gateway.hits[0].id for gateway in gateways] == ["chelsea.png"] * 2


def test_cpp(folder: Path, gateways: list[Gateway]) -> None:
    needs("g++", "cmake", "protoc", "grpc_cpp_plugin", Path("/usr/include/grpcpp"))
    build_and_search("C++", folder, gateways)


def test_kotlin(folder: Path, gateways: list[Gateway]) -> None:
    jars = [Path(f"/usr/share/java/{name}.jar") for name in ("grpc-netty", "netty-tcnative")]
    needs("kotlinc", "javac", "protoc", "grpc_java_plugin", *jars)
    build_and_search("Kotlin", folder, gateways)


def test_ruby(folder: Path, gateways: list[Gateway]) -> None:
    needs("ruby", "protoc", "grpc_ruby_plugin")
    if subprocess.run(["ruby", "-e", "require 'grpc'"], check=False).returncode:
        pytest.skip("not installed: grpc for Ruby")
    build_and_search("Ruby", folder, gateways)


def test_rust(folder: Path, gateways: list[Gateway]) -> None:
    needs("cargo")
    if not list(CRATES.glob("tonic-0.12*")):
        pytest.skip(f"no crates of tonic 0.12 in {CRATES}")
    (folder / ".cargo").mkdir()
    (folder / ".cargo/config.toml").write_text(
        "net.offline = true\n"
        'source.crates-io.replace-with = "debian"\n'
        f'source.debian.directory = "{CRATES}"\n'
    )
    build_and_search("Rust", folder, gateways)


def test_the_syntax_of_csharp_and_swift() -> None:
    tree_sitter = pytest.importorskip("tree_sitter")
    csharp, swift = (
        pytest.importorskip(f"tree_sitter_{name}").language() for name in ("c_sharp", "swift")
    )
    grammars = {"C# (.NET)": csharp, "Swift": swift}
    for heading, grammar in grammars.items():
        parser = tree_sitter.Parser(tree_sitter.Language(grammar))
        for name, text in section(heading).files.items():
            if name.endswith((".cs", ".swift")):
                assert not parser.parse(text.encode()).root_node.has_error, name


def fields_on(path: str, message: Descriptor) -> Iterator[FieldDescriptor]:
    """Yield the fields that a path such as `params.query` names; fail if there is none."""
    for name in path.split("."):
        assert name in message.fields_by_name, f"{message.full_name} has no {name}"
        yield message.fields_by_name[name]
        message = message.fields_by_name[name].message_type


def test_the_names_in_csharp_exist() -> None:
    text = section("C# (.NET)").files["Program.cs"]
    known = {
        **search_service_pb2.DESCRIPTOR.message_types_by_name,
        **content_pb2.DESCRIPTOR.message_types_by_name,
    }
    made = re.findall(r"(?=new (\w+) \{ (\w+) = [^,}]+(?:, (\w+) = )?)", text)
    checked = [
        list(fields_on(field.lower(), known[name]))
        for name, *fields in made
        for field in filter(None, fields)
        if name in known
    ]
    assert len(checked) == 6
    assert "SearchService.SearchServiceClient" in text
    assert all(f".{name}" in text for name in ("Chunk", "Hits", "Id", "Score"))
    list(fields_on("chunk.hits.id", search_service_pb2.SearchResponse.DESCRIPTOR))
    list(fields_on("chunk.hits.score", search_service_pb2.SearchResponse.DESCRIPTOR))


def test_the_names_in_swift_exist() -> None:
    text = section("Swift").files["Sources/search/Search.swift"]
    named = {
        *search_service_pb2.DESCRIPTOR.message_types_by_name,
        *search_service_pb2.DESCRIPTOR.services_by_name,
    }
    used = set(re.findall(r"Sentinel_Search_V1_(\w+)", text))
    assert used == {"SearchRequest", "SearchService"} <= named
    paths = re.findall(r"\$0\.([a-z.]+) = (?:words|5)", text)
    assert paths == ["params.collection", "params.query.content.text", "limit"]
    for path in paths:
        list(fields_on(path, search_service_pb2.SearchRequest.DESCRIPTOR))
    assert "message.chunk.hits" in text
