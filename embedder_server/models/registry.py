"""Maps the name an operator configures to the family that serves it.

A family is imported only when it is chosen, so that a worker for one needs no other's packages.
What is not built in is a folder or a hub id, and `hub_model` finds its family.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import cast

from embedder_server.models.base import EmbeddingModel
from embedder_server.models.builtin.part_files import INSTALL_HINT
from embedder_server.models.hub.source import is_model_source
from embedder_server.models.runtimes.cuda import check_device
from embedder_server.models.runtimes.memory import memory_as_load_error
from embedder_server.types import ModelLoadError

DEFAULT_MODEL = "conse-minilm-lite0"

# Name -> "module:Class"; the class has `load(device, threads, max_text_tokens)`. Strings, because a
# reference to the class would import it.
_LOADERS: dict[str, str] = {
    DEFAULT_MODEL: "embedder_server.models.builtin.conse:ConseModel",
}


def load_model(
    spec: str,
    device: str,
    threads: int,
    *,
    revision: str | None = None,
    runtime: str = "auto",
    cache_dir: Path | None = None,
    trust_remote_code: bool = False,
    max_text_tokens: int = 0,
) -> EmbeddingModel:
    """Return the model `spec` names, loaded and ready to serve.

    Args:
        spec: A name from `available_models()`, a folder, or a hub id such as `owner/name`.
        device: `cpu` or `cuda:N`.
        threads: CPU threads of one forward pass.
        revision: Commit, tag or branch of a hub model.
        runtime: `auto` or the name of a runtime; the built-in model has only its own.
        cache_dir: Where exports of hub models are kept; None: `~/.cache/sentinel`.
        trust_remote_code: Whether a model's own code may run; `revision` must be a commit then.
        max_text_tokens: Where longer texts are cut; 0: at the model's own limit.

    Raises:
        ModelLoadError: It cannot be served; the message says what to do.
    """
    check_device(device)
    if spec not in _LOADERS and not is_model_source(spec):
        known = ", ".join(available_models())
        msg = f"unknown model {spec!r}; available: {known}, a folder, or a hub id owner/name"
        raise ModelLoadError(msg)
    try:
        with memory_as_load_error(device):
            if spec in _LOADERS:
                _check_built_in(spec, revision, runtime)
                return _load_built_in(spec, device, threads, max_text_tokens)
            from embedder_server.models.hub.hub_model import load_hub_model

            return load_hub_model(
                spec,
                device,
                threads,
                revision=revision,
                runtime=runtime,
                cache_dir=cache_dir,
                trust_remote_code=trust_remote_code,
                max_text_tokens=max_text_tokens,
            )
    except ModuleNotFoundError as exc:
        msg = f"model {spec!r} needs the package {exc.name!r}: {INSTALL_HINT}"
        raise ModelLoadError(msg) from exc


def _load_built_in(spec: str, device: str, threads: int, max_text_tokens: int) -> EmbeddingModel:
    module_name, class_name = _LOADERS[spec].split(":")
    family = getattr(importlib.import_module(module_name), class_name)
    return cast("EmbeddingModel", family.load(device, threads, max_text_tokens))


def _check_built_in(spec: str, revision: str | None, runtime: str) -> None:
    if revision is not None:
        msg = f"{spec} is part of Sentinel and has no revisions: leave --revision out"
        raise ModelLoadError(msg)
    if runtime not in ("auto", "onnxruntime"):
        msg = f"{spec} runs on onnxruntime only, not {runtime}: leave --runtime out"
        raise ModelLoadError(msg)


def available_models() -> tuple[str, ...]:
    """Return the names `load_model` knows, sorted."""
    return tuple(sorted(_LOADERS))
