"""infinity-emb: its server, and a client for the load generator.

The client only reads answers and checks their status. Sentinel's are parsed, so this is to
infinity's advantage.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from benchmarks.load import contents
from benchmarks.load.embed_clients import IMAGES, TEXTS, Outcome, Send, groups
from benchmarks.servers import Server, spawn


@contextmanager
def infinity(folder: Path, venv: Path, model: Path, device: str) -> Iterator[Server]:
    """Run infinity-emb from its own virtual environment, with its defaults."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    host, port = address.split(":")
    command = [str(venv / "bin/infinity_emb"), "v2", "--model-id", str(model)]
    command += ["--host", host, "--port", port, "--device", device.partition(":")[0]]
    # Its default, BetterTransformer, does not exist any more in the transformers that it needs.
    command += ["--batch-size", "32", "--no-bettertransformer"]
    quiet = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
    server = spawn(folder, "infinity", command, quiet)
    try:
        server.wait_until(lambda: _answers(f"http://{address}/health"))
        server.address = address
        yield server
    finally:
        server.stop()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


class InfinityEmbedClient:
    """A client of /embeddings; every caller has its own connection."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._connections: list[_Connection] = []

    def payloads(
        self, content: str, per_request: int = 1, priority: str = "interactive"
    ) -> list[bytes]:
        del priority  # infinity has none
        return _payloads(content, per_request)

    async def sends(self, callers: int) -> list[Send]:
        for connection in self._connections:  # the server closes connections idle for 5 s
            connection.close()
        self._connections = [
            _Connection(*await asyncio.open_connection(self._host, self._port, limit=2**22))
            for _ in range(callers)
        ]
        return [connection.send for connection in self._connections]


@cache
def _payloads(content: str, per_request: int) -> list[bytes]:
    if content == "text":
        inputs = contents.texts(TEXTS)
    else:
        files = contents.jpegs(IMAGES)
        inputs = ["data:image/jpeg;base64," + base64.b64encode(file).decode() for file in files]
    payloads = []
    for group in groups(inputs, per_request):
        fields = {"input": group, "modality": content, "encoding_format": "float"}
        body = json.dumps(fields).encode()
        head = (
            "POST /embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nX-Items: {len(group)}\r\n\r\n"
        )
        payloads.append(head.encode() + body)
    return payloads


class _Connection:
    """A persistent HTTP/1.1 connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def close(self) -> None:
        self._writer.close()

    async def send(self, payload: bytes) -> Outcome:
        self._writer.write(payload)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.partition("content-length:")[2].partition("\r\n")[0])
        body = await self._reader.readexactly(length)
        status = head.split()[1]
        if status != "200":
            return Outcome(f"HTTP {status} {body[:200].decode(errors='replace')}")
        return Outcome("OK", int(payload.partition(b"X-Items: ")[2].partition(b"\r")[0]))
