"""The stubs of other languages compile, where a compiler is installed.

Debian's packages bring compilers, plugins and libraries that fit each other; `.ci/run` installs
them. For C#, Objective-C and Swift there is no compiler with a protobuf library. `buf generate`
writes code for the first two (test_protos.py), and test_names.py checks names for all. The programs
of docs/clients.md are built and run in tests/clients/test_programs.py.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from glob import glob
from pathlib import Path

import pytest

from scripts import protos
from tests.contract.clone import BIN, run, tool, unpacked

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

JAVA = Path("/usr/share/java")
JARS = (
    *("error_prone_annotations", "geronimo-annotation-1.3-spec", "grpc-api", "grpc-core"),
    *("grpc-protobuf", "grpc-stub", "guava", "protobuf"),
)
GO = Path("/usr/share/gocode")
CRATES = Path("/usr/share/cargo/registry")
RUST_LIBRARY = """\
pub mod google {
    pub mod rpc { include!(concat!(env!("OUT_DIR"), "/google.rpc.rs")); }
}
pub mod sentinel {
    pub mod common {
        pub mod v1 { include!(concat!(env!("OUT_DIR"), "/sentinel.common.v1.rs")); }
    }
    pub mod embedding {
        pub mod v1 { include!(concat!(env!("OUT_DIR"), "/sentinel.embedding.v1.rs")); }
    }
    pub mod search {
        pub mod v1 { include!(concat!(env!("OUT_DIR"), "/sentinel.search.v1.rs")); }
    }
}
"""
RUST_PACKAGE = """\
package = { name = "stubs", version = "0.0.0", edition = "2021" }
dependencies = { prost = "0.11", prost-types = "0.11" }
build-dependencies = { prost-build = "0.11" }
"""
RUST_BUILD = f"""\
fn main() {{
    prost_build::Config::new()
        .file_descriptor_set_path("{protos.DESCRIPTORS.relative_to(protos.ROOT)}")
        .skip_protoc_run()
        .compile_protos(&[] as &[&str], &[] as &[&str])
        .unwrap();
}}
"""
RUST_SOURCE = f"""\
source.crates-io.replace-with = "debian"
source.debian.directory = "{CRATES}"
"""


class Clone:
    """The contract as others get it, and their tools."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.contract = unpacked(folder)
        self._plugins = folder / "plugins"
        self._plugins.mkdir()
        # Debian's plugin of Java has a name of its own; that of the others is everybody's.
        (self._plugins / "protoc-gen-grpc-java").symlink_to("/usr/bin/grpc_java_plugin")
        # Not the protoc of our development tools: code must be as old as the library it runs on.
        others = [part for part in os.environ["PATH"].split(os.pathsep) if part != BIN]
        self.environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(self._plugins), *others]),
        }

    def generate(self, language: str, *plugins: Path) -> Path:
        """Return the folder with the stubs of a language."""
        path = os.pathsep.join([*map(str, plugins), self.environment["PATH"]])
        template = f"protos/templates/{language}.yaml"
        made = run(
            *(tool("buf"), "generate", "--template", template),
            cwd=self.contract,
            environment={**self.environment, "PATH": path},
        )
        assert made.returncode == 0, made.stderr
        return self.contract / "gen" / language

    def compile(self, *command: object, cwd: Path, **environment: str) -> None:
        """Run a compiler, which must succeed."""
        done = run(*command, cwd=cwd, environment={**self.environment, **environment})
        assert done.returncode == 0, done.stdout[-5_000:] + done.stderr[-5_000:]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    folder = tmp_path_factory.mktemp("languages")
    yield Clone(folder)
    shutil.rmtree(folder)


