"""What the clients of other languages are tested against: gateways, photos, a key, a switch.

Their tests are written in their own language and learn everything from environment variables:

| variable | value |
|---|---|
| SENTINEL_TEST_ADDRESS | a gateway without TLS and keys, the only one with match levels |
| SENTINEL_TEST_SECURE_ADDRESS | a gateway with TLS and keys |
| SENTINEL_TEST_CA | the PEM file of the CA that signed its certificate |
| SENTINEL_TEST_API_KEY | a key that may do everything there |
| SENTINEL_TEST_ADDRESSES | two gateways, `a,b`, on one Milvus server: for balancing and drain |
| SENTINEL_TEST_PHOTOS | a folder of photos; `chelsea.png` shows a cat |
| SENTINEL_TEST_SWITCH | a folder; a file `drain` in it stops the second of the two gateways as an |
|                      | operator would; then the file `drained` appears |

No collection exists. A test creates its own, under a name of its own.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests import photos, processes, secure
from tests.waiting import until

_POLL_S = 0.05


@contextmanager
def gateways(folder: Path, milvus_server: str, worker: str) -> Iterator[dict[str, str]]:
    """Run all gateways in front of a worker; yield the variables.

    Args:
        folder: For their files, and for the switch.
        milvus_server: The URI of a Milvus server, for the two gateways that share one.
        worker: The address of a worker.
    """
    files = secure.access()
    keep = ("--tls-cert", files.cert, "--tls-key", files.cert_key, "--keys-file", files.keys)
    with ExitStack() as stack:

        def gateway(
            name: str, milvus: str, *flags: str, match_levels: bool = False
        ) -> processes.Server:
            at, is_open = folder / name, "--tls-cert" not in flags or secure.is_on()
            given = processes.gateway_flags(at, milvus, worker, match_levels=match_levels)
            given += flags
            return stack.enter_context(
                processes.running(at, "search_server", *given, serving=is_open)
            )

        # The two share their images, as gateways of one Milvus must.
        images = ("--object-store-uri", str(folder / "objects"))
        plain = gateway("plain", str(folder / "plain.db"), match_levels=True)
        closed = gateway("closed", str(folder / "closed.db"), *keep)
        until(lambda: _is_serving(closed.address, files.ca), 60)
        first, second = (gateway(name, milvus_server, *images) for name in ("first", "second"))
        switch = folder / "switch"
        switch.mkdir()
        stack.enter_context(_drained_on_demand(second, switch))
        yield {
            "SENTINEL_TEST_ADDRESS": plain.address,
            "SENTINEL_TEST_SECURE_ADDRESS": closed.address.replace("127.0.0.1", "localhost"),
            "SENTINEL_TEST_CA": files.ca,
            "SENTINEL_TEST_API_KEY": Path(files.key).read_text().strip(),
            "SENTINEL_TEST_ADDRESSES": f"{first.address},{second.address}",
            "SENTINEL_TEST_PHOTOS": str(_photos(folder / "photos")),
            "SENTINEL_TEST_SWITCH": str(switch),
        }


def _is_serving(address: str, ca: str) -> bool:
    """Ask a server with TLS for its health."""
    credentials = grpc.ssl_channel_credentials(Path(ca).read_bytes())
    with grpc.secure_channel(address, credentials) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=5
            )
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@contextmanager
def _drained_on_demand(server: processes.Server, switch: Path) -> Iterator[None]:
    """Stop `server` when the file `drain` appears, then create `drained`."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_POLL_S):
            if (switch / "drain").exists():
                server.stop()
                (switch / "drained").touch()
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _photos(folder: Path) -> Path:
    """Copy the photos of the tests into a folder."""
    folder.mkdir()
    for photo in photos.all_photos():
        shutil.copy(photo, folder / photo.name)
    return folder


def environment(variables: dict[str, str]) -> dict[str, str]:
    """Return the environment of a process that runs a client's tests."""
    return {**os.environ, **variables}
