"""The contract works with plain protoc and buf, and buf refuses what would break callers."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from scripts import protos
from sentinel.search.v1 import search_service_pb2
from tests.contract.clone import BIN, run, sources, tool, unpacked
from tests.contract.test_names import FILES


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(tmp_path_factory.mktemp("protos"))


def test_plain_protoc_needs_no_other_folder(clone: Path, tmp_path: Path) -> None:
    built = run(tool("protoc"), "-I", "protos", f"--cpp_out={tmp_path}", *sources(clone), cwd=clone)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "sentinel/search/v1/search_service.pb.h").exists()


def test_buf_builds_and_generates_without_the_network(clone: Path, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HTTPS_PROXY": "127.0.0.1:1",
    }
    for command in (["build", "-o", "/dev/null"], ["generate", "-o", tmp_path]):
        result = run(tool("buf"), *command, cwd=clone, environment=environment)
        assert result.returncode == 0, result.stderr
    generated = {path.name for path in (tmp_path / "gen").iterdir()}
    assert generated == {"cpp", "csharp", "java", "kotlin", "objc", "php", "ruby"}
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert b"buf/validate" not in path.read_bytes(), path  # no package of protovalidate
    made = {str(path.relative_to(tmp_path / "gen")) for path in tmp_path.rglob("*")}
    assert made >= {
        "cpp/google/rpc/error_details.pb.h",
        "csharp/Sentinel/Search/V1/SearchService.cs",
        "java/sentinel/search/v1/SearchRequest.java",
        "kotlin/sentinel/search/v1/SearchRequestKt.kt",
        "php/Sentinel/Search/V1/SearchRequest.php",
        "ruby/sentinel/search/v1/search_service_pb.rb",
    }


def test_every_file_has_a_package_in_every_language() -> None:
    for file in FILES:
        options = file.GetOptions()
        _, room, version = file.package.split(".")
        upper = ("Sentinel", room.capitalize(), version.upper())
        assert (
            options.go_package == f"sentinel.internal/go/sentinel/{room}/{version};{room}{version}"
        )
        assert options.java_package == file.package
        assert options.java_multiple_files
        assert options.csharp_namespace == ".".join(upper)
        assert options.php_namespace == "\\".join(upper)
        assert options.ruby_package == "::".join(upper)
        assert options.objc_class_prefix == "SEN"


def planted(old: str, new: str) -> Callable[[str], str]:
    """Return a change of a text that must contain `old`."""

    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return change


BREAKS = {
    "a field gets another name": (planted("SearchHeader header", "SearchHeader head"), "head"),
    "a field gets another type": (planted("uint32 rank = 2", "string rank = 2"), "rank"),
    "a value is gone": (planted("CONSISTENCY_STRONG = 4;", ""), "Consistency"),
    "a call is gone": (planted("rpc SearchPage(", "rpc SearchPages("), "SearchPage"),
    "a package moves": (planted('java_package = "', 'java_package = "org.'), "java_package"),
}


@pytest.mark.parametrize(("change", "named"), BREAKS.values(), ids=BREAKS)
def test_buf_refuses_what_breaks_callers(
    clone: Path, tmp_path: Path, change: Callable[[str], str], named: str
) -> None:
    result = breaking(clone, tmp_path, change)
    assert result[0] == 100, result
    assert named in result[1]


def test_buf_allows_what_breaks_nobody(clone: Path, tmp_path: Path) -> None:
    added = planted("message Hit {", "message Hit {\n  // New.\n  string added = 1000;")
    assert breaking(clone, tmp_path, added) == (0, "")


def breaking(clone: Path, folder: Path, change: Callable[[str], str]) -> tuple[int, str]:
    """Compare a changed contract with the last release, as `make lint` does."""
    copy = folder / "copy"
    shutil.copytree(clone, copy)
    file = copy / "protos/sentinel/search/v1/search_service.proto"
    file.write_text(change(file.read_text()))
    result = run(tool("buf"), "breaking", "--against", protos.BASELINE, cwd=copy)
    return result.returncode, result.stdout + result.stderr


def test_the_descriptor_set_is_what_the_stubs_are_made_of(clone: Path) -> None:
    packed = clone / protos.DESCRIPTORS.relative_to(protos.ROOT)
    files = descriptor_pb2.FileDescriptorSet.FromString(packed.read_bytes())
    by_name = {file.name: file for file in files.file}
    for stubs in FILES:
        expected = descriptor_pb2.FileDescriptorProto()
        stubs.CopyToProto(expected)
        assert by_name[stubs.name] == expected
    assert protos.VERSION in packed.name
    assert "google/rpc/error_details.proto" in by_name  # to read ErrorInfo from a failed call
    assert "buf/validate/validate.proto" not in by_name


def test_the_document_names_the_version() -> None:
    text = (protos.ROOT / "docs/clients.md").read_text()
    named = re.findall(r"sentinel-(?:protos-)?([\w.]+)\.(?:binpb|tar\.gz)", text)
    assert set(named) == {protos.VERSION}


def test_the_archive_depends_on_nothing_but_its_contents(tmp_path: Path) -> None:
    first, second = protos.dist(tmp_path / "first"), protos.dist(tmp_path / "second")
    assert first.read_bytes() == second.read_bytes()


def test_the_stubs_import_without_protovalidate() -> None:
    dependencies = {file.name for file in search_service_pb2.DESCRIPTOR.dependencies}
    assert "google/rpc/status.proto" in dependencies
    assert not any(name.startswith("buf/") for name in dependencies)
