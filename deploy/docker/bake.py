"""Puts a model into an image while it is built: downloads it, and exports it if it needs that.

Usage: bake.py MODEL REVISION. The worker then finds both under /models/baked, and needs neither a
network nor torch.
"""

from __future__ import annotations

import sys
from pathlib import Path

from embedder_server.devices import usable_cores
from embedder_server.models.base import ModelChoice
from embedder_server.models.registry import load_model
from embedder_server.types import ModelLoadError


def main() -> None:
    """Load the model once, which leaves everything it needs in the cache."""
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
        sys.exit(f"cannot bake {name} in: {error}")
    print(f"baked {name} in, fingerprint {model.info.fingerprint}")


if __name__ == "__main__":
    main()
