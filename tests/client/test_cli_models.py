"""`sentinel models` with the worker's real catalog and a stand-in for the hub."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from embedder_server.models.registry import DEFAULT_MODEL
from sentinel_client.cli import _library, _supervisor, main
from sentinel_client.cli.models import model_choice
from tests.embedder_server.models import tiny_models
from tests.fakes import hub

pytest.importorskip("huggingface_hub")


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hub.Hub]:
    tiny_models.jina(tmp_path / "model")
    with hub.serving() as found:
        found.repositories["jinaai/jina-clip-v2"] = (tmp_path / "model", "a" * 40)
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        for variable in ("HF_HOME", "XDG_CACHE_HOME"):
            monkeypatch.setenv(variable, str(tmp_path / "home"))
        yield found


def models(*words: str) -> Result:
    return CliRunner().invoke(main, ["models", *words])


def test_the_list_marks_what_is_here_after_a_pull(stand_in: hub.Hub) -> None:
    before = models()
    assert before.exit_code == 0, before.output
    assert "siglip2-b16 recommended" in before.stdout and "●" not in before.stdout
    pulled = models("pull", "jina-clip-v2")
    assert pulled.exit_code == 0, pulled.output
    assert "does not allow commercial use" in pulled.stderr
    assert "Use it: sentinel up --model jina-clip-v2" in pulled.stdout
    [line] = [line for line in models().stdout.splitlines() if "jina-clip-v2" in line]
    assert line.split()[:3] == ["●", "jina-clip-v2", "1,024"]
    again = models("pull", "jina-clip-v2", "--json")
    model = json.loads(again.stdout)
    assert (model["name"], Path(model["path"]).is_dir()) == ("jina-clip-v2", True)
    quiet = models("pull", "jina-clip-v2", "--quiet")
    assert (quiet.stdout, len(quiet.stderr.splitlines())) == ("", 1)  # the license


def test_one_model_is_shown_with_all_that_is_known(stand_in: hub.Hub) -> None:
    shown = models("show", "jina-clip-v1").stdout
    for part in ("ceb3e44ca4d6eceaa4f3fb58b1c1a5748b3f29b6", "Apache-2.0", "Flickr30k 67.5"):
        assert part in shown
    assert "sentinel models pull jina-clip-v1" in shown
    lines = {line.strip().split("  ")[0]: line for line in shown.splitlines()}
    assert "768" in lines["dimensions"] and "892 MB" in lines["download"]
    assert "2.2 GB" in lines["memory of a worker"]
    assert "commercial use allowed" in lines["license"]
    assert "English" in lines["languages"]
    assert "not measured by us" in lines["from"]
    assert "not allowed, or not said" in models("show", "jina-clip-v2").stdout
    found = json.loads(models("show", "jina-clip-v2", "--json").stdout)
    assert (found["commercial_use"], found["pinned"], found["path"]) == (False, False, "")
    assert len(models("--json").stdout.splitlines()) > 5


def test_a_mistyped_name_gets_a_close_one(stand_in: hub.Hub) -> None:
    result = models("pull", "siglip2-b-16")
    assert result.exit_code == 1
    shown = models("show", "siglip2-b-16")
    assert shown.exit_code == 1 and "did you mean siglip2-b16" in shown.stderr


def test_up_downloads_the_model_before_it_starts_a_server(
    stand_in: hub.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[_supervisor.Plan] = []
    commands: list[list[str]] = []

    async def run(self: _supervisor.Supervisor) -> int:
        started.append(self._plan)
        return 0

    def run_command(words: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        commands.append(words[-2:])
        return real(words, **options)

    real = subprocess.run
    monkeypatch.setattr(subprocess, "run", run_command)
    monkeypatch.setattr(_supervisor.Supervisor, "run", run)
    arguments = ["up", "--data", str(tmp_path / "data"), "--model", "jina-clip-v2"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert started[0].wanted.models[0].flags == ["--model", "jina-clip-v2"]
    found = [*(tmp_path / "home").rglob("text_model.onnx")]
    assert found, "the model was not downloaded"
    assert commands == [["pull", "jina-clip-v2"]], "one process does it"
    assert "does not allow commercial use" in result.stderr
    mistyped = CliRunner().invoke(main, [*arguments[:-1], "jina-clip2"])
    assert mistyped.exit_code == 1 and len(started) == 1


def test_the_default_model_has_one_name_so_that_a_library_can_go_back_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in ("SENTINEL_EMBEDDER_MODEL", "SENTINEL_EMBEDDER_REVISION"):
        monkeypatch.delenv(variable, raising=False)
    assert model_choice("", None) == model_choice(DEFAULT_MODEL, None)
    assert model_choice("", None).flags == ["--model", DEFAULT_MODEL]
    monkeypatch.setenv("SENTINEL_EMBEDDER_MODEL", "owner/own")
    monkeypatch.setenv("SENTINEL_EMBEDDER_REVISION", "a" * 40)
    assert model_choice("", None) == model_choice("owner/own", "a" * 40)
    assert model_choice(DEFAULT_MODEL, None).flags == ["--model", DEFAULT_MODEL]
    assert "is part of Sentinel" in models("show", DEFAULT_MODEL).stderr


def test_a_second_change_of_a_library_waits_for_the_first(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    _library.tell_running(tmp_path, _library.Running(os.getpid(), "127.0.0.1:1", "", ()))
    with (tmp_path / "run" / "use.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused = models("use", "owner/new", "--data", str(tmp_path))
    assert refused.exit_code == 1
    assert "another `sentinel models use` runs" in refused.stderr
    assert not (tmp_path / "models.json").exists()


@pytest.mark.slow
def test_a_short_name_serves_from_download_to_vector(stand_in: hub.Hub, tmp_path: Path) -> None:
    flags = ["--model", "jina-clip-v2", "--port", "0", "--address-file", str(tmp_path / "address")]
    with subprocess.Popen(
        [sys.executable, "-m", "embedder_server", *flags], stderr=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stderr is not None
        try:
            said = []
            for line in worker.stderr:
                said.append(line)
                if '"message": "serving"' in line or '"ERROR"' in line:
                    break
        finally:
            worker.terminate()
            worker.stderr.read()
    assert '"model": "jinaai/jina-clip-v2"' in said[-1], said
