"""Compose's containers without Docker: their variables, files and commands in folders here.

`python -m tests.deploy.contained FLAGS` runs the server in CONTAINED_MODULE. It takes the folder in
CONTAINED_SECRETS for /run/secrets, which is fixed by the time that flags are read.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

from sentinel_core.settings import ServerSettings
from tests.deploy import files


def volumes(service: str) -> dict[str, str]:
    """The paths of a service's volumes by their names."""
    listed = files.compose()["services"][service].get("volumes", [])
    return {volume.split(":")[0]: volume.split(":")[1] for volume in listed}


def set_up(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run deploy/setup.sh in a folder that stands for the volumes of the service `setup`."""
    root = files.compose()["services"]["setup"]["working_dir"]
    for path in volumes("setup").values():
        if Path(path).is_relative_to(root):
            (folder / Path(path).relative_to(root)).mkdir(exist_ok=True)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["sh", files.DEPLOY / "setup.sh", *words],
        cwd=folder,
        env={**os.environ, "PATH": path, **variables},
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )


def environment(service: str, made: Path, own: Path) -> dict[str, str]:
    """The variables of one of our services, with the paths of its volumes as they are here.

    `made` is the folder of `set_up`, `own` one for what the service writes.
    """
    handed = {name: made / Path(path).name for name, path in volumes("setup").items()}
    here = {path: handed.get(name, own / name) for name, path in volumes(service).items()}
    found = files.compose_environment(service)
    for path, folder in here.items():
        found = {name: value.replace(path, str(folder)) for name, value in found.items()}
    return found


def main() -> None:
    """Become the server."""
    ServerSettings.model_config["secrets_dir"] = os.environ["CONTAINED_SECRETS"]
    runpy.run_module(os.environ["CONTAINED_MODULE"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
