"""Run the commands of docs/security.md in order, in an empty folder, as an operator would.

Servers run in the background on free ports; their addresses reach the later commands by the
variables that the document's reader would set.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
SERVERS = ("sentinel-embedder", "sentinel-gateway")


def blocks() -> list[str]:
    text = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    return re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@contextmanager
def server(command: str, folder: Path, variables: dict[str, str]) -> Iterator[str]:
    """Run a server of the document; yield its address."""
    name = command.split(maxsplit=1)[0]
    file, log = folder / f"{name}.address", folder / f"{name}.log"
    command = f"exec {command.strip()} --port 0 --address-file {file}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["bash", "-c", command], cwd=folder, env=variables, stdout=output, stderr=output
        )

    def listens() -> bool:
        assert process.poll() is None, log.read_text()
        return file.exists()

    try:
        until(listens, 60)
        yield file.read_text().split()[0]
    finally:
        process.terminate()
        process.wait(60)


def test_its_commands_work_in_order(tmp_path: Path) -> None:
    variables = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    prepare, embedder, gateway, client = blocks()
    assert embedder.startswith(SERVERS[0]) and gateway.startswith(SERVERS[1])
    subprocess.run(["bash", "-ec", prepare], cwd=tmp_path, env=variables, check=True)
    assert (tmp_path / "my-key").stat().st_mode & 0o077 == 0
    with ExitStack() as stack:
        address = stack.enter_context(server(embedder, tmp_path, variables))
        variables["SENTINEL_GATEWAY_WORKERS"] = address
        variables["SENTINEL_ADDRESS"] = stack.enter_context(server(gateway, tmp_path, variables))
        result = subprocess.run(
            ["bash", "-ec", client],
            cwd=tmp_path,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        assert "No collections yet" in result.stdout
        denied = subprocess.run(
            ["bash", "-c", f"{client.rsplit(chr(10), 2)[0]}\nsentinel collections create videos"],
            cwd=tmp_path,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "SCOPE_MISSING" in denied.stderr
    assert "SCOPE_MISSING" in (tmp_path / "audit.log").read_text()
