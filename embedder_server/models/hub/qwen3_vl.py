"""Qwen3-VL-Embedding: a chat template with an instruction, and the vector of the last token.

The recipe is the one that its authors published beside the weights: the instruction is the system
message, an image comes before its text, images keep their shape within 4 to 1,800 tokens, and the
final norm is part of the network.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any

from embedder_server.models.hub.prompts import Prompts
from embedder_server.models.hub.source import ModelFolder
from embedder_server.models.hub.vlm_images import TokenBudget
from embedder_server.models.hub.vlm_tokens import TEXT, Frames
from embedder_server.types import ModelLoadError
from sentinel_core.vectors import Role

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedder_server.models.hub.vlm import VlmRecipe

# Where the model's files name no prompt for a role.
PROMPTS = Prompts(query="Retrieve images or text relevant to the user's query.")
MAX_TOKENS = 8192
DIMENSIONS = (64, 128, 256, 512, 768, 1024, 1536, 2048, 3072, 4096)
_DEFAULT_INSTRUCTION = "Represent the user's input."
_LEAST, _FEWEST, _MOST = 4, 16, 1800
MEAN = STD = (0.5, 0.5, 0.5)
CONFIG: dict[str, Any] = {}
IMAGE = "<|image_pad|>"
RESERVED = (IMAGE, "<|video_pad|>")


def read_budget(folder: ModelFolder, pixels: Mapping[str, Any]) -> TokenBudget:
    """Return how images are resized. `pixels` allows more tokens than the published recipe uses."""
    vision = folder.config["vision_config"]
    unit = int(vision["patch_size"]) * int(vision.get("spatial_merge_size", 2))
    return TokenBudget(unit=unit, most=_MOST, least=_LEAST)


def check_image_tokens(most: int) -> None:
    """Raise `ModelLoadError` unless images may have this many tokens at most."""
    if not _FEWEST <= most <= _MOST:
        raise ModelLoadError(f"--max-image-tokens must be {_FEWEST} to {_MOST}, not {most}")


def read_dimensions(folder: ModelFolder) -> int:
    """Return the length of the vectors."""
    return int(folder.config["text_config"]["hidden_size"])


def read_frames(folder: ModelFolder, prompts: Prompts) -> dict[Role, Frames]:
    """Render the folder's chat template around each kind of content.

    Raises:
        ModelLoadError: There is no template, or it does not show what it is given.
    """
    template = _template(folder)
    return {role: _frames(template, folder, prompts.before(role)) for role in Role}


def _frames(template: str, folder: ModelFolder, prompt: str) -> Frames:
    image, text = {"type": "image"}, {"type": "text", "text": TEXT}
    frames = Frames(
        text=_rendered(template, folder, prompt, [text]),
        image=_rendered(template, folder, prompt, [image]),
        both=_rendered(template, folder, prompt, [image, text]),
    )
    counts = [(one.count(TEXT), one.count(IMAGE)) for one in (frames.text, frames.image)]
    if counts != [(1, 0), (0, 1)] or (frames.both.count(TEXT), frames.both.count(IMAGE)) != (1, 1):
        raise ModelLoadError(
            f"the chat template of {folder.name} does not show a text once and an image as "
            f"{IMAGE}: its files do not match; download the model again"
        )
    return frames


def _rendered(
    template: str, folder: ModelFolder, prompt: str, content: list[dict[str, str]]
) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    system = {"role": "system", "content": [{"type": "text", "text": _instruction(prompt)}]}
    conversation = [system, {"role": "user", "content": content}]
    try:
        [rendered], _ = render_jinja_template(
            [conversation], chat_template=template, add_generation_prompt=True
        )
    # A template is a program; it can fail in any way.
    except Exception as exc:
        raise ModelLoadError(
            f"the chat template of {folder.name} cannot be rendered ({exc}): download the model "
            "again"
        ) from exc
    return str(rendered)


def _instruction(prompt: str) -> str:
    """Return the system message: as published, it ends with a punctuation mark."""
    prompt = prompt.strip()
    if not prompt:
        return _DEFAULT_INSTRUCTION
    return prompt if unicodedata.category(prompt[-1]).startswith("P") else f"{prompt}."


def _template(folder: ModelFolder) -> str:
    file = folder.path / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        template = folder.read_json(name).get("chat_template")
        if isinstance(template, str):
            return template
    raise ModelLoadError(f"{folder.path} has no chat_template.jinja: download the model again")


def forward(model: Any, recipe: VlmRecipe, ids: Any, mask: Any, images: Sequence[Any]) -> Any:
    """Return the vectors of a batch, padded on the right: `[rows, dimensions]`.

    Args:
        model: `Qwen3VLModel`.
        recipe: The model's.
        ids: int64 `[rows, tokens]`.
        mask: int64 `[rows, tokens]`, 1 for a token and 0 for padding.
        images: uint8 `[height, width, 3]` each, in the order of the rows that have one.
    """
    import torch

    given: dict[str, Any] = {}
    if images:
        patch, merge = recipe.patch, recipe.budget.unit // recipe.patch
        grids = [[1, one.shape[0] // patch, one.shape[1] // patch] for one in images]
        given = {
            "pixel_values": torch.cat([_patches(one, recipe, patch, merge) for one in images]),
            "image_grid_thw": torch.tensor(grids, device=ids.device),
            "mm_token_type_ids": (ids == model.config.image_token_id).int(),
        }
    out = model(input_ids=ids, attention_mask=mask, use_cache=False, **given)
    rows = torch.arange(len(ids), device=ids.device)
    return out.last_hidden_state[rows, mask.sum(dim=1) - 1]


def _patches(image: Any, recipe: VlmRecipe, patch: int, merge: int) -> Any:
    """Return the image's patches in the order of its tokens: `[patches, values]`.

    The model reads pairs of video frames; both frames of a pair are the image.
    """
    import torch

    mean = torch.tensor(recipe.mean, device=image.device)
    std = torch.tensor(recipe.std, device=image.device)
    pixels = (image.float() * recipe.scale - mean) / std
    height, width = (side // (patch * merge) for side in image.shape[:2])
    blocks = pixels.reshape(height, merge, patch, width, merge, patch, 3)
    # height, width, merge, merge, channel, row, column
    blocks = blocks.permute(0, 3, 1, 4, 6, 2, 5).reshape(-1, 3, 1, patch, patch)
    return blocks.expand(-1, -1, 2, -1, -1).reshape(len(blocks), -1)
