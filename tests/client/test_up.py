"""`sentinel up` with stand-ins for both servers, as real processes."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sentinel_client import SentinelClient
from sentinel_client.cli import _library, main
from sentinel_client.cli._library import ModelChoice, Wanted, read_noted_milvus_uri
from sentinel_client.cli._server_log import MAX_LOG_BYTES
from tests.waiting import until

# Behaves as FAKE_<MODULE> says: die, die-later, deaf (to SIGTERM), waits, chatty, or well. An
# embedder of the model "owner/broken" dies.
STAND_IN = """
import json, os, pathlib, signal, sys, time

# Blocked in every thread and waited for: a handler in Python may never run while the main thread
# waits for a lock, and the death of a parent with threads may be signalled several times.
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

from concurrent.futures import ThreadPoolExecutor
import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

name = pathlib.Path(__file__).parent.name
how = "die" if "owner/broken" in sys.argv else os.environ.get("FAKE_" + name.upper(), "")
print(json.dumps({"arguments": sys.argv[1:], "pid": os.getpid()}), flush=True)
if how == "die":
    print(json.dumps({"level": "INFO", "message": "settings", "x": "y" * 1000}), flush=True)
    message = "cannot serve the model: no such device: gpu"
    print(json.dumps({"level": "ERROR", "message": message}), flush=True)
    print("E1129 07:58:22.750791   14860 add_port.cc:83] Failed to add port", flush=True)
    sys.exit(1)
server = grpc.server(ThreadPoolExecutor(2))
servicer = health.HealthServicer()
statuses = health_pb2.HealthCheckResponse
servicer.set("", statuses.NOT_SERVING if how == "waits" else statuses.SERVING)
health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
file = pathlib.Path(sys.argv[sys.argv.index("--address-file") + 1])
file.with_suffix(".tmp").write_text(f"127.0.0.1:{port} 127.0.0.1:9\\n")
file.with_suffix(".tmp").replace(file)
if how == "waits":
    why = "Milvus does not answer; check that it runs"
    print(json.dumps({"level": "WARNING", "message": "not serving", "why": why}), flush=True)
while how == "chatty":
    print(("x" * 99 + "\\n") * 5_000, end="", flush=True)
    if signal.sigtimedwait({signal.SIGTERM}, 0.1) is not None:
        os._exit(0)
while how == "deaf":
    time.sleep(1)
if how == "die-later" and signal.sigtimedwait({signal.SIGTERM}, 1) is None:
    print("out of memory", flush=True)
    os._exit(9)
