"""EmbeddingGemma 2: prompts before texts, and the mean of all tokens' vectors.

The network reads in both directions and projects each token to the vector space. Every image is
resized to about the same number of tokens. Its audio network is not loaded.
"""

from __future__ import annotations

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

# Where the model's files name no prompt for a role. They are for texts only.
PROMPTS = Prompts(query="task: search result | query: ", document="title: none | text: ")
MAX_TOKENS = 8192
DIMENSIONS = (128, 256, 512, 768)
IMAGE = "<|image|>"
RESERVED = (IMAGE, "<|video|>", "<|audio|>")
MEAN, STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
CONFIG = {"audio_config": None}
_BEGIN, _END = "<|image>", "<image|>"
_IMAGE_TOKENS = (70, 140, 280, 560, 1120)


def read_budget(folder: ModelFolder, pixels: Mapping[str, Any]) -> TokenBudget:
    """Return how images are resized."""
    vision = folder.config["vision_config"]
    return TokenBudget(
        unit=int(vision["patch_size"]) * int(vision.get("pooling_kernel_size", 3)),
        most=int(pixels.get("max_soft_tokens", 280)),
        fills=True,
        resample=int(pixels.get("resample", 3)),
    )


def check_image_tokens(most: int) -> None:
    """Raise `ModelLoadError` unless images may have this many tokens at most."""
    if most not in _IMAGE_TOKENS:
        offered = ", ".join(map(str, _IMAGE_TOKENS))
        raise ModelLoadError(f"--max-image-tokens must be one of {offered}, not {most}")


def read_dimensions(folder: ModelFolder) -> int:
    """Return the length of the vectors."""
    return int(folder.config["text_config"].get("embedding_dim", 768))


def read_frames(folder: ModelFolder, prompts: Prompts) -> dict[Role, Frames]:
    """Return what is around each kind of content."""
    settings = folder.read_json("tokenizer_config.json")
    begin, end = settings.get("boi_token", _BEGIN), settings.get("eoi_token", _END)
    image = f"{begin}{IMAGE}{end}"
    return {
        role: Frames(
            text=f"{prompts.before(role)}{TEXT}",
            image=image,
            both=f"{prompts.before(role)}{TEXT} {image}",
        )
        for role in Role
    }


def forward(model: Any, recipe: VlmRecipe, ids: Any, mask: Any, images: Sequence[Any]) -> Any:
    """Return the vectors of a batch, padded on the right: `[rows, dimensions]`.

    Args:
        model: `EmbeddingGemma2Model`.
        recipe: The model's.
        ids: int64 `[rows, tokens]`.
        mask: int64 `[rows, tokens]`, 1 for a token and 0 for padding.
        images: uint8 `[height, width, 3]` each, in the order of the rows that have one.
    """
    import torch

    given: dict[str, Any] = {}
    if images:
        pool = (recipe.budget.unit // recipe.patch) ** 2
        most = recipe.budget.most * pool
        read = [_patches(one, recipe) for one in images]
        given = {
            "pixel_values": torch.stack([_padded(patches, most, 0.0) for patches, _ in read]),
            "image_position_ids": torch.stack([_padded(places, most, -1) for _, places in read]),
        }
    hidden = model(input_ids=ids, attention_mask=mask, **given).last_hidden_state
    weights = mask.unsqueeze(2).float()
    return (hidden.float() * weights).sum(dim=1) / weights.sum(dim=1)


def _patches(image: Any, recipe: VlmRecipe) -> tuple[Any, Any]:
    """Return the image's patches, row by row, and the column and row of each one."""
    import torch

    patch = recipe.patch
    mean = torch.tensor(recipe.mean, device=image.device)
    std = torch.tensor(recipe.std, device=image.device)
    pixels = (image.float() * recipe.scale - mean) / std
    rows, columns = image.shape[0] // patch, image.shape[1] // patch
    patches = pixels.reshape(rows, patch, columns, patch, 3).transpose(1, 2)
    down, across = torch.meshgrid(
        torch.arange(rows, device=image.device),
        torch.arange(columns, device=image.device),
        indexing="ij",
    )
    return patches.reshape(rows * columns, -1), torch.stack([across, down], dim=2).reshape(-1, 2)


def _padded(rows: Any, count: int, value: float) -> Any:
    import torch

    return torch.nn.functional.pad(rows, (0, 0, 0, count - len(rows)), value=value)