def needs(*programs_and_files: str | Path) -> None:
    """Skip the test, and say what is missing, unless everything is installed."""
    missing = [
        str(one)
        for one in programs_and_files
        if not (one.exists() if isinstance(one, Path) else shutil.which(one))
    ]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def blocks(language: str) -> list[str]:
    """Return the blocks of docs/clients.md in a language."""
    text = (protos.ROOT / "docs/clients.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_document_names_every_template() -> None:
    named = set(re.findall(r"--template protos/templates/(\w+)\.yaml", "".join(blocks("sh"))))
    assert named == {path.stem for path in (protos.PROTOS / "templates").iterdir()}
    assert all(f"def test_{language}(" in Path(__file__).read_text() for language in named)


def test_plain_protoc_works_as_documented(clone: Clone) -> None:
    needs("protoc", "grpc_cpp_plugin")
    (block,) = (block for block in blocks("sh") if "--cpp_out" in block)
    clone.compile("bash", "-ec", block, cwd=clone.contract)
    header = clone.contract / "gen/cpp/sentinel/search/v1/search_service.grpc.pb.h"
    assert "buf/validate" not in header.with_name("search_service.pb.h").read_text()
    header.unlink()  # the test of C++ writes it again


def test_cpp(clone: Clone) -> None:
    headers = (Path("/usr/include/google/protobuf"), Path("/usr/include/grpcpp"))
    needs("g++", "protoc", "grpc_cpp_plugin", *headers)
    stubs = clone.generate("cpp")
    # One unit with every header, which define all classes; the sources would take a minute.
    names = sorted(str(path.relative_to(stubs)) for path in stubs.rglob("*.h"))
    unit = stubs / "all.cc"
    unit.write_text("".join(f'#include "{name}"\n' for name in names))
    assert "sentinel/search/v1/search_service.grpc.pb.h" in names
    clone.compile("g++", "-std=c++17", "-fsyntax-only", f"-I{stubs}", unit, cwd=stubs)


def test_go(clone: Clone) -> None:
    library = GO / "src/google.golang.org"
    needs("go", "protoc-gen-go", "protoc-gen-go-grpc", library / "grpc", library / "protobuf")
    root = clone.folder / "go/src/sentinel.internal/go"  # as `replace` has it with modules
    shutil.copytree(clone.generate("go"), root)
    clone.compile(
        *("go", "build", "./..."),
        cwd=root,
        GO111MODULE="off",
        GOPATH=f"{clone.folder / 'go'}:{GO}",
        GOTOOLCHAIN="local",
    )


def test_java(clone: Clone) -> None:
    jars = [JAVA / f"{jar}.jar" for jar in JARS]
    needs("javac", "protoc", "grpc_java_plugin", *jars)
    stubs = clone.generate("java")
    # From Maven these classes come with grpc-protobuf; Debian leaves them out.
    google = [f"google/rpc/{name}.proto" for name in ("status", "error_details")]
    protoc = ("protoc", "-I", "protos", f"--java_out={stubs}", *google)
    clone.compile(*protoc, cwd=clone.contract)
    sources = sorted(stubs.rglob("*.java"))
    assert stubs / "sentinel/search/v1/SearchServiceGrpc.java" in sources
    path = ":".join(map(str, jars))
    classes = clone.folder / "classes"
    clone.compile("javac", "-proc:none", "-cp", path, "-d", classes, *sources, cwd=stubs)


def test_php(clone: Clone) -> None:
    needs("php", "protoc", "grpc_php_plugin")
    stubs = clone.generate("php")
    sources = sorted(stubs.rglob("*.php"))
    assert stubs / "Sentinel/Search/V1/SearchServiceClient.php" in sources
    for source in sources:
        clone.compile("php", "-l", source, cwd=stubs)


def test_ruby(clone: Clone) -> None:
    needs("ruby", "protoc", "grpc_ruby_plugin")
    if subprocess.run(["ruby", "-e", "require 'grpc'"], check=False).returncode:
        pytest.skip("not installed: grpc for Ruby")
    stubs = clone.generate("ruby")
    program = """
        Dir["**/*_pb.rb"].each { |file| require file.delete_suffix(".rb") }
        Sentinel::Search::V1::SearchService::Stub
        filter = Sentinel::Search::V1::Comparison.new(field: "year", operator: :OPERATOR_LESS)
        Sentinel::Search::V1::SetAliasRequest.new(alias: filter.field).alias
    """
    clone.compile("ruby", "-I.", "-e", program, cwd=stubs)


def test_rust(clone: Clone) -> None:
    needs("cargo", CRATES)
    if not glob(f"{CRATES}/prost-build-0.11*"):
        pytest.skip("not installed: prost-build for Rust")
    package = clone.folder / "rust"
    files = {
        "Cargo.toml": RUST_PACKAGE,
        "build.rs": RUST_BUILD,
        "src/lib.rs": RUST_LIBRARY,
        ".cargo/config.toml": RUST_SOURCE,
    }
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    (package / "protos").symlink_to(clone.contract / "protos")
    clone.compile("cargo", "check", "--quiet", "--offline", cwd=package)


def test_typescript(clone: Clone) -> None:
    needs("npm", "node")
    folder = clone.folder / "typescript"
    folder.mkdir()
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    # The versions of docs/clients.md.
    packages = ("@bufbuild/protobuf@2.13.0", "@bufbuild/protoc-gen-es@2.13.0", "typescript@5.9.3")
    install = ("npm", "install", "--no-audit", "--no-fund", *packages)
    if run(*install, cwd=folder, environment=clone.environment).returncode:
        pytest.skip("npm cannot install protoc-gen-es and typescript")
    binaries = folder / "node_modules/.bin"
    shutil.copytree(clone.generate("typescript", binaries), folder / "gen")
    sources = sorted((folder / "gen").rglob("*.ts"))
    modules = ("--module", "nodenext", "--target", "es2022")
    clone.compile(binaries / "tsc", "--noEmit", "--strict", *modules, *sources, cwd=folder)
