"""The secure mode: with SENTINEL_TEST_SECURE=1, servers of tests have TLS and keys.

Whoever calls them does so over TLS and with a key, so that the same assertions hold. Servers come
from `processes.start` and from the settings that tests make; callers from `channel`,
`aio_channel`, `open_metrics`, and from the variables that the Python client and `sentinel` read.
A test about connections without TLS has the marker `plaintext`, and is skipped.
"""

from __future__ import annotations

import os
import ssl
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
from click.testing import CliRunner

from sentinel_client.cli import main
from tests import shared

VARIABLE = "SENTINEL_TEST_SECURE"
_CLIENT = {"SENTINEL_TLS_CA": "ca", "SENTINEL_API_KEY_FILE": "key"}
_CALLERS = 3
# Where servers of tests listen, and a name that only tests can look up.
_NAMES = ("localhost", "127.0.0.1", "127.0.0.2", "worker.test")

Options = Sequence[tuple[str, Any]]


@dataclass(frozen=True, slots=True)
class Access:
    """Paths of what everybody needs in the secure mode.

    Attributes:
        ca: Of all certificates.
        cert: Of all servers.
        cert_key: Its private key.
        callers: Files of keys that may do everything. Workers take them, too, so that a gateway
            can use the first one.
        keys: The hashes of these keys.
    """

    ca: str
    cert: str
    cert_key: str
    callers: list[str]
    keys: str

    @property
    def key(self) -> str:
        return self.callers[0]


def is_on() -> bool:
    return os.environ.get(VARIABLE) == "1"


def access() -> Access:
    """Return what all processes of this run share."""
    return Access(**shared.once("secure", _make))


def _make(folder: Path) -> dict[str, Any]:
    names = [word for name in _NAMES for word in ("--name", name)]
    sentinel("certs", str(folder), *names)
    keys, callers = folder / "keys.json", [folder / f"key-{number}" for number in range(_CALLERS)]
    for key in callers:
        grants = ("--grant", "owner", "--grant", "service")
        key.write_text(sentinel("keys", "create", "--file", str(keys), *grants))
    ca, cert, cert_key = (str(folder / f"{name}.pem") for name in ("ca", "server", "server-key"))
    return asdict(Access(ca, cert, cert_key, [str(key) for key in callers], str(keys)))


def sentinel(*words: str) -> str:
    """Run a command of ours; return what it prints."""
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output.strip()


def set_up_clients() -> None:
    """Have the Python client and `sentinel` use TLS and the key, here and in new processes."""
    if is_on():
        os.environ |= {name: getattr(access(), file) for name, file in _CLIENT.items()}


def server_settings() -> dict[str, Any]:
    """Return the settings that make a server secure; nothing in the usual mode."""
    if not is_on():
        return {}
    files = access()
    return {
        "tls_cert": Path(files.cert),
        "tls_key": Path(files.cert_key),
        "keys_file": Path(files.keys),
    }


def flags(module: str, given: Sequence[str]) -> list[str]:
    """Return the flags that make a server secure, if those given leave it open."""
    if "--tls-cert" in given:
        return []
    settings = server_settings()
    if settings and module == "search_server":
        files = access()
        settings |= {"worker_ca": files.ca, "worker_api_key_file": files.key}
    return [
        word
        for name, value in settings.items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]


def variables(module: str) -> dict[str, str]:
    """Return the variables that a secure server needs."""
    if is_on() and module == "search_server":
        return {"SENTINEL_GATEWAY_PAGE_TOKEN_SECRET": "of the secure mode"}
    return {}


def channel(address: str, options: Options | None = None) -> grpc.Channel:
    """Connect to a server of these tests."""
    if not is_on():
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, _credentials(), options=options)


def aio_channel(
    address: str, options: Options | None = None, *, caller: int = 0
) -> grpc.aio.Channel:
    """Connect to a server of these tests, on an event loop; each of three callers has a key."""
    if not is_on():
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, _credentials(caller), options=options)


def _credentials(caller: int = 0) -> grpc.ChannelCredentials:
    files = access()
    return grpc.composite_channel_credentials(
        grpc.ssl_channel_credentials(Path(files.ca).read_bytes()),
        grpc.access_token_call_credentials(Path(files.callers[caller]).read_text()),
    )


def listen(server: grpc.Server | grpc.aio.Server, address: str) -> int:
    """Open the port of a fake server; return its number."""
    if not is_on():
        return server.add_insecure_port(address)
    files = access()
    pair = (Path(files.cert_key).read_bytes(), Path(files.cert).read_bytes())
    return server.add_secure_port(address, grpc.ssl_server_credentials([pair]))


def interceptors() -> list[grpc.ServerInterceptor]:
    """Return what a fake server needs to refuse callers without the key."""
    return [_NeedsKey()] if is_on() else []


class _NeedsKey(grpc.ServerInterceptor):
    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        expected = f"Bearer {Path(access().key).read_text()}"
        given = dict(handler_call_details.invocation_metadata).get("authorization")
        is_health = handler_call_details.method.startswith("/grpc.health.")
        if given == expected or is_health:
            return continuation(handler_call_details)
        handler = continuation(handler_call_details)
        shape = "stream" if handler.request_streaming else "unary"
        shape += "_stream" if handler.response_streaming else "_unary"

        def refuse(_: Any, context: grpc.ServicerContext) -> None:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, f"the key is {given!r}")

        return getattr(grpc, f"{shape}_rpc_method_handler")(refuse)


def read_metrics(address: str) -> str:
    """Return what a server's metrics port shows."""
    scheme, context = "http", None
    if is_on():
        scheme, context = "https", ssl.create_default_context(cafile=access().ca)
    url = f"{scheme}://{address}/metrics"
    with urllib.request.urlopen(url, timeout=5, context=context) as answer:
        return str(answer.read().decode())
