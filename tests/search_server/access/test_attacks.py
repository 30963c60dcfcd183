"""Attacks that must fail: each with the credential, certificate or call of somebody who may not."""

from __future__ import annotations

import itertools
import json
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import jwt
import psutil
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from sentinel.common.v1 import content_pb2
from sentinel.search.v1 import collection_service_pb2 as collections
from sentinel.search.v1 import item_service_pb2 as items
from sentinel.search.v1 import item_service_pb2_grpc
from sentinel.search.v1 import search_service_pb2 as search
from tests import processes
from tests.search_server.access import secured
from tests.search_server.access.secured import OK, Caller, Pki, Secured
from tests.search_server.conftest import error_info, text
from tests.secure import sentinel
from tests.waiting import until

LIST = "CollectionService/ListCollections"
MISSING = ("UNAUTHENTICATED", "CREDENTIALS_MISSING")
INVALID = ("UNAUTHENTICATED", "CREDENTIALS_INVALID")
EXPIRED = ("UNAUTHENTICATED", "CREDENTIALS_EXPIRED")


def test_no_key(system: Secured) -> None:
    assert system.caller(None).call(LIST) == MISSING


@pytest.mark.parametrize(
    "change",
    [
        lambda key: key[:-1] + ("A" if key[-1] != "A" else "B"),
        lambda key: key + "A",
        lambda key: key[:30],
        lambda key: "sen_000000000000_" + "A" * 43,
        lambda key: "sen_",
        lambda key: "no key at all",
    ],
)
def test_a_wrong_key(system: Secured, owner: str, change: Any) -> None:
    wrong = change(owner)
    metadata = [("authorization", f"Bearer {wrong}")]
    time.sleep(0.15)  # the one before is not forgotten
    assert system.caller(None).call(LIST, metadata=metadata) == INVALID
    assert system.caller(owner).call(LIST) == OK


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic abc", "{}", "bearer  {}"])
def test_another_header(system: Secured, owner: str, header: str) -> None:
    metadata = [("authorization", header.format(owner))]
    assert system.caller(None).call(LIST, metadata=metadata) == INVALID


def test_an_expired_key(system: Secured) -> None:
    key = system.key("read", expires="0m")
    assert system.caller(key).call(LIST) == EXPIRED


def test_a_key_that_was_revoked_a_second_ago(system: Secured) -> None:
    key = system.key("read")
    caller = system.caller(key)
    assert caller.call(LIST) == OK
    sentinel("keys", "revoke", "--file", str(system.keys_file), key.split("_")[1])
    time.sleep(1.0)
    assert caller.call(LIST) == INVALID


def test_two_keys_work_while_one_is_rotated(system: Secured) -> None:
    old, new = system.key("read"), system.key("read")
    callers = [system.caller(key) for key in (old, new)]
    assert {caller.call(LIST) for caller in callers} == {OK}
    sentinel("keys", "revoke", "--file", str(system.keys_file), old.split("_")[1])
    until(lambda: callers[0].call(LIST) == INVALID)
    assert callers[1].call(LIST) == OK


def test_a_stream_ends_when_its_key_is_revoked(system: Secured, owner: str) -> None:
    request = collections.CreateCollectionRequest(
        collection=collections.Collection(name="streamed")
    )
    assert system.caller(owner).call("CollectionService/CreateCollection", request) == OK
    key = system.key("write:streamed")
    stub = item_service_pb2_grpc.ItemServiceStub(system.pki.channel(system.gateway.address))
    go_on = threading.Event()

    def messages() -> Iterator[items.IngestItemsRequest]:
        yield items.IngestItemsRequest(start=items.IngestStart(collection="streamed"))
        for number in range(2):
            item = items.Item(id=f"i{number}", content=content_pb2.Content(text=f"red {number}"))
            yield items.IngestItemsRequest(batch=items.IngestBatch(sequence=number, items=[item]))
            assert go_on.wait(20)

    metadata = [("authorization", f"Bearer {key}")]
    answers = stub.IngestItems(messages(), timeout=30, metadata=metadata)
    assert any(
        answer.HasField("ack") for answer in answers if answer.WhichOneof("message") == "ack"
    )
    sentinel("keys", "revoke", "--file", str(system.keys_file), key.split("_")[1])
    until(lambda: system.caller(key).call(LIST) == INVALID)
    go_on.set()
    with pytest.raises(grpc.RpcError) as caught:
        list(answers)
    assert error_info(caught.value) == INVALID
    found = items.GetItemsRequest(collection="streamed", ids=["i0", "i1"])
    [answer] = system.caller(owner).answers("ItemService/GetItems", found)
    assert [item.id for item in answer.items] == ["i0"]