signal.sigwait({signal.SIGTERM})
print("ended when asked", time.monotonic(), flush=True)
os._exit(0)
"""

# Listens on the port that it is given, as the search page does.
STAND_IN_APP = """
import http.server, json, os, sys
print(json.dumps({"arguments": sys.argv[1:], "pid": os.getpid()}), flush=True)
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), http.server.BaseHTTPRequestHandler).serve_forever()
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start `sentinel up`; whatever it leaves behind ends with the test."""
    for module in ("embedder_server", "search_server", "sentinel_app"):
        package = tmp_path / "modules" / module
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(STAND_IN_APP if module == "sentinel_app" else STAND_IN)
    started: list[subprocess.Popen[str]] = []

    def up(*arguments: str, folder: Path | None = None, **fakes: str) -> subprocess.Popen[str]:
        """Run it with --data of this test; with `folder`, there and without --data."""
        environment = {
            **os.environ,
            **{f"FAKE_{name.upper()}": how for name, how in fakes.items()},
            # The stand-ins come before the real servers.
            "PYTHONPATH": os.pathsep.join(
                [str(tmp_path / "modules"), os.environ.get("PYTHONPATH", "")]
            ),
            "PYTHONUNBUFFERED": "1",
            "SENTINEL_DATA": "" if folder else str(tmp_path / "sentinel-data"),
            "XDG_DATA_HOME": str(tmp_path / "share"),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "sentinel_client.cli", "up", "--port", "0", *arguments],
            cwd=folder or tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield up
    for process in started:
        process.kill()
        process.communicate()
    for log in tmp_path.glob("**/logs/*.log"):
        with suppress(ValueError, IndexError):  # it wrote so much that its first line is gone
            pid = arguments_of(log)["pid"]
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


def arguments_of(log: Path) -> Any:
    return json.loads(log.read_text().splitlines()[0])


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # dead, waiting for a reaper that containers may lack


def lines_until_up(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if "sentinel search" in line:
            return lines
    raise AssertionError(f"ended: {process.communicate()}")


@pytest.mark.plaintext("the fake servers of `sentinel up` have no TLS")
def test_it_starts_both_says_where_and_stops_both(start: Start, tmp_path: Path) -> None:
    process = start("--device", "cpu", "--worker-port", "0")
    lines = lines_until_up(process)
    data = tmp_path / "sentinel-data"
    gateway = (data / "run" / "gateway.address").read_text().split()[0]
    embedder = (data / "run" / "embedder.address").read_text().split()[0]
    assert any(line.startswith("gateway") and gateway in line for line in lines)
    assert any(line.startswith("embedder") and embedder in line for line in lines)
    assert f"export SENTINEL_ADDRESS={gateway}" in lines
    logs = [data / "logs" / "gateway.log", data / "logs" / "embedder.log"]
    told = [arguments_of(log) for log in logs]
    flags = dict(zip(told[0]["arguments"][::2], told[0]["arguments"][1::2], strict=True))
    workers = data / "run" / "workers"
    assert flags["--workers"] == workers.as_uri()
    assert workers.read_text().split() == [embedder]
    assert flags["--milvus-uri"] == str(data / "milvus.db")
    assert flags["--object-store-uri"] == str(data / "objects")
    with SentinelClient(gateway) as client:
        assert client.health().services[""].name == "SERVING"

    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert not any(alive(one["pid"]) for one in told)
    ends = [float(log.read_text().splitlines()[-1].split()[-1]) for log in logs]
    assert ends == sorted(ends), "the gateway ends before the embedder it calls"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/PID/status")
def test_sigint_stops_it_when_the_parent_ignores_sigint(start: Start, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited by what is started
    try:
        process = start()
    finally:
        signal.signal(signal.SIGINT, before)
    lines_until_up(process)
    logs = list((tmp_path / "sentinel-data" / "logs").glob("*.log"))
    servers = [arguments_of(log)["pid"] for log in logs]
    assert len(servers) == 2
    for pid in servers:
        ignored = re.search(r"SigIgn:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
        assert ignored
        assert not int(ignored[1], 16) & 1 << signal.SIGINT - 1, "the server ignores SIGINT, too"
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert not any(map(alive, servers))


def test_the_risk_of_another_host_is_passed_on_and_tls_of_others_is_not_taken(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SENTINEL_TLS_CA is for the usual gateway; the stand-ins here have no TLS."""
    monkeypatch.setenv("SENTINEL_TLS_CA", str(tmp_path / "no-such-file"))
    monkeypatch.setenv("SENTINEL_EMBEDDER_LOG_LEVEL", "error")
    lines_until_up(start("--host", "0.0.0.0", "--insecure"))
    logs = tmp_path / "sentinel-data" / "logs"
    told = arguments_of(logs / "embedder.log")["arguments"]
    assert told[told.index("--log-level") + 1] == "info", "`models use` needs its fingerprint"
    assert "--insecure" in arguments_of(logs / "gateway.log")["arguments"]
    assert "--reference-places" not in arguments_of(logs / "gateway.log")["arguments"]
    assert "--insecure" not in arguments_of(logs / "embedder.log")["arguments"]


def test_several_workers_are_all_named_to_the_gateway(start: Start, tmp_path: Path) -> None:
    lines_until_up(start("--workers", "2"))
    run = tmp_path / "sentinel-data" / "run"
    addresses = [(run / f"embedder-{n}.address").read_text().split()[0] for n in (1, 2)]
    assert (run / "workers").read_text().split() == addresses
    told = arguments_of(tmp_path / "sentinel-data" / "logs" / "gateway.log")["arguments"]
    assert told[told.index("--reference-places") + 1] == "file:///", "images stay where they are"


