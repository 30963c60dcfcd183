"""`sentinel index --watch` as a process: it follows a folder until Ctrl-C."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sentinel_client import NotFound, SentinelClient
from tests import processes
from tests.e2e.laptop import SENTINEL
from tests.e2e.test_index import picture, sha
from tests.waiting import until

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("_children_take_sigint")]


@pytest.fixture
def _children_take_sigint() -> Iterator[None]:
    """Start children with the default SIGINT, even if our own parent ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Watcher:
    """A running `sentinel index --watch --prune`, and what it stored and said."""

    def __init__(
        self, address: str, root: Path, collection: str, log: Path, words: tuple[str, ...]
    ) -> None:
        self.root, self.log, self.address, self.collection = root, log, address, collection
        command: list[str | Path] = [SENTINEL, "--address", address, "index", root]
        command += ["-c", collection]
        self.results = log.with_suffix(".out")
        with log.open("wb") as output, self.results.open("wb") as results:
            self.process = subprocess.Popen(
                [*command, "--watch", "--prune", *words],
                stdin=subprocess.DEVNULL,
                stdout=results if "--json" in words else output,
                stderr=output,
            )

    def said(self, text: str) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return text in self.log.read_text()

    def names(self) -> set[str]:
        with SentinelClient(self.address) as client:
            try:
                items = list(client.list_items(collection=self.collection))
            except NotFound:
                return set()
        return {str(item.fields["file_name"]) for item in items}

    def ids(self) -> set[str]:
        with SentinelClient(self.address) as client:
            return {item.id for item in client.list_items(collection=self.collection)}

    def stop(self) -> str:
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(20) == 0, self.log.read_text()
        return self.log.read_text()


@contextmanager
def watching(address: str, tmp_path: Path, collection: str, *words: str) -> Iterator[Watcher]:
    root = tmp_path / "photos"
    (root / "sea").mkdir(parents=True)
    (root / "a.jpg").write_bytes(picture(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        words = words or ("--yes",)
        watcher = Watcher(address, root, collection, tmp_path / "log", words)
    try:
        until(lambda: watcher.said("Watching"))
        yield watcher
    finally:
        watcher.process.kill()
        watcher.process.wait()


def test_it_follows_changes_until_ctrl_c(lite_address: str, tmp_path: Path) -> None:
    with watching(lite_address, tmp_path, "watch1") as watcher:
        (watcher.root / "sea" / "b.jpg").write_bytes(picture(2))
        until(lambda: watcher.names() == {"a.jpg", "b.jpg"})
        (watcher.root / "sea").rename(watcher.root / "ocean")
        (watcher.root / "a.jpg").unlink()
        (watcher.root / "ocean" / "c.jpg").write_bytes(picture(3))
        until(lambda: watcher.names() == {"b.jpg", "c.jpg"})
        shown = watcher.stop()
    assert "watch1: 3 stored" in shown.splitlines()[-1] or "watch1: 4 stored" in shown
    assert "Traceback" not in shown


def test_what_may_not_be_removed_is_said(lite_address: str, tmp_path: Path) -> None:
    with watching(lite_address, tmp_path, "watch4", "--exclude=sea/") as watcher:
        (watcher.root / "b.jpg").write_bytes(picture(2))
        until(lambda: watcher.names() == {"a.jpg", "b.jpg"})
        (watcher.root / "b.jpg").unlink()
        until(lambda: watcher.said("Not removed: 1 of 2 stored items have no file any more"))
        watcher.stop()
    assert watcher.names() == {"a.jpg", "b.jpg"}


def test_with_json_all_of_its_lines_are_objects(lite_address: str, tmp_path: Path) -> None:
    with watching(lite_address, tmp_path, "watch5", "--json") as watcher:
        (watcher.root / "b.jpg").write_bytes(picture(2))
        until(lambda: watcher.names() == {"a.jpg", "b.jpg"})
        (watcher.root / "b.jpg").unlink()
        until(lambda: '"not_removed": "1 of 2' in watcher.results.read_text())
        watcher.stop()
    first, *_, total = map(json.loads, watcher.results.read_text().splitlines())
    assert first["stored"] == 1
    assert (total["stored"], total["removed"]) == (2, 0)


def test_a_root_that_is_a_file_is_followed_when_programs_replace_it(
    lite_address: str, tmp_path: Path
) -> None:
    file, draft = tmp_path / "a.jpg", tmp_path / "draft"
    file.write_bytes(picture(1))
    watcher = Watcher(lite_address, file, "watch6", tmp_path / "log", ())
    try:
        until(lambda: watcher.said("Watching"))
        for number in (2, 3):
            draft.write_bytes(picture(number))
            draft.replace(file)
            until(lambda: watcher.ids() == {sha(file.read_bytes())})
        watcher.stop()
    finally:
        watcher.process.kill()
        watcher.process.wait()


def test_a_root_that_is_unmounted_and_comes_back(lite_address: str, tmp_path: Path) -> None:
    with watching(lite_address, tmp_path, "watch2") as watcher:
        away = watcher.root.with_name("away")
        watcher.root.rename(away)
        until(lambda: watcher.said("is not there any more; waiting for it"))
        assert watcher.names() == {"a.jpg"}
        (away / "b.jpg").write_bytes(picture(2))
        away.rename(watcher.root)
        until(lambda: watcher.said("is back"))
        until(lambda: watcher.names() == {"a.jpg", "b.jpg"})
        (watcher.root / "c.jpg").write_bytes(picture(3))
        until(lambda: watcher.names() == {"a.jpg", "b.jpg", "c.jpg"})
        assert "FILE_UNREADABLE" not in watcher.stop()


def test_a_gateway_that_is_away_is_tried_again(
    default_worker: processes.Server, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = processes.gateway_flags(tmp_path, str(tmp_path / "m.db"), default_worker.address)
    flags += ["--port", str(port)]
    gateway = processes.start(tmp_path / "gateway", "search_server", *flags)
    try:
        with watching(gateway.address, tmp_path, "watch3") as watcher:
            gateway.stop()
            (watcher.root / "b.jpg").write_bytes(picture(2))
            until(lambda: watcher.said("Trying again"))
            gateway = processes.start(tmp_path / "gateway", "search_server", *flags)
            until(lambda: watcher.said("The gateway is back"))
            assert watcher.names() == {"a.jpg", "b.jpg"}
            watcher.stop()
    finally:
        gateway.kill()
