"""What Compose starts, on this machine: real Milvus, worker, gateway and client.

They have the files of deploy/setup.sh, and the variables and commands of docker-compose.yaml. Only
addresses differ: all of them are on this machine.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from sentinel_client import Consistency, Item, SentinelClient, SentinelError
from tests import milvus_server, photos, processes
from tests.deploy import files
from tests.deploy.contained import environment, set_up, start
from tests.waiting import until

pytestmark = [pytest.mark.milvus, pytest.mark.slow]

MODULES = {"gateway": "search_server", "worker-cpu": "embedder_server"}


@dataclass(frozen=True, slots=True)
class System:
    """What runs, and the folder of its secrets."""

    made: Path
    worker: processes.Server
    gateway: processes.Server
    app: dict[str, str]

    def client(self, monkeypatch: pytest.MonkeyPatch, **variables: str) -> SentinelClient:
        """A client with the app's variables, or others."""
        for name, value in {**self.app, **variables}.items():
            monkeypatch.setenv(name, value)
        return SentinelClient(at_home(self.gateway.address))


def at_home(address: str) -> str:
    return f"localhost:{address.rpartition(':')[2]}"


def server(name: str, made: Path, folder: Path, **addresses: str) -> processes.Server:
    """Start a service of ours, until its image's health check says that it is well."""
    whose = "worker" if name.startswith("worker") else name
    variables = {**environment(name, made, folder), **addresses}
    assert all(Path(file).exists() for file in variables.values() if file.startswith(str(made)))
    started = start(folder, MODULES[name], variables, secrets=made / whose, name="worker")
    (words,) = re.findall(r"^HEALTHCHECK .*?CMD (\[.*\])$", files.target(whose), re.MULTILINE)
    here = f"127.0.0.1:{started.address.rpartition(':')[2]}"
    check = [word.replace("127.0.0.1:50051", here) for word in json.loads(words)]

    def is_well() -> bool:
        assert started.process.poll() is None, started.log.read_text()[-3000:]
        sentinel = [sys.executable, "-m", "sentinel_client.cli", *check[1:]]
        seen = {**os.environ, **variables, "SENTINEL_ADDRESS": here}
        return subprocess.run(sentinel, env=seen, check=False).returncode == 0

    assert check[0] == "sentinel"
    until(is_well, 60)
    return started


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    made, base = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("system")
    # The only password that this version of Milvus begins with.
    result = set_up(made, MILVUS_ROOT_PASSWORD="Milvus")
    assert result.returncode == 0, result.stderr
    description = files.compose()["services"]["milvus"]
    command = [word.replace("$$", "$") for word in description["command"]]
    secrets = str(made / "milvus")
    with ExitStack() as stack:
        process, port = milvus_server.start(
            base / "milvus",
            command=[word.replace("/run/secrets", secrets) for word in command],
            environment={
                name: value.replace("/run/secrets", secrets)
                for name, value in description["environment"].items()
                if not name.startswith("ETCD_")  # it has its own
            },
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        worker = server("worker-cpu", made, base / "worker")
        stack.callback(worker.stop)
        gateway = server(
            "gateway",
            made,
            base / "gateway",
            SENTINEL_GATEWAY_WORKERS=f"dns:///worker:{worker.address.rpartition(':')[2]}",
            SENTINEL_GATEWAY_MILVUS_URI=f"https://localhost:{port}",
        )
        stack.callback(gateway.stop)
        yield System(made, worker, gateway, environment("app", made, base / "app"))


def test_a_picture_is_found_with_the_owners_key(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    with system.client(monkeypatch) as client:
        client.get_or_create_collection("photos")
        client.upsert(
            [Item(id=name, image=photos.photo(name)) for name in ("chelsea", "coffee")],
            collection="photos",
        )
        hits = client.search("a cat", collection="photos", limit=1, consistency=Consistency.STRONG)
        assert [hit.id for hit in hits] == ["chelsea"]


def test_the_commands_of_the_document_work(system: System, tmp_path: Path) -> None:
    """Those for Compose in docs/security.md. Only where a container's files lie is made up."""
    document = (files.ROOT / "docs/security.md").read_text()
    (block,) = re.findall(r"^```sh\n(umask 077\ndocker.*?)^```$", document, re.M | re.S)
    (tmp_path / "Pictures").mkdir()
    shutil.copy(photos.photo("coffee"), tmp_path / "Pictures")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/bin").symlink_to(Path(sys.executable).parent)
    container = 'docker() { [ "$1 $2 $3 $5" = "compose exec -T cat" ] && cat "$MADE/$4/${6##*/}"; }'
    result = subprocess.run(
        ["bash", "-ec", f"{container}\n{block}"],
        cwd=tmp_path,
        env={
            **os.environ,
            "HOME": str(tmp_path),
            "MADE": str(system.made),
            "SENTINEL_ADDRESS": at_home(system.gateway.address),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "1 " in result.stdout
    assert (tmp_path / "my-key").stat().st_mode & 0o077 == 0


def test_nobody_gets_in_without_a_key_or_in_plaintext(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not processes.is_serving(at_home(system.gateway.address))
    assert not processes.is_serving(at_home(system.worker.address))
    with (
        system.client(monkeypatch, SENTINEL_API_KEY_FILE="") as client,
        pytest.raises(SentinelError) as caught,
    ):
        client.list_collections()
    assert caught.value.reason == "CREDENTIALS_MISSING"


def test_a_key_that_setup_makes_works_without_a_restart(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = set_up(system.made, "keys", "create", "--grant", "read", MILVUS_ROOT_PASSWORD="Milvus")
    assert result.returncode == 0, result.stderr
    with system.client(
        monkeypatch, SENTINEL_API_KEY_FILE="", SENTINEL_API_KEY=result.stdout.strip()
    ) as client:

        def works() -> bool:
            try:
                client.list_collections()
            except SentinelError as error:
                assert error.reason == "CREDENTIALS_INVALID"
                return False
            return True

        until(works)
        with pytest.raises(SentinelError) as caught:
            client.create_collection("videos")
        assert caught.value.reason == "SCOPE_MISSING"


def test_prometheus_is_answered_over_tls(system: System) -> None:
    """With its CA and the names that it expects."""
    config = yaml.safe_load((files.DEPLOY / "prometheus/prometheus.yaml").read_text())
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    for name, running in (("gateway", system.gateway), ("worker", system.worker)):
        assert jobs[name]["scheme"] == "https"
        tls = jobs[name]["tls_config"]
        ca = tls["ca_file"].replace("/run/secrets", str(system.made / "prometheus"))
        context = ssl.create_default_context(cafile=ca)
        port = int(running.metrics_address.rpartition(":")[2])
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            context.wrap_socket(plain, server_hostname=tls["server_name"]) as connection,
        ):
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            with connection.makefile("rb") as answer:
                assert b"sentinel_" in answer.read()


def test_no_secret_is_in_a_log(system: System) -> None:
    names = ("app/key", "gateway/worker-key", "gateway/sentinel_gateway_page_token_secret")
    logs = system.gateway.log.read_text() + system.worker.log.read_text()
    assert "root:Milvus" not in logs
    for name in names:
        assert (system.made / name).read_text().strip() not in logs
