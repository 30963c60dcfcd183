"""Start a real Milvus server from its PyPI wheel (`milvus`, Linux only), for marker `milvus`."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.s3_server import S3Server

_START_TIMEOUT_S = 55.0
_TRIES = 3


@contextmanager
def running(base: Path, s3: S3Server | None = None, bucket: str = "") -> Iterator[str]:
    """Run a server that keeps its data under `base`, or in a bucket of `s3`; yield its URI."""
    process, port = start(base, s3, bucket)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()  # SIGTERM does not stop this version
        process.wait()


def start(
    base: Path, s3: S3Server | None = None, bucket: str = ""
) -> tuple[subprocess.Popen[bytes], int]:
    """Start a server; return it and its port once it is healthy.

    Ports are chosen before the server binds them, and others on this machine may be faster.
    """
    for left in reversed(range(_TRIES)):
        port, health_port = _free_port(), _free_port()
        shutil.rmtree(base, ignore_errors=True)
        base.mkdir(parents=True)
        _unpack(base, port)
        if s3 is not None:
            _keep_in(s3, bucket, base / "configs" / "milvus.yaml")
        process = _spawn(base, health_port)
        try:
            _wait_until_healthy(process, health_port, base / "out.log")
        except BaseException as error:
            process.kill()
            process.wait()
            if not left or not isinstance(error, RuntimeError | TimeoutError):
                raise
            continue
        return process, port
    raise AssertionError("unreachable")


def _spawn(base: Path, health_port: int) -> subprocess.Popen[bytes]:
    environment = dict(
        os.environ,
        DEPLOY_MODE="STANDALONE",
        METRICS_PORT=str(health_port),
        MILVUS_RUN_DIR=str(base / "run"),
        LD_LIBRARY_PATH=str(base / "bin"),
    )
    (base / "run").mkdir(exist_ok=True)
    with (base / "out.log").open("wb") as log:
        return subprocess.Popen(
            [base / "bin" / "milvus", "run", "standalone"],
            cwd=base,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def wait_for_indexes(uri: str, collection: str, timeout_s: float = 120.0) -> None:
    """Have a server build and use the indexes of a collection, as it does by itself in time.

    Needs 1,024 rows; with fewer it builds none.
    """
    from pymilvus import MilvusClient

    client = MilvusClient(uri)
    client.flush(collection)
    end = time.monotonic() + timeout_s
    for name in client.list_indexes(collection):
        while (
            client.describe_index(collection, name)["pending_index_rows"]
            or not (client.describe_index(collection, name)["indexed_rows"])
        ):
            if time.monotonic() > end:
                raise TimeoutError(
                    f"index {name} is not built: {client.describe_index(collection, name)}"
                )
            time.sleep(0.1)
    client.release_collection(collection)  # rows that were loaded before keep what they had
    client.load_collection(collection)
    client.close()


def _unpack(base: Path, port: int) -> None:
    import milvus

    milvus.MilvusServerConfig(data_dir=str(base), proxy_port=port).resolve()
    milvus._initialize_data_files(str(base))
    config = base / "configs" / "milvus.yaml"
    text = config.read_text()
    # The default lease of 30 s would keep a restarted server from loading for that long.
    if "\n  session:" in text:
        text = re.sub(r"(\n  session:\n(?:    .*\n)*?    ttl: )\d+", r"\g<1>5", text)
    else:
        text = text.replace("common:\n", "common:\n  session:\n    ttl: 5\n", 1)
    # Less waiting in tests for what only happens at ticks: strong reads, loading. With a shorter
    # time tick an idle server takes twice the CPU, 0.3 of a core with ten collections.
    for name, milliseconds in (("timeTickInterval", 50), ("checkInterval", 100),
                               ("distPullInterval", 50)):  # fmt: skip
        text, changed = re.subn(rf"(\n  {name}: )\d+", rf"\g<1>{milliseconds}", text)
        assert changed == 1, name
    # These are not in the file; with the default of 1 s each load of a collection took 1 s more.
    assert "\nqueryCoord:\n" in text
    text = text.replace(
        "\nqueryCoord:\n",
        "\nqueryCoord:\n  checkChannelInterval: 50\n  checkSegmentInterval: 50\n",
        1,
    )
    # By itself the embedded etcd always binds ports 2379 and 2380, and a second server dies of it.
    etcd = base / "configs" / "etcd.yaml"
    text = text.replace("\netcd:\n", f"\netcd:\n  config:\n    path: {etcd}\n", 1)
    client, peer = (f"http://127.0.0.1:{_free_port()}" for _ in range(2))
    etcd.write_text(
        f"name: default\nlisten-client-urls: {client}\nadvertise-client-urls: {client}\n"
        f"listen-peer-urls: {peer}\ninitial-advertise-peer-urls: {peer}\n"
        f"initial-cluster: default={peer}\n"
    )
    config.write_text(text)


def _keep_in(s3: S3Server, bucket: str, config: Path) -> None:
    text = config.read_text().replace("  storageType: local", "  storageType: minio")
    for name, old, new in (
        ("address", "localhost", "127.0.0.1"),
        ("port", "9000", s3.endpoint.rsplit(":", 1)[1]),
        ("accessKeyID", "minioadmin", "user"),
        ("secretAccessKey", "minioadmin", s3.secret),
        ("bucketName", "a-bucket", bucket),
    ):
        start = text.index("\nminio:")
        changed = text[start:].replace(f"  {name}: {old}", f"  {name}: {new}", 1)
        assert changed != text[start:], name
        text = text[:start] + changed
    config.write_text(text)


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"milvus died: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1) as answer:
                if b"OK" in answer.read():
                    return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError("milvus did not become healthy")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