def test_a_worker_that_refuses_the_gateway_is_no_fault_of_its_callers(tmp_path: Path) -> None:
    with secured.running(tmp_path) as system:
        key = system.key("owner")
        request = collections.CreateCollectionRequest(
            collection=collections.Collection(name="words")
        )
        caller = system.caller(key)
        assert caller.call("CollectionService/CreateCollection", request) == OK
        params = search.SearchParams(collection="words", query=text("red"))
        find = search.SearchRequest(params=params)
        assert caller.call("SearchService/Search", find) == OK
        (tmp_path / "worker-key").write_text("sen_000000000000_wrong")
        refused = {("UNAVAILABLE", "WORKER_LOST"), ("UNAVAILABLE", "NO_HEALTHY_WORKER")}
        numbers = itertools.count()

        def is_refused() -> bool:  # once the gateway has read its key again
            params.query.content.text = f"another {next(numbers)}"
            answer = caller.call("SearchService/Search", search.SearchRequest(params=params))
            assert answer in {OK, *refused}
            return answer in refused

        until(is_refused)
        assert "worker refuses this gateway" in system.gateway.log.read_text()


def test_a_damaged_file_of_keys_changes_nothing(system: Secured, owner: str) -> None:
    good = system.keys_file.read_text()
    try:
        system.keys_file.write_text(good[:50])
        time.sleep(0.6)
        assert system.caller(owner).call(LIST) == OK
        assert "file not read" in system.gateway.log.read_text()
    finally:
        system.keys_file.write_text(good)


def test_two_keys_in_one_call(system: Secured, owner: str) -> None:
    metadata = [("authorization", f"Bearer {owner}")] * 2
    assert system.caller(None).call(LIST, metadata=metadata) == INVALID


def test_a_header_of_8_kilobytes(system: Secured, owner: str) -> None:
    for size in (8 * 1024, 64 * 1024):
        metadata = [("authorization", "Bearer sen_" + "A" * size)]
        with pytest.raises(grpc.RpcError) as caught:
            system.caller(None).answers(LIST, metadata=metadata)
        # The larger one is refused by gRPC itself.
        assert caught.value.code().name in ("UNAUTHENTICATED", "RESOURCE_EXHAUSTED")
    assert system.caller(owner).call(LIST) == OK


def test_the_token_of_the_issuer_works(system: Secured) -> None:
    assert system.caller(system.issuer.token()).call(LIST) == OK
    assert system.caller(system.issuer.token("ec", "ES256")).call(LIST) == OK
    listed = system.issuer.token(scope=["read", "other"])
    assert system.caller(listed).call(LIST) == OK
    nothing = system.issuer.token(scope="openid profile")
    assert system.caller(nothing).call(LIST) == ("PERMISSION_DENIED", "SCOPE_MISSING")


def _hours(number: float) -> datetime:
    return datetime.now(UTC) + timedelta(hours=number)


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"aud": "another"}, INVALID),
        ({"aud": None}, INVALID),
        ({"iss": "https://another.test"}, INVALID),
        ({"exp": _hours(-1)}, EXPIRED),
        ({"exp": None}, INVALID),
        ({"nbf": _hours(1)}, INVALID),
        ({"sub": None}, INVALID),
        ({"tenant": "Not_A_Tenant"}, INVALID),
    ],
)
def test_a_token_with_other_claims(
    system: Secured, claims: dict[str, Any], expected: tuple[str, str]
) -> None:
    assert system.caller(system.issuer.token(**claims)).call(LIST) == expected


def test_a_token_without_a_signature(system: Secured) -> None:
    claims = jwt.decode(system.issuer.token(), options={"verify_signature": False})
    for headers in ({}, {"kid": "rsa"}):
        token = jwt.encode(claims, None, "none", headers=headers)
        assert system.caller(token).call(LIST) == INVALID


def test_a_token_signed_with_the_public_key(system: Secured) -> None:
    claims = jwt.decode(system.issuer.token(), options={"verify_signature": False})
    public = system.issuer.keys["rsa"].public_key()
    pem = public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    token = _signed_by_hand(claims, pem)
    assert system.caller(token).call(LIST) == INVALID


def _signed_by_hand(claims: dict[str, Any], secret: bytes) -> str:
    """PyJWT refuses to do this."""
    import base64
    import hashlib
    import hmac

    def part(content: bytes) -> bytes:
        return base64.urlsafe_b64encode(content).rstrip(b"=")

    head = part(json.dumps({"alg": "HS256", "typ": "JWT", "kid": "rsa"}).encode())
    body = part(json.dumps(claims).encode())
    tag = hmac.digest(secret, head + b"." + body, hashlib.sha256)
    return b".".join([head, body, part(tag)]).decode()


