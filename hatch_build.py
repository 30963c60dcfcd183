"""Let the servers depend on the client of their own version: both are built from one contract."""

from __future__ import annotations

from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class SameClient(MetadataHookInterface):
    """Sets the dependencies, so that the version is written in pyproject.toml only."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the client; what else the servers need is in the extras."""
        metadata["dependencies"] = [f"sentinel-retrieval-client=={metadata['version']}"]
