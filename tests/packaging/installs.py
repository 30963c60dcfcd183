"""Wheels of both distributions, and environments into which the client's wheel alone is installed.

Nothing here may see the repository: processes run in `/` and without PYTHONPATH.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests import shared

ROOT = Path(__file__).resolve().parents[2]
VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
# The Python of the tests, and every other one that the client says it supports.
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
OURS = f"{sys.version_info.major}.{sys.version_info.minor}"


def run(*command: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with further environment variables."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={**environment, **variables},
    )


def build(folder: Path, source: Path, *kinds: str) -> None:
    """Build a distribution with hatchling, which the development environment has."""
    built = run(sys.executable, "-m", "build", "--no-isolation", *kinds, "-o", folder, source)
    assert built.returncode == 0, built.stdout + built.stderr


def wheels() -> dict[str, Path]:
    """Return the wheels of `client` and `servers`, built once for the run."""

    def make(folder: Path) -> dict[str, str]:
        for name, source in (("client", ROOT / "clients" / "python"), ("servers", ROOT)):
            build(folder / name, source, "--wheel")
        return {path.parent.name: str(path) for path in folder.glob("*/*.whl")}

    return {name: Path(path) for name, path in shared.once("wheels", make).items()}


def client_only(python: str = OURS) -> Path:
    """Return the `bin` of an environment with the client only; skip where `python` is missing."""
    program = interpreter(python)
    if program is None:
        pytest.skip(f"no Python {python} on the PATH or in ~/.pyenv")

    def make(folder: Path) -> str:
        made = run(program, "-m", "venv", "--without-pip", folder)
        assert made.returncode == 0, made.stdout + made.stderr
        pip(folder / "bin", "install", "--no-compile", wheels()["client"])
        return str(folder / "bin")

    return Path(shared.once(f"client-only-{python}", make))


def pip(bin: Path, *words: object) -> str:
    """Run our pip for another environment, which needs none of its own; return what it prints."""
    command = (sys.executable, "-m", "pip", "--python", bin / "python", *words)
    done = run(*command, PIP_CONSTRAINT=str(ROOT / "constraints.txt"))
    assert done.returncode == 0, done.stderr
    return done.stdout


def interpreter(python: str) -> str | None:
    """Return a Python of this version which can make environments; None if there is none."""
    if python == OURS:
        return sys.executable
    name = f"python{python}"
    pyenv = Path.home().glob(f".pyenv/versions/{python}.*/bin/{name}")
    for program in (*sorted(map(str, pyenv), reverse=True), shutil.which(name)):
        # A shim of pyenv is on the PATH also where its Python is not.
        if program is not None and run(program, "-c", "import venv").returncode == 0:
            return program
    return None
