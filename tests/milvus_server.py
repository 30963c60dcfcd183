"""Starts a real Milvus server from its PyPI wheel (`milvus`, Linux only), for marker `milvus`."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_START_TIMEOUT_S = 90.0


@contextmanager
def running(base: Path) -> Iterator[str]:
    """Run a server that keeps its data under `base`; yield its URI.

    Its embedded etcd always binds port 2379 of the loopback address, so there can be one only.
    """
    port, health_port = _free_port(), _free_port()
    _unpack(base, port)
    environment = dict(
        os.environ,
        DEPLOY_MODE="STANDALONE",
        METRICS_PORT=str(health_port),
        MILVUS_RUN_DIR=str(base / "run"),
        LD_LIBRARY_PATH=str(base / "bin"),
    )
    (base / "run").mkdir(exist_ok=True)
    with (base / "out.log").open("wb") as log:
        process = subprocess.Popen(
            [base / "bin" / "milvus", "run", "standalone"],
            cwd=base,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_until_healthy(process, health_port, base / "out.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()  # SIGTERM does not stop this version
        process.wait()


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
    # Less waiting in tests for what only happens at ticks: strong reads, loading.
    for name, milliseconds in (("timeTickInterval", 20), ("checkInterval", 100),
                               ("distPullInterval", 50)):  # fmt: skip
        text, changed = re.subn(rf"(\n  {name}: )\d+", rf"\g<1>{milliseconds}", text)
        assert changed == 1, name
    config.write_text(text)


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"milvus died; is 127.0.0.1:2379 taken? {log.read_text()[-2000:]}")
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
