"""Milvus Lite 2.5, served on a port: the one Milvus of PyPI that searches 16-bit vectors.

    python -m tests.half_milvus

Version 3 of Milvus Lite was written anew and has none; of servers there is 2.3.5 only. This is the
last version with Milvus's own search engine inside. It has another major version than ours, so it
cannot be installed beside it. The command downloads its wheel from the package index and unpacks
230 MB into ~/.cache/sentinel-milvus-lite-2.5, or where SENTINEL_HALF_MILVUS says. Tests that need
it are skipped without it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pymilvus.grpc_gen import common_pb2, milvus_pb2

from tests.search_server.milvus.milvus_front import MilvusFront, before

_VERSION = "2.5.1"
_START_TIMEOUT_S = 30.0


def folder() -> Path:
    """Where the unpacked wheel is, or would be."""
    default = Path.home() / ".cache" / "sentinel-milvus-lite-2.5"
    return Path(os.environ.get("SENTINEL_HALF_MILVUS", default))


def binary() -> Path:
    return folder() / "milvus_lite" / "lib" / "milvus"


def fetch() -> None:
    """Download and unpack the wheel."""
    with tempfile.TemporaryDirectory() as downloads:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", downloads]
        subprocess.run([*command, f"milvus-lite=={_VERSION}"], check=True)
        [wheel] = Path(downloads).glob("*.whl")
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(folder())
    binary().chmod(0o755)


@contextmanager
def running(data: Path) -> Iterator[str]:
    """Run it with its file in `data`; yield its URI."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    libraries = {"LD_LIBRARY_PATH": str(binary().parent)}
    with (data / "half.log").open("wb") as log:
        process = subprocess.Popen(
            [str(binary()), str(data / "half.db"), address, "ERROR"],
            env={**os.environ, **libraries},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait(address)
        with before(f"http://{address}", Remembering) as front:
            yield front.uri
    finally:
        process.kill()
        process.wait()


class Remembering(MilvusFront):
    """Keeps the properties of collections, which Milvus Lite 2.5 forgets. It has no aliases."""

    def __init__(self, milvus_uri: str) -> None:
        super().__init__(milvus_uri)
        self._properties: dict[str, list[common_pb2.KeyValuePair]] = {}

    def changed(self, name: str, request: bytes, answer: bytes) -> bytes:
        if name == "CreateCollection":
            created = milvus_pb2.CreateCollectionRequest.FromString(request)
            self._properties[created.collection_name] = list(created.properties)
        if name == "DescribeCollection":
            asked = milvus_pb2.DescribeCollectionRequest.FromString(request)
            found = milvus_pb2.DescribeCollectionResponse.FromString(answer)
            found.properties.extend(self._properties.get(asked.collection_name, ()))
            return found.SerializeToString()
        return answer


def _wait(address: str) -> None:
    host, port = address.split(":")
    end = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            with socket.create_connection((host, int(port)), timeout=1):
                return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


if __name__ == "__main__":
    fetch()
    print(f"{binary()} is ready")
