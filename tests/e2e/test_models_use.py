"""`sentinel models use`: a library changes its model under load, and through interruptions.

With real servers and two models of random weights, which differ in the length of their vectors: a
query of one space in the other would fail.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from embedder_server.models.registry import DEFAULT_MODEL
from sentinel_client import Item, SentinelClient
from tests.e2e.laptop import SENTINEL, sentinel
from tests.embedder_server.models import tiny_models
from tests.processes import wait_for_health
from tests.waiting import until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.plaintext("`sentinel up` on the loopback has no TLS"),
]
DIMENSIONS = {"a": 12, "b": 1024, DEFAULT_MODEL: 384}
WORDS = ("red", "blue", "green", "black")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    tiny_models.jina(folder / "a")
    tiny_models.jina(folder / "b", version=2)
    return {name: str(folder / name) for name in ("a", "b")}


class Library:
    """A folder, and the `sentinel up` that runs on it."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.address = ""

    @contextmanager
    def up(self, *flags: str) -> Iterator[subprocess.Popen[str]]:
        """Run `sentinel up` inside the block."""
        address = self.data / "run" / "gateway.address"
        address.unlink(missing_ok=True)
        process = subprocess.Popen(
            [SENTINEL, "up", "--data", self.data, "--port", "0", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            until(lambda: address.exists() or process.poll() is not None, 60)
            assert process.poll() is None, process.stdout and process.stdout.read()
            self.address = address.read_text().split()[0]
            assert wait_for_health(self.address, True, 90)
            until(lambda: bool(self.running()["gateway"]), 60)
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)

    def use(self, name: str, *flags: str) -> subprocess.Popen[str]:
        # It must not inherit an ignored SIGINT, as CI runners have it.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return subprocess.Popen(
                [SENTINEL, "models", "use", name, "--data", self.data, *flags],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        finally:
            signal.signal(signal.SIGINT, before)

    def finish(self, name: str) -> str:
        """Run the command to its end; return what it printed."""
        out, err = self.use(name).communicate(timeout=120)
        assert "The library uses" in out, out + err
        return out

    def running(self) -> dict[str, object]:
        return dict(json.loads((self.data / "run" / "up.json").read_text()))

    def models(self) -> list[tuple[str, str]]:
        """The models that run and their states, the preferred one first."""
        found: list[dict[str, object]] = self.running()["models"]  # type: ignore[assignment]
        return [(Path(one["choice"]["model"]).name, str(one["state"])) for one in found]  # type: ignore[index]

    def fill(self, *collections: str, items: int = 300) -> None:
        with SentinelClient(self.address) as client:
            for name in collections:
                client.create_collection(name)
                words = (f"a {WORDS[n % 4]} cat {n}" for n in range(items))
                client.upsert([Item(text=one) for one in words], collection=name)

    def dimensions(self, name: str) -> int:
        with SentinelClient(self.address) as client:
            found = client.get_collection(name)
            assert client.search("a red cat", collection=name, limit=5)
            return found.dimensions


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "my, library")


@contextmanager
def load(address: str, *collections: str) -> Iterator[list[int]]:
    """Search and write all the time; yield the numbers of hits so far. A failure ends the test."""
    stop, counts = threading.Event(), list[int]()

    def search(name: str) -> None:
        with SentinelClient(address) as client:
            number = 0
            while not stop.is_set():
                number += 1  # another text each time, or the cache would answer
                query = f"a {WORDS[number % 4]} dog {number}"
                counts.append(len(client.search(query, collection=name, limit=10)))

    def write(name: str) -> None:
        with SentinelClient(address) as client:
            number = 0
            while not stop.wait(0.1):
                number += 1
                client.upsert([Item(id=f"new{number}", text=f"green {number}")], collection=name)

    with ThreadPoolExecutor(2 * len(collections)) as callers:
        calls = [callers.submit(do, name) for name in collections for do in (search, write)]
        try:
            yield counts
        finally:
            stop.set()
        for call in calls:
            call.result()


def interrupt_when(
    command: subprocess.Popen[str], said: str, act: Callable[[], object]
) -> tuple[int, str]:
    """Do `act` when the command says something; return its exit code and what it said last."""
    assert command.stderr is not None
    for line in command.stderr:
        if said in line:
            act()
            break
    rest = command.stderr.read()
    return command.wait(60), rest


