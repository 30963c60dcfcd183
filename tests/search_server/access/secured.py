"""A gateway with TLS, keys and tokens before a worker with TLS and a key, and who calls them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from google.protobuf import descriptor_pool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc

import sentinel.embedding.v1.embedding_service_pb2  # for the pool of descriptors
import sentinel.search.v1.access_service_pb2
import sentinel.search.v1.collection_service_pb2
import sentinel.search.v1.item_service_pb2
import sentinel.search.v1.search_service_pb2
from tests import photos, processes
from tests.search_server.conftest import error_info
from tests.secure import sentinel
from tests.waiting import until

ISSUER, AUDIENCE = "https://issuer.test", "sentinel"
EMBEDDING = "sentinel.embedding.v1.EmbeddingService"
SERVICES = [
    f"sentinel.search.v1.{name}Service" for name in ("Search", "Item", "Collection", "Access")
]
SERVICES += [EMBEDDING]
_PACKAGES = {EMBEDDING.rpartition(".")[2]: EMBEDDING.rpartition(".")[0]}
OK = ("OK", "")


@dataclass(frozen=True, slots=True)
class Pki:
    """A CA with certificates for servers and clients, in one folder."""

    folder: Path

    @classmethod
    def create(cls, folder: Path, *names: str, days: int = 30) -> Pki:
        sentinel(
            "certs", str(folder), "--days", str(days), *[w for n in names for w in ("--name", n)]
        )
        return cls(folder)

    def file(self, name: str) -> str:
        return str(self.folder / name)

    @property
    def server_flags(self) -> list[str]:
        return ["--tls-cert", self.file("server.pem"), "--tls-key", self.file("server-key.pem")]

    def channel(self, address: str, *, client: bool = False, name: str = "") -> grpc.Channel:
        """Connect as somebody who trusts this CA; `client` shows a certificate of it."""
        read = [
            (self.folder / file).read_bytes() if client else None
            for file in ("client-key.pem", "client.pem")
        ]
        credentials = grpc.ssl_channel_credentials((self.folder / "ca.pem").read_bytes(), *read)
        options: list[tuple[str, object]] = [("grpc.enable_retries", 0)]
        if name:
            options.append(("grpc.ssl_target_name_override", name))
        return grpc.secure_channel(address, credentials, options=options)


@dataclass(frozen=True, slots=True)
class Issuer:
    """Signs tokens, and publishes its keys in a file."""

    jwks: Path
    keys: dict[str, Any]

    @classmethod
    def create(cls, folder: Path) -> Issuer:
        issuer = cls(folder / "jwks.json", {})
        issuer.add("rsa", rsa.generate_private_key(65537, 2048))
        issuer.add("ec", ec.generate_private_key(ec.SECP256R1()))
        return issuer

    def add(self, key_id: str, key: Any) -> None:
        self.keys[key_id] = key
        kinds = {"RSA": jwt.algorithms.RSAAlgorithm, "EC": jwt.algorithms.ECAlgorithm}
        published = []
        for name, one in self.keys.items():
            kind = "RSA" if isinstance(one, rsa.RSAPrivateKey) else "EC"
            published.append({**kinds[kind].to_jwk(one.public_key(), as_dict=True), "kid": name})
        self.jwks.write_text(json.dumps({"keys": published}))

    def token(self, key_id: str = "rsa", algorithm: str = "RS256", **claims: Any) -> str:
        now = datetime.now(UTC)
        content = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "somebody",
            "exp": now + timedelta(minutes=5),
            "scope": "openid reader:photos*",
            **claims,
        }
        content = {name: value for name, value in content.items() if value is not None}
        return jwt.encode(content, self.keys[key_id], algorithm, headers={"kid": key_id})


@dataclass(slots=True)
class Secured:
    """A running system; `place` is a folder whose images everybody may name by URI."""

    gateway: processes.Server
    worker: processes.Server
    pki: Pki
    issuer: Issuer
    keys_file: Path
    audit: Path
    place: Path

    def key(self, *grants: str, tenant: str = "", expires: str = "") -> str:
        """Create a key; the gateway knows it after a moment."""
        words = ["keys", "create", "--file", str(self.keys_file), "--tenant", tenant]
        words += [word for grant in grants for word in ("--grant", grant)]
        key = sentinel(*words, *(["--expires", expires] if expires else []))
        probe = self.caller(key)
        until(lambda: probe.call("SearchService/Search")[1] != "CREDENTIALS_INVALID")
        return key

    def caller(self, credential: str | None = None) -> Caller:
        """Return somebody who calls the gateway with this key or token."""
        return Caller(self.pki.channel(self.gateway.address), credential)

    def audited(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.audit.read_text().splitlines()]


@dataclass(slots=True)
class Caller:
    """Calls any method, by its name, over one channel."""

    channel: grpc.Channel
    credential: str | None = None

    def call(
        self,
        method: str,
        *requests: Any,
        metadata: Sequence[tuple[str, str]] | None = None,
    ) -> tuple[str, str]:
        """Return the code and the reason; without a request, send an empty one."""
        try:
            self.answers(method, *requests, metadata=metadata)
        except grpc.RpcError as error:
            return error_info(error)
        return OK

    def answers(
        self,
        method: str,
        *requests: Any,
        metadata: Sequence[tuple[str, str]] | None = None,
    ) -> list[Any]:
        """Return all answers; raise RpcError."""
        package = _PACKAGES.get(method.partition("/")[0], "sentinel.search.v1")
        found = descriptor_pool.Default().FindMethodByName(f"{package}.{method.replace('/', '.')}")
        kind = GetMessageClass(found.input_type)
        send, receive = (kind.SerializeToString, GetMessageClass(found.output_type).FromString)
        shape = "stream" if found.client_streaming else "unary"
        shape += "_stream" if found.server_streaming else "_unary"
        callable_ = getattr(self.channel, shape)(f"/{package}.{method}", send, receive)
        given = list(requests) or [kind()]
        if metadata is None:
            metadata = self.metadata
        answer = callable_(
            iter(given) if found.client_streaming else given[0], timeout=30, metadata=metadata
        )
        return list(answer) if found.server_streaming else [answer]

    @property
    def metadata(self) -> list[tuple[str, str]]:
        if self.credential is None:
            return []
        return [("authorization", f"Bearer {self.credential}")]


def wait_until_serving(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)

    def serving() -> bool:
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=2)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    until(serving, 60)


@contextmanager
def running(
    folder: Path,
    *gateway_flags: str,
    embedder: str = "tests.fakes.worker",
    environment: Mapping[str, str] | None = None,
    forked: bool = True,
) -> Iterator[Secured]:
    """Run a worker and a gateway on Milvus Lite, each with TLS and keys.

    Args:
        folder: For all their files.
        gateway_flags: Besides, or instead of, those for TLS, keys and stores.
        embedder: The module of the worker.
        environment: As for `processes.start`; of both.
        forked: Likewise.
    """
    pki = Pki.create(folder / "pki", "worker.test")
    issuer = Issuer.create(folder)
    worker_keys, keys, worker_key = folder / "w.json", folder / "keys.json", folder / "worker-key"
    worker_key.write_text(
        sentinel("keys", "create", "--file", str(worker_keys), "--grant", "service")
    )
    sentinel("keys", "create", "--file", str(keys), "--grant", "owner")
    audit, place = folder / "audit.log", folder / "place"
    place.mkdir()
    (place / "cat.jpg").write_bytes(photos.photo("chelsea").read_bytes())
    with (
        processes.running(
            folder / "worker",
            embedder,
            *pki.server_flags,
            "--keys-file",
            str(worker_keys),
            serving=False,
            environment=environment,
            forked=forked,
        ) as worker,
        processes.running(
            folder / "gateway",
            "search_server",
            *processes.gateway_flags(folder, str(folder / "milvus.db"), worker.address),
            *pki.server_flags,
            *("--keys-file", str(keys), "--audit-log", str(audit)),
            *("--worker-ca", pki.file("ca.pem"), "--worker-api-key-file", str(worker_key)),
            *("--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE, "--jwt-keys", str(issuer.jwks)),
            *("--image-uri-places", f"{place.as_uri()}/", "--reference-places", place.as_uri()),
            *gateway_flags,
            serving=False,
            environment=environment,
            forked=forked,
        ) as gateway,
    ):
        wait_until_serving(pki.channel(gateway.address))
        yield Secured(gateway, worker, pki, issuer, keys, audit, place)
