"""Callers learn what they may do: over gRPC, by the client, and on the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner

from sentinel_client import Caller, ClientConfig, Grant, Scope, SentinelClient, SentinelError, Tls
from sentinel_client.cli import main
from tests import processes
from tests.search_server.access.secured import Secured
from tests.search_server.access.test_scopes import GET_CALLER

EVERYTHING = tuple(Grant(scope) for scope in Scope)


def asked(system: Secured, credential: str) -> Caller:
    config = ClientConfig(tls=Tls(ca=system.pki.file("ca.pem")), api_key=credential)
    with SentinelClient(system.gateway.address, config=config) as client:
        return client.get_caller()


def test_a_key_tells_its_grants_and_its_tenant(system: Secured) -> None:
    key = system.key("writer:photos*", "admin:mine", tenant="acme")
    caller = asked(system, key)
    assert caller.id == key.split("_")[1]
    assert caller.tenant == "acme"
    assert caller.access_controlled
    assert caller.grants == (
        Grant(Scope.SEARCH, "photos"),
        Grant(Scope.READ, "photos"),
        Grant(Scope.WRITE, "photos"),
        Grant(Scope.ADMIN, "mine", is_prefix=False),
        Grant(Scope.EMBED, "photos"),
    )
    assert caller.may(Scope.WRITE, "photos_2")
    assert not caller.may(Scope.WRITE, "mine")
    assert caller.may(Scope.ADMIN)
    assert not caller.may(Scope.ADMIN, "mine2")
    assert not caller.may(Scope.EMBED, "mine")


def test_a_token_tells_its_subject(system: Secured) -> None:
    caller = asked(system, system.issuer.token(sub="ann", scope="openid search:album"))
    assert (caller.id, caller.tenant) == ("ann", "")
    assert caller.grants == (Grant(Scope.SEARCH, "album", is_prefix=False),)


def test_a_credential_without_any_grant_is_enough(system: Secured) -> None:
    assert asked(system, system.issuer.token(scope="openid")).grants == ()


def test_a_credential_must_be_valid(system: Secured) -> None:
    assert system.caller(None).call(GET_CALLER) == ("UNAUTHENTICATED", "CREDENTIALS_MISSING")
    expired = system.issuer.token(exp=1)
    assert system.caller(expired).call(GET_CALLER) == ("UNAUTHENTICATED", "CREDENTIALS_EXPIRED")
    with pytest.raises(SentinelError) as raised:
        asked(system, "sen_nobody_nothing")
    assert raised.value.code is grpc.StatusCode.UNAUTHENTICATED
    assert raised.value.reason == "CREDENTIALS_INVALID"


def test_whoami_shows_it(system: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    key = system.key("reader", "write:mine*", "write:yours", tenant="acme")
    monkeypatch.setenv("SENTINEL_API_KEY", key)
    words = ["--address", system.gateway.address, "--tls-ca", system.pki.file("ca.pem"), "whoami"]
    shown = CliRunner().invoke(main, words, catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    first, *rows = shown.output.splitlines()
    assert first == f"You are {key.split('_')[1]} of tenant acme."
    table = [row.split() for row in rows if row.strip()]
    rows_of = {scope: names for scope, *names in table[-4:]}
    assert rows_of == {
        "search": ["all"],
        "read": ["all"],
        "embed": ["all"],
        "write": ["mine*,", "yours"],
    }
    assert key not in shown.output
    as_json = json.loads(CliRunner().invoke(main, [*words, "--json"]).output)
    assert {"scope": "write", "collection": "yours", "is_prefix": False} in as_json["grants"]


@pytest.fixture
def open_gateway(tmp_path: Path) -> Iterator[str]:
    """A gateway without access control and without a worker."""
    flags = processes.gateway_flags(tmp_path, str(tmp_path / "milvus.db"), "127.0.0.1:1")
    with processes.running(tmp_path, "search_server", *flags, serving=False) as gateway:
        yield gateway.address


def test_without_access_control_everything_is_allowed(open_gateway: str) -> None:
    with SentinelClient(open_gateway) as client:
        assert client.get_caller() == Caller("", "", EVERYTHING, access_controlled=False)
    shown = CliRunner().invoke(main, ["--address", open_gateway, "whoami"])
    assert shown.output == f"{open_gateway} has no access control: everybody may do everything.\n"