def test_auto_starts_one_worker_for_each_gpu_on_that_gpu(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    lines_until_up(start("--workers", "auto"))
    devices = []
    for number in (1, 2):
        log = tmp_path / "sentinel-data" / "logs" / f"embedder-{number}.log"
        told = arguments_of(log)["arguments"]
        devices.append(told[told.index("--device") + 1])
    assert devices == ["cuda:0", "cuda:1"]


def test_a_second_one_on_the_same_library_says_where_the_first_is(
    start: Start, tmp_path: Path
) -> None:
    first = start()
    lines_until_up(first)
    second = start()
    _, complaint = second.communicate(timeout=20)
    assert second.returncode == 3
    gateway = (tmp_path / "sentinel-data" / "run" / "gateway.address").read_text().split()[0]
    assert f"at {gateway} (process {first.pid})" in complaint
    assert "Traceback" not in complaint
    assert first.poll() is None


@pytest.mark.plaintext("the fake servers of `sentinel up` have no TLS")
def test_status_says_what_runs_where(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The developer may run a gateway at the default address.
    nobody = "127.0.0.1:1"
    command = importlib.import_module("sentinel_client.cli.status")
    monkeypatch.setattr(command, "DEFAULT_ADDRESS", nobody)

    def told(*arguments: str) -> str:
        data = ("--data", str(tmp_path / "sentinel-data"))
        words = ["--address", nobody, "status", *data, *arguments]
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output
        return result.stdout

    before = json.loads(told("--json"))
    assert (before["pid"], before["servers"], before["exists"]) == (None, [], False)
    assert "Nothing runs. Start it with `sentinel up`" in told()
    process = start("--app", "--app-port", "0")
    lines = lines_until_up(process)
    now = json.loads(told("--json"))
    assert now["pid"] == process.pid
    servers = {one["name"]: one for one in now["servers"]}
    assert list(servers) == ["gateway", "embedder", "app"]
    for name, one in servers.items():
        log = tmp_path / "sentinel-data" / "logs" / f"{name}.log"
        assert one["pid"] == arguments_of(log)["pid"]
        assert any(line.startswith(name) and one["address"] in line for line in lines), name
    assert [(one["model"], one["state"]) for one in now["models"]] == [
        ("conse-minilm-lite0", "serving")
    ]
    assert now["gateway"]["address"] == servers["gateway"]["address"]
    assert now["disk_bytes"]["logs"] > 0
    shown = told()
    assert all(f"process {one['pid']}" in shown for one in servers.values())
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert json.loads(told("--json"))["servers"] == []


def test_the_app_runs_beside_the_gateway_and_ends_with_it(start: Start, tmp_path: Path) -> None:
    process = start("--app", "--app-port", "0")
    lines_until_up(process)
    data = tmp_path / "sentinel-data"
    told = arguments_of(data / "logs" / "app.log")
    gateway = (data / "run" / "gateway.address").read_text().split()[0]
    assert told["arguments"][:2] == ["--gateway", gateway]
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert not alive(told["pid"])


def test_a_taken_port_of_the_app_is_named_before_anything_starts(
    start: Start, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        _, complaint = start("--app", "--app-port", str(port)).communicate(timeout=20)
    assert f"port {port} is in use: choose another --app-port" in complaint
    assert not list((tmp_path / "sentinel-data" / "logs").iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="the home of other systems")
def test_in_every_folder_it_is_one_library(start: Start, tmp_path: Path) -> None:
    home = tmp_path / "share" / "sentinel"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    first = start(folder=tmp_path / "one")
    assert any(line.startswith("library") and str(home) in line for line in lines_until_up(first))
    second = start(folder=tmp_path / "two")
    _, complaint = second.communicate(timeout=20)
    assert second.returncode == 3
    assert f"already runs on {home} at 127.0.0.1:" in complaint
    first.send_signal(signal.SIGINT)
    assert first.wait(20) == 0
    assert not list((tmp_path / "one").iterdir())
    # A library of an older version stays where it is, and counts in every folder.
    shutil.move(home, tmp_path / "one" / "sentinel-data")
    third = start(folder=tmp_path / "one")
    lines_until_up(third)
    fourth = start(folder=tmp_path / "two")
    assert f"already runs on {tmp_path / 'one' / 'sentinel-data'}" in fourth.communicate()[1]
    third.send_signal(signal.SIGINT)
    assert third.wait(20) == 0
    assert "every folder uses this library from now on" in third.communicate()[1]


def test_a_server_that_cannot_start_is_shown_with_its_last_words(
    start: Start, tmp_path: Path
) -> None:
    process = start(embedder_server="die")
    _, complaint = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "embedder ended by itself (exit code 1)" in complaint
    assert complaint.splitlines()[-1] == "  cannot serve the model: no such device: gpu"
    assert "settings" not in complaint
    assert "add_port" not in complaint


def test_it_says_what_it_waits_for_and_notes_which_milvus(start: Start, tmp_path: Path) -> None:
    process = start("--milvus-uri", "http://127.0.0.1:1", search_server="waits")
    assert process.stderr is not None
    expected = (
        "gateway: Milvus does not answer; check that it runs (--milvus-uri http://127.0.0.1:1)"
    )
    for line in process.stderr:
        if expected in line:
            break
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert read_noted_milvus_uri(tmp_path / "sentinel-data") == "http://127.0.0.1:1"


def test_a_log_stays_small_and_its_end_is_kept(start: Start, tmp_path: Path) -> None:
    process = start(embedder_server="chatty")
    lines_until_up(process)
    log = tmp_path / "sentinel-data" / "logs" / "embedder.log"
    before = log.with_suffix(".log.1")
    until(before.exists, 30)
    first = before.stat().st_mtime_ns
    until(lambda: before.stat().st_mtime_ns != first, 30)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert log.stat().st_size < 3 * MAX_LOG_BYTES  # with what the stand-in writes in a second
    assert set(log.read_bytes()) <= {ord("x"), ord("\n")}, "a hole: it does not append"


def test_one_that_dies_later_takes_the_other_along(start: Start, tmp_path: Path) -> None:
    process = start(search_server="die-later")
    lines_until_up(process)
    _, complaint = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "gateway ended by itself (exit code 9)" in complaint
    assert "out of memory" in complaint
    assert not alive(arguments_of(tmp_path / "sentinel-data" / "logs" / "embedder.log")["pid"])


def test_a_second_signal_does_not_wait(start: Start, tmp_path: Path) -> None:
    process = start(embedder_server="deaf", search_server="deaf")
    lines_until_up(process)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    for name in ("embedder", "gateway"):
        log = tmp_path / "sentinel-data" / "logs" / f"{name}.log"
        assert not alive(arguments_of(log)["pid"])


@pytest.mark.timeout(180)  # ten processes, one after the other
def test_it_runs_the_models_that_the_library_uses_and_follows_a_change(
    start: Start, tmp_path: Path
) -> None:
    data = tmp_path / "sentinel-data"
    (data / "run").mkdir(parents=True)
    _library.want(data, Wanted((ModelChoice("owner/new"), ModelChoice("owner/old", "1" * 40))))
    process = start()
    lines_until_up(process)

    def running() -> list[tuple[str, str]]:
        found = _library.read_running(data)
        return [(one.choice.model, one.state) for one in found.models] if found else []

    def workers() -> list[str]:
        return (data / "run" / "workers").read_text().split()

    def address(number: int) -> str:
        return (data / "run" / f"embedder-{number}.address").read_text().split()[0]

    assert running() == [("owner/new", "serving"), ("owner/old", "serving")]
    assert workers() == [address(1), address(2)]
    told = arguments_of(data / "logs" / "embedder-2.log")["arguments"]
    assert told[-4:] == ["--model", "owner/old", "--revision", "1" * 40]
    # Back to the old one: it goes first, and keeps its process.
    _library.want(data, Wanted((ModelChoice("owner/old", "1" * 40),)))
    until(lambda: running() == [("owner/old", "serving")], 60)
    assert workers() == [address(2)]
    assert not alive(arguments_of(data / "logs" / "embedder-1.log")["pid"])
    # One that dies while it starts ends nothing; another request starts it again.
    for number in (3, 4):
        wanted = Wanted((ModelChoice("owner/broken"), ModelChoice("owner/old", "1" * 40)))
        _library.want(data, wanted)
        log = data / "logs" / f"embedder-{number}.log"
        until(lambda log=log: log.exists() and ("owner/broken", "failed") in running(), 60)
        found = _library.read_running(data)
        assert found is not None and found.request == wanted.request
        assert "no such device" in found.models[0].why
        assert workers() == [address(2)]
    refused = start("--model", "owner/other")
    assert "leave out --model" in refused.communicate(timeout=60)[1]
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert _library.read_running(data) is None


def test_of_two_models_one_that_does_not_start_leaves_the_other(
    start: Start, tmp_path: Path
) -> None:
    data = tmp_path / "sentinel-data"
    (data / "run").mkdir(parents=True)
    _library.want(data, Wanted((ModelChoice("owner/broken"), ModelChoice("owner/old"))))
    process = start()
    lines_until_up(process)
    process.send_signal(signal.SIGINT)
    assert "cannot serve owner/broken: embedder-1 ended by itself" in process.communicate()[1]
    (data / "models.json").write_text('{"models": 3}')
    damaged = start()
    assert "models.json is damaged" in damaged.communicate(timeout=60)[1]


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG")
def test_killing_it_ends_the_servers_and_leaves_no_stale_lock(start: Start, tmp_path: Path) -> None:
    process = start()
    lines_until_up(process)
    logs = list((tmp_path / "sentinel-data" / "logs").glob("*.log"))
    pids = [arguments_of(log)["pid"] for log in logs]
    assert len(pids) == 2
    process.kill()
    until(lambda: not any(map(alive, pids)), 20)
    again = start()
    lines_until_up(again)
    assert all(log.with_suffix(".log.1").exists() for log in logs)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG")
def test_while_servers_of_a_killed_one_linger_the_folder_stays_taken(start: Start) -> None:
    process = start(search_server="deaf")
    lines_until_up(process)
    process.kill()
    process.wait()
    second = start()
    _, complaint = second.communicate(timeout=20)
    assert second.returncode == 3
    assert "an earlier `sentinel up` still use" in complaint


def test_missing_extras_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pymilvus" else real(name)
    )
    result = CliRunner().invoke(main, ["up", "--data", str(tmp_path / "data")])
    assert result.exit_code == 2
    assert "pymilvus missing" in result.stderr
    assert "pip install ./clients/python '.[all]' in Sentinel's folder" in result.stderr
    assert not (tmp_path / "data").exists()
