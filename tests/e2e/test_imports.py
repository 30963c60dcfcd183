"""Datasets through `sentinel import` into the real gateway, the real model and Milvus Lite."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sentinel_client import SentinelClient
from tests import photos, processes
from tests.client import datasets
from tests.e2e.laptop import SENTINEL, sentinel, sentinel_up

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def listed_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the gateway fetches from."""
    return tmp_path_factory.mktemp("listed")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, listed_place: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SENTINEL_GATEWAY_IMAGE_URI_PLACES", f"{listed_place.as_uri()}/")
        with sentinel_up(tmp_path_factory.mktemp("up") / "data") as (_, address):
            yield address


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def imported(address: str, *words: object) -> str:
    done = sentinel(address, *words)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def found(address: str, text: str, collection: str) -> dict[str, object]:
    answer = sentinel(address, "search", text, "-c", collection, "-n", 1, "--json")
    assert answer.returncode == 0, answer.stderr
    return dict(json.loads(answer.stdout)["fields"])


def test_flickr30k_with_captions_and_a_broken_row(address: str, tmp_path: Path) -> None:
    root = datasets.flickr30k_of_kaggle(tmp_path / "data")
    command = ("import", "flickr30k", root)
    assert "3 stored, 0 unchanged, 1 failed" in imported(address, *command)
    cat = found(address, "a cat", "flickr30k")
    assert cat["file_name"] == "chelsea.jpg"
    captions = cat["captions"]
    assert isinstance(captions, list)
    assert len(captions) == 5
    assert "0 stored, 3 unchanged, 1 failed" in imported(address, *command)


@pytest.mark.slow
def test_the_documented_way_to_flickr30k_takes_four_commands(address: str, tmp_path: Path) -> None:
    """As written, but for ports, in the layout of the archive that Kaggle serves."""
    guide = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text()
    section = guide.split("## Flickr30k, from its archive to the first search")[1]
    commands = section.split("```sh\n")[1].split("```")[0].splitlines()
    unzip, up, load, app = (line.split("#")[0].split() for line in commands)
    datasets.flickr30k_of_kaggle(tmp_path / "published")
    shutil.make_archive(str(tmp_path / "archive"), "zip", tmp_path / "published")
    assert unzip[-1] == "archive.zip"
    subprocess.run(unzip, cwd=tmp_path, check=True)
    assert up == [".venv/bin/sentinel", "up", "&"]  # `address` is what it starts

    environment = {**os.environ, "SENTINEL_ADDRESS": address}
    done = subprocess.run(
        [SENTINEL, *load[1:]], cwd=tmp_path, env=environment, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert "1 failed" in done.stdout, done.stderr  # the miniature has a broken row
    assert found(address, "a cat", "flickr30k")["file_name"] == "chelsea.jpg"

    port = processes.free_port()
    command = [SENTINEL.with_name(Path(app[0]).name), *app[1:], "--port", str(port)]
    with subprocess.Popen(command, env=environment) as process:
        try:
            assert _answers(f"http://127.0.0.1:{port}/health", within_s=60)
        finally:
            process.terminate()


def _answers(url: str, within_s: float) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            time.sleep(0.1)
    return False


def test_parquet_with_pictures_ids_and_types(address: str, tmp_path: Path) -> None:
    table = pa.table(
        {
            "image": [photos.photo(name).read_bytes() for name in datasets.NAMES] + [b"no picture"],
            "key": ["one", "two", "three", "four"],
            "year": [2001, 2002, 2003, 2004],
            "tags": [["pet"], ["drink"], [], []],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    command = ("import", "parquet", tmp_path / "t.parquet", "--image", "image", "--id", "key")
    assert "3 stored, 0 unchanged, 1 failed" in imported(address, *command, "-c", "parquet")
    assert found(address, "a cup of coffee", "parquet") == {"year": 2002, "tags": ["drink"]}
    assert "0 stored, 3 unchanged, 1 failed" in imported(address, *command, "-c", "parquet")
    with SentinelClient(address) as client:
        listed = [item.id for item in client.list_items(collection="parquet")]
        assert listed == ["one", "three", "two"]
        assert client.download_image("one", collection="parquet").data == (
            photos.photo("chelsea").read_bytes()
        )


def test_shards_and_then_the_same_pictures_as_a_folder(address: str, tmp_path: Path) -> None:
    root = datasets.webdataset(tmp_path / "shards")
    command = ("import", "webdataset", root / "{00000..00001}.tar", "-c", "shards")
    assert "3 stored, 0 unchanged, 2 failed" in imported(address, *command)
    assert found(address, "a cat", "shards")["caption"] == "a cat"
    assert "0 stored, 3 unchanged, 2 failed" in imported(address, *command)
    folder = tmp_path / "folder"
    datasets.pictures(folder)
    # The same bytes are the same items, however they came.
    assert "0 stored, 3 unchanged" in imported(address, "index", folder, "-c", "shards")
    assert found(address, "a cat", "shards")["caption"] == "a cat"


def test_urls_are_fetched_by_the_gateway_from_listed_places_only(
    address: str, tmp_path: Path, listed_place: Path
) -> None:
    names = datasets.pictures(listed_place)
    uris = [(listed_place / name).as_uri() for name in [*names, "gone.jpg"]]
    rows = [*uris, (tmp_path / "secret.jpg").as_uri()]
    (tmp_path / "t.csv").write_text("url\n" + "".join(f"{uri}\n" for uri in rows))
    report = tmp_path / "failed.jsonl"
    command = ("import", "csv", tmp_path / "t.csv", "--image", "url", "-c", "urls")
    assert "3 stored, 0 unchanged, 2 failed" in imported(address, *command, "--report", report)
    reasons = [json.loads(line)["reason"] for line in report.read_text().splitlines()]
    assert sorted(reasons) == ["URI_FORBIDDEN", "URI_NOT_FOUND"]
    assert "0 stored, 3 unchanged, 2 failed" in imported(address, *command)
    with SentinelClient(address) as client:
        first = next(client.list_items(collection="urls"))
        client.delete_items([first.id], collection="urls")
        assert "1 stored, 2 unchanged, 2 failed" in imported(address, *command)
        client.delete_collection("urls")
        assert "3 stored, 0 unchanged, 2 failed" in imported(address, *command)
