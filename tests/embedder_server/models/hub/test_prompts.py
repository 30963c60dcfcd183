"""The prompts of sentence-transformers' configuration: which role has which, and fingerprints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedder_server.models.base import ModelChoice
from embedder_server.models.hub.hub_model import DualEncoder, load_hub_model
from embedder_server.models.hub.prompts import Prompts, read_prompts
from embedder_server.models.hub.source import ModelFolder, find_model
from embedder_server.types import ModelLoadError
from sentinel_core.vectors import Role
from tests.embedder_server.models import tiny_models

pytest.importorskip("torch")
pytest.importorskip("transformers")

# As published, where a model is named.
PUBLISHED = {
    "jina-clip-v2": (
        {"retrieval.query": "Represent the query for retrieving evidence documents: "},
        Prompts("Represent the query for retrieving evidence documents: ", ""),
    ),
    "embeddinggemma-2": (
        {
            "Clustering": "task: clustering | query: ",
            "Document": "title: none | text: ",
            "Retrieval-document": "title: none | text: ",
            "Retrieval-query": "task: search result | query: ",
        },
        Prompts("task: search result | query: ", "title: none | text: "),
    ),
    "nomic": (
        {"query": "search_query: ", "passage": "search_document: "},
        Prompts("search_query: ", "search_document: "),
    ),
    "neither": ({"classification": "classify: "}, Prompts()),
}


def configure(folder: Path, content: Any) -> ModelFolder:
    folder.mkdir(exist_ok=True)
    (folder / "config_sentence_transformers.json").write_text(json.dumps(content))
    return ModelFolder(folder, "m", "", {})


@pytest.mark.parametrize("name", PUBLISHED)
def test_prompts_are_found_by_the_names_that_models_use(tmp_path: Path, name: str) -> None:
    prompts, expected = PUBLISHED[name]
    folder = configure(tmp_path, {"prompts": prompts, "default_prompt_name": None})
    assert read_prompts(folder) == expected


def test_a_role_without_a_prompt_has_the_default_one(tmp_path: Path) -> None:
    prompts = {"query": "q: ", "plain": "p: "}
    folder = configure(tmp_path, {"prompts": prompts, "default_prompt_name": "plain"})
    assert read_prompts(folder) == Prompts("q: ", "p: ")


def test_a_folder_of_sentence_transformers_has_its_prompts_outside_the_networks(
    tmp_path: Path,
) -> None:
    configure(tmp_path, {"prompts": {"query": "q: "}})
    module = {"type": "sentence_transformers.models.CLIPModel", "path": "0_CLIPModel"}
    (tmp_path / "modules.json").write_text(json.dumps([module]))
    (tmp_path / "0_CLIPModel").mkdir()
    (tmp_path / "0_CLIPModel" / "config.json").write_text(json.dumps({"model_type": "clip"}))
    assert read_prompts(find_model(str(tmp_path), None)) == Prompts("q: ", "")


def test_without_the_file_or_with_an_empty_one_there_are_no_prompts(tmp_path: Path) -> None:
    assert read_prompts(ModelFolder(tmp_path, "m", "", {})) == Prompts()
    assert read_prompts(configure(tmp_path, {"prompts": None})) == Prompts()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"prompts": ["query: "]}, "must map names to texts"),
        ({"prompts": {"query": 7}}, "must map names to texts"),
        ({"prompts": {}, "default_prompt_name": "query"}, "which it does not have"),
    ],
)
def test_a_damaged_configuration_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ModelLoadError, match=f"{message}.*download it again"):
        read_prompts(configure(tmp_path, content))


def load(folder: Path, **prompts: str) -> DualEncoder:
    if prompts:
        configure(folder, {"prompts": prompts})
    choice = ModelChoice(str(folder), runtime="onnxruntime", cache_dir=folder.with_name("cache"))
    return load_hub_model(choice)


def test_a_prompt_is_read_before_the_text_and_makes_another_vector_space(tmp_path: Path) -> None:
    tiny_models.clip(tmp_path / "model")
    plain = load(tmp_path / "model")
    prompted = load(tmp_path / "model", query="two dogs on ", document="a ")
    as_query = prompted.tokenize("the beach", Role.QUERY)
    assert as_query.ids.tolist() == plain.tokenize("two dogs on the beach").ids.tolist()
    as_document = prompted.tokenize("beach", Role.DOCUMENT)
    assert as_document.ids.tolist() == plain.tokenize("a beach").ids.tolist()
    assert (plain.info.asymmetric, prompted.info.asymmetric) == (False, True)
    assert plain.tokenize("a", Role.QUERY).ids.tolist() == plain.tokenize("a").ids.tolist()
    vectors = prompted.embed_texts([as_query, prompted.tokenize("the beach")])
    assert not np.allclose(vectors[0], vectors[1])

    other = load(tmp_path / "model", query="two cats on ", document="a ")
    same = load(tmp_path / "model", query="a ", document="a ")
    assert not same.info.asymmetric
    spaces = {model.info.fingerprint for model in (plain, prompted, other, same)}
    assert len(spaces) == 4
    none = load(tmp_path / "model", classification="classify ")
    assert none.info.fingerprint == plain.info.fingerprint


def test_a_prompt_that_leaves_no_room_for_words_is_refused(tmp_path: Path) -> None:
    tiny_models.clip(tmp_path / "model")
    configure(tmp_path / "model", {"prompts": {"query": "two dogs on the beach near "}})
    choice = ModelChoice(str(tmp_path / "model"), max_text_tokens=9)
    with pytest.raises(ModelLoadError, match=r"of 9 tokens leave no room .* --max-text-tokens to"):
        load_hub_model(choice)