def test_a_token_of_an_unknown_key_and_of_one_that_was_just_added(system: Secured) -> None:
    stranger = rsa.generate_private_key(65537, 2048)
    system.issuer.keys["late"] = stranger
    token = system.issuer.token("late")
    assert system.caller(token).call(LIST) == INVALID
    system.issuer.add("late", stranger)
    time.sleep(5.5)  # an unknown key is not looked up for each token
    assert system.caller(system.issuer.token("late")).call(LIST) == OK


@pytest.mark.parametrize("client", ["another CA", "an expired one", "none"])
def test_a_certificate_that_is_not_accepted(tmp_path: Path, system: Secured, client: str) -> None:
    """At a server that asks for one; at its metrics, too."""
    pki, other = Pki.create(tmp_path / "pki"), Pki.create(tmp_path / "other")
    flags = [*pki.server_flags, "--tls-client-ca", pki.file("ca.pem")]
    with processes.running(
        tmp_path / "worker", "tests.fakes.worker", *flags, serving=False
    ) as worker:
        secured.wait_until_serving(pki.channel(worker.address, client=True))
        chosen = {
            "another CA": (other.file("client.pem"), other.file("client-key.pem")),
            "an expired one": expired(pki, tmp_path),
            "none": None,
        }[client]
        read = [Path(file).read_bytes() for file in chosen[::-1]] if chosen else [None, None]
        credentials = grpc.ssl_channel_credentials(Path(pki.file("ca.pem")).read_bytes(), *read)
        with (
            grpc.secure_channel(worker.address, credentials) as channel,
            pytest.raises(grpc.FutureTimeoutError),
        ):
            grpc.channel_ready_future(channel).result(2)
        assert fetch(worker.metrics_address, pki, chosen) != 200
        if chosen is None:  # probes have none
            assert fetch(worker.metrics_address, pki, None, "/readyz") == 200
        good = (pki.file("client.pem"), pki.file("client-key.pem"))
        assert fetch(worker.metrics_address, pki, good) == 200
        assert (
            Caller(pki.channel(worker.address, client=True)).call("EmbeddingService/GetModel") == OK
        )


