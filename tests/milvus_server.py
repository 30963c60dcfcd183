"""Start a real Milvus server from its PyPI wheel (`milvus`, Linux only), for marker `milvus`."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pymilvus import MilvusClient

from tests.s3_server import S3Server

_START_TIMEOUT_S = 55.0
_TRIES = 3
_COMMAND = ("milvus", "run", "standalone")


@contextmanager
def running(base: Path, s3: S3Server | None = None, bucket: str = "") -> Iterator[str]:
    """Run a server that keeps its data under `base`, or in a bucket of `s3`; yield its URI."""
    process, port = start(base, s3, bucket)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()  # SIGTERM does not stop this version
        process.wait()


def new_database(uri: str) -> str:
    """Return the URI of a new database there, in which no other test has collections."""
    name = f"db_{uuid.uuid4().hex[:8]}"
    client = MilvusClient(uri)
    client.create_database(name)
    client.close()
    return f"{uri}/{name}"


def start(
    base: Path,
    s3: S3Server | None = None,
    bucket: str = "",
    *,
    channels: int = 16,
    lease_s: int = 5,
    tls: tuple[str, str, str] | None = None,
    command: Sequence[str] = _COMMAND,
    environment: Mapping[str, str] | None = None,
) -> tuple[subprocess.Popen[bytes], int]:
    """Start a server; return it and its port once it is healthy.

    `tls` has the PEM files of its certificate, of the key, and of the CA of its clients. A
    `command` finds the server as `milvus`, and has the variables of `environment`, too.

    A server that is paused for longer than `lease_s` ends itself.

    Collections beyond the number of `channels`, also deleted ones, share one with another. After a
    restart this version then leaves out messages of one of them (milvus-io/milvus#34255), so that
    rows are missing, or deleted ones are there again.

    Ports are chosen before the server binds them, and others on this machine may be faster.
    """
    for left in reversed(range(_TRIES)):
        port, health_port = _free_port(), _free_port()
        shutil.rmtree(base, ignore_errors=True)
        base.mkdir(parents=True)
        _unpack(base, port, channels, lease_s)
        if tls is not None:
            _set_tls(base / "configs" / "milvus.yaml", tls)
        if s3 is not None:
            _keep_in(s3, bucket, base / "configs" / "milvus.yaml")
        process = _spawn(base, health_port, command, environment or {})
        try:
            _wait_until_healthy(process, base)
        except BaseException as error:
            process.kill()
            process.wait()
            if not left or not isinstance(error, RuntimeError | TimeoutError):
                raise
            continue
        return process, port
    raise AssertionError("unreachable")


def restart(base: Path) -> subprocess.Popen[bytes]:
    """Start a server that was killed again, with its data and ports; return it at once."""
    return _spawn(base, int((base / "health-port").read_text()), _COMMAND, {})


def is_healthy(base: Path) -> bool:
    """Tell whether the server says that it is healthy; collections may still be loading."""
    port = int((base / "health-port").read_text())
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1) as answer:
            return b"OK" in answer.read()
    except OSError:
        return False


def _spawn(
    base: Path, health_port: int, command: Sequence[str], variables: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    (base / "health-port").write_text(str(health_port))
    environment = dict(
        {**os.environ, **variables},
        PATH=f"{base / 'bin'}:{os.environ['PATH']}",
        DEPLOY_MODE="STANDALONE",
        METRICS_PORT=str(health_port),
        MILVUS_RUN_DIR=str(base / "run"),
        LD_LIBRARY_PATH=str(base / "bin"),
    )
    (base / "run").mkdir(exist_ok=True)
    with (base / "out.log").open("ab") as log:
        return subprocess.Popen(
            [shutil.which(command[0], path=environment["PATH"]) or command[0], *command[1:]],
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


def _unpack(base: Path, port: int, channels: int, lease_s: int) -> None:
    import milvus

    milvus.MilvusServerConfig(data_dir=str(base), proxy_port=port).resolve()
    milvus._initialize_data_files(str(base))
    config = base / "configs" / "milvus.yaml"
    text = config.read_text()
    # The default lease of 30 s would keep a restarted server from loading for that long.
    if "\n  session:" in text:
        text = re.sub(r"(\n  session:\n(?:    .*\n)*?    ttl: )\d+", rf"\g<1>{lease_s}", text)
    else:
        text = text.replace("common:\n", f"common:\n  session:\n    ttl: {lease_s}\n", 1)
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
    text, changed = re.subn(r"(\n  dmlChannelNum: )\d+", rf"\g<1>{channels}", text)
    assert changed == 1
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


def _set_tls(config: Path, files: tuple[str, str, str]) -> None:
    text = config.read_text()
    changes = [(r"    tlsMode: ", "2")]  # clients show a certificate, too
    for name, file in zip(("serverPemPath", "serverKeyPath", "caPemPath"), files, strict=True):
        changes.append((rf"  {name}: ", file))
    for name, value in changes:
        text, changed = re.subn(rf"(\n{name}).*", lambda m, value=value: m[1] + value, text)
        assert changed == 1, name
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


def _wait_until_healthy(process: subprocess.Popen[bytes], base: Path) -> None:
    end = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"milvus died: {(base / 'out.log').read_text()[-2000:]}")
        if is_healthy(base):
            return
        time.sleep(0.1)
    raise TimeoutError("milvus did not become healthy")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