def child_of(parent: int, module: str) -> int:
    """Return the process of a module that this parent started."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            if int(status.read_text().rsplit(")", 1)[1].split()[1]) == parent:
                words = (status.parent / "cmdline").read_bytes().split(b"\0")
                if module.encode() in words:
                    return int(status.parent.name)
    raise AssertionError(f"{parent} has no process of {module}")


def test_no_search_fails_while_the_model_changes_and_up_remembers_it(
    library: Library, models: dict[str, str]
) -> None:
    with library.up("--model", models["a"]):
        library.fill("photos", "texts")
        with SentinelClient(library.address) as client:
            client.set_alias("live", "texts")
        with load(library.address, "photos", "live") as counts:
            out = library.finish(models["b"])
            before = len(counts)
            until(lambda: len(counts) > before + 20, 60)  # after the old embedder has ended
        assert set(counts) == {10}
        assert "photos: " in out
        assert library.models() == [("b", "serving")]
        for name in ("photos", "texts", "live"):
            assert library.dimensions(name) == DIMENSIONS["b"], name
        with SentinelClient(library.address) as client:
            assert client.get_items(["new1"], collection="photos")  # written meanwhile
            assert client.create_collection("later").dimensions == DIMENSIONS["b"]
    with library.up():  # without being told
        assert library.models() == [("b", "serving")]
        assert library.dimensions("photos") == DIMENSIONS["b"]
    refused = sentinel("", "up", "--data", library.data, "--model", models["a"])
    assert refused.returncode == 2
    assert "uses" in refused.stderr and "leave out --model" in refused.stderr


def test_ctrl_c_and_the_death_of_either_process_lose_nothing(
    library: Library, models: dict[str, str]
) -> None:
    """Interrupted three times, then finished; then half of the way back, and forward again."""
    with library.up("--model", models["a"]) as up:
        library.fill("photos", items=900)
        with load(library.address, "photos") as counts:
            command = library.use(models["b"])
            code, said = interrupt_when(
                command, "photos: ", lambda: command.send_signal(signal.SIGINT)
            )
            assert code == 130, said
            again = f"sentinel models use {models['b']} --data '{library.data}'"
            assert f"To continue: {again}" in said
            assert library.models() == [("b", "serving"), ("a", "serving")]
            killed = library.use(models["b"])
            assert interrupt_when(killed, "photos: ", killed.kill)[0] == -signal.SIGKILL
            assert library.dimensions("photos") == DIMENSIONS["a"]
        assert set(counts) == {10}
        command = library.use(models["b"])
        code, said = interrupt_when(command, "photos: ", up.kill)
        assert code != 0
        assert "To continue" in said or "no `sentinel up` runs" in said, said
        up.wait(30)
    with library.up():
        # Both, as the change is not finished: each collection has the model that it needs.
        assert sorted(library.models()) == [("a", "serving"), ("b", "serving")]
        assert library.dimensions("photos") in DIMENSIONS.values()
        other = library.use("conse-minilm-lite0").communicate(timeout=60)[1]
        assert "an earlier change of the model is not finished" in other
        with load(library.address, "photos") as counts:
            library.finish(models["b"])
            library.finish(models["a"])
            library.finish(models["b"])
        assert set(counts) == {10}
        assert library.dimensions("photos") == DIMENSIONS["b"]
        assert library.models() == [("b", "serving")]
        with SentinelClient(library.address) as client:
            assert client.get_collection("photos").item_count > 900


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_gateway_killed_right_after_the_move_takes_writes_again(
    library: Library, models: dict[str, str]
) -> None:
    """Until the change is finished, writes go to both collections, which need both models."""
    with library.up("--model", models["a"]) as up:
        library.fill("photos", items=50)
        command = library.use(models["b"])
        until(lambda: library.dimensions("photos") == DIMENSIONS["b"], 60)
        os.kill(child_of(up.pid, "search_server"), signal.SIGKILL)
        assert command.wait(60) != 0
        assert up.wait(60) == 1
    with library.up():
        library.finish(models["b"])
        assert library.models() == [("b", "serving")]
        with SentinelClient(library.address) as client:
            client.upsert([Item(id="after", text="a black dog")], collection="photos")
            assert client.get_items(["after"], collection="photos")
        out, err = library.use(models["a"], "--json", "--quiet").communicate(timeout=120)
        facts = json.loads(out)
        assert (facts["model"], facts["failed"], err) == (models["a"], 0, "")
        assert facts["collections"]["photos"]["done_count"] == 51


@pytest.mark.parametrize("old", ["a", DEFAULT_MODEL])
def test_going_back_drops_the_unfinished_copy(
    library: Library, models: dict[str, str], old: str
) -> None:
    with library.up(*(["--model", models[old]] if old in models else [])):
        library.fill("photos", items=900)
        command = library.use(models["b"])
        interrupt_when(command, "photos: ", lambda: command.send_signal(signal.SIGINT))
        library.finish(models.get(old, old))
        assert library.models() == [(old, "serving")]
        with SentinelClient(library.address) as client:
            assert [one.name for one in client.list_collections()] == ["photos"]
        assert library.dimensions("photos") == DIMENSIONS[old]


def test_a_model_that_does_not_load_changes_nothing(
    library: Library, models: dict[str, str], tmp_path: Path
) -> None:
    tiny_models.jina(tmp_path / "broken")
    (tmp_path / "broken" / "onnx" / "text_model.onnx").unlink()
    with library.up("--model", models["a"]):
        library.fill("photos", items=20)
        command = library.use(str(tmp_path / "broken"))
        said = command.communicate(timeout=60)[1]
        assert command.returncode == 1
        assert "nothing has changed" in said and "text_model.onnx is missing" in said
        assert library.models() == [("a", "serving")]
        assert not (library.data / "models.json").exists()
        assert library.dimensions("photos") == DIMENSIONS["a"]


def test_without_a_running_library_it_says_what_to_do(tmp_path: Path) -> None:
    refused = sentinel("", "models", "use", "siglip2-b16", "--data", tmp_path)
    assert refused.returncode == 2
    assert "start it in another terminal" in refused.stderr
