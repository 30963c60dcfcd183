from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import ValidationError

from embedder_server import app
from embedder_server.devices import give_way, parse_device, pin_to, usable_cores
from embedder_server.settings import EmbedderSettings
from sentinel_core.settings import MIB


@pytest.mark.parametrize(
    ("text", "device"),
    [("cpu", "cpu"), ("CPU ", "cpu"), ("cuda", "cuda:0"), ("cuda:3", "cuda:3")],
)
def test_devices(text: str, device: str) -> None:
    assert parse_device(text) == device


@pytest.mark.parametrize("text", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0"])
def test_what_is_no_device(text: str) -> None:
    with pytest.raises(ValueError, match="use cpu"):
        parse_device(text)


def test_there_is_a_core() -> None:
    assert usable_cores() >= 1


def test_only_linux_chooses_among_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.delattr("os.sched_getaffinity")
    assert usable_cores() >= 1
    with pytest.raises(ValueError, match="only Linux"):
        pin_to("0")


def test_the_threads_that_compute_give_way_and_no_others() -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    with ThreadPoolExecutor(1) as thread:
        before = thread.submit(niceness).result()
        thread.submit(give_way).result()
        assert thread.submit(niceness).result() == before + 5
    assert niceness() == before


def test_environment_and_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTINEL_EMBEDDER_PORT", "7")
    monkeypatch.setenv("SENTINEL_EMBEDDER_THREADS", "3")
    settings = EmbedderSettings(_cli_parse_args=["--port", "8"])
    assert (settings.port, settings.effective_threads) == (8, 3)
    assert EmbedderSettings(_env_file=None).port == 7


def test_a_call_that_never_fits_the_queue_is_refused() -> None:
    with pytest.raises(ValidationError, match="never fits"):
        EmbedderSettings(max_contents_per_request=9, max_queue_items=8)


def test_memory_that_cannot_hold_the_messages_is_refused() -> None:
    with pytest.raises(ValidationError, match="give the process more memory, or allow smaller"):
        EmbedderSettings(memory_bytes=256 * MIB, max_message_bytes=64 * MIB)
    EmbedderSettings(memory_bytes=256 * MIB, max_message_bytes=32 * MIB)


def test_a_wrong_flag_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["sentinel-embedder", "--device", "gpu"])
    assert app.run() == 2
    message = capsys.readouterr().err.strip()
    assert message.count("\n") == 0
    assert message.startswith("sentinel-embedder: device:")