def expired(pki: Pki, folder: Path) -> tuple[str, str]:
    """Return a certificate of the CA that was good until an hour ago."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    ca = x509.load_pem_x509_certificate(Path(pki.file("ca.pem")).read_bytes())
    ca_key = serialization.load_pem_private_key(Path(pki.file("ca-key.pem")).read_bytes(), None)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "late")]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(_hours(-48))
        .not_valid_after(_hours(-1))
        .sign(ca_key, hashes.SHA256())  # type: ignore[arg-type]
    )
    (folder / "late.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "late-key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return str(folder / "late.pem"), str(folder / "late-key.pem")


def fetch(address: str, pki: Pki, client: tuple[str, str] | None, path: str = "/metrics") -> int:
    """Return the HTTP status of a page of the metrics port; 0 if TLS itself failed."""
    context = ssl.create_default_context(cafile=pki.file("ca.pem"))
    if client is not None:
        context.load_cert_chain(*client)
    try:
        with urllib.request.urlopen(f"https://{address}{path}", context=context, timeout=5) as one:
            return int(one.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (urllib.error.URLError, OSError):
        return 0


def test_a_server_with_another_ca_or_another_name(tmp_path: Path, system: Secured) -> None:
    other = Pki.create(tmp_path / "other")
    for channel in (
        other.channel(system.gateway.address),
        system.pki.channel(system.gateway.address, name="another.test"),
    ):
        with channel, pytest.raises(grpc.FutureTimeoutError):
            grpc.channel_ready_future(channel).result(2)


def test_a_connection_without_tls(system: Secured, owner: str) -> None:
    with (
        grpc.insecure_channel(system.gateway.address) as channel,
        pytest.raises(grpc.FutureTimeoutError),
    ):
        grpc.channel_ready_future(channel).result(2)
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://{system.gateway.metrics_address}/metrics", timeout=5)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_an_old_version_of_tls(system: Secured, version: ssl.TLSVersion) -> None:
    for address in (system.gateway.address, system.gateway.metrics_address):
        context = ssl.create_default_context(cafile=system.pki.file("ca.pem"))
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, version
        context.set_ciphers("ALL:@SECLEVEL=0")
        host, port = address.split(":")
        with (
            socket.create_connection((host, int(port)), 5) as plain,
            pytest.raises((ssl.SSLError, ConnectionError)),
        ):
            context.wrap_socket(plain, server_hostname="localhost")


def test_a_worker_takes_no_key_of_a_user(system: Secured, owner: str) -> None:
    for key in (owner, None, system.issuer.token(scope="embed read")):
        caller = Caller(system.pki.channel(system.worker.address), key)
        for method in ("Embed", "GetModel", "Rank", "EmbedStream"):
            answer = caller.call(f"EmbeddingService/{method}")
            assert answer[0] == "UNAUTHENTICATED"


def test_ten_thousand_wrong_keys_harm_nobody_else(system: Secured, owner: str) -> None:
    """Of a known id, and of unknown ones; the memory stays."""
    caller = system.caller(owner)
    assert caller.call(LIST) == OK
    process = psutil.Process(system.gateway.process.pid)
    id_ = owner.split("_")[1]

    def attack(number: int) -> set[str]:
        attacker = system.caller(None)
        seen = set()
        for one in range(1_250):
            known = id_ if one % 2 else f"{number:04x}{one:08x}"
            metadata = [("authorization", f"Bearer sen_{known}_{number}wrong{one}")]
            seen.add(attacker.call(LIST, metadata=metadata)[1])
        return seen

    attack(99)
    before = process.memory_info().rss
    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(attack, number) for number in range(8)]
        answers = 0
        while not all(one.done() for one in running):
            assert caller.call(LIST) == OK
            answers += 1
        fresh = system.key("read")
        assert system.caller(fresh).call(LIST) == OK
        for one in running:
            assert one.result() <= {"CREDENTIALS_INVALID", "CREDENTIALS_THROTTLED"}
    assert answers > 10
    assert process.memory_info().rss - before < 64 * 2**20


def test_the_time_does_not_tell_how_much_of_a_key_is_right(system: Secured) -> None:
    """Right and wrong secrets are hashed alike, once each; here without network and throttling."""
    from sentinel_core.access.keys import matches

    entry = json.loads(system.keys_file.read_text())["keys"][0]
    key = system.key("read")
    entry = next(
        one
        for one in json.loads(system.keys_file.read_text())["keys"]
        if one["id"] == key.split("_")[1]
    )

    def seconds(tried: str) -> float:
        times = []
        for _ in range(40):
            start = time.perf_counter()
            matches(tried, entry["hash"])
            times.append(time.perf_counter() - start)
        return median(times)

    right, nearly, other = seconds(key), seconds(key[:-1] + "-"), seconds("x" * len(key))
    # A comparison that ends early would differ by nanoseconds; hashing only some, by milliseconds.
    assert max(right, nearly, other) < 3 * min(right, nearly, other)


def test_reflection_needs_a_key_and_can_be_off(tmp_path: Path, system: Secured, owner: str) -> None:
    from grpc_reflection.v1alpha import reflection_pb2

    request = reflection_pb2.ServerReflectionRequest(list_services="")

    def listed(caller: Caller) -> str:
        method = caller.channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )
        try:
            list(method(iter([request]), timeout=10, metadata=caller.metadata))
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"

    assert listed(system.caller(owner)) == "OK"
    assert listed(system.caller(None)) == "UNAUTHENTICATED"
    assert listed(system.caller(system.key("search"))) == "PERMISSION_DENIED"
    flags = ["--no-reflection", "--host", "127.0.0.1"]
    with processes.running(tmp_path / "w", "tests.fakes.worker", *flags) as worker:
        assert listed(Caller(grpc.insecure_channel(worker.address))) == "UNIMPLEMENTED"


def test_certificates_are_replaced_without_a_restart_and_without_a_lost_call(
    tmp_path: Path,
) -> None:
    with secured.running(tmp_path) as system:
        key = system.key("owner")
        old = system.caller(key)
        assert old.call(LIST) == OK
        serial = _serial(system.gateway.address)
        sentinel("certs", str(system.pki.folder), "--name", "worker.test")
        deadline = time.monotonic() + 30
        while _serial(system.gateway.address) == serial or (
            _serial(system.gateway.metrics_address) == serial
        ):
            assert old.call(LIST) == OK  # on its connection
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert system.caller(key).call(LIST) == OK
        made = collections.CreateCollectionRequest(collection=collections.Collection(name="words"))
        assert system.caller(key).call("CollectionService/CreateCollection", made) == OK
        params = search.SearchParams(collection="words", query=text("red"))  # asks the worker
        request = search.SearchRequest(params=params)
        assert system.caller(key).call("SearchService/Search", request) == OK


def _serial(address: str) -> str:
    """Return what identifies the certificate of a port."""
    host, port = address.split(":")
    return ssl.get_server_certificate((host, int(port)))
