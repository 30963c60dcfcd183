"""Add a model to a container image while it is built: download it, and export it if needed.

Usage: bake.py MODEL REVISION. The worker finds both in /models/baked and needs no network and no
torch.
"""

from __future__ import annotations

import sys
from pathlib import Path

from embedder_server.devices import usable_cores
from embedder_server.models.base import ModelChoice
from embedder_server.models.registry import load_model
from embedder_server.types import ModelLoadError


def main() -> None:
    """Load the model once, which puts everything it needs into the cache."""
    name, revision = sys.argv[1:]
    if not name:
        sys.exit("name the model: --build-arg MODEL=owner/name, or /models/folder")
    try:
        model = load_model(
            ModelChoice(
                name,
                "cpu",
                usable_cores(),
                revision=revision or None,
                cache_dir=Path("/models/baked/exports"),
            )
        )
    except ModelLoadError as error:
        sys.exit(f"cannot add {name} to the image: {error}")
    print(f"added {name} to the image, fingerprint {model.info.fingerprint}")


if __name__ == "__main__":
    main()
