"""Containers without Docker or a cluster: their variables, files and commands in folders here.

`python -m tests.deploy.contained FLAGS` runs the server in CONTAINED_MODULE. It takes the folder in
CONTAINED_SECRETS for /run/secrets, and this machine for CONTAINED_NAME.
"""

from __future__ import annotations

import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from sentinel_core.settings import ServerSettings
from tests import processes
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
    return subprocess.run(
        ["sh", files.DEPLOY / "setup.sh", *words],
        cwd=folder,
        env={**os.environ, "PATH": search_path(), **variables},
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )


def search_path() -> str:
    """A PATH that has our commands."""
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def environment(service: str, made: Path, own: Path) -> dict[str, str]:
    """The variables of one of our services, with the paths of its volumes as they are here.

    `made` is the folder of `set_up`, `own` one for what the service writes.
    """
    handed = {name: made / Path(path).name for name, path in volumes("setup").items()}
    here = {path: handed.get(name, own / name) for name, path in volumes(service).items()}
    return moved(files.compose_environment(service), here)


def moved(variables: dict[str, str], mounts: dict[str, Path]) -> dict[str, str]:
    """Variables with the paths of mounts replaced by folders here."""
    return {name: _moved(value, mounts) for name, value in variables.items()}


def _moved(value: str, mounts: dict[str, Path]) -> str:
    for path, folder in mounts.items():
        if value.startswith(f"{path}/"):
            return f"{folder}{value.removeprefix(path)}"
    return value


def start(
    folder: Path, module: str, variables: dict[str, str], *, secrets: Path, name: str = ""
) -> processes.Server:
    """Start a server with these variables, on free ports; `name` is this machine for it."""
    return processes.start(
        folder,
        "tests.deploy.contained",
        "--metrics-port",
        "0",  # each container has its own 9464
        serving=False,  # health checks and probes find out
        environment={
            **variables,
            "CONTAINED_MODULE": module,
            "CONTAINED_SECRETS": str(secrets),
            "CONTAINED_NAME": name,
        },
    )


def main() -> None:
    """Become the server."""
    ServerSettings.model_config["secrets_dir"] = os.environ["CONTAINED_SECRETS"]
    look_up, name = socket.getaddrinfo, os.environ["CONTAINED_NAME"]

    def found(host: Any, *rest: Any, **more: Any) -> Any:
        return look_up("127.0.0.1" if host == name else host, *rest, **more)

    socket.getaddrinfo = found
    sys.modules["uvloop"] = None  # type: ignore[assignment] # it does not ask `socket`
    runpy.run_module(os.environ["CONTAINED_MODULE"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
