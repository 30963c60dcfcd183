"""The client's side of access control: TLS, keys, where they come from, and the two commands."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from sentinel_client import (
    ClientConfig,
    FailedPrecondition,
    Item,
    PermissionDenied,
    RetryPolicy,
    SentinelClient,
    Tls,
)
from sentinel_client.cli import main
from tests.search_server.access import secured
from tests.search_server.access.secured import Pki, Secured
from tests.secure import sentinel


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with secured.running(tmp_path_factory.mktemp("secured")) as running:
        yield running


@pytest.fixture(scope="module")
def key(system: Secured) -> str:
    return system.key("owner")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("TLS", "TLS_CA", "TLS_CERT", "TLS_KEY", "TLS_SERVER_NAME")
    for name in (*names, "API_KEY", "API_KEY_FILE", "INSECURE"):
        monkeypatch.delenv(f"SENTINEL_{name}", raising=False)


def test_the_configuration_can_say_it(system: Secured, key: str) -> None:
    config = ClientConfig(tls=Tls(ca=system.pki.file("ca.pem")), api_key=key)
    with SentinelClient(system.gateway.address, config=config) as client:
        client.create_collection("configured")
        assert "configured" in {one.name for one in client.list_collections()}
    assert key not in repr(config)


def test_streams_send_the_key_too(system: Secured, key: str) -> None:
    config = ClientConfig(tls=Tls(ca=system.pki.file("ca.pem")), api_key=key)
    with SentinelClient(system.gateway.address, config=config) as client:
        client.create_collection("streams")
        acks = list(client.ingest([Item(id="one", text="red")], collection="streams"))
        assert sum(ack.stored_count for ack in acks) == 1
        assert [hit.id for hit in client.stream_search("red", collection="streams")] == ["one"]
        with pytest.raises(FailedPrecondition, match="no worker serves such a model"):
            list(client.reindex("streams", "streams_2"))


def test_a_key_may_be_a_function(system: Secured, key: str) -> None:
    keys = iter([key, "sen_wrong_x"])
    config = ClientConfig(tls=Tls(ca=system.pki.file("ca.pem")), api_key=lambda: next(keys))
    with SentinelClient(system.gateway.address, config=config) as client:
        client.list_collections()
        with pytest.raises(PermissionDenied) as caught:
            client.list_collections()
    assert caught.value.reason == "CREDENTIALS_INVALID"


def test_the_environment_can_say_it_and_files_are_followed(
    system: Secured, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "key"
    file.write_text(f"{key}\n")
    monkeypatch.setenv("SENTINEL_TLS_CA", system.pki.file("ca.pem"))
    monkeypatch.setenv("SENTINEL_API_KEY_FILE", str(file))
    with SentinelClient(system.gateway.address) as client:
        client.list_collections()
        time.sleep(0.01)
        file.write_text("sen_wrong_x")
        with pytest.raises(PermissionDenied):
            client.list_collections()
    assert sentinel("--address", system.gateway.address, "health")
    file.write_text(key)
    assert sentinel("--address", system.gateway.address, "collections")


def test_certificates_are_followed(system: Secured, key: str, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(Path(system.pki.file("ca.pem")).read_bytes())
    config = ClientConfig(tls=Tls(ca=ca), api_key=key, retry=RetryPolicy(max_attempts=1))
    with SentinelClient(system.gateway.address, config=config) as client:
        client.list_collections()
        other = Pki.create(tmp_path / "other")
        time.sleep(1.1)
        ca.write_bytes(Path(other.file("ca.pem")).read_bytes())
        time.sleep(0.1)
        with pytest.raises(Exception, match="UNREACHABLE"):
            client.list_collections(timeout=20)
        ca.write_text("half written")
        time.sleep(1.1)
        with pytest.raises(Exception, match="UNREACHABLE"):
            client.list_collections(timeout=20)
        time.sleep(1.1)
        ca.write_bytes(Path(system.pki.file("ca.pem")).read_bytes())
        client.list_collections()


def test_no_key_goes_to_another_machine_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="SENTINEL_TLS_CA"):
        SentinelClient("gateway.example.com:50050", config=ClientConfig(api_key="sen_a_b"))
    for elsewhere in (
        "unixhost.example.com:1",
        "ipv4:127.0.0.1:1,8.8.8.8:1",
        "dns://8.8.8.8/localhost:1",
    ):
        with pytest.raises(ValueError, match="SENTINEL_TLS_CA"):
            SentinelClient(elsewhere, config=ClientConfig(api_key="sen_a_b"))
    for here in (
        "localhost:1",
        "unix:/tmp/x",
        "ipv4:127.0.0.1:1,127.0.0.1:2",
        "dns:///localhost:1",
    ):
        SentinelClient(here, config=ClientConfig(api_key="sen_a_b")).close()
    SentinelClient(
        "gateway.example.com:50050", config=ClientConfig(api_key="sen_a_b", tls=True)
    ).close()
    monkeypatch.setenv("SENTINEL_INSECURE", "1")
    SentinelClient("gateway.example.com:1", config=ClientConfig(api_key="sen_a_b")).close()


@pytest.mark.parametrize(
    ("variable", "value"),
    [("SENTINEL_TLS_CA", "no-such-file"), ("SENTINEL_API_KEY_FILE", "no-such-file")],
)
def test_a_file_that_is_missing_is_named_at_once(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match="no-such-file"):
        SentinelClient("localhost:1")
    result = CliRunner().invoke(main, ["--address", "localhost:1", "collections"])
    assert result.exit_code == 2 and "no-such-file" in result.output


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SENTINEL_API_KEY", "sen_a_hush\nsen_a_hush"),
        ("SENTINEL_API_KEY", "sen_a_hush\u00e9"),
        ("SENTINEL_API_KEY_FILE", "sen_a_hush"),
    ],
)
def test_a_key_that_cannot_be_sent_is_refused_at_once_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match="key") as caught:
        SentinelClient("localhost:1")
    result = CliRunner().invoke(main, ["--address", "localhost:1", "collections"])
    assert result.exit_code == 2 and "key" in result.output
    assert "hush" not in str(caught.value) + result.output


def test_a_command_without_its_key_says_what_to_do(system: Secured) -> None:
    ca = system.pki.file("ca.pem")
    words = ["--address", system.gateway.address, "--tls-ca", ca, "collections"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert "CREDENTIALS_MISSING" in result.output and "SENTINEL_API_KEY" in result.output


def test_keys_are_created_listed_and_revoked(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "keys.json"
    words = ("keys", "create", "--file", str(file), "--grant", "search:pho*", "--grant", "read")
    first = sentinel(*words, "--name", "shop", "--tenant", "acme", "--expires", "90d")
    second = sentinel(*words)
    assert file.stat().st_mode & 0o077 == 0
    assert first not in file.read_text() and first.split("_", 2)[2] not in file.read_text()
    listed = sentinel("keys", "list", "--file", str(file), "--json").splitlines()
    entries = [json.loads(line) for line in listed]
    assert [one["id"] for one in entries] == [first.split("_")[1], second.split("_")[1]]
    assert entries[0]["tenant"] == "acme" and entries[0]["grants"] == ["search:pho*", "read"]
    assert not [one for one in entries if "hash" in one]
    assert "shop" in sentinel("keys", "list", "--file", str(file))
    sentinel("keys", "revoke", "--file", str(file), entries[0]["id"])
    assert first.split("_")[1] not in file.read_text()
    link = tmp_path / "link.json"
    link.symlink_to(file)
    file.chmod(0o640)
    sentinel("keys", "create", "--file", str(link), "--grant", "read")
    assert link.is_symlink() and file.stat().st_mode & 0o777 == 0o640  # the server still reads it
    result = CliRunner().invoke(main, ["keys", "revoke", "--file", str(file), "nobody"])
    assert result.exit_code == 2 and "sentinel keys list" in result.output


@pytest.mark.parametrize(
    "words",
    [
        ["--grant", "nothing"],
        ["--grant", "search:a b"],
        ["--grant", "search", "--tenant", "Not One"],
        ["--grant", "search", "--expires", "soon"],
        ["--grant", "search", "--expires", "999999999999d"],
        [],
    ],
)
def test_a_key_that_makes_no_sense_is_refused(tmp_path: Path, words: list[str]) -> None:
    file = tmp_path / "keys.json"
    result = CliRunner().invoke(main, ["keys", "create", "--file", str(file), *words])
    assert result.exit_code == 2
    assert not file.exists()


def test_certificates_are_renewed_by_the_same_ca(tmp_path: Path) -> None:
    pki = Pki.create(tmp_path)
    before = {name: Path(pki.file(name)).read_bytes() for name in ("ca.pem", "server.pem")}
    Pki.create(tmp_path)
    assert Path(pki.file("ca.pem")).read_bytes() == before["ca.pem"]
    assert Path(pki.file("server.pem")).read_bytes() != before["server.pem"]
    for name in ("ca-key.pem", "server-key.pem", "client-key.pem"):
        assert Path(pki.file(name)).stat().st_mode & 0o077 == 0
    context = ssl.create_default_context(cafile=pki.file("ca.pem"))
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # as Python 3.13 does by itself
    Path(pki.file("ca-key.pem")).unlink()
    result = CliRunner().invoke(main, ["certs", str(tmp_path)])
    assert result.exit_code == 2 and "ca-key.pem is missing" in result.output
    assert Path(pki.file("ca.pem")).read_bytes() == before["ca.pem"]
