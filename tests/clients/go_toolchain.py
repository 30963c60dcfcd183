"""A Go of today and the libraries of the Go client, unpacked from Debian's packages.

    python -m tests.clients.go_toolchain

The client needs a newer Go and gRPC than Debian stable has, and where tests run there may be no
proxy of Go modules. So this downloads packages of Debian unstable, from the mirror that apt uses,
and unpacks them into a folder. It installs nothing. The folder is ~/.cache/sentinel-go, or what
SENTINEL_GO_TOOLCHAIN names. It takes 60 MB of download, and 1 GB of disk with what Go compiles.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from scripts import protos
from tests.contract.clone import BIN, unpacked

CLIENT = protos.ROOT / "clients/go"
_SUITE = "sid"
_SOURCES = "usr/share/gocode/src"
_PACKAGES = (
    *("golang-google-grpc-dev", "golang-google-protobuf-dev", "golang-google-genproto-dev"),
    *("golang-golang-x-net-dev", "golang-golang-x-sys-dev", "golang-golang-x-text-dev"),
    "golang-github-golang-protobuf-1-5-dev",
    *("golang-github-cncf-xds-dev", "golang-github-envoyproxy-protoc-gen-validate-dev"),
    *("protoc-gen-go", "protoc-gen-go-grpc"),
)
# Debian's gRPC also imports the last one.
_MODULES = (
    *("google.golang.org/grpc", "google.golang.org/protobuf"),
    "google.golang.org/genproto/googleapis/rpc",
    *("golang.org/x/net", "golang.org/x/sys", "golang.org/x/text"),
    *("github.com/cncf/xds/go", "github.com/envoyproxy/protoc-gen-validate"),
    "github.com/golang/protobuf",
)


@dataclass(frozen=True, slots=True)
class Toolchain:
    """An unpacked folder."""

    folder: Path

    def environment(self) -> dict[str, str]:
        """The environment of `go`: no network, no user's settings, a cache of its own."""
        (root,) = self.folder.glob("usr/lib/go-1.*")
        path = [str(root / "bin"), str(self.folder / "usr/bin"), os.environ["PATH"], BIN]  # for buf
        return {
            **os.environ,
            "PATH": os.pathsep.join(path),
            "GOROOT": str(root),
            "GOPATH": str(self.folder / "path"),
            "GOCACHE": str(self.folder / "cache"),
            "GOENV": "off",
            "GOFLAGS": "-mod=mod",
            "GOPROXY": "off",
            "GOTOOLCHAIN": "local",
            "GOWORK": "off",
        }

    def checkout(self, folder: Path) -> Path:
        """Copy the contract and the client into a folder, and generate the client's stubs."""
        module = unpacked(folder) / CLIENT.relative_to(protos.ROOT)
        shutil.copytree(CLIENT, module, ignore=shutil.ignore_patterns("sentinel", "go.sum"))
        self.provide(module)
        subprocess.run(["go", "generate"], cwd=module, env=self.environment(), check=True)
        return module

    def provide(self, module: Path) -> None:
        """Have a copy of a module take its libraries from here; they may be newer."""
        sources = self.folder / _SOURCES
        command = ["go", "mod", "edit", "-require=github.com/golang/protobuf@v1.5.4"]
        command += [f"-replace={name}={sources / name}" for name in _MODULES]
        subprocess.run(command, cwd=module, env=self.environment(), check=True)


def folder() -> Path:
    """Where the toolchain is, or will be."""
    return Path(os.environ.get("SENTINEL_GO_TOOLCHAIN") or Path.home() / ".cache/sentinel-go")


def find() -> Toolchain | None:
    """Return the toolchain if it is there, with all libraries."""
    libraries = [folder() / _SOURCES / name for name in _MODULES]
    return Toolchain(folder()) if _has_go() and all(map(Path.exists, libraries)) else None


def _has_go() -> bool:
    return any(folder().glob("usr/lib/go-1.*/bin/go"))


def unpack() -> None:
    """Download and unpack the packages, unless a former run did it.

    Raises:
        SystemExit: This is not Debian, or its mirror does not answer.
    """
    if find() is not None:
        return
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        sys.exit("apt-get is missing: the Go client is tested with Debian's packages")
    target = folder()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as made:
        place = Path(made)
        apt = _apt(place / "apt")
        _run("apt-get", *apt, "-qq", "update")
        # golang-go depends on the present version, such as golang-1.27-go.
        named = subprocess.run(
            ["apt-cache", *apt, "depends", "golang-go"], check=True, capture_output=True, text=True
        ).stdout
        found = re.search(r"golang-1\.\d+-", named)
        if found is None:
            sys.exit("the mirror of apt has no golang-go")
        compiler = [found[0] + "go", found[0] + "src"]
        _run("apt-get", *apt, "-qq", "download", *compiler, *_PACKAGES, cwd=place / "apt")
        for package in (place / "apt").glob("*.deb"):
            _run("dpkg", "-x", str(package), str(place / "root"))
        if _has_go():
            shutil.rmtree(target)  # unpacked when the client needed fewer libraries
        (place / "root").rename(target)
    _compile(Toolchain(target))


def _compile(toolchain: Toolchain) -> None:
    """Compile the libraries once: one to two minutes of CPU that tests then do not need."""
    with tempfile.TemporaryDirectory() as made:
        module = toolchain.checkout(Path(made))
        command = ["go", "test", "-c", "-o", os.devnull, "."]
        if subprocess.run(command, cwd=module, env=toolchain.environment(), check=False).returncode:
            sys.exit("Go does not compile the client")


def _apt(work: Path) -> list[str]:
    """Return the options of an apt with one more suite and no part in the system's."""
    for part in ("lists/partial", "cache/archives/partial"):
        (work / part).mkdir(parents=True)
    sources = work / "suite.list"
    sources.write_text(_source())
    settings = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "/nonexistent",
        "Dir::State::lists": work / "lists",
        "Dir::Cache": work / "cache",
        "APT::Sandbox::User": "root",
    }
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def _source() -> str:
    """Return a line for sources.list: the mirror of the system, with our suite."""
    found = Path("/etc/apt/sources.list.d/debian.sources")
    text = found.read_text() if found.exists() else ""
    uri = re.search(r"^URIs:\s*(\S+)", text, re.MULTILINE)
    key = re.search(r"^Signed-By:\s*(/\S+)", text, re.MULTILINE)
    if uri is not None:
        return f"deb {f'[signed-by={key[1]}] ' if key else ''}{uri[1]} {_SUITE} main\n"
    old = Path("/etc/apt/sources.list")
    line = re.search(
        r"^deb (\[[^]]*\] )?(\S+debian/?) ", old.read_text() if old.exists() else "", re.MULTILINE
    )
    if line is None:
        sys.exit("apt has no mirror of Debian: the Go client is tested with Debian's packages")
    return f"deb {line[1] or ''}{line[2]} {_SUITE} main\n"


def _run(*command: str, cwd: Path | None = None) -> None:
    if subprocess.run(command, cwd=cwd, check=False).returncode:
        sys.exit(f"failed: {command[0]} {command[-1]}")


if __name__ == "__main__":
    unpack()
    print(f"Go for the tests is in {folder()}")
