"""Load the model that an operator names: a built-in one, a short name, a folder, or a hub id.

A family is imported only when it is chosen, so a worker needs the packages of one family only.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from embedder_server.devices import check_device
from embedder_server.models.base import EmbeddingModel, ModelChoice
from embedder_server.models.builtin.parts import INSTALL_HINT
from embedder_server.models.catalog import CatalogEntry, catalog, close_names, revision_of
from embedder_server.models.hub.source import is_model_source
from embedder_server.models.runtimes.base import memory_as_load_error
from embedder_server.types import ModelLoadError

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "conse-minilm-lite0"


def load_model(choice: ModelChoice) -> EmbeddingModel:
    """Load a model. This blocks for seconds, or for minutes if it must be exported first.

    Raises:
        ModelLoadError: The model cannot be served. The message says what to do.
    """
    check_device(choice.device)
    if choice.name != DEFAULT_MODEL:
        choice = with_hub_id(choice)
    try:
        with memory_as_load_error(choice.device):
            if choice.name == DEFAULT_MODEL:
                return _load_built_in(choice)
            from embedder_server.models.hub.hub_model import load_hub_model

            return load_hub_model(choice)
    except ModuleNotFoundError as exc:
        raise ModelLoadError(
            f"model {choice.name!r} needs the package {exc.name!r}: {INSTALL_HINT}"
        ) from exc


def with_hub_id(choice: ModelChoice) -> ModelChoice:
    """Return the choice with a short name replaced by the hub id and commit that it stands for.

    Raises:
        ModelLoadError: There is no such short name.
    """
    if is_model_source(choice.name):
        return choice
    entry = named_entry(choice.name)
    return replace(choice, name=entry.hub_id, revision=choice.revision or revision_of(entry))


def named_entry(name: str) -> CatalogEntry:
    """Return the entry of a short name.

    Raises:
        ModelLoadError: There is none. The message names those that may be meant.
    """
    if entry := catalog().get(name):
        return entry
    close = close_names(name)
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    raise ModelLoadError(
        f"unknown model {name!r}: {meant}There are {DEFAULT_MODEL}, the names that `sentinel "
        "models` lists, folders, and hub ids such as owner/name"
    )


def _load_built_in(choice: ModelChoice) -> EmbeddingModel:
    name = choice.name
    if choice.revision is not None:
        raise ModelLoadError(f"{name} is part of Sentinel and has no revisions: omit --revision")
    choice.check_fixed_images()
    from embedder_server.models.builtin.conse import ConseModel
    from embedder_server.models.runtimes.onnx import device_runtime, has_cuda

    if choice.device != "cpu" and not has_cuda():
        logger.warning(
            "the built-in model runs on the CPU: this ONNX Runtime has no CUDA; choose a model "
            "that uses the GPU (--model)",
            extra={"model": name, "requested_device": choice.device},
        )
        choice = replace(choice, device="cpu")
    own = str(device_runtime(choice.device))
    if choice.runtime not in ("auto", own):
        raise ModelLoadError(f"{name} runs on {own} only, not {choice.runtime}: omit --runtime")
    return ConseModel(choice)
