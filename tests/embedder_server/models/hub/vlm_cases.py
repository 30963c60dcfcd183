"""Folders of tiny vision-language models, and how the tests load them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from embedder_server.models.base import ModelChoice
from embedder_server.models.hub.hub_model import DualEncoder, load_hub_model
from scripts.check_vlm import Reference

EXACT = 0.9999


@dataclasses.dataclass
class Case:
    """A folder and the reference that was made with it."""

    folder: Path
    reference: Reference

    def load(self, runtime: str = "torch", **choice: Any) -> DualEncoder:
        cache = self.folder.with_name("cache")
        return load_hub_model(
            ModelChoice(str(self.folder), "cpu", 2, runtime=runtime, cache_dir=cache, **choice)
        )


def copied(source: Path, folder: Path) -> Path:
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder
