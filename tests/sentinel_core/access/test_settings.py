"""A server that others can reach needs TLS and credentials; secrets are on no command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from search_server.settings import GatewaySettings
from sentinel_core.settings import ServerSettings

TLS = {"tls_cert": "cert.pem", "tls_key": "key.pem"}
JWT = {"jwt_issuer": "i", "jwt_audience": "a", "jwt_keys": "k"}


def settings(**given: Any) -> GatewaySettings:
    return GatewaySettings(_env_file=None, **given)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def test_this_machine_needs_nothing(host: str) -> None:
    assert settings(host=host).tls() is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "gateway.example.com"])
def test_others_need_tls_and_credentials(host: str) -> None:
    for given, why in (
        ({}, "there is no TLS"),
        ({"keys_file": "keys.json"}, "there is no TLS"),
        (TLS, "there is no credentials"),
    ):
        with pytest.raises(ValidationError, match=why):
            settings(host=host, **given)
    for given in ({"keys_file": "keys.json"}, {"tls_client_ca": "ca.pem"}, JWT):
        assert settings(host=host, **TLS, **given).tls() is not None
    assert settings(host=host, insecure=True).tls() is None


KEYS = {"keys_file": "k"}


@pytest.mark.parametrize(
    "given",
    [
        {"tls_cert": "cert.pem"},
        {"tls_key": "key.pem"},
        {"tls_client_ca": "ca.pem"},
        {"jwt_issuer": "i"},
        {**JWT, "jwt_algorithms": "HS256"},
        {**JWT, "jwt_algorithms": "RS256,none"},
        {"worker_cert": "c"},
        {"worker_cert": "c", "worker_key": "k"},
        {**JWT, "jwt_keys": "http://issuer.test/keys"},
        {"keys_file": "k", "milvus_uri": "http://milvus:19530", "milvus_token": "root:Milvus"},
        {"worker_api_key_file": "k", "workers": "worker:50051"},
        {"milvus_ca": "ca.pem", "milvus_uri": "http://milvus:19530"},
        {"milvus_cert": "c", "milvus_uri": "https://milvus:19530"},
        {"quotas_file": "q"},
        {**KEYS, "object_store_uri": "/data/objects", "image_uri_places": "file:///data/"},
        {**KEYS, "object_store_uri": "/data/o o", "image_uri_places": "file:///data/o%20o/images/"},
        {**KEYS, "object_store_uri": "s3://b/x", "image_uri_places": "https://a/b/,s3://b/"},
    ],
)
def test_halves_are_refused(given: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        settings(**given)


def test_places_beside_the_object_store_are_allowed() -> None:
    places = "file:///data/photos/,s3://b/xy/,https://a/"
    assert settings(**KEYS, object_store_uri="s3://b/x", image_uri_places=places).keys_file
    stored = {"object_store_uri": "/data/objects", "image_uri_places": "file:///data/objects/"}
    assert settings(**stored).keys_file is None  # everybody reads everything there


def test_a_worker_needs_the_same() -> None:
    with pytest.raises(ValidationError, match="insecure"):
        ServerSettings(_env_file=None, host="0.0.0.0")


@pytest.mark.parametrize(
    ("module", "words", "flag"),
    [
        ("search_server", ["--milvus-token", "root:hush"], "--milvus-token"),
        ("search_server", ["--page-token-secret=hush"], "--page-token-secret"),
        ("search_server", ["check", "--milvus-token", "root:hush"], "--milvus-token"),
    ],
)
def test_a_secret_on_the_command_line_is_refused(module: str, words: list[str], flag: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", module, *words], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert flag in result.stderr and "SENTINEL_GATEWAY_" in result.stderr
    assert "hush" not in result.stderr + result.stdout


@pytest.mark.parametrize(
    ("name", "uri"),
    [
        ("milvus_uri", "http://root:hush@milvus:19530"),
        ("milvus_uri", "https://hush@milvus:19530"),
        ("object_store_uri", "ftp://me:hush@host/x"),
        ("image_uri_places", "https://a.example/x/,https://me:hush@b.example/"),
        ("jwt_keys", "https://me:hush@issuer.test/keys"),
        ("worker_api_key_file", "sen_a_hush"),
    ],
)
def test_a_secret_in_the_wrong_place_is_refused_and_not_shown(name: str, uri: str) -> None:
    with pytest.raises(ValidationError, match=name) as caught:
        settings(**{**JWT, name: uri})
    assert "hush" not in str(caught.value)


def test_an_account_in_a_uri_is_no_secret() -> None:
    uri = "abfs://container@account.dfs.core.windows.net/x"
    assert settings(object_store_uri=uri).object_store_uri == uri


def test_the_bulk_indexer_says_what_is_wrong_with_the_gateways_settings(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra `bulk` is not installed")
    variables = {"CERT": "no-pair", "TOKEN": "root:hush"}
    result = subprocess.run(
        [sys.executable, "-m", "bulk_indexer", "folder", "--run", "run"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, **{f"SENTINEL_GATEWAY_MILVUS_{k}": v for k, v in variables.items()}},
    )
    assert result.returncode == 2 and "milvus_cert" in result.stderr
    assert "hush" not in result.stderr and "Traceback" not in result.stderr


def test_errors_of_settings_do_not_show_the_others() -> None:
    with pytest.raises(ValidationError) as caught:
        settings(milvus_cert="c", milvus_token="hush", page_token_secret="hush")
    assert "hush" not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize("what", ["missing", "no PEM", "of another key"])
def test_certificates_that_do_not_work_end_the_start_with_one_line(
    tmp_path: Path, what: str
) -> None:
    from tests.search_server.access.secured import Pki

    pki, other = Pki.create(tmp_path / "pki"), Pki.create(tmp_path / "other")
    cert, key = Path(pki.file("server.pem")), Path(pki.file("server-key.pem"))
    if what == "missing":
        key.unlink()
    elif what == "no PEM":
        cert.write_text("no PEM")
    else:
        key.write_bytes(Path(other.file("server-key.pem")).read_bytes())
    result = subprocess.run(
        [sys.executable, "-m", "search_server", "--port", "0", *pki.server_flags],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "SENTINEL_GATEWAY_MILVUS_URI": str(tmp_path / "milvus.db")},
    )
    assert result.returncode == 1
    complaint = next(line for line in result.stderr.splitlines() if line.startswith("sentinel-"))
    assert str(cert) in complaint
    assert "Traceback" not in result.stderr
