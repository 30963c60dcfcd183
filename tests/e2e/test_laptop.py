"""One person on a laptop: `sentinel up`, `sentinel index`, `sentinel search`, as processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests import photos
from tests.e2e.laptop import SENTINEL, sentinel, sentinel_up

pytestmark = pytest.mark.timeout(180)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sample photos in two folders, with a broken file and one that is no picture."""
    made = tmp_path / "photos" / "deeper"
    made.mkdir(parents=True)
    for number, path in enumerate(photos.all_photos()):
        shutil.copy(path, made.parent if number % 2 else made)
    (made / "cut.jpg").write_bytes(photos.photo("rocket").read_bytes()[:9_000])
    (made / "notes.txt").write_text("not a picture")
    return made.parent


def test_index_and_search_a_folder(tmp_path: Path, folder: Path) -> None:
    count = len(photos.all_photos())
    with sentinel_up(tmp_path / "data") as (_, address):
        assert sentinel(address, "health").returncode == 0
        first = sentinel(address, "index", folder)
        assert first.returncode == 1  # one file failed, and only that one
        assert "cut.jpg" in first.stdout + first.stderr
        assert f"{count} stored" in first.stdout
        again = sentinel(address, "index", folder)
        assert f"0 stored, {count} unchanged" in again.stdout
        found = sentinel(address, "search", "a cat", "--limit", 3, "--json")
        hits = [json.loads(line) for line in found.stdout.splitlines()]
        assert [hit["rank"] for hit in hits] == [1, 2, 3]
        assert hits[0]["query"] == "a cat"
        assert Path(hits[0]["path"]).name == "chelsea.png"
        assert {"id", "score", "image_uri"} <= hits[0].keys()
        queries = tmp_path / "queries.txt"
        queries.write_text("a cat\na cup of coffee\n")
        sheet = tmp_path / "sheet.html"
        assert sentinel(address, "search", "-f", queries, "--html", sheet).returncode == 0
        page = sheet.read_text()
        assert "a cup of coffee" in page
        assert page.count("data:image/webp;base64,") >= 2
        listed = sentinel(address, "collections", "--json").stdout
        assert json.loads(listed.splitlines()[0])["item_count"] == count


@pytest.mark.slow
def test_up_stops_cleanly_and_keeps_what_it_had(tmp_path: Path, folder: Path) -> None:
    data = tmp_path / "data"
    with sentinel_up(data) as (process, address):
        sentinel(address, "index", folder)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert sentinel(address, "health").returncode != 0
    with sentinel_up(data) as (_, address):
        again = sentinel(address, "index", folder)
        assert f"0 stored, {len(photos.all_photos())} unchanged" in again.stdout


@pytest.mark.slow
def test_a_second_up_on_the_same_data_is_refused(tmp_path: Path) -> None:
    with sentinel_up(tmp_path / "data"):
        second = subprocess.run(
            [SENTINEL, "up", "--data", tmp_path / "data", "--port", "0"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert second.returncode != 0
        assert "sentinel up" in second.stderr


@pytest.mark.long
@pytest.mark.slow
def test_sigkill_of_the_gateway_during_index_loses_and_doubles_nothing(
    tmp_path: Path, folder: Path
) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for copy in range(12):  # different bytes, same picture: what follows a picture is ignored
        for path in photos.all_photos():
            (many / f"{copy}-{path.name}").write_bytes(path.read_bytes() + bytes([copy]))
    total = len(list(many.iterdir()))
    data = tmp_path / "data"
    with sentinel_up(data) as (process, address):
        pids = children(process.pid, "search_server")
        indexing = subprocess.Popen(
            [SENTINEL, "--address", address, "index", many],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for_rows(data, address)
        os.kill(pids[0], signal.SIGKILL)
        assert process.wait(60) == 1  # up says which of its servers died
        assert process.stdout is not None
        assert "gateway" in process.stdout.read()
        assert indexing.wait(120) != 0
    with sentinel_up(data) as (_, address):
        assert sentinel(address, "index", many).returncode == 0
        listed = sentinel(address, "collections", "--json").stdout
        assert json.loads(listed.splitlines()[0])["item_count"] == total
        found = sentinel(address, "search", "a cat", "--limit", 1000, "--json")
        paths = [json.loads(line)["path"] for line in found.stdout.splitlines()]
        assert len(paths) == total
        assert len(set(paths)) == total


def children(pid: int, module: str) -> list[int]:
    """The child processes of `pid` that run `module`."""
    listed = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [
        int(child)
        for child in listed.stdout.split()
        if module in Path(f"/proc/{child}/cmdline").read_text()
    ]


def wait_for_rows(data: Path, address: str) -> None:
    """Wait until the gateway has stored something, by its own metrics."""
    metrics = (data / "run" / "gateway.address").read_text().split()[1]
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=5) as answer:
            if b'outcome="stored"' in answer.read():
                return
        time.sleep(0.02)
    raise TimeoutError(address)


@pytest.mark.slow
def test_the_demo_runs_twice_and_embeds_once(tmp_path: Path) -> None:
    """`make demo` itself, but for setting up the environment."""
    runs = [
        subprocess.run(
            [sys.executable, ROOT / "scripts" / "demo.py", "--out", tmp_path / "demo"],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        for _ in range(2)
    ]
    for result in runs:
        assert result.returncode == 0, result.stdout + result.stderr
        assert result.stdout.index("chelsea.png") < result.stdout.index("coffee.png")
    assert "0 unchanged" in runs[0].stdout
    assert " 0 stored" in runs[1].stdout
    assert (tmp_path / "demo" / "hits.html").read_text().count("<img") > 10
