"""Maps the name an operator configures to the family that serves it.

A family is imported only when it is chosen, so that a worker for one needs no other's packages.
A new family adds one line to `_LOADERS` and one file beside this one.
"""

from __future__ import annotations

import importlib
from typing import cast

from embedder_server.models.base import EmbeddingModel, ModelLoadError

DEFAULT_MODEL = "conse-minilm-lite0"

# Name -> "module:Class"; the class has `load(device, threads)`. Strings, because a reference to
# the class would import it.
_LOADERS: dict[str, str] = {
    DEFAULT_MODEL: "embedder_server.models.conse:ConseModel",
}


def load_model(spec: str, device: str, threads: int) -> EmbeddingModel:
    """Return the model `spec` names, loaded and ready to serve.

    Args:
        spec: A name from `available_models()`.
        device: `cpu` or `cuda:N`.
        threads: CPU threads of one forward pass.

    Raises:
        ModelLoadError: Nothing is served under that name, a package the family needs is missing,
            or the family could not load.
    """
    target = _LOADERS.get(spec)
    if target is None:
        known = ", ".join(available_models())
        msg = f"unknown model {spec!r}; available: {known}"
        raise ModelLoadError(msg)
    module_name, class_name = target.split(":")
    try:
        family = getattr(importlib.import_module(module_name), class_name)
    except ModuleNotFoundError as exc:
        msg = (
            f"model {spec!r} needs the package {exc.name!r}: "
            "pip install 'sentinel-retrieval[embedder]'"
        )
        raise ModelLoadError(msg) from exc
    return cast("EmbeddingModel", family.load(device, threads))


def available_models() -> tuple[str, ...]:
    """Return the names `load_model` knows, sorted."""
    return tuple(sorted(_LOADERS))
