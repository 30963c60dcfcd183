"""Short names: what they stand for, and how their models are downloaded from a stand-in hub."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from embedder_server.models import catalog
from embedder_server.models.base import ModelChoice
from embedder_server.models.hub import families, hub_model
from embedder_server.models.registry import load_model
from embedder_server.types import ModelLoadError
from tests.embedder_server.models import tiny_models
from tests.fakes import hub

pytest.importorskip("huggingface_hub")

DOCUMENT = Path(__file__).parents[3] / "docs" / "models.md"
COMMIT = "a" * 40
NAME = "jina-clip-v2"  # no commit and no checksums in the catalog
LANGUAGE_TAGS = {"English": ["en"], "Chinese": ["zh"]}


@dataclass
class Machine:
    """A machine with nothing downloaded, and the only hub that it reaches."""

    hub: hub.Hub
    environment: dict[str, str]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "embedder_server.models", *words],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def pull(self, name: str = NAME) -> dict[str, Any]:
        done = self.run("pull", name)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def shown(self, name: str = NAME) -> dict[str, Any]:
        return dict(json.loads(self.run("show", name).stdout))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    tiny_models.jina(tmp_path / "model")
    with hub.serving() as stand_in:
        entry = catalog.catalog()[NAME]
        stand_in.repositories[entry.hub_id] = (tmp_path / "model", COMMIT)
        home = str(tmp_path / "home")
        yield Machine(
            stand_in, {"HF_ENDPOINT": stand_in.url, "HF_HOME": home, "XDG_CACHE_HOME": home}
        )


def test_every_entry_can_be_served_and_says_where_it_is_from() -> None:
    entries = catalog.catalog().values()
    transformers = {"clip", "siglip", "chinese_clip", "metaclip_2", "tipsv2"}
    families = {*transformers, "jina_clip", "open_clip", "onnx_folder"}
    assert {entry.family for entry in entries} == families
    for entry in entries:
        assert re.fullmatch(r"[0-9a-f]{40}|", entry.revision), entry.name
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", entry.hub_id), entry.name
        assert 64 <= entry.dimensions <= 4096 and 50 <= entry.parameters <= 3000, entry.name
        assert entry.size_mb <= 4 * entry.parameters + 10, entry.name
        # A score without its source is worth nothing; a source without a score is a mistake.
        assert bool(entry.scores) == bool(entry.scores_from), entry.name
        assert set(entry.scores) <= {"flickr30k", "coco"}, entry.name
        assert all(20 < score < 100 for score in entry.scores.values()), entry.name
        if re.search("NC|AMLR|not stated|states none", entry.license):
            assert not entry.commercial_use, entry.name
        assert entry.license and entry.languages and entry.verified, entry.name
        told = entry.languages.partition(";")[0]
        assert list(entry.language_tags) == LANGUAGE_TAGS.get(told, ["mul"]), entry.name
        assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in entry.sha256.values())
    assert [entry.name for entry in entries if entry.recommended] == ["siglip2-b16"]
    assert catalog.catalog()["jina-clip-v1"].revision.startswith("ceb3e44c")


def gigabytes(megabytes: int) -> str:
    return f"{megabytes / 1000:.1f}"


def documented(entry: catalog.CatalogEntry) -> str:
    """Return the row of a model in the document's table of the catalog."""
    scores = " / ".join(str(entry.scores.get(name, "-")) for name in ("flickr30k", "coco"))
    cells = (
        f"`{entry.name}`",
        str(entry.dimensions),
        entry.languages,
        entry.license,
        "yes" if entry.commercial_use else "no",
        gigabytes(entry.download_mb),
        gigabytes(entry.memory_mb),
        scores,
        f"`{entry.extra}`",
        "yes" if entry.revision else "no",
    )
    return f"| {' | '.join(cells)} |"


