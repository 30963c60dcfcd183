"""Secrets come from files and the environment, and are nowhere else after a run.

Worker and gateway run with all the secrets there are, at the level `debug`; calls and starts
succeed, and fail in many ways. Then every place that somebody may read is searched.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import pytest
from click.testing import CliRunner

import search_server.app
from search_server.maintenance import check
from search_server.settings import GatewaySettings
from sentinel.search.v1 import collection_service_pb2 as collections
from sentinel.search.v1 import item_service_pb2 as items
from sentinel.search.v1 import search_service_pb2 as search
from sentinel_client import ClientConfig, RetryPolicy, SentinelClient, Tls
from sentinel_client.cli import main
from sentinel_store.settings import StoreSettings
from tests import milvus_server, photos, processes
from tests.e2e.laptop import sentinel_up
from tests.s3_server import S3Server
from tests.search_server.access import secured
from tests.search_server.access.marks import Evidence
from tests.search_server.access.secured import Caller, Secured
from tests.search_server.access.test_scopes import REQUESTS
from tests.search_server.conftest import image, text
from tests.secure import sentinel
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.milvus, pytest.mark.s3, pytest.mark.timeout(400)]

GATEWAY = "SENTINEL_GATEWAY_"
ONCE = RetryPolicy(max_attempts=1)


@pytest.fixture(scope="module")
def evidence(
    tmp_path_factory: pytest.TempPathFactory, milvus_server_uri: str, s3: S3Server
) -> Evidence:
    """Return what a run with secrets left."""
    folder, evidence = tmp_path_factory.mktemp("secrets"), Evidence()
    marks = evidence.marks
    proxy = quote(marks.new("password of the proxy"), safe="")
    redis = quote(marks.new("password of Redis"), safe="")
    environment = {
        **s3.environment(),
        "HF_TOKEN": marks.new("token of the hub"),
        "https_proxy": f"http://somebody:{proxy}@127.0.0.1:9",
        "no_proxy": "127.0.0.1,localhost",
        f"{GATEWAY}MILVUS_TOKEN": f"root:{marks.new('token of Milvus')}",
        f"{GATEWAY}PAGE_TOKEN_SECRET": marks.new("secret of page tokens"),
        # Nobody is there: the log says so, and quotas hold for this gateway alone.
        f"{GATEWAY}QUOTA_REDIS_URL": f"redis://user:{redis}@127.0.0.1:9",
        f"{GATEWAY}LOG_LEVEL": "debug",
        "SENTINEL_EMBEDDER_LOG_LEVEL": "debug",
    }
    marks.add("key of S3", s3.secret)
    quotas = folder / "quotas.json"
    quotas.write_text('{"callers": {"*": {"calls_per_second": 1000000}}}')
    milvus = milvus_server.new_database(milvus_server_uri)
    stores = ("--milvus-uri", milvus, "--object-store-uri", f"s3://{s3.bucket()}/x")
    stores += ("--quotas-file", str(quotas))
    with secured.running(
        folder, *stores, embedder="embedder_server", environment=environment, forked=False
    ) as system:
        for pem in system.pki.folder.glob("*-key.pem"):
            marks.add_pem(pem)
        worker_key = folder / "worker-key"
        marks.add_key("key for workers", worker_key.read_text().strip())
        owner = system.key("owner")
        marks.add_key("key of the owner", owner)
        _calls(system, owner, evidence)
        _client(system, owner, evidence)
        _commands(system, owner, evidence)
        _broken_files(system, owner, evidence, worker_key)
        for name, server in (("gateway", system.gateway), ("worker", system.worker)):
            evidence.note_command_lines(name, server.process.pid)
            evidence.note_metrics(name, server.metrics_address, system.pki.file("ca.pem"))
    _settings_that_fail(environment, evidence)
    _stores_that_fail(folder, environment, evidence)
    _laptop(folder / "laptop", environment, evidence)
    evidence.note_files(folder, folder / "pki", worker_key)
    return evidence


def _calls(system: Secured, owner: str, evidence: Evidence) -> None:
    """Call every method with a credential that may, and with many that may not."""
    marks, caller = evidence.marks, system.caller(owner)
    made = collections.CreateCollectionRequest(collection=collections.Collection(name="photos"))
    caller.answers("CollectionService/CreateCollection", made)
    cat = items.Item(content=image(photos.photo("chelsea").read_bytes()))
    upsert = items.UpsertItemsRequest(collection="photos", items=[cat])
    [stored] = caller.answers("ItemService/UpsertItems", upsert)
    assert stored.results[0].outcome == items.ItemResult.OUTCOME_STORED
    page = search.SearchPageRequest(
        params=search.SearchParams(collection="photos", query=text("a cat")), page_size=1
    )
    [found] = caller.answers("SearchService/SearchPage", page)
    signature = re.search("Signature=([^&]+)", found.hits[0].image_uri)
    assert signature is not None
    marks.add("signature of a presigned URI", signature[1])
    token = system.issuer.token(scope="owner")
    unknown = "sen_000000000000_" + marks.new("unknown key")
    wrong = owner.rpartition("_")[0] + "_" + marks.new("wrong key")
    callers = {
        "owner": f"Bearer {owner}",
        "token": f"Bearer {token}",
        "expired token": f"Bearer {system.issuer.token(exp=1)}",
        "token for others": f"Bearer {system.issuer.token(aud='others')}",
        "forged token": f"Bearer {token[:-40]}{marks.new('signature')}",
        "no token": f"Bearer a.{marks.new('no token')}.b",
        "unknown key": f"Bearer {unknown}",
        "wrong key": f"Bearer {wrong}",
        "long key": f"Bearer {wrong}{'x' * 4000}",
        "no bearer": owner,
        "another kind": f"Basic {base64.b64encode(owner.encode()).decode()}",
        "two keys": f"Bearer {owner} {wrong}",
    }
    for name, credential in callers.items():
        if "token" in name and name != "no token":
            marks.add_token(name, credential)
        for method, (_, requests) in REQUESTS.items():
            if name in ("owner", "token") and method.split("/")[1].startswith("Delete"):
                continue
            try:
                caller.answers(method, *requests, metadata=[("authorization", credential)])
            except grpc.RpcError as error:
                evidence.note_error(f"{name} {method}", error)
    with pytest.raises(grpc.RpcError) as caught:
        caller.answers("ItemService/GetItems", items.GetItemsRequest(collection="nothing"))
    evidence.note_error("no collection", caught.value)
    with pytest.raises(grpc.RpcError) as caught:
        raw = caller.channel.unary_unary("/sentinel.search.v1.ItemService/GetItems")
        raw(b"\xff\xff no message", metadata=caller.metadata, timeout=20)
    evidence.note_error("no message", caught.value)
    direct = Caller(system.pki.channel(system.worker.address), owner)
    with pytest.raises(grpc.RpcError) as caught:
        direct.answers("EmbeddingService/GetModel")
    evidence.note_error("straight to the worker", caught.value)


def _client(system: Secured, owner: str, evidence: Evidence) -> None:
    """Use the Python client with keys that work, do not work, and cannot be sent."""
    tls = Tls(ca=system.pki.file("ca.pem"), cert=None)
    address = system.gateway.address
    wrong = owner[:-20] + "x" * 20
    tries: dict[str, tuple[str, ClientConfig]] = {
        "works": (address, ClientConfig(tls=tls, api_key=owner)),
        "wrong": (address, ClientConfig(tls=tls, api_key=wrong, retry=ONCE)),
        "a line break": (address, ClientConfig(tls=tls, api_key=f"{owner}\n{wrong}", retry=ONCE)),
        "not ASCII": (address, ClientConfig(tls=tls, api_key=f"{owner}é", retry=ONCE)),
        "no TLS": (address, ClientConfig(tls=False, api_key=owner, retry=ONCE)),
        "nobody there": ("127.0.0.1:1", ClientConfig(tls=tls, api_key=owner, retry=ONCE)),
        "another machine": ("gateway.example.com:1", ClientConfig(api_key=owner)),
    }
    with evidence.noting_records("client"):
        for name, (where, config) in tries.items():
            evidence.note(f"printed: configuration, {name}", repr(config))
            try:
                with SentinelClient(where, config=config) as client:
                    evidence.note(f"printed: client, {name}", f"{client!r} {vars(client)!r}")
                    client.list_collections(timeout=20)
            except Exception as error:
                evidence.note_error(f"client, {name}", error)
            else:
                assert name == "works"
    assert all(f"error: client, {name}" in evidence.places for name in tries if name != "works")


def _commands(system: Secured, owner: str, evidence: Evidence) -> None:
    """Run commands of `sentinel` with keys in the environment."""
    ca = system.pki.file("ca.pem")
    by_key = {"SENTINEL_TLS_CA": ca, "SENTINEL_API_KEY": owner}
    at = ["--address", system.gateway.address]
    listing = [*at, "collections"]
    tries: list[tuple[list[str], dict[str, str], int]] = [
        (listing, by_key, 0),
        ([*at, "search", "a cat"], by_key, 0),
        ([*at, "health"], by_key, 0),
        (["--help"], by_key, 0),
        (["keys", "list", "--file", str(system.keys_file)], by_key, 0),
        (["keys", "list", "--file", str(system.keys_file), "--json"], by_key, 0),
        (listing, {**by_key, "SENTINEL_API_KEY": owner[:-20] + "x" * 20}, 2),
        (listing, {**by_key, "SENTINEL_API_KEY": f"{owner}\n{owner}"}, 2),
        (listing, {"SENTINEL_TLS_CA": ca, "SENTINEL_API_KEY_FILE": owner}, 2),
        (["--address", "gateway.example.com:1", "collections"], {"SENTINEL_API_KEY": owner}, 2),
        (["--address", "127.0.0.1:1", "collections"], by_key, 2),
    ]
    for number, (words, environment, code) in enumerate(tries):
        result = CliRunner().invoke(main, words, env=environment)
        evidence.note(f"printed: sentinel {number}", result.output)
        if result.exception is not None:
            evidence.note_error(f"sentinel {number}", result.exception)
        assert result.exit_code == code, (words, result.output)
    process = subprocess.Popen(
        [sys.executable, "-m", "sentinel_client.cli", *listing],
        env={**os.environ, **by_key},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    evidence.note_command_lines("sentinel", process.pid)
    evidence.note("printed: sentinel as a process", process.communicate(timeout=60)[0])
    assert process.returncode == 0


def _broken_files(system: Secured, owner: str, evidence: Evidence, worker_key: Path) -> None:
    """Break the files that servers read again, one after the other."""
    caller, log = system.caller(owner), system.gateway.log
    broken = "sen_000000000000_" + evidence.marks.new("broken key for workers")
    kept = worker_key.read_bytes()
    worker_key.write_text(broken)
    params = search.SearchParams(collection="photos", query=text("words that nobody knows yet"))
    with pytest.raises(grpc.RpcError) as caught:
        caller.answers("SearchService/Search", search.SearchRequest(params=params))
    evidence.note_error("the worker refuses the gateway", caught.value)
    worker_key.write_bytes(kept)
    certificate = Path(system.pki.file("server-key.pem"))
    half = certificate.read_text()[:-60]
    for file, content, complaint in (
        (certificate, half, "certificates not replaced"),
        (system.keys_file, system.keys_file.read_text()[:-9], "file not read"),
    ):
        kept = file.read_bytes()
        file.write_text(content)
        until(lambda complaint=complaint: _has_said(caller, log, complaint))
        file.write_bytes(kept)


def _has_said(caller: Caller, log: Path, complaint: str) -> bool:
    caller.call("CollectionService/ListCollections")
    return complaint in log.read_text()


def _settings_that_fail(environment: Mapping[str, str], evidence: Evidence) -> None:
    """Start programs with settings that are wrong, and ask them for help."""
    marks = evidence.marks
    password, key = marks.new("password in a URI"), "sen_0_" + marks.new("key as a file")
    inside = quote(password, safe="")
    for number, (wrong, words) in enumerate(
        [
            ({}, ["--help"]),
            ({}, ["--port", "no number"]),
            ({}, ["--tls-cert", "no-pair"]),
            ({}, ["--host", "0.0.0.0"]),
            ({}, ["--no-such-flag"]),
            ({"MILVUS_URI": f"http://root:{inside}@127.0.0.1:1"}, []),
            ({"OBJECT_STORE_URI": f"ftp://me:{inside}@127.0.0.1:1/x"}, []),
            ({"IMAGE_URI_PLACES": f"https://a/b/,https://me:{inside}@example.com/"}, []),
            ({"JWT_KEYS": f"https://{inside}@example.com/jwks"}, []),
            ({"WORKER_API_KEY_FILE": key}, []),
        ]
    ):
        variables = {**environment, **{GATEWAY + name: value for name, value in wrong.items()}}
        told, code = _printed(search_server.app.run, words, variables)
        evidence.note(f"printed: sentinel-gateway {number}", told)
        assert code == (0 if words == ["--help"] else 2), told
        told, code = _printed(lambda words=words: check.run(words), words, variables)
        evidence.note(f"printed: sentinel-gateway check {number}", told)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        read = GatewaySettings(_env_file=None)
        assert read.milvus_token.get_secret_value() == environment[f"{GATEWAY}MILVUS_TOKEN"]
        evidence.note("printed: settings", f"{read!r} {read} {read.model_dump_json()}")
        for kind in (GatewaySettings, StoreSettings):
            with pytest.raises(ValueError, match="milvus_cert") as caught:
                kind(_env_file=None, milvus_cert="no-pair", milvus_token=password)
            evidence.note_error(f"settings {kind.__name__}", caught.value)


def _stores_that_fail(folder: Path, environment: Mapping[str, str], evidence: Evidence) -> None:
    """Run a gateway without its stores, one with a mistake in its code, and some without files."""
    # This S3 store refuses all session tokens.
    token = evidence.marks.new("session token of S3")
    environment = {**environment, "AWS_SESSION_TOKEN": token}
    flags = ("--milvus-uri", "http://127.0.0.1:1", "--object-store-uri", "s3://no-bucket/x")
    mistake: dict[str, Any] = {"sentinel_store.milvus.connection._CONNECT_TIMEOUT_S": "no number"}
    for name, constants in (("nowhere", {}), ("mistaken", mistake)):
        with processes.running(
            folder / name,
            "search_server",
            *flags,
            serving=False,
            environment=environment,
            constants=constants,
        ) as gateway:
            caller = Caller(grpc.insecure_channel(gateway.address))
            with pytest.raises(grpc.RpcError) as caught:
                caller.answers("CollectionService/ListCollections")
            evidence.note_error(name, caught.value)
            expected = "UNAVAILABLE" if name == "nowhere" else "INTERNAL"
            assert caught.value.code().name == expected
    broken = folder / "no-keys.json"
    broken.write_bytes(b"\xff")
    for file in (broken, folder, folder / "missing"):
        with pytest.raises(RuntimeError) as start:
            flags = (*flags, "--keys-file", str(file))
            processes.start(folder / "keyless", "search_server", *flags, environment=environment)
        evidence.note_error(f"keys in {file.name}", start.value)


def _printed(
    run: Callable[[], int], words: Sequence[str], environment: Mapping[str, str]
) -> tuple[str, int]:
    """Return what a program prints, and its exit code."""
    stream = StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(stream), redirect_stderr(stream):
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["program", *words])
        try:
            code = run()
        except SystemExit as end:
            code = int(end.code or 0)
    return stream.getvalue(), code


def _laptop(folder: Path, environment: Mapping[str, str], evidence: Evidence) -> None:
    """Run `sentinel up` with all the secrets."""
    key = sentinel("keys", "create", "--file", str(folder / "keys.json"), "--grant", "owner")
    evidence.marks.add_key("key of the laptop", key)
    variables = {**environment, f"{GATEWAY}KEYS_FILE": str(folder / "keys.json")}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**variables, "SENTINEL_API_KEY": key}.items():
            patch.setenv(name, value)
        with sentinel_up(folder) as (process, address):
            evidence.note_command_lines("sentinel up", process.pid)
            with SentinelClient(address) as client:
                client.create_collection("photos")
        assert process.stdout is not None
        evidence.note("printed: sentinel up", process.stdout.read())


@pytest.mark.parametrize("kind", ["argv", "error", "file", "log", "metrics", "printed"])
def test_no_secret_is_there(evidence: Evidence, kind: str) -> None:
    assert evidence.leaks(kind) == {}


def test_the_run_was_noisy(evidence: Evidence) -> None:
    """Else there was nothing to find."""
    log = evidence.places["log: gateway/search_server.log"].decode()
    for words in ('"settings"', "worker changed", "file not read", "certificates not replaced"):
        assert words in log
    assert "Traceback" in evidence.places["log: mistaken/search_server.log"].decode()
    assert '"who"' in evidence.places["log: audit.log"].decode()
    assert len([name for name in evidence.places if name.startswith("argv")]) >= 6


@pytest.mark.parametrize(
    "hidden",
    [
        str,
        lambda secret: secret[: len(secret) // 2],
        lambda secret: quote(secret, safe=""),
        lambda secret: base64.b64encode(f"x:{secret}".encode()).decode(),
        lambda secret: base64.b64encode(f"xy:{secret}y".encode()).decode(),
        lambda secret: base64.urlsafe_b64encode(f"{secret}zz".encode()).decode(),
        lambda secret: repr(secret.encode().hex()),
    ],
)
@pytest.mark.parametrize("kind", ["argv", "error", "file", "log", "printed"])
def test_a_secret_that_is_there_is_found(
    tmp_path: Path, kind: str, hidden: Callable[[str], str]
) -> None:
    evidence = Evidence()
    secret = hidden(evidence.marks.new("planted"))
    _plant(evidence, tmp_path, kind, secret)
    evidence.note(f"{kind}: another place", "nothing")
    assert list(evidence.leaks(kind).values()) == [["planted"]]


def _plant(evidence: Evidence, folder: Path, kind: str, secret: str) -> None:
    if kind == "argv":
        command = [sys.executable, "-c", "input()", secret]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
            evidence.note_command_lines("child", process.pid)
    elif kind == "error":
        evidence.note_error("planted", ValueError(secret))
    elif kind == "printed":
        evidence.note("printed: it", secret)
    else:
        (folder / ("a.log" if kind == "log" else "a.json")).write_text(f'{{"a": "{secret}"}}')
        (folder / "secret").write_text(secret)
        evidence.note_files(folder, folder / "secret")
