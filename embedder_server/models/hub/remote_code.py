"""Models of architectures that transformers does not know, whose code comes with their weights.

Such code runs as the worker, so it must be the code that somebody has read: a hub revision that is
a commit, and no further repository behind it.
"""

from __future__ import annotations

from typing import Any

from embedder_server.images.recipe import read_image_recipe
from embedder_server.models.hub.families import Recipe
from embedder_server.models.hub.source import ModelFolder, check_file, is_commit
from embedder_server.texts.batches import Padding
from embedder_server.types import ModelLoadError


def read_remote_recipe(folder: ModelFolder, revision: str | None) -> Recipe:
    """Return the recipe of a model with `get_text_features` and `get_image_features` of its own.

    Raises:
        ModelLoadError: Its code is not pinned, or its configuration does not say enough.
    """
    if not is_commit(revision):
        msg = (
            "--trust-remote-code runs the model's code: pin what was read with --revision and the "
            "40 digits of a commit"
        )
        raise ModelLoadError(msg)
    elsewhere = sorted({str(v).split("--")[0] for v in _values(folder.config) if "--" in str(v)})
    if elsewhere:
        msg = (
            f"{folder.name} takes its code from {', '.join(elsewhere)}, which --revision does not "
            "pin: download that code into the model's folder and change auto_map"
        )
        raise ModelLoadError(msg)
    check_file(folder.path / "preprocessor_config.json")
    text = folder.config.get("text_config") or {}
    try:
        return Recipe(
            family="remote",
            dimensions=int(folder.config["projection_dim"]),
            max_text_tokens=int(text.get("max_position_embeddings", 77)),
            padding=Padding.LONGEST,
            pad_id=int(text.get("pad_token_id") or 0),
            needs_mask=True,
            image=read_image_recipe(folder.read_json("preprocessor_config.json")),
        )
    except (KeyError, TypeError, ValueError) as exc:
        msg = f"{folder.path}/config.json lacks what a dual encoder needs: {exc!r}"
        raise ModelLoadError(msg) from exc


def _values(config: dict[str, Any]) -> list[Any]:
    return list(config.get("auto_map", {}).values())