def test_the_documents_table_is_the_catalog() -> None:
    section = DOCUMENT.read_text().split("\n## The catalog\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert rows == [documented(entry) for entry in catalog.catalog().values()]


def test_the_documents_advice_has_the_licenses_and_sizes_of_the_catalog() -> None:
    text = DOCUMENT.read_text()
    section = text.split("\n## Which model for whom\n")[1].split("\n### ")[0]
    advice = re.findall(r"^\| .* \| `([\w-]+)` \| .* \| (.*) \| (.*) \| (.*) \|$", section, re.M)
    named = [name for name, *_ in advice if name != "conse-minilm-lite0"]
    assert len(named) >= 8 and named[0] == "siglip2-b16"
    for name, *said in advice:
        if name in named:
            entry = catalog.catalog()[name]
            sizes = [gigabytes(entry.download_mb), gigabytes(entry.memory_mb)]
            assert said == [entry.license, *sizes], name
    whole = sum(entry.download_mb for entry in catalog.catalog().values()) / 1000
    assert f"the whole catalog ({whole:.0f} GB)" in " ".join(text.split())


def test_a_model_is_downloaded_once_and_its_commit_kept(machine: Machine) -> None:
    assert machine.shown()["path"] == machine.shown()["revision"] == ""
    pulled = machine.pull()
    assert pulled["revision"] == COMMIT and Path(pulled["path"], "config.json").is_file()
    assert machine.shown()["path"] == pulled["path"]
    # The hub has a newer commit by now: this machine stays at the one that it got.
    folder, _ = machine.hub.repositories[pulled["hub_id"]]
    machine.hub.repositories[pulled["hub_id"]] = (folder, "b" * 40)
    sent = len(machine.hub.sent)
    assert machine.pull()["revision"] == COMMIT
    assert len(machine.hub.sent) == sent


def test_an_interrupted_download_goes_on_where_it_broke_off(machine: Machine) -> None:
    folder, _ = machine.hub.repositories["jinaai/jina-clip-v2"]
    # The hub's library writes pieces of ten megabytes.
    large = folder / "onnx" / "model.onnx_data"
    large.write_bytes(b"12345678" * 3_000_000)
    machine.hub.cut_after = 15_000_000
    copy = Path(machine.pull()["path"], "onnx", large.name)
    assert copy.read_bytes() == large.read_bytes()
    assert [first > 0 for name, first in machine.hub.sent if name.endswith("_data")] == [
        False,
        True,
    ]


def test_a_file_that_is_not_the_catalogs_is_downloaded_again_then_refused(
    machine: Machine,
) -> None:
    folder, _ = machine.hub.repositories["jinaai/jina-clip-v2"]
    entry = catalog.catalog()["jina-clip-v1"]
    machine.hub.repositories[entry.hub_id] = (folder, entry.revision)
    done = machine.run("pull", entry.name)
    assert done.returncode == 1
    assert re.search(
        r"text_model\.onnx has the SHA-256 [0-9a-f]{64}, not the catalog's", done.stderr
    )
    assert [name for name, _ in machine.hub.sent].count("onnx/text_model.onnx") == 2


@pytest.mark.parametrize(
    ("name", "small", "files"),
    [
        # The other weights are the same ones again, for another program.
        ("laion-l14", {"config.json": {"model_type": "clip"}}, (["pytorch_model.bin"],
         ["open_clip_pytorch_model.safetensors", "onnx/text_model.onnx"])),
        ("metaclip2-b32", {"config.json": {"model_type": "metaclip_2"}},
         (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
          ["pytorch_model.bin"])),
        ("pe-core-b16", {"open_clip_config.json": {}},
         (["open_clip_model.safetensors"], ["open_clip_pytorch_model.bin"])),
        ("eva02-l14", {"config.json": {"architecture": "x"}, "open_clip_config.json": {}},
         (["open_clip_model.safetensors"], ["model.safetensors", "open_clip_pytorch_model.bin"])),
        ("immich-siglip2-b16", {"config.json": {"embed_dim": 8}},
         (["textual/model.onnx", "textual/tokenizer.json", "visual/model.onnx",
           "visual/model.onnx.data", "visual/preprocess_cfg.json"],
          ["visual/model.armnn", "textual/rknpu/rk3588/model.rknn"])),
        ("siglip2-b16-onnx", {"config.json": {"model_type": "siglip"}},
         (["onnx/text_model.onnx", "onnx/vision_model.onnx", "onnx/vision_model.onnx_data"],
          ["onnx/text_model_q4.onnx", "onnx/model.onnx", "onnx/vision_model_fp16.onnx"])),
    ],
)  # fmt: skip
def test_of_each_layout_the_files_that_are_read_are_downloaded(
    machine: Machine,
    tmp_path: Path,
    name: str,
    small: dict[str, Any],
    files: tuple[list[str], list[str]],
) -> None:
    taken, left = files
    folder = tmp_path / "published"
    for file in (*taken, *left, "README.md", "tokenizer.json"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(file)  # equal files would be downloaded once
    for file, content in small.items():
        (folder / file).write_text(json.dumps(content))
    entry = catalog.catalog()[name]
    machine.hub.repositories[entry.hub_id] = (folder, entry.revision or COMMIT)
    done = machine.run("pull", name)  # refused, as there is nothing in these files
    assert "No files matched" not in done.stderr
    sent = {file for file, _ in machine.hub.sent}
    assert sent == {*taken, *small, "tokenizer.json"}


def test_an_incomplete_download_is_not_here(machine: Machine) -> None:
    pulled = machine.pull()
    Path(pulled["path"], "onnx", "text_model.onnx").unlink()
    assert machine.shown()["path"] == ""
    assert machine.pull()["path"] == pulled["path"]


def test_without_a_network_the_message_names_what_is_here(machine: Machine) -> None:
    machine.pull()
    machine.environment["HF_ENDPOINT"] = "http://127.0.0.1:9"
    machine.environment["HF_HUB_OFFLINE"] = "1"
    assert machine.pull()["path"], "what is here needs no network"
    done = machine.run("pull", "siglip2-b16")
    assert done.returncode == 1
    assert "On this disk: jinaai/jina-clip-v2" in done.stderr


@pytest.mark.parametrize(
    ("name", "close"),
    [("siglip2", "siglip2-b16"), ("Jina-CLIP", "jina-clip-v1"), ("clipb32", "clip-b32")],
)
def test_an_unknown_name_is_answered_with_close_ones(name: str, close: str) -> None:
    with pytest.raises(ModelLoadError, match=rf"did you mean .*{close}"):
        load_model(ModelChoice(name))


def test_a_short_name_loads_the_commit_and_says_the_license(
    machine: Machine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = Path(machine.pull()["path"])
    for name, value in machine.environment.items():
        monkeypatch.setenv(name, value)

    def find(spec: str, revision: str | None, **_: Any) -> Any:
        assert (spec, revision) == ("jinaai/jina-clip-v2", COMMIT)
        config = json.loads((folder / "config.json").read_text())
        return hub_model.ModelFolder(folder, spec, folder.name, config)

    # In this process the hub's library has read its own address already.
    monkeypatch.setattr(hub_model, "find_model", find)
    model = load_model(ModelChoice(NAME, cache_dir=tmp_path / "cache"))
    assert (model.info.name, model.info.revision) == ("jinaai/jina-clip-v2", COMMIT)
    assert "does not allow commercial use" in caplog.text


def test_a_changed_file_of_the_catalog_is_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = catalog.catalog()["jina-clip-v1"]
    folder = tmp_path / "snapshots" / entry.revision
    tiny_models.jina(folder)
    config = json.loads((folder / "config.json").read_text())
    found = hub_model.ModelFolder(folder, entry.hub_id, entry.revision, config)
    monkeypatch.setattr(hub_model, "find_model", lambda *_, **__: found)
    with pytest.raises(ModelLoadError, match="not the catalog's: it is damaged or was changed"):
        load_model(ModelChoice("jina-clip-v1", cache_dir=tmp_path / "cache"))
    # Another commit is another matter.
    other = replace(found, revision=COMMIT)
    monkeypatch.setattr(hub_model, "find_model", lambda *_, **__: other)
    assert load_model(ModelChoice(entry.hub_id, cache_dir=tmp_path / "cache")).info.dimensions


def test_weights_that_exceed_the_memory_are_refused_with_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_models.jina(tmp_path / "model")
    monkeypatch.setattr(hub_model, "usable_bytes", lambda: 1000)
    with pytest.raises(ModelLoadError, match=r"have 0\.0 GB, and this machine .* has 0\.0 GB"):
        load_model(ModelChoice(str(tmp_path / "model"), cache_dir=tmp_path / "cache"))


def test_the_families_of_the_catalog_are_those_that_are_read() -> None:
    with pytest.raises(ModelLoadError, match="served are clip, siglip"):
        families.read_recipe(
            hub_model.ModelFolder(Path("/nowhere"), "x", "", {"model_type": "unknown"})
        )
