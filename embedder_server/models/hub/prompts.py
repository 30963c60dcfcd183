"""Read what a model puts before a query and before a document, and make it part of its fingerprint.

The file is that of sentence-transformers, `config_sentence_transformers.json`. A prompt is plain
text: it goes before the content, and the tokenizer reads both as one text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from embedder_server.models.base import MIN_TEXT_TOKENS
from embedder_server.models.hub.families import derived_fingerprint
from embedder_server.models.hub.source import ModelFolder
from embedder_server.texts.tokenizer import TextTokenizer, TokenizedText
from embedder_server.types import ModelInfo, ModelLoadError
from sentinel_core.vectors import Role

_FILE = "config_sentence_transformers.json"
# What models call the prompts of the two roles, the usual name first. Compared in lower case.
_NAMES = {
    Role.QUERY: ("query", "retrieval.query", "retrieval-query", "search_query", "s2p_query"),
    Role.DOCUMENT: (
        "document",
        "passage",
        "corpus",
        "retrieval.passage",
        "retrieval-document",
        "search_document",
    ),
}


@dataclass(frozen=True, slots=True)
class Prompts:
    """The texts before a content of each role; both empty for most models."""

    query: str = ""
    document: str = ""

    def before(self, role: Role) -> str:
        """Return what goes before a text of this role."""
        return self.query if role is Role.QUERY else self.document

    def check_room(self, tokenizer: TextTokenizer, limit: int) -> None:
        """Raise `ModelLoadError` if a prompt leaves no room for words: all texts would be equal."""
        for prompt in filter(None, (self.query, self.document)):
            used = len(tokenizer.tokenize(prompt).ids)
            if used + MIN_TEXT_TOKENS > limit:
                raise ModelLoadError(
                    f"texts of {limit} tokens leave no room beside the model's prompt {prompt!r}, "
                    f"which takes {used}: set --max-text-tokens to {used + MIN_TEXT_TOKENS} or "
                    "more, or omit it"
                )

    def described(self, info: ModelInfo) -> ModelInfo:
        """Return what a worker serves with these prompts: without any, the same vector space."""
        if not (self.query or self.document):
            return info
        change = f"prompts {self.query!r} {self.document!r}"
        return replace(
            info,
            fingerprint=derived_fingerprint(info.fingerprint, change),
            asymmetric=self.query != self.document,
        )


class PromptedTokenizer:
    """Reads texts with the prompt of their role, and images as they are."""

    def __init__(self, tokenizer: TextTokenizer, prompts: Prompts) -> None:
        self._tokenizer = tokenizer
        self._prompts = prompts

    def tokenize(self, text: str, role: Role = Role.DOCUMENT) -> TokenizedText:
        """Return the ids of the prompt and the text, cut to the limit."""
        return self._tokenizer.tokenize(self._prompts.before(role) + text)

    def image_input(self, pixels: Any, text: str, role: Role) -> tuple[Any, None]:
        """Return the pixels: these models read no text beside an image."""
        return pixels, None


def read_prompts(folder: ModelFolder, known: Prompts | None = None) -> Prompts:
    """Return the prompts of a model folder.

    A role without a prompt of its own has that of `known`, which is published elsewhere; else the
    model's default prompt, if it names one.

    Raises:
        ModelLoadError: The file is damaged, or its default prompt is missing.
    """
    folder = _described(folder)
    config = folder.read_json(_FILE)
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(one, str) for one in prompts.values()):
        raise ModelLoadError(
            f"{folder.path / _FILE} must map names to texts in prompts: download it again"
        )
    named = {name.lower(): prompt for name, prompt in prompts.items()}
    default = _default(folder, config, prompts)
    known = known or Prompts()
    return Prompts(
        *(
            _first(named, _NAMES[role], known.before(role) or default)
            for role in (Role.QUERY, Role.DOCUMENT)
        )
    )


def _described(folder: ModelFolder) -> ModelFolder:
    """Return the folder with the prompts: sentence-transformers' is around that of the networks."""
    outer = folder.path.parent
    if not (folder.path / _FILE).is_file() and (outer / "modules.json").is_file():
        return replace(folder, path=outer)
    return folder


def _default(folder: ModelFolder, config: Mapping[str, Any], prompts: Mapping[str, str]) -> str:
    name = config.get("default_prompt_name")
    if name is None:
        return ""
    if name not in prompts:
        raise ModelLoadError(
            f"{folder.path / _FILE} names the default prompt {name!r}, which it does not have: "
            "download it again"
        )
    return prompts[name]


def _first(prompts: Mapping[str, str], names: tuple[str, ...], default: str) -> str:
    return next((prompts[name] for name in names if name in prompts), default)
