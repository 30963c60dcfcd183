"""Generates, checks, lints and packs the gRPC contract, for `make proto`, `lint`, `protos-dist`.

    protos.py generate   write the stubs and the descriptor set into protos/gen (in .venv-proto)
    protos.py check      fail when the committed ones are not what `generate` writes
    protos.py lint       buf lint, buf format, and buf breaking against the last release
    protos.py dist       write dist/sentinel-protos-VERSION.tar.gz

The stubs are made with an old grpcio-tools on purpose: generated code refuses runtimes older
than its generator only, so old stubs run on protobuf 5, 6 and 7 alike. They and the descriptor set
leave out the bounds of protovalidate, so that nobody needs its package to import them. See
docs/adr/0003-committed-stubs.md and docs/adr/0020-the-contract-as-a-product.md.
"""

from __future__ import annotations

import filecmp
import gzip
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import (
        DescriptorProto,
        FieldDescriptorProto,
        FileDescriptorSet,
        OneofDescriptorProto,
    )

    Annotated = DescriptorProto | FieldDescriptorProto | OneofDescriptorProto

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
GENERATED = PROTOS / "gen"
# What the contract promised at the last release; see "At a release" in docs/adr/0020.
BASELINE = PROTOS / "baseline.binpb"
VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
# The contract as data; the wheel holds it too.
DESCRIPTORS = GENERATED / "descriptors" / f"sentinel-{VERSION}.binpb"
VALIDATE = "buf/validate/validate.proto"
# What people who are not in a clone need: `make protos-dist` packs it.
PACKED = ("LICENSE", "buf*.yaml", "protos/NOTICE.md", "protos/*/**/*.proto", "protos/templates/*")


def google_includes() -> Path:
    """Return the folder of googleapis-common-protos with `google/rpc/status.proto`."""
    spec = find_spec("google.rpc")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("google/rpc/*.proto not found: pip install googleapis-common-protos")
    return Path(next(iter(spec.submodule_search_locations))).parent.parent


def without_bounds(files: FileDescriptorSet) -> None:
    """Remove protovalidate's annotations, and the import that they need."""
    for file in [file for file in files.file if file.name == VALIDATE]:
        files.file.remove(file)
    for file in files.file:
        if VALIDATE in file.dependency:
            file.dependency.remove(VALIDATE)
            strip(file.message_type)


def strip(messages: Iterable[DescriptorProto]) -> None:
    for message in messages:
        parts: tuple[Annotated, ...] = (message, *message.field, *message.oneof_decl)
        for one in parts:
            one.options.DiscardUnknownFields()  # nobody has imported what defines them
            if not one.options.ByteSize():
                one.ClearField("options")
        strip(message.nested_type)


def generate(destination: Path) -> None:
    """Write the stubs and the descriptor set of our proto files into a folder."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from grpc_tools import protoc  # only in .venv-proto

    def run(*arguments: str) -> None:
        if protoc.main(["protoc", *arguments]) != 0:
            sys.exit("protoc failed")

    ours, google = (
        sorted(str(path.relative_to(PROTOS)) for path in PROTOS.glob(f"{folder}/**/*.proto"))
        for folder in ("sentinel", "google")
    )
    python = destination / "python"
    python.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        commented = Path(folder) / "commented.binpb"
        run(
            *(f"-I{path}" for path in (PROTOS, Path(protoc.__file__).parent / "_proto")),
            *("--include_imports", "--include_source_info", f"--descriptor_set_out={commented}"),
            *(*ours, *google),
        )
        files = FileDescriptorSet.FromString(commented.read_bytes())
        without_bounds(files)
        commented.write_bytes(files.SerializeToString(deterministic=True))
        plugin = Path(sys.executable).parent / "protoc-gen-mypy_grpc"
        kinds = ("python", "pyi", "grpc_python", "mypy_grpc")
        run(
            f"--plugin=protoc-gen-mypy_grpc={plugin}",
            f"--descriptor_set_in={commented}",
            *(*(f"--{kind}_out={python}" for kind in kinds), *ours),
        )
    for file in files.file:
        file.ClearField("source_code_info")
    descriptors = destination / DESCRIPTORS.relative_to(GENERATED)
    descriptors.parent.mkdir(exist_ok=True)
    descriptors.write_bytes(files.SerializeToString(deterministic=True))
    finish_packages(python)


def finish_packages(python: Path) -> None:
    """Make packages of the folders with stubs, without files that hold nothing."""
    for path in python.rglob("*_pb2_grpc.py"):
        if "Stub" not in path.read_text():
            path.unlink()
            path.with_suffix(".pyi").unlink(missing_ok=True)
    for folder in {path.parent for path in python.rglob("*_pb2.py")}:
        for package in (folder, *folder.relative_to(python).parents):
            target = python / package
            if target != python:
                (target / "__init__.py").touch()
    (python / "sentinel" / "py.typed").touch()


def check() -> None:
    """Exit non-zero when committed files differ from freshly generated or vendored ones."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(fresh)
        names = {str(p.relative_to(fresh)) for p in fresh.rglob("*") if p.is_file()}
        kept = {
            str(p.relative_to(GENERATED))
            for p in GENERATED.rglob("*")
            if p.is_file() and "__pycache__" not in p.parts
        }
        _, different, missing = filecmp.cmpfiles(fresh, GENERATED, sorted(names), shallow=False)
        stale = sorted({*different, *missing, *(kept - names)})
    if stale:
        sys.exit(f"generated files are stale, run `make proto`: {', '.join(stale)}")
    for path in PROTOS.glob("google/**/*.proto"):
        if not filecmp.cmp(path, google_includes() / path.relative_to(PROTOS), shallow=False):
            sys.exit(f"{path.relative_to(ROOT)} is not the one of googleapis-common-protos")


def lint() -> None:
    """Run buf over our protos: style, format, and what would break callers."""
    buf = shutil.which("buf", path=str(Path(sys.executable).parent)) or "buf"
    for command in (
        ["lint"],
        ["format", "--diff", "--exit-code", "--path", "protos/sentinel"],
        ["breaking", "--against", str(BASELINE)],
    ):
        if subprocess.run([buf, *command], cwd=ROOT, check=False).returncode != 0:
            sys.exit(f"buf {command[0]} failed")


def dist(folder: Path) -> Path:
    """Pack the protos, buf's settings and the descriptor set; equal contents give equal bytes."""
    name = f"sentinel-protos-{VERSION}"
    folder.mkdir(exist_ok=True)
    archive = folder / f"{name}.tar.gz"
    files = [DESCRIPTORS, *(path for pattern in PACKED for path in ROOT.glob(pattern))]
    with (
        archive.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for path in sorted(files):
            info = tarfile.TarInfo(f"{name}/{path.relative_to(ROOT)}")
            info.size = path.stat().st_size
            with path.open("rb") as content:
                tar.addfile(info, content)
    return archive


def main() -> None:
    match sys.argv[1:]:
        case ["generate"]:
            shutil.rmtree(GENERATED, ignore_errors=True)
            generate(GENERATED)
        case ["check"]:
            check()
        case ["lint"]:
            lint()
        case ["dist"]:
            print(dist(ROOT / "dist").relative_to(ROOT))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
