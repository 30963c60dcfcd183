"""The lock files of the images: complete, in step with constraints.txt, naming no host."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy import files

LOCKS = {
    "build": [],
    "gateway": ["gateway", "s3"],
    "worker-cpu": ["photos", "hub", "openvino"],
    "worker-cuda": ["photos", "torch"],
    "app": ["app"],
}
# Packages that stand in for others with the same modules.
INSTEAD = {"worker-cuda": {"onnxruntime": "onnxruntime-gpu"}}
_ENTRY = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)(?: ; ([^\\]+?))? \\$", re.MULTILINE)


def locked(name: str) -> dict[str, str]:
    text = (files.DEPLOY / "docker" / "locks" / f"{name}.txt").read_text()
    return {canonicalize_name(package): version for package, version, _ in _ENTRY.findall(text)}


def pyproject(folder: str) -> dict[str, Any]:
    return tomllib.loads((files.ROOT / folder / "pyproject.toml").read_text())


def wanted(extras: list[str]) -> list[Requirement]:
    """What the client and these extras of the servers ask for, extras of ours resolved."""
    project, client = pyproject("")["project"], pyproject("clients/python")["project"]
    found: list[Requirement] = [Requirement(line) for line in client["dependencies"]]
    for extra in extras:
        for line in project["optional-dependencies"][extra]:
            requirement = Requirement(line)
            if requirement.name == project["name"]:
                found += wanted(sorted(requirement.extras))
            elif requirement.name == client["name"]:
                lines = [client["optional-dependencies"][one] for one in requirement.extras]
                found += [Requirement(line) for line in chain.from_iterable(lines)]
            else:
                found.append(requirement)
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_what_its_image_needs(name: str) -> None:
    """Fails when pyproject.toml gained something: run `make lock-images`."""
    packages = locked(name)
    instead = INSTEAD.get(name, {})
    for requirement in wanted(LOCKS[name]) if LOCKS[name] else [Requirement("hatchling")]:
        version = packages.get(instead.get(requirement.name, canonicalize_name(requirement.name)))
        assert version, f"{requirement.name} is not in {name}.txt"
        assert version in requirement.specifier, f"{requirement.name} {version} in {name}.txt"


def test_the_image_for_gpus_has_onnxruntime_for_gpus_alone_and_the_cuda_of_torch() -> None:
    """Both packages write into one folder: the image would have parts of each."""
    packages = locked("worker-cuda")
    assert "onnxruntime" not in packages
    assert {"onnxruntime-gpu", "torch", "nvidia-cublas", "nvidia-cudnn-cu13"} <= set(packages)
    assert "onnxruntime-gpu" not in locked("worker-cpu")


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_agrees_with_the_constraints(name: str) -> None:
    lines = (files.ROOT / "constraints.txt").read_text().split()
    pinned = {canonicalize_name(n): v for n, v in (line.split("==") for line in lines)}
    differing = {
        package: (version, pinned[package])
        for package, version in locked(name).items()
        if pinned.get(package, version) != version
    }
    assert not differing


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_has_hashes_and_no_host(name: str) -> None:
    text = (files.DEPLOY / "docker" / "locks" / f"{name}.txt").read_text()
    assert "://" not in text
    assert "index-url" not in text
    entries = re.split(r"\n(?=[a-z])", text.strip())
    assert len(entries) == len(locked(name)) > 0
    assert all("--hash=sha256:" in entry for entry in entries)


@pytest.mark.parametrize("distribution", ["", "clients/python"])
def test_the_wheels_of_the_images_hold_every_package(distribution: str) -> None:
    context = (files.ROOT / ".dockerignore").read_text().splitlines()
    wheel = pyproject(distribution)["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = ["hatch_build.py", *wheel["packages"]]
    for package in (str(PurePosixPath(distribution, name)) for name in needed):
        folders = [str(folder) for folder in PurePosixPath(package).parents] + [package]
        copied = [f for f in folders if is_copied(f)]
        assert copied, f"the Dockerfile does not copy {package}"
        assert f"!{copied[0]}" in context, f".dockerignore leaves {package} out"
    (build,) = re.findall(r"pip wheel (.*)", files.target("wheel"))
    assert (f"./{distribution}" if distribution else ".") in build.split()


def is_copied(name: str) -> bool:
    """Whether the build context's file or folder is copied to where the wheels are built."""
    copies = re.findall(r"^COPY (.*) (\S+)$", files.target("wheel"), re.MULTILINE)
    return any(
        (target == "./" and name in sources.split()) or sources == target == name
        for sources, target in copies
    )
