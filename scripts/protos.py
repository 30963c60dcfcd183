"""Generates, checks and lints the gRPC contract. Called by `make proto` and `make lint`.

    protos.py generate   write protos/gen/python/sentinel (runs in the pinned .venv-proto)
    protos.py check      fail when the committed stubs are not what `generate` writes
    protos.py lint       buf lint and buf format (runs in the development environment)

The stubs are made with an old grpcio-tools on purpose: generated code refuses runtimes older
than its generator only, so old stubs run on protobuf 5, 6 and 7 alike. See
docs/adr/0003-committed-stubs.md.
"""

from __future__ import annotations

import filecmp
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
GENERATED = PROTOS / "gen" / "python" / "sentinel"


def google_includes() -> Path:
    """Return the folder from which `google/rpc/status.proto` is imported."""
    spec = find_spec("google.rpc")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("google/rpc/*.proto not found: pip install googleapis-common-protos")
    return Path(next(iter(spec.submodule_search_locations))).parent.parent


def generate(destination: Path) -> None:
    """Write the stubs of every proto file into `destination`/sentinel."""
    from grpc_tools import protoc  # only in .venv-proto

    destination.mkdir(parents=True, exist_ok=True)
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.glob("sentinel/**/*.proto"))
    includes = [PROTOS, google_includes(), Path(protoc.__file__).parent / "_proto"]
    arguments = [f"-I{path}" for path in includes]
    outputs = [
        f"--{kind}_out={destination}" for kind in ("python", "pyi", "grpc_python", "mypy_grpc")
    ]
    plugin = f"--plugin=protoc-gen-mypy_grpc={Path(sys.executable).parent / 'protoc-gen-mypy_grpc'}"
    if protoc.main(["protoc", plugin, *arguments, *outputs, *sources]) != 0:
        sys.exit("protoc failed")
    for path in destination.rglob("*_pb2_grpc.py"):
        if "Stub" not in path.read_text():  # files without a service hold nothing
            path.unlink()
            path.with_suffix(".pyi").unlink(missing_ok=True)
    for folder in {path.parent for path in destination.rglob("*_pb2.py")}:
        for package in (folder, *folder.relative_to(destination).parents):
            target = destination / package
            if target != destination:
                (target / "__init__.py").touch()
    (destination / "sentinel" / "py.typed").touch()


def check() -> None:
    """Exit non-zero when the committed stubs differ from freshly generated ones."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = Path(folder) / "sentinel"
        names = {str(p.relative_to(fresh)) for p in fresh.rglob("*") if p.is_file()}
        kept = {
            str(p.relative_to(GENERATED))
            for p in GENERATED.rglob("*")
            if p.is_file() and "__pycache__" not in p.parts
        }
        _, different, missing = filecmp.cmpfiles(fresh, GENERATED, sorted(names), shallow=False)
        stale = sorted({*different, *missing, *(kept - names)})
    if stale:
        sys.exit(f"stubs are stale, run `make proto`: {', '.join(stale)}")


def lint() -> None:
    """Run buf over our protos, with Google's beside them for the imports."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder)
        shutil.copytree(PROTOS / "sentinel", workspace / "sentinel")
        shutil.copy(PROTOS / "buf.yaml", workspace)
        (workspace / "google" / "rpc").mkdir(parents=True)
        shutil.copy(google_includes() / "google/rpc/status.proto", workspace / "google/rpc")
        buf = shutil.which("buf", path=str(Path(sys.executable).parent)) or "buf"
        for command in (["lint"], ["format", "--diff", "--exit-code", "--path", "sentinel"]):
            result = subprocess.run([buf, *command], cwd=workspace, check=False)
            if result.returncode != 0:
                sys.exit(f"buf {command[0]} failed")


def main() -> None:
    match sys.argv[1:]:
        case ["generate"]:
            shutil.rmtree(GENERATED, ignore_errors=True)
            generate(GENERATED.parent)
        case ["check"]:
            check()
        case ["lint"]:
            lint()
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
